# Podman as root.
. "$here/images.sh"

up() {
    mkdir -p /etc/containers
    podman_config >/etc/containers/containers.conf
    podman load -q -i "$work/busybox.tar"
}
podman_config() {
    cat <<-END
	[containers]
	# Podman's own are higher than what somebody without CAP_SYS_RESOURCE may give.
	default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
	# The one beside systemd, journald, has no --follow without events that are there too.
	log_driver = "k8s-file"
	[engine]
	cgroup_manager = "$manager"
	events_logger = "file"
	runtime = "ours"
	runtime_supports_json = ["ours"]
	runtime_supports_nocgroup = ["ours"]
	[engine.runtimes]
	ours = ["$runtime"]
	END
}
clear() {
    podman pod rm -fa -t 0
    podman rm -fa -t 0
    ends registry
}
down() { :; }

# running NAME OPTION...: a container in the background that sleeps.
running() { does podman run -d --name "$@" busybox sleep 1000; }
# in_cgroup FILE NAME: what the file of the container's cgroup says.
in_cgroup() { podman exec "$2" cat "/sys/fs/cgroup/$1"; }

test_the_runtime_is_the_one_under_test() {
    does podman info -f '{{.Host.OCIRuntime.Path}}'
    says "$runtime"
}
test_exit_codes() {
    expect 7 podman run --rm busybox sh -c 'exit 7'
    expect 127 podman run --rm busybox nosuch
    shows 'executable file' 'nosuch'
    expect 126 podman run --rm busybox /bin/not-executable
    shows 'ermission denied'
    expect 126 podman run --rm busybox /etc
    expect 125 podman run --rm --network nosuch busybox true
}
test_the_memory_limit_kills() {
    expect 137 podman run --rm -m 20m busybox sh -c 'a=xx; while :; do a=$a$a; done'
}
test_a_terminal() {
    typed 3 'stty size\ntty\nexit 3\n' podman run -it --rm busybox
    shows '33 111' /dev/pts/0
}
test_exec() {
    running box -e K=v
    does podman exec box sh -c 'echo $K $(hostname) $(cat /proc/1/comm)'
    shows 'v ' ' sleep'
    expect 5 podman exec box sh -c 'exit 5'
    expect 127 podman exec box nosuch
    expect 126 podman exec box /bin/not-executable
    does podman exec -u user:1000 -w /tmp -e A=b box sh -c 'id -u; pwd; echo $A'
    says $'1000\n/tmp\nb'
    typed 4 'stty size; exit 4\n' podman exec -it box sh
    shows '33 111'
    does podman exec -d box touch /made
    comes podman exec box test -e /made
    does podman exec --privileged box grep CapEff /proc/self/status
    does sh -c 'echo typed | podman exec -i box cat'
    says typed
}
test_logs() {
    does podman run --name box busybox sh -c 'echo out; echo err >&2'
    does podman logs box
    says $'out\nerr'
    does podman logs --tail 1 -f box
    says err
}
test_stop_kill_and_restart() {
    does podman run -d --name box busybox sh -c 'trap "echo bye; exit 9" TERM; echo up; while :; do sleep 0.1; done'
    becomes up podman logs box
    does podman stop box
    does podman inspect -f '{{.State.Status}} {{.State.ExitCode}}' box
    says 'exited 9'
    does podman start box
    becomes $'up\nbye\nup' podman logs box
    does podman restart -t 10 box
    does podman kill box
    does podman wait box
    says 137
    does podman start box
    does podman rm -f -t 0 box
    expect 1 podman container exists box
}
test_pause() {
    running box
    does podman pause box
    does podman inspect -f '{{.State.Status}}' box
    says paused
    expect 255 podman exec box true
    does podman unpause box
    does podman exec box true
    does podman pause box
    does podman rm -f -t 0 box
}
test_top_and_stats() {
    running box
    does podman top box pid comm
    shows sleep
    does podman top box -eo pid,comm
    does podman stats --no-stream --format '{{.Name}} {{.PIDs}}' box
    says 'box 1'
}
test_update() {
    running box -m 64m --cpus 1
    does podman update --memory 128m --cpus 0.5 box
    becomes 134217728 in_cgroup $memory box
    becomes "50000$period" in_cgroup $quota box
}
test_limits() {
    running box --pids-limit 20 --cpus 0.5 --cpu-shares 512 --cpuset-cpus 0 -m 64m --memory-swap 64m
    does podman exec box sh -c "cd /sys/fs/cgroup; cat $pids $quota $cpus $memory"
    says $'20\n50000'"$period"$'\n0\n67108864'
    does podman run --rm --ulimit nofile=100:200 --ulimit nproc=90 busybox sh -c 'ulimit -n; ulimit -Hn'
    says $'100\n200'
}
test_copying_and_committing() {
    running box
    does podman exec box sh -c 'echo hello >/made'
    does podman diff box
    shows 'A /made'
    does podman cp box:/made "$TMPDIR/made"
    does cat "$TMPDIR/made"
    says hello
    does podman cp /etc/debian_version box:/tmp/
    does podman exec box test -s /tmp/debian_version
    does podman commit -q box mine
    does podman run --rm mine cat /made
    says hello
    does podman rmi mine
}
test_building() {
    mkdir "$TMPDIR/context"
    printf 'FROM busybox\nRUN echo built >/made && id -u >>/made\nUSER user\nRUN id -u >/tmp/user\nWORKDIR /srv\nCMD cat /made /tmp/user; pwd\n' >"$TMPDIR/context/Containerfile"
    does podman build -q -t built "$TMPDIR/context"
    does podman run --rm built
    says $'built\n0\n1000\n/srv'
    does podman rmi built
    printf 'FROM busybox\nRUN exit 9\n' >"$TMPDIR/context/Containerfile"
    expect 9 podman build -q "$TMPDIR/context"
    rm -r "$TMPDIR/context"
}
test_a_registry_between_it_and_mydocker() {
    exchanges podman --tls-verify=false
    # Layers that only some tools make.
    contexts
    does podman build -q -t "$registry/stages" "$TMPDIR/builds/stages"
    does podman push -q --tls-verify=false --compression-format zstd "$registry/stages"
    out=$(layers stages)
    shows tar+zstd
    does "$mydocker" pull -q "$registry/stages"
    are_same "$registry/stages" podman
    does podman rmi "$registry/stages"
    does podman image prune -f
    rm -r "$TMPDIR/builds"
}
test_health_checks() {
    running box --health-cmd 'test -e /well' --health-interval disable
    expect 1 podman healthcheck run box
    does podman exec box touch /well
    does podman healthcheck run box
}
test_an_init() {
    does podman run --rm --init busybox sh -c 'cat /proc/1/comm'
    says podman-init
    expect 6 podman run --rm --init busybox sh -c 'exit 6'
}
test_file_systems() {
    expect 1 podman run --rm --read-only busybox touch /made
    shows 'Read-only file system'
    does podman run --rm --read-only --tmpfs /scratch:size=1m,mode=1777 busybox sh -c 'touch /scratch/a /tmp/b; grep " /scratch " /proc/mounts'
    shows 'size=1024k'
    does podman run --rm --shm-size 2m busybox grep ' /dev/shm ' /proc/mounts
    shows 'size=2048k'
}
test_volumes() {
    mkdir -p "$TMPDIR/v/sub"
    does podman run --rm -v "$TMPDIR/v:/v" busybox touch /v/made
    does test -e "$TMPDIR/v/made"
    expect 1 podman run --rm -v "$TMPDIR/v:/v:ro" busybox touch /v/other
    does podman run --rm -v data:/data busybox sh -c 'echo kept >/data/f'
    does podman run --rm -v data:/data busybox cat /data/f
    says kept
    does podman volume rm data
    does podman run --rm --mount type=bind,src="$TMPDIR/v",dst=/w,ro=true,bind-propagation=rprivate busybox ls /w
    shows made
}
test_propagation() {
    mkdir -p "$TMPDIR/p/sub"
    mount --bind "$TMPDIR/p" "$TMPDIR/p"
    mount --make-shared "$TMPDIR/p"
    running box -v "$TMPDIR/p:/p:rslave"
    mount -t tmpfs lab "$TMPDIR/p/sub"
    touch "$TMPDIR/p/sub/later"
    does podman exec box ls /p/sub
    says later
    umount "$TMPDIR/p/sub"
    does podman run --rm --cap-add SYS_ADMIN --security-opt seccomp=unconfined --security-opt apparmor=unconfined -v "$TMPDIR/p:/p:rshared" busybox mount -t tmpfs up /p/sub
    does umount "$TMPDIR/p/sub"
    does podman rm -f -t 0 box
    umount "$TMPDIR/p"
}
test_rights() {
    does podman run --rm --cap-drop ALL --cap-add CHOWN busybox grep CapEff /proc/self/status
    shows 0000000000000001
    does podman run --rm --security-opt no-new-privileges busybox grep NoNewPrivs /proc/self/status
    shows $'\t1'
    expect 1 podman run --rm busybox unshare -m true
    echo '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}' >"$TMPDIR/seccomp.json"
    expect 1 podman run --rm --security-opt seccomp="$TMPDIR/seccomp.json" busybox mkdir /made
    shows 'not permitted'
    does podman run --rm --security-opt seccomp=unconfined busybox grep Seccomp: /proc/self/status
    shows $'\t0'
    does podman run --rm -u user --group-add 7 busybox id
    shows uid=1000 7
}
test_devices() {
    does podman run --rm --device /dev/zero:/dev/mine busybox sh -c 'head -c 3 /dev/mine | wc -c'
    says 3
    expect 1 podman run --rm --device /dev/fuse:/dev/mine:r busybox sh -c 'echo >/dev/mine'
    shows 'not permitted'
    does podman run --rm --cap-add MKNOD --device-cgroup-rule 'c 10:229 rwm' busybox mknod /fuse c 10 229
}
test_namespaces() {
    running box --hostname here --ipc shareable --sysctl net.ipv4.ip_forward=1
    does podman run --rm --pid container:box busybox ps
    shows 'sleep 1000'
    does podman run --rm --network container:box busybox sh -c 'hostname; cat /proc/sys/net/ipv4/ip_forward'
    shows 1
    does podman run --rm --ipc container:box busybox true
    does podman run --rm --pid host --network host --uts host --ipc host busybox hostname
    says "$(hostname)"
    does podman run --rm --cgroupns private busybox cat /proc/self/cgroup
    shows :/
    does podman run --rm --cgroupns host busybox true
    does podman run --rm --network none busybox ls /sys/class/net
    says lo
}
test_networks() {
    does podman run -d --name web -p 8080:80 busybox sh -c 'mkdir /www; echo page >/www/index.html; httpd -f -h /www'
    becomes page busybox wget -qO- http://127.0.0.1:8080
    does podman rm -f -t 0 web
}
test_user_namespaces() {
    # Others have theirs.
    grep -q '^containers:' /etc/subuid || printf 'containers:200000:200000\n' | tee -a /etc/subuid >>/etc/subgid
    does podman run --rm --userns auto busybox sh -c 'id -u; cat /proc/self/uid_map'
    shows 200000
    does podman run --rm --uidmap 0:100000:2000 --gidmap 0:100000:2000 busybox sh -c 'touch /made; stat -c %u /made'
    says 0
    mkdir "$TMPDIR/shifted"
    touch "$TMPDIR/shifted/f"
    does podman run --rm --uidmap 0:100000:2000 --gidmap 0:100000:2000 -v "$TMPDIR/shifted:/v:idmap" busybox stat -c %u /v/f
    says 0
}
test_pods() {
    does podman pod create --name pod --share net,ipc,uts,pid --hostname together
    does podman run -d --pod pod --name one busybox sh -c 'mkdir /www; echo shared >/www/index.html; httpd -f -h /www'
    does podman run --rm --pod pod busybox sh -c 'hostname; ps'
    shows together httpd
    does podman run --rm --pod pod busybox sh -c 'until wget -qO- http://127.0.0.1; do sleep 0.1; done 2>/dev/null'
    says shared
    does podman pod stop -t 0 pod
    does podman pod start pod
    does podman pod pause pod
    does podman pod unpause pod
    does podman pod ps --format '{{.Status}} {{.NumberOfContainers}}'
    says 'Running 2'
    does podman pod rm -f -t 0 pod
}
test_kubernetes_yaml() {
    cat >"$TMPDIR/pod.yaml" <<-END
	{apiVersion: v1, kind: Pod, metadata: {name: kube},
	 spec: {containers: [{name: main, image: docker.io/library/busybox, command: [sleep, "1000"],
	        resources: {limits: {memory: 64Mi}}}]}}
	END
    does podman play kube "$TMPDIR/pod.yaml"
    becomes 67108864 in_cgroup $memory kube-main
    does podman play kube --down "$TMPDIR/pod.yaml"
}
test_restart_policies() {
    does podman run -d --name box --restart on-failure:2 busybox sh -c 'echo life; exit 1'
    becomes $'life\nlife\nlife' podman logs box
}
test_options_after_the_id() {
    does podman run --rm busybox echo --rm -d --name x
    says '--rm -d --name x'
    running box
    does podman exec box echo -u nobody --detach
    says '-u nobody --detach'
}
test_what_only_some_runtimes_have() {
    does podman run --rm --cgroups disabled busybox cat /proc/self/cgroup
    shows_not libpod_parent
    does podman run --rm --cgroups no-conmon busybox true
    does podman run --rm --personality LINUX32 busybox uname -m
    says i686
    does podman run --rm --umask 0077 busybox sh -c umask
    says 0077
    does sh -c 'echo passed | podman run --rm --preserve-fds 1 busybox sh -c "cat <&3" 3<&0'
    says passed
    does podman run --rm --systemd always busybox grep -c /run/lock /proc/mounts
}
test_hooks() {
    mkdir -p "$TMPDIR/hooks"
    printf '#!/bin/sh\ncat >>%s/hooked\n' "$TMPDIR" >"$TMPDIR/hook"
    chmod +x "$TMPDIR/hook"
    echo '{"version": "1.0.0", "hook": {"path": "'"$TMPDIR/hook"'"}, "when": {"always": true}, "stages": ["prestart", "createRuntime", "poststart", "poststop"]}' >"$TMPDIR/hooks/hook.json"
    does podman --hooks-dir "$TMPDIR/hooks" run --rm busybox true
    does jq -r .status "$TMPDIR/hooked"
    shows creat stopped
    echo 'exit 1' >>"$TMPDIR/hook"
    expect 126 podman --hooks-dir "$TMPDIR/hooks" run --rm busybox true
}
test_checkpoints() {
    remembering podman box
    timeout 60 podman container checkpoint box >"$TMPDIR/checkpoint" 2>&1 ||
        skip "checkpoints do not work here: $(tail -n 1 "$TMPDIR/checkpoint")"
    does podman container restore box
    remembers podman box
}

# Docker, with the runtime as its default.
. "$here/images.sh"

up() {
    start_docker
    # The host's network gets its name at its first use, and keeps it.
    docker run --rm --network host busybox true
}
# start_docker [FIELD]: with that in the daemon's configuration too.
start_docker() {
    mkdir -p /etc/docker
    cat >/etc/docker/daemon.json <<-END
	{$([ "$manager" = cgroupfs ] || echo '"exec-opts": ["native.cgroupdriver=systemd"], ')"default-runtime": "ours", "runtimes": {"ours": {"path": "$runtime"}, "talking": {"path": "$runtime", "runtimeArgs": ["--debug"]}}, "experimental": true${1:+, $1}}
	END
    daemon dockerd dockerd
    comes docker version
    docker load -q -i "$work/busybox.tar"
}
clear() {
    # shellcheck disable=SC2046 # a list
    docker rm -fv $(docker ps -aq)
    ends registry
}
down() { ends dockerd; }
scopes=/docker/
[ "$manager" = cgroupfs ] || scopes=/system.slice/docker-

# running NAME OPTION...: a container in the background that sleeps.
running() { does docker run -d --name "$@" busybox sleep 1000; }
# in_cgroup FILE NAME: what the file of the container's cgroup says.
in_cgroup() { docker exec "$2" cat "/sys/fs/cgroup/$1"; }

test_the_runtime_is_the_one_under_test() {
    does docker info -f '{{.DefaultRuntime}} {{(index .Runtimes "ours").Path}} {{.CgroupDriver}}'
    says "ours $runtime $manager"
    running box
    does docker inspect -f '{{.HostConfig.Runtime}}' box
    says ours
    does docker run --rm --runtime talking busybox echo arguments
    says arguments
    expect 127 docker run --rm --runtime talking busybox nosuch
}
test_exit_codes() {
    expect 7 docker run --rm busybox sh -c 'exit 7'
    expect 127 docker run --rm busybox nosuch
    shows 'executable file not found in $PATH'
    expect 127 docker run --rm busybox /no/such
    shows 'no such file or directory'
    expect 126 docker run --rm busybox /bin/not-executable
    shows 'permission denied'
    expect 126 docker run --rm busybox /etc
    shows 'permission denied'
    expect 125 docker run --rm --network nosuch busybox true
    expect 0 docker run --rm -w /made/for/it busybox true
}
test_the_memory_limit_kills() {
    expect 137 docker run --name greedy -m 20m busybox sh -c 'a=xx; while :; do a=$a$a; done'
    does docker inspect -f '{{.State.OOMKilled}}' greedy
    says true
}
test_a_terminal() {
    # Docker sets the size right after the start.
    typed 3 'until stty size | grep 33; do sleep 0.1; done\ntty\nexit 3\n' docker run -it --rm busybox
    shows '33 111' /dev/pts/0
    does docker run -t --rm busybox tty
    says $'/dev/pts/0\r'
}
test_exec() {
    running box -e K=v
    does docker exec box sh -c 'echo $K $(cat /proc/1/comm)'
    says 'v sleep'
    expect 5 docker exec box sh -c 'exit 5'
    # Docker 20.10 makes it 126.
    expect 12[67] docker exec box nosuch
    shows 'executable file not found in $PATH'
    expect 126 docker exec box /bin/not-executable
    shows 'permission denied'
    does docker exec -u user:1000 -w /tmp -e A=b box sh -c 'id -u; pwd; echo $A'
    says $'1000\n/tmp\nb'
    typed 4 'until stty size | grep 33; do sleep 0.1; done; exit 4\n' docker exec -it box sh
    shows '33 111'
    does docker exec -d box touch /made
    comes docker exec box test -e /made
    does sh -c 'echo typed | docker exec -i box cat'
    says typed
    does docker exec box sh -c 'cat /proc/self/cgroup /proc/1/cgroup | sort -u | wc -l; wc -l </proc/1/cgroup'
    [ "${out%$'\n'*}" = "${out#*$'\n'}" ] || fail 'exec is in other cgroups'
}
test_logs() {
    does docker run --name box busybox sh -c 'echo out; echo err >&2'
    does docker logs box
    shows out err
    does sh -c 'docker logs box 2>/dev/null'
    says out
    does docker run -d --name later busybox sh -c 'sleep 1; echo later'
    does docker logs -f --tail 1 later
    says later
}
test_attach_and_wait() {
    does docker create -i --name box busybox sh -c 'read line; echo got $line; exit 8'
    expect 8 sh -c 'echo it | docker start -ai box'
    says 'got it'
    does docker wait box
    says 8
}
test_stop_kill_and_restart() {
    does docker run -d --name box busybox sh -c 'trap "echo bye; exit 9" TERM; trap "echo usr" USR1; echo up; while :; do sleep 0.1; done'
    becomes up docker logs box
    does docker kill -s USR1 box
    becomes $'up\nusr' docker logs box
    does docker stop box
    does docker inspect -f '{{.State.Status}} {{.State.ExitCode}}' box
    says 'exited 9'
    does docker start box
    becomes $'up\nusr\nbye\nup' docker logs box
    does docker restart -t 10 box
    becomes $'up\nusr\nbye\nup\nbye\nup' docker logs box
    does docker kill box
    does docker wait box
    says 137
    does docker start box
    does docker rm -f box
    running box --stop-signal KILL
    does docker stop box
}
test_pause() {
    running box
    does docker pause box
    does docker ps --format '{{.Status}}'
    shows Paused
    expect 1 docker exec box true
    shows 'is paused'
    does docker unpause box
    does docker exec box true
    does docker pause box
    does docker rm -f box
}
test_top_and_stats() {
    running box
    does docker top box
    shows 'sleep 1000'
    does docker top box -o pid,comm
    shows sleep
    does docker stats --no-stream --format '{{.Name}} {{.PIDs}} {{.MemUsage}}' box
    shows 'box 1 ' iB
}
test_update() {
    running box -m 64m --memory-swap 64m --cpus 1 --pids-limit 100
    does docker update -m 128m --memory-swap 128m box
    becomes 134217728 in_cgroup $memory box
    becomes "100000$period" in_cgroup $quota box
    becomes 100 in_cgroup $pids box
    # What is not named is sent as zero.
    does docker update --cpus 0.5 box
    becomes "50000$period" in_cgroup $quota box
    becomes 134217728 in_cgroup $memory box
    does docker update --cpu-shares 512 --pids-limit 50 --cpuset-cpus 0 --memory-reservation 32m box
    [ -z "$v1" ] || becomes 512 in_cgroup cpu/cpu.shares box
    [ -z "$v1" ] || becomes 33554432 in_cgroup memory/memory.soft_limit_in_bytes box
    becomes 50 in_cgroup $pids box
    becomes 0 in_cgroup $cpus box
    becomes "50000$period" in_cgroup $quota box
    does docker update --restart always box
    running free
    does docker update -m 64m --memory-swap -1 free
    becomes 67108864 in_cgroup $memory free
    does docker restart -t 0 free
    becomes 67108864 in_cgroup $memory free
}
test_limits() {
    running box --pids-limit 20 --cpus 0.5 --cpu-shares 512 --cpuset-cpus 0 --cpuset-mems 0 -m 64m --memory-swap 64m --memory-reservation 32m
    does docker exec box sh -c "cd /sys/fs/cgroup; cat $pids $quota $cpus $memory"
    says $'20\n50000'"$period"$'\n0\n67108864'
    does docker run --rm --ulimit nofile=100:200 --ulimit core=0 busybox sh -c 'ulimit -n; ulimit -Hn; ulimit -c'
    says $'100\n200\n0'
    does docker run --rm --oom-score-adj 500 busybox cat /proc/self/oom_score_adj
    says 500
    if [ "$manager" = cgroupfs ]; then
        does docker run --rm --cgroup-parent /docker/mine busybox true
        find /sys/fs/cgroup -depth -path '*/docker/mine' -exec rmdir {} \;
    else
        does docker run --rm --cgroup-parent docker-mine.slice --cgroupns host busybox cat /proc/self/cgroup
        shows /docker.slice/docker-mine.slice/docker-
    fi
    does docker run --rm --blkio-weight 300 busybox true
    [ -n "$v1" ] || return 0
    running unkilled --oom-kill-disable -m 32m --memory-swappiness 5
    does docker exec unkilled sh -c 'cd /sys/fs/cgroup/memory; grep disable memory.oom_control; cat memory.swappiness'
    says $'oom_kill_disable 1\n5'
}
test_copying_and_committing() {
    running box
    does docker exec box sh -c 'echo hello >/made'
    does docker diff box
    says 'A /made'
    does docker cp box:/made "$TMPDIR/made"
    does cat "$TMPDIR/made"
    says hello
    does docker cp /etc/debian_version box:/tmp/
    does docker exec box test -s /tmp/debian_version
    does sh -c 'docker export box | tar t made'
    says made
    does docker commit box mine
    does docker run --rm mine cat /made
    says hello
    does docker rmi mine
}
test_building() {
    mkdir "$TMPDIR/context"
    printf 'FROM busybox\nARG A=x\nENV B=y\nRUN echo $A $B >/made && id -u >>/made\nCOPY Dockerfile /\nUSER user\nRUN id -u >/tmp/user\nWORKDIR /srv\nCMD cat /made /tmp/user; pwd\n' >"$TMPDIR/context/Dockerfile"
    does docker build -q --build-arg A=z -m 64m --ulimit nofile=99 -t built "$TMPDIR/context"
    does docker run --rm built
    says $'z y\n0\n1000\n/srv'
    does docker rmi built
    printf 'FROM busybox\nRUN exit 9\n' >"$TMPDIR/context/Dockerfile"
    expect 9 docker build -q "$TMPDIR/context"
    shows 'returned a non-zero code: 9'
    rm -r "$TMPDIR/context"
}
test_builds_as_mydocker_does() {
    local name
    ours
    contexts
    for name in site stages app plugin-base plugin files; do
        does env DOCKER_BUILDKIT=0 docker build -q -t "$name" "$TMPDIR/builds/$name"
        does "$mydocker" build -q -t "$name" "$TMPDIR/builds/$name"
        same settings docker "$name" "$mydocker" "$name"
        same files docker "$name" "$mydocker" "$name"
    done
    for name in stages app plugin; do
        does docker run --rm "$name"
        does "$mydocker" run --rm "$name"
    done
    does docker rmi site stages app plugin plugin-base files
    does docker image prune -f
    rm -r "$TMPDIR/builds"
}
test_archives_of_mydocker_and_its_own() {
    local what compress
    ours
    contexts
    does docker build -q -t theirs "$TMPDIR/builds/site"
    does docker save -o "$TMPDIR/theirs.tar" theirs busybox
    does "$mydocker" load -q -i "$TMPDIR/theirs.tar"
    are_same theirs docker
    does "$mydocker" build -q -t ours "$TMPDIR/builds/files"
    for compress in '' --compress; do
        # shellcheck disable=SC2086 # none or one
        does "$mydocker" save $compress -o "$TMPDIR/ours.tar" ours
        does docker load -i "$TMPDIR/ours.tar"
        are_same ours docker
        does docker rmi ours
    done
    # And back again, what docker makes of it.
    does docker load -i "$TMPDIR/ours.tar"
    does docker save -o "$TMPDIR/back.tar" ours
    does "$mydocker" tag ours before
    does "$mydocker" rmi ours
    does "$mydocker" load -q -i "$TMPDIR/back.tar"
    for what in image_id settings files; do same $what "$mydocker" before "$mydocker" ours; done
    does docker rmi ours theirs
    does docker image prune -f
    rm -r "$TMPDIR"/{builds,theirs.tar,ours.tar,back.tar}
}
test_a_registry_between_it_and_mydocker() {
    exchanges docker
    does docker image prune -f
}
test_health_checks() {
    running box --health-cmd 'test -e /well' --health-interval 1s --health-retries 1
    becomes unhealthy docker inspect -f '{{.State.Health.Status}}' box
    does docker exec box touch /well
    becomes healthy docker inspect -f '{{.State.Health.Status}}' box
}
test_an_init() {
    does docker run --rm --init busybox cat /proc/1/comm
    says docker-init
    expect 6 docker run --rm --init busybox sh -c 'exit 6'
    does docker run -d --name box --init busybox sleep 1000
    does docker stop -t 30 box
    does docker inspect -f '{{.State.ExitCode}}' box
    says 143
}
test_file_systems() {
    expect 1 docker run --rm --read-only busybox touch /made
    shows 'Read-only file system'
    does docker run --rm --read-only --tmpfs /scratch:size=1m,mode=1777,exec busybox sh -c 'touch /scratch/a; grep " /scratch " /proc/mounts'
    shows size=1024k
    does docker run --rm --shm-size 2m busybox grep ' /dev/shm ' /proc/mounts
    shows size=2048k
    does docker run --rm --add-host other:10.0.0.9 --dns 10.0.0.8 --hostname here busybox sh -c 'cat /etc/hosts /etc/resolv.conf; hostname'
    shows 10.0.0.9 10.0.0.8 here
}
test_volumes() {
    mkdir -p "$TMPDIR/v/sub"
    does docker run --rm -v "$TMPDIR/v:/v" busybox touch /v/made
    does test -e "$TMPDIR/v/made"
    expect 1 docker run --rm -v "$TMPDIR/v:/v:ro" busybox touch /v/other
    does docker run --rm -v data:/home busybox ls /home
    says user
    does docker run --rm -v data:/data busybox sh -c 'echo kept >/data/f'
    does docker run --rm -v data:/data busybox cat /data/f
    says kept
    does docker volume rm data
    does docker run --name from -v /anonymous busybox touch /anonymous/f
    does docker run --rm --volumes-from from busybox ls /anonymous
    says f
    does docker run --rm --mount type=bind,src="$TMPDIR/v",dst=/w,readonly,bind-propagation=rprivate busybox ls /w
    shows made
    does docker run --rm --mount type=tmpfs,dst=/t,tmpfs-size=1m busybox grep ' /t ' /proc/mounts
    shows size=1024k
    does docker run --rm -v /run/docker.sock:/run/docker.sock busybox test -S /run/docker.sock
}
test_propagation() {
    mkdir -p "$TMPDIR/p/sub"
    mount --bind "$TMPDIR/p" "$TMPDIR/p"
    mount --make-shared "$TMPDIR/p"
    running box -v "$TMPDIR/p:/p:rslave"
    mount -t tmpfs lab "$TMPDIR/p/sub"
    touch "$TMPDIR/p/sub/later"
    does docker exec box ls /p/sub
    says later
    umount "$TMPDIR/p/sub"
    does docker run --rm --cap-add SYS_ADMIN --security-opt seccomp=unconfined --security-opt apparmor=unconfined -v "$TMPDIR/p:/p:rshared" busybox mount -t tmpfs up /p/sub
    does umount "$TMPDIR/p/sub"
    does docker rm -f box
    umount "$TMPDIR/p"
}
test_rights() {
    does docker run --rm --cap-drop ALL --cap-add CHOWN busybox grep CapEff /proc/self/status
    shows 0000000000000001
    does docker run --rm --cap-add ALL --cap-drop SYS_RESOURCE busybox grep CapEff /proc/self/status
    does docker run --rm --security-opt no-new-privileges busybox grep NoNewPrivs /proc/self/status
    shows $'\t1'
    does docker run --rm busybox grep -E 'NoNewPrivs|Seccomp:' /proc/self/status
    shows $'NoNewPrivs:\t0' $'Seccomp:\t2'
    expect 1 docker run --rm busybox unshare -m true
    echo '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}' >"$TMPDIR/seccomp.json"
    expect 1 docker run --rm --security-opt seccomp="$TMPDIR/seccomp.json" busybox mkdir /made
    shows 'not permitted'
    does docker run --rm --security-opt seccomp=unconfined busybox grep Seccomp: /proc/self/status
    shows $'\t0'
    does docker run --rm -u user --group-add 7 busybox id
    shows uid=1000 7
    expect 1 docker run --rm busybox sh -c 'echo lab >/proc/sys/kernel/domainname'
    does docker run --rm --security-opt systempaths=unconfined --security-opt apparmor=unconfined busybox sh -c 'echo lab >/proc/sys/kernel/domainname'
    does docker run --rm --sysctl net.ipv4.ip_forward=1 busybox cat /proc/sys/net/ipv4/ip_forward
    says 1
}
test_devices() {
    does docker run --rm --device /dev/zero:/dev/mine busybox sh -c 'head -c 3 /dev/mine | wc -c'
    says 3
    expect 1 docker run --rm --device /dev/fuse:/dev/mine:r busybox sh -c 'echo >/dev/mine'
    shows 'not permitted'
    does docker run --rm --device-cgroup-rule 'c 10:229 rwm' busybox mknod /fuse c 10 229
    does docker run --rm busybox sh -c 'echo >/dev/null; ls -l /dev/fd/0 /dev/stdin; head -c 1 /dev/urandom | wc -c'
}
test_namespaces() {
    running box --hostname here --ipc shareable --sysctl net.ipv4.ip_forward=1
    does docker run --rm --pid container:box busybox ps
    shows 'sleep 1000'
    does docker run --rm --network container:box busybox sh -c 'hostname; cat /proc/sys/net/ipv4/ip_forward'
    says $'here\n1'
    does docker run --rm --ipc container:box busybox true
    does docker run --rm --pid host --network host --uts host --ipc host busybox sh -c 'hostname; ps'
    shows "$(hostname)" dockerd
    does docker run --rm --cgroupns private busybox cat /proc/self/cgroup
    shows :/
    does docker run --rm --cgroupns host busybox cat /proc/self/cgroup
    shows ":$scopes"
    does docker run --rm --network none busybox ls /sys/class/net
    says lo
}
test_networks() {
    does docker network create net
    does docker run -d --name web --network net -p 8080:80 busybox sh -c 'mkdir /www; echo page >/www/index.html; httpd -f -h /www'
    becomes page busybox wget -qO- http://127.0.0.1:8080
    does docker run --rm --network net busybox wget -qO- http://web
    says page
    does docker network disconnect net web
    does docker network connect net web
    becomes page docker run --rm --network net busybox wget -qO- http://web
    does docker rm -f web
    does docker network rm net
}
test_restart_policies() {
    does docker run -d --name box --restart on-failure:2 busybox sh -c 'echo life; exit 1'
    becomes $'life\nlife\nlife' docker logs box
    becomes 'exited 2' docker inspect -f '{{.State.Status}} {{.RestartCount}}' box
}
test_options_after_the_id() {
    does docker run --rm busybox echo --rm -d --name x
    says '--rm -d --name x'
    running box
    does docker exec box echo -u nobody --detach
    says '-u nobody --detach'
}
test_many_at_once() {
    local i
    for i in 1 2 3 4 5 6; do docker run --rm busybox sh -c "exit $i" & done
    for i in 1 2 3 4 5 6; do
        expect "$i" docker run --rm busybox sh -c "exit $i"
    done
    wait
}
test_all_rights() {
    # /proc/self/status of the lab says what there is to give.
    grep -q 'CapBnd:.*ffffffff$' /proc/self/status || skip 'root of this machine has no CAP_SYS_RESOURCE to give'
    does docker run --rm --privileged busybox sh -c 'grep CapEff /proc/self/status; echo lab >/proc/sys/kernel/domainname; ls /dev/full'
}
test_checkpoints() {
    remembering docker box
    timeout 60 docker checkpoint create box here >"$TMPDIR/checkpoint" 2>&1 ||
        skip "checkpoints do not work here: $(grep -o 'criu failed.*' "$TMPDIR/checkpoint" || cat "$TMPDIR/checkpoint")"
    does docker start --checkpoint here box
    remembers docker box
}

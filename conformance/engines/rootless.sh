# Podman as an ordinary user: the runtime is called in Podman's own user namespace.

# One who has a session, with cgroups delegated to it, or else nobody yet.
user=tester
[ "$manager" = cgroupfs ] || user=$(id -un 1000)
up() {
    chmod 666 /dev/fuse /dev/net/tun
    if [ "$manager" = cgroupfs ]; then
        useradd -m -d "$work/$user" -s /bin/bash $user
        install -d -o $user -m 700 "/run/user/$(id -u $user)"
    else
        install -d -o "$user" "$work/$user"
    fi
    . "$here/podman.sh"
    mkdir -p /etc/containers
    podman_config | grep -v default_ulimits >/etc/containers/containers.conf
    podman load -q -i "$work/busybox.tar"
}
clear() {
    podman pod rm -fa -t 0
    podman rm -fa -t 0
}
# The process that holds the namespaces ends with this.
down() {
    podman system migrate
    unset -f podman
}

podman() {
    (
        cd "$work/$user"
        run=/run/user/$(id -u "$user")
        bus=()
        [ "$manager" = cgroupfs ] || bus=("DBUS_SESSION_BUS_ADDRESS=unix:path=$run/bus")
        exec setpriv --reuid "$user" --regid "$user" --init-groups env -i HOME="$work/$user" USER="$user" \
            PATH="$PATH" TERM=xterm XDG_RUNTIME_DIR="$run" "${bus[@]}" podman "$@"
    )
}
export user
export -f podman
running() { does podman run -d --name "$@" busybox sleep 1000; }

test_the_runtime_is_the_one_under_test() {
    does podman info -f '{{.Host.OCIRuntime.Path}} {{.Host.Security.Rootless}}'
    says "$runtime true"
}
test_exit_codes() {
    expect 7 podman run --rm busybox sh -c 'exit 7'
    expect 127 podman run --rm busybox nosuch
    expect 126 podman run --rm busybox /bin/not-executable
    expect 126 podman run --rm busybox /etc
}
test_the_user_is_root_inside() {
    does podman run --rm busybox sh -c 'id -u; touch /made; stat -c %u /made; cat /proc/self/uid_map'
    shows "$(id -u "$user")"
    does podman run --rm -u user busybox sh -c 'id -u; touch /tmp/made; stat -c %u /tmp/made'
    says $'1000\n1000'
}
test_keep_id() {
    does podman run --rm --userns keep-id busybox id -u
    says "$(id -u "$user")"
    mkdir -p "$work/$user/v"
    chown "$user" "$work/$user/v"
    does podman run --rm --userns keep-id -v "$work/$user/v:/v" busybox touch /v/made
    does stat -c %U "$work/$user/v/made"
    says "$user"
    does podman run --rm --userns nomap busybox true
    does podman run --rm --userns auto:size=1000 busybox cat /proc/self/uid_map
    shows 1000
    does podman run --rm --uidmap 0:1:500 --gidmap 0:1:500 busybox id -u
    says 0
}
test_a_terminal() {
    typed 3 'stty size\ntty\nexit 3\n' podman run -it --rm busybox
    shows '33 111' /dev/pts/0
}
test_exec() {
    running box -e K=v
    does podman exec box sh -c 'echo $K; cat /proc/1/comm'
    says $'v\nsleep'
    expect 5 podman exec box sh -c 'exit 5'
    expect 127 podman exec box nosuch
    does podman exec -u user:1000 -w /tmp -e A=b box sh -c 'id -u; pwd; echo $A'
    says $'1000\n/tmp\nb'
    typed 4 'stty size; exit 4\n' podman exec -it box sh
    shows '33 111'
}
test_stop_and_restart() {
    does podman run -d --name box busybox sh -c 'trap "echo bye; exit 9" TERM; echo up; while :; do sleep 0.1; done'
    becomes up podman logs box
    does podman stop box
    does podman inspect -f '{{.State.ExitCode}}' box
    says 9
    does podman restart box
    becomes $'up\nbye\nup' podman logs box
    does podman kill box
    does podman wait box
    says 137
    does podman rm -f box
}
test_top_and_logs() {
    running box
    does podman top box pid comm
    shows sleep
}
test_limits() {
    # On v1 a user has no cgroups; Podman says so and leaves them out.
    [ -z "$v1" ] || { does podman run --rm -m 64m busybox true; return; }
    [ "$manager" = systemd ] || skip "cgroup v2: limits depend on what is delegated"
    does podman run --rm --pids-limit 20 --cpus 0.5 --cpuset-cpus 0 -m 64m --memory-swap 64m busybox \
        sh -c "cd /sys/fs/cgroup; cat $pids $quota $cpus $memory"
    says $'20\n50000 100000\n0\n67108864'
    running box -m 64m --cgroupns host
    does podman exec box cat /proc/1/cgroup
    shows "/user.slice/user-$(id -u "$user").slice/user@" .scope
    local cgroup=/sys/fs/cgroup${out#0::}
    does podman update --memory 128m box
    does cat "$cgroup/memory.max"
    says 134217728
    does podman pause box
    does podman unpause box
    does podman stats --no-stream --format '{{.Name}} {{.PIDs}}' box
    says 'box 1'
}
test_files() {
    mkdir -p "$work/$user/w"
    chown "$user" "$work/$user/w"
    does podman run --rm -v "$work/$user/w:/w" busybox touch /w/made
    does stat -c %U "$work/$user/w/made"
    says "$user"
    does podman run --rm -v data:/data busybox sh -c 'echo kept >/data/f'
    does podman run --rm -v data:/data busybox cat /data/f
    says kept
    does podman volume rm data
    expect 1 podman run --rm --read-only busybox touch /made
    does podman run --rm --tmpfs /t:size=1m busybox grep ' /t ' /proc/mounts
    shows size=1024k
    running box
    does podman exec box sh -c 'echo hello >/made'
    does podman cp box:/made "$work/$user/made"
    does podman commit -q box mine
    does podman run --rm mine cat /made
    says hello
    does podman rmi -f mine
}
test_building() {
    mkdir -p "$work/$user/context"
    printf 'FROM busybox\nRUN echo built >/made && id -u >>/made\nCMD cat /made\n' >"$work/$user/context/Containerfile"
    does podman build -q -t built "$work/$user/context"
    does podman run --rm built
    says $'built\n0'
    does podman rmi -f built
}
test_rights() {
    does podman run --rm --cap-drop ALL --cap-add CHOWN busybox grep CapEff /proc/self/status
    shows 0000000000000001
    does podman run --rm --security-opt no-new-privileges busybox grep NoNewPrivs /proc/self/status
    shows $'\t1'
    does podman run --rm busybox grep Seccomp: /proc/self/status
    shows $'\t2'
    does podman run --rm --privileged busybox grep CapEff /proc/self/status
    does podman run --rm --init busybox cat /proc/1/comm
    says podman-init
    does podman run --rm --device /dev/fuse busybox test -c /dev/fuse
}
test_networks() {
    does podman run -d --name web -p 8081:80 busybox sh -c 'mkdir /www; echo page >/www/index.html; httpd -f -h /www'
    becomes page busybox wget -qO- http://127.0.0.1:8081
    does podman run --rm --network container:web busybox wget -qO- http://127.0.0.1
    says page
    does podman run --rm --network host busybox true
    does podman run --rm --network none busybox ls /sys/class/net
    says lo
}
test_namespaces() {
    running box --hostname here
    does podman run --rm --pid container:box busybox ps
    shows 'sleep 1000'
    does podman run --rm --pid host --ipc host --uts host busybox hostname
    says "$(hostname)"
}
test_pods() {
    does podman pod create --name pod --hostname together
    does podman run -d --pod pod --name one busybox sh -c 'mkdir /www; echo shared >/www/index.html; httpd -f -h /www'
    does podman run --rm --pod pod busybox sh -c 'hostname; until wget -qO- http://127.0.0.1; do sleep 0.1; done 2>/dev/null'
    says $'together\nshared'
    does podman pod stop -t 0 pod
    does podman pod start pod
    does podman pod rm -f -t 0 pod
}
test_unshare() {
    does podman unshare id -u
    says 0
}

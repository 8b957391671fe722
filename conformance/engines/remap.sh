# Docker with userns-remap: every container in a user namespace, root inside is nobody outside.

. "$here/docker.sh"
up() {
    start_docker '"userns-remap": "default"'
    docker run --rm --userns host --network host busybox true
}

test_root_is_mapped() {
    does docker run --rm busybox sh -c 'id -u; touch /made; stat -c %u /made; cat /proc/self/uid_map'
    shows 65536
    shows_not 4294967295
    running box
    does sh -c "ps -o uid= -p \$(docker inspect -f '{{.State.Pid}}' box)"
    [ "$out" -ge 65536 ] || fail 'it is root of the machine'
    does docker exec box id -u
    says 0
    does docker exec -u user box id -u
    says 1000
}
test_exit_codes() {
    expect 7 docker run --rm busybox sh -c 'exit 7'
    expect 127 docker run --rm busybox nosuch
    expect 126 docker run --rm busybox /bin/not-executable
}
test_a_terminal() {
    typed 3 'until stty size | grep 33; do sleep 0.1; done\ntty\nexit 3\n' docker run -it --rm busybox
    shows '33 111' /dev/pts/0
    running box
    typed 4 'tty; exit 4\n' docker exec -it box sh
    shows /dev/pts/
}
test_limits_and_update() {
    running box -m 64m --memory-swap 64m --pids-limit 20 --cpus 0.5
    becomes 67108864 in_cgroup $memory box
    does docker update -m 128m --memory-swap 128m box
    becomes 134217728 in_cgroup $memory box
    becomes 20 in_cgroup $pids box
}
test_options() {
    does docker run --rm --read-only --tmpfs /t:size=1m busybox sh -c 'touch /t/made; grep " /t " /proc/mounts'
    shows size=1024k
    does docker run --rm -v data:/data busybox touch /data/f
    does docker volume rm data
    does docker run --rm --device /dev/zero:/dev/mine busybox sh -c 'head -c 3 /dev/mine | wc -c'
    says 3
    does docker run --rm --init busybox cat /proc/1/comm
    says docker-init
    does docker run --rm --security-opt no-new-privileges --cap-drop ALL busybox grep -E 'NoNewPrivs|CapEff' /proc/self/status
    shows $'NoNewPrivs:\t1' 0000000000000000
    does docker run --rm --userns host busybox sh -c 'cat /proc/self/uid_map'
    shows 4294967295
    does docker run --rm --sysctl net.ipv4.ip_forward=1 --shm-size 2m --hostname here busybox sh -c 'hostname; cat /proc/sys/net/ipv4/ip_forward'
    says $'here\n1'
}
test_namespaces() {
    running box --ipc shareable
    does docker run --rm --pid container:box --ipc container:box --network container:box busybox ps
    shows 'sleep 1000'
}
test_a_build() {
    mkdir "$TMPDIR/context"
    printf 'FROM busybox\nRUN echo built >/made\nCMD cat /made\n' >"$TMPDIR/context/Dockerfile"
    does docker build -q -t built "$TMPDIR/context"
    does docker run --rm built
    says built
    does docker rmi built
    rm -r "$TMPDIR/context"
}
test_pause_and_restart() {
    running box
    does docker pause box
    does docker unpause box
    does docker restart -t 0 box
    does docker top box
    shows 'sleep 1000'
}

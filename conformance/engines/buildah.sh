# buildah: it runs what a build says in containers of the runtime.

export BUILDAH_ISOLATION=oci BUILDAH_RUNTIME=$runtime
up() {
    buildah pull -q "docker-archive:$work/busybox.tar"
    mkdir "$TMPDIR/context"
}
clear() { buildah rm -a; }
down() {
    buildah rmi -fa
    rm -r "$TMPDIR/context"
}

# build LINE...: of a Containerfile with these lines; the image is called built.
build() {
    printf '%s\n' 'FROM docker.io/library/busybox' "$@" >"$TMPDIR/context/Containerfile"
    expect "${code-0}" buildah bud -q -t built "$TMPDIR/context"
}
from() {
    does buildah from docker.io/library/busybox
    box=$out
}

test_the_runtime_is_the_one_under_test() {
    from
    expect 1 buildah run --runtime /bin/false "$box" true
    does buildah run "$box" true
}
test_a_build() {
    build 'ARG A=x' 'ENV B=y' 'RUN echo $A $B >/made' 'RUN id -u >>/made' 'USER user' 'WORKDIR /srv' 'RUN id -u >/tmp/user; pwd >>/tmp/user' \
        'USER root' 'RUN cat /tmp/user >>/made'
    does buildah from --name out built
    does buildah run out cat /made
    says $'x y\n0\n1000\n/srv'
}
test_a_build_that_fails() {
    code=7 build 'RUN exit 7'
    code=1 build 'RUN ["nosuch"]'
    shows 'executable file'
    does buildah containers -q
    says ''
}
test_a_build_with_options() {
    printf 'FROM docker.io/library/busybox\nRUN --mount=type=tmpfs,target=/t grep " /t tmpfs" /proc/mounts\nRUN cat /sys/fs/cgroup/%s; ulimit -n; ls /v' "$memory" >"$TMPDIR/context/Containerfile"
    does buildah bud -m 64m --ulimit nofile=99:99 --shm-size 2m -v "$work/rootfs:/v:ro" --layers=false -t built "$TMPDIR/context"
    shows 67108864 99 bin
}
test_run() {
    from
    does buildah run "$box" sh -c 'echo hello >/made; echo out'
    says out
    does buildah run "$box" cat /made
    says hello
    expect 5 buildah run "$box" sh -c 'exit 5'
    does buildah run --user user:1000 --env K=v --workingdir /tmp "$box" sh -c 'id -u; echo $K; pwd'
    says $'1000\nv\n/tmp'
    does buildah run --hostname here "$box" hostname
    says here
    does buildah run --cap-add CAP_NET_ADMIN --cap-drop CAP_CHOWN "$box" grep CapEff /proc/self/status
    does buildah run -v "$work/rootfs:/v:ro" "$box" sh -c 'ls /v/bin/busybox; touch /v/x || echo refused'
    shows refused
    does sh -c "echo typed | buildah run $box cat"
    says typed
    typed 6 'stty size; exit 6\n' buildah run -t "$box" sh
    shows /
    does buildah commit -q "$box" mine
    does buildah from --name out mine
    does buildah run out cat /made
    says hello
}

# containerd, by its own client.

up() {
    mkdir -p /etc/containerd
    containerd_config >/etc/containerd/config.toml
    daemon containerd containerd
    comes ctr version
    ctr images import "$work/busybox.tar"
}
containerd_config() {
    cat <<-END
	version = 2
	disabled_plugins = ["io.containerd.grpc.v1.cri"]
	END
}
clear() {
    local id
    for id in $(ctr tasks ls -q); do ctr tasks rm -f "$id"; done
    for id in $(ctr containers ls -q); do ctr containers rm "$id"; done
}
down() { ends containerd; }

image=docker.io/library/busybox:latest
# run OPTION...: `ctr run` with the runtime under test.
run=(ctr run --runc-binary "$runtime")
# running ID OPTION...: a container in the background that sleeps.
running() { does "${run[@]}" -d "${@:2}" $image "$1" sleep 1000; }

test_exit_codes() {
    expect 7 "${run[@]}" --rm $image box sh -c 'exit 7'
    expect 1 "${run[@]}" --rm $image box nosuch
    shows 'executable file not found in $PATH'
    expect 1 "${run[@]}" --rm $image box /bin/not-executable
    shows 'permission denied'
}
test_a_terminal() {
    typed 3 'until stty size | grep 33; do sleep 0.1; done\ntty\nexit 3\n' "${run[@]}" -t --rm $image box sh
    shows '33 111' /dev/pts/0
}
test_exec() {
    running box --env K=v
    does ctr tasks exec --exec-id one box sh -c 'echo $K; cat /proc/1/comm'
    says $'v\nsleep'
    expect 5 ctr tasks exec --exec-id two box sh -c 'exit 5'
    expect 1 ctr tasks exec --exec-id three box nosuch
    shows 'executable file not found in $PATH'
    does ctr tasks exec --exec-id four --user 1000:1000 --cwd /tmp box sh -c 'id -u; pwd'
    says $'1000\n/tmp'
    typed 4 'until stty size | grep 33; do sleep 0.1; done; exit 4\n' ctr tasks exec -t --exec-id five box sh
    shows '33 111'
    does ctr tasks exec -d --exec-id six box sleep 999
    does ctr tasks ps box
    [ "$(wc -l <<<"$out")" = 3 ] || fail 'it should have two processes'
}
test_kill_and_delete() {
    running box
    does ctr tasks kill -s KILL box
    becomes STOPPED sh -c "ctr tasks ls | awk '\$1 == \"box\" {print \$3}'"
    does ctr tasks delete box
    shows 'exit code 137'
    does ctr tasks start -d box
    does ctr tasks delete -f box
    running other --pid-file "$TMPDIR/pid"
    does ctr tasks kill -a -s KILL other
    comes ctr tasks delete -f other
}
test_pause() {
    running box
    does ctr tasks pause box
    does ctr tasks ls
    shows PAUSED
    does ctr tasks resume box
    does ctr tasks exec --exec-id one box true
}
test_metrics() {
    running box --memory-limit 67108864
    does ctr tasks metrics box
    shows memory.usage_in_bytes cpuacct.usage pids.current
    does sh -c 'ctr tasks metrics --format json box | jq .memory.usage.limit'
    says 67108864
}
test_options() {
    does "${run[@]}" --rm --read-only $image box sh -c 'touch /made || echo refused'
    shows refused
    does "${run[@]}" --rm --cap-drop CAP_CHOWN --seccomp $image box grep -E 'CapEff|Seccomp:' /proc/self/status
    shows $'Seccomp:\t2' 00000000a80425fa
    does "${run[@]}" --cpus 0.5 --memory-limit 67108864 -d $image box sleep 1000
    # shellcheck disable=SC2046 # a list
    does cat $(find /sys/fs/cgroup -path "*/default/box/${quota##*/}") $(find /sys/fs/cgroup -path "*/default/box/${memory##*/}")
    says "50000$period"$'\n67108864'
    clear
    does "${run[@]}" --rm --mount "type=bind,src=$work/rootfs,dst=/mine,options=rbind:ro" $image box sh -c 'ls /mine/bin/busybox; touch /mine/x || echo refused'
    shows /mine/bin/busybox refused
    does "${run[@]}" --rm --device /dev/fuse $image box test -c /dev/fuse
    does "${run[@]}" --rm --net-host --with-ns "uts:/proc/self/ns/uts" $image box hostname
    says "$(hostname)"
    does "${run[@]}" --rm --cgroup /lab-of-ctr/box $image box cat /proc/self/cgroup
    find /sys/fs/cgroup -depth -path '*/lab-of-ctr' -exec rmdir {} \;
}
test_checkpoints() {
    running box
    timeout 60 ctr containers checkpoint --task box kept >"$TMPDIR/checkpoint" 2>&1 ||
        skip "checkpoints do not work here: $(tail -n 1 "$TMPDIR/checkpoint")"
}

# What the tests are written with, and what runs them. Sourced by lab.
#
# The file of an engine has functions test_WORDS, each a test that is run with set -e in a subshell
# of its own; up, which starts the engine; clear, which removes all containers after each test; and
# down.

# Files of a cgroup, and what stands behind a quota, on this machine's version.
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    v1='' memory=memory.max quota=cpu.max pids=pids.max cpus=cpuset.cpus period=' 100000'
else
    v1=yes memory=memory/memory.limit_in_bytes quota=cpu/cpu.cfs_quota_us pids=pids/pids.max
    cpus=cpuset/cpuset.cpus period=''
fi

engines=(ctr cri podman rootless buildah docker remap swarm)

# every [ENGINE[:WORD]...]: runs the tests, prints the summary.
every() {
    wanted=("$@") passed=0 failed=0 skipped=0
    local engine
    for engine in "${engines[@]}"; do
        is_wanted "$engine" && one "$engine"
    done
    printf '\n%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
    [ "$failed" = 0 ] && [ $((passed + skipped)) != 0 ]
}

# is_wanted ENGINE [TEST]
is_wanted() {
    local word
    [ ${#wanted[@]} != 0 ] || return 0
    for word in "${wanted[@]}"; do
        [ "${word%%:*}" = "$1" ] || continue
        [[ $word != *:* || -z ${2-} || $2 = *"${word#*:}"* ]] && return
    done
    return 1
}

# one ENGINE: starts it, runs its tests, looks for what is left, ends it.
one() {
    local engine=$1 name
    . "$here/$engine.sh"
    (set -e; up) >"$work/said" 2>&1
    note "$engine: it starts" $? "$work/said" || { down >&3 2>&1; return; }
    world >"$work/before"
    for name in $(sed -n 's/^test_\([a-z0-9_]*\)().*/\1/p' "$here/$engine.sh"); do
        is_wanted "$engine" "$name" || continue
        (set -eu; "test_$name") >"$work/said" 2>&1
        note "$engine: ${name//_/ }" $? "$work/said"
        clear >&3 2>&1
    done
    nothing_left >"$work/said" 2>&1
    note "$engine: nothing is left of its containers" $? "$work/said"
    down >&3 2>&1
}

# note NAME STATUS FILE: counts a result. 77 is a skip, whose reason is FILE's last line.
note() {
    { printf '\n## %s\n' "$1"; cat "$3"; } >&3
    case $2 in
        0) passed=$((passed + 1)); printf 'ok       %s\n' "$1" ;;
        77) skipped=$((skipped + 1)); printf 'skipped  %s (%s)\n' "$1" "$(tail -n 1 "$3")" ;;
        *) failed=$((failed + 1)); printf 'FAILED   %s\n' "$1"; tail -n 40 "$3" | sed 's/^/    /' ;;
    esac
    [ "$2" = 0 ]
}

skip() { printf '%s\n' "$*"; exit 77; }
fail() { printf 'failed: %s\n' "$*"; exit 1; }

# Seconds that a command may take; the machine of --machine is an emulated one.
patience=60
[ "$(cat /proc/1/comm)" != systemd ] || patience=300

# expect CODE COMMAND...: the command ends with that code, or one of a pattern, in time. What it prints, on both
# streams, is then in $out.
expect() {
    local code=$1 got=0
    shift
    printf '$ %s\n' "$*"
    # timeout runs programs; a function must be exported.
    [ "$(type -t "$1")" != function ] || set -- bash -c '"$@"' bash "$@"
    out=$(timeout -k 5 $patience "$@" 2>&1 </dev/null) || got=$?
    [ -z "$out" ] || printf '%s\n' "$out"
    # shellcheck disable=SC2053 # it may be a pattern
    [[ $got = $code ]] || fail "exit code $got, expected $code"
}
does() { expect 0 "$@"; }
# typed CODE INPUT COMMAND...: the same on a terminal of its own, on which INPUT is typed.
typed() {
    local code=$1 input=$2 got=0
    shift 2
    printf '$ %s   # on a terminal, typing: %q\n' "$*" "$input"
    out=$(printf '%b' "$input" | timeout -k 5 $patience script -qec "stty rows 33 cols 111; $(printf '%q ' "$@")" /dev/null 2>&1) || got=$?
    out=${out//$'\r'/}
    printf '%s\n' "$out"
    [ "$got" = "$code" ] || fail "exit code $got, expected $code"
}
# says TEXT: the last command printed exactly this.
says() { [ "$out" = "$1" ] || fail "it should print: $1"; }
# shows TEXT...: what it printed has these.
shows() {
    local text
    for text in "$@"; do [[ $out = *"$text"* ]] || fail "it should print something with: $text"; done
}
shows_not() { [[ $out != *"$1"* ]] || fail "it should print nothing with: $1"; }

# comes COMMAND...: it succeeds within half a minute. For what happens by itself.
comes() {
    local end=$((SECONDS + 30))
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $end ] || fail "this does not come: $*"
        sleep 0.1
    done
}
# becomes TEXT COMMAND...: it prints that within half a minute.
becomes() {
    comes prints "$@"
    printf '$ %s\n%s\n' "${*:2}" "$1"
}
prints() { [ "$("${@:2}" 2>/dev/null)" = "$1" ]; }

# remembering ENGINE NAME: a container whose program has read a word, which is nowhere else any more.
# remembers ENGINE NAME: it knows the word still, as only a process that was saved can, and has a network.
remembering() {
    does "$1" run -d --name "$2" busybox sh -c 'echo kept >/word; read -r word </word; rm /word; touch /ready
        until [ -e /go ]; do sleep 0.1; done; echo "$word" >/said; sleep 1000'
    comes "$1" exec "$2" test -e /ready
}
remembers() {
    does "$1" exec "$2" touch /go
    becomes kept "$1" exec "$2" cat /said
    does "$1" exec "$2" ip addr show eth0
    shows UP 'inet '
}

# daemon NAME COMMAND...: starts it; ends NAME stops it and keeps its log.
daemon() {
    setsid "${@:2}" </dev/null >"$work/$1.log" 2>&1 3>&- &
    echo $! >"$work/$1.pid"
}
ends() {
    [ -e "$work/$1.pid" ] || return 0
    local pid
    pid=$(<"$work/$1.pid")
    kill "$pid" && (comes is_gone "$pid")
    { printf '\n## the log of %s\n' "$1"; cat "$work/$1.log"; } >&3
    rm "$work/$1.pid"
}
is_gone() { ! kill -0 "$1"; }

# What there is of containers: mounts, cgroups, processes, what the runtime remembers. Of cgroups
# not the parents of all containers, which engines never remove.
world() {
    {
        # Podman mounts its storage on itself while it is used.
        cut -d' ' -f 4- /proc/self/mountinfo | sed 's/^/mount /; / \/[^ ]*\/storage\/overlay /d'
        find /sys/fs/cgroup -mindepth 1 -type d | sed 's/^/cgroup /' |
            grep -vE '/(docker|lab|default|k8s.io|mydocker|libpod_parent(/conmon|/[0-9a-f]{64})?|(machine|user|docker|docker-mine)\.slice|podman-pause-[0-9a-f]+\.scope)$'
        # Not the kernel's, and none of this session's.
        ps -eo sid=,pid=,args= | awk -v own="$(ps -o sid= $$)" '$1 != 0 && $1 != own {$1 = "process"; print}'
        find /run -name state.json -o -name exec.fifo | sed 's/^/state /'
    } | sort
}
is_as_before() { world >"$work/after"; [ -z "$(comm -13 "$work/before" "$work/after")" ]; }
nothing_left() {
    (comes is_as_before) && return
    comm -13 "$work/before" "$work/after"
    return 1
}

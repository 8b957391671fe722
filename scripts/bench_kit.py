"""What the parts of scripts/bench share: where they run, how they take times, the tables."""
import glob, os, shutil, signal, statistics, subprocess, sys, tempfile, time

HOME = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BUILT = os.environ.get("BENCH_BUILT", f"{HOME}/target/x86_64-unknown-linux-gnu/release")


def enter(*namespaces):
    """Again in a mount namespace of our own, and those: /dev and /run ours, v2 out of crun's way.

    Returns in there, with a directory to work in. That goes with all else when we end, however."""
    if "BENCH_WORK" in os.environ:
        return os.environ["BENCH_WORK"]
    script = """set -e
        d=$(mktemp -d); mount -t tmpfs -o mode=755 bench "$d"
        for n in "null 1 3" "zero 1 5" "full 1 7" "random 1 8" "urandom 1 9" "tty 5 0"; do
            set -- $n "$@"; mknod -m 666 "$d/$1" c "$2" "$3"; shift 3; done
        mkdir "$d/pts" "$d/shm" "$d/mqueue"; mount --rbind /dev/pts "$d/pts"; ln -s pts/ptmx "$d/ptmx"
        ln -s /proc/self/fd "$d/fd"; mount --move "$d" /dev; rmdir "$d"
        mount -t tmpfs -o mode=755 run /run; mkdir /run/lock
        if grep -q ' /sys/fs/cgroup/unified ' /proc/mounts; then umount /sys/fs/cgroup/unified; fi
        exec "$@" """
    work = tempfile.mkdtemp(prefix="bench-")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    inside = subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", *namespaces, "bash", "-c", script, "bash",
         sys.executable, *sys.argv], env=dict(os.environ, BENCH_WORK=work), start_new_session=True)
    try:
        sys.exit(inside.wait())
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        inside.kill()
        inside.wait()
        for top in glob.glob(f"/sys/fs/cgroup/{cgroup(work)}") + glob.glob(f"/sys/fs/cgroup/*/{cgroup(work)}"):
            for path, _, _ in os.walk(top, topdown=False):
                os.rmdir(path)
        shutil.rmtree(work, ignore_errors=True)


def cgroup(work):
    """The cgroup for containers of a run."""
    return os.path.basename(work)


def once(command, env=None):
    """Wall and CPU milliseconds of a command that must succeed."""
    # A file, since a container that is only created keeps standard error open.
    with tempfile.TemporaryFile() as said:
        start = time.perf_counter()
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                 stderr=said, env=env)
        _, status, usage = os.wait4(child.pid, 0)
        wall = (time.perf_counter() - start) * 1e3
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            said.seek(0)
            sys.exit(f"bench: {' '.join(command)}: {child.returncode}: {said.read().decode()}")
    return wall, (usage.ru_utime + usage.ru_stime) * 1e3


def take_turns(contestants, runs):
    """The medians of what each contestant returns."""
    results = {name: [] for name in contestants}
    for _ in range(runs):
        for name, run in contestants.items():
            results[name].append(run())
    return medians_of(results)


def medians_of(results):
    """Of each contestant's rows the median of each column."""
    return {name: [statistics.median(column) for column in zip(*rows)]
            for name, rows in results.items()}


def table(title, medians, runs, against):
    """Prints medians of wall and CPU time. `against`: whose median is 1."""
    print(f"\n{title} ({runs} runs)", flush=True)
    print(f"  {'':10} {'wall ms':>9} {'ratio':>7} {'cpu ms':>8}")
    for name, (wall, cpu) in medians.items():
        print(f"  {name:10} {wall:9.2f} {wall / medians[against][0]:7.2f} {cpu:8.2f}", flush=True)


def measure(title, contestants, runs, against):
    """Both."""
    table(title, take_turns(contestants, runs), runs, against)


def add(*parts):
    """The sum of several commands' times."""
    return tuple(map(sum, zip(*parts)))

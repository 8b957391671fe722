"""What the parts of scripts/bench share: where they run, how they take times, the tables."""
import glob, os, re, shutil, signal, statistics, subprocess, sys, tempfile, time

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
    try:
        install(f"{work}/bin")
    except OSError as error:
        shutil.rmtree(work)
        sys.exit(f"bench: {error}")
    inside = subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", *namespaces, "bash", "-c", script, "bash",
         sys.executable, *sys.argv],
        env=dict(os.environ, BENCH_WORK=work, BENCH_BUILT=f"{work}/bin"), start_new_session=True)
    try:
        sys.exit(inside.wait())
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        inside.kill()
        inside.wait()
        mine = os.path.basename(work)
        for top in glob.glob(f"/sys/fs/cgroup/{mine}") + glob.glob(f"/sys/fs/cgroup/*/{mine}"):
            for path, _, _ in os.walk(top, topdown=False):
                remove_cgroup(path)
        shutil.rmtree(work, ignore_errors=True)


def install(where):
    """Copies what is measured, as a package manager has copied the peers. A file that a linker has
    written lies in memory in single pages: such a program takes 0.5 ms longer to start."""
    for name in ["runtime", "mydocker", "examples/floor"]:
        os.makedirs(os.path.dirname(f"{where}/{name}"), exist_ok=True)
        shutil.copy(f"{BUILT}/{name}", f"{where}/{name}")


def remove_cgroup(path):
    """Once its last processes, which have been killed, have ended."""
    for _ in range(100):
        try:
            return os.rmdir(path)
        except OSError:
            time.sleep(0.05)
    print(f"bench: {path} stays", file=sys.stderr)


def cgroup():
    """The cgroup for containers of a run."""
    return os.path.basename(os.environ["BENCH_WORK"])


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
    """The medians of what each contestant returns. Each begins when the kernel has taken away what the
    one before it has left: the namespaces, which are destroyed later."""
    results = {name: [] for name in contestants}
    for _ in range(runs):
        for name, run in contestants.items():
            time.sleep(0.03)
            results[name].append(run())
    return {name: medians(rows) for name, rows in results.items()}


def medians(rows):
    """Of each column."""
    return tuple(statistics.median(column) for column in zip(*rows))


def at_once(commands, env=None):
    """Wall milliseconds until all of the commands, begun together, have ended well."""
    start = time.perf_counter()
    children = [subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=env)
                for command in commands]
    codes = [child.wait() for child in children]
    if any(codes):
        sys.exit(f"bench: {' '.join(commands[0])}: {codes}")
    return (time.perf_counter() - start) * 1e3,


OURS = ("runtime", "mydocker")


class Row:
    """A line of a table: what was measured, a figure for each contestant, and what ours is to be.

    A figure is a tuple: the first is compared, a second one is CPU milliseconds. `goals` are pairs of
    a contestant (or of several, of whom the best counts) and the factor that ours is to stay below; a
    goal of None is that very figure."""

    def __init__(self, what, figures, *goals, unit="ms"):
        self.what, self.figures, self.goals, self.unit = what, figures, goals, unit
        self.show()

    def ours(self):
        return next(self.figures[name][0] for name in OURS if name in self.figures)

    def ratios(self):
        """Where ours stands, a text for each goal."""
        for peer, factor in self.goals:
            if peer is None:
                yield f"at most {factor:g}"
                continue
            there = [name for name in ([peer] if isinstance(peer, str) else peer) if name in self.figures]
            if there:
                best = min(there, key=lambda name: self.figures[name][0])
                ratio = self.ours() / self.figures[best][0]
                yield f"{ratio:.2f} of {best}" + (f" (target {factor:g})" if factor else "")

    def show(self):
        print(f"\n{self.what}, {self.unit}", flush=True)
        for name, figure in self.figures.items():
            cpu = f"   cpu {figure[1]:8.2f}" if len(figure) > 1 else ""
            print(f"  {name:10} {figure[0]:10.2f}{cpu}", flush=True)
        for text in self.ratios():
            print(f"  {text}", flush=True)


def markdown(rows, names):
    """The rows as a table with a column for each of the names."""
    lines = [f"| what | {' | '.join(names)} | ours |", "|---" * (len(names) + 2) + "|"]
    for row in rows:
        figures = [short(row.figures[name][0]) if name in row.figures else "" for name in names]
        lines.append(f"| {row.what}, {row.unit} | {' | '.join(figures)} | {', '.join(row.ratios())} |")
    return lines


def short(figure):
    """Three digits."""
    return f"{figure:.2f}" if figure < 10 else f"{figure:.1f}" if figure < 100 else f"{figure:.0f}"


def write_section(mark, lines):
    """Replaces what stands in the READMEs between the marks of that name."""
    for readme in [f"{HOME}/README.md", f"{HOME}/README.zh-CN.md"]:
        with open(readme) as file:
            before = file.read()
        marks = rf"(<!-- {mark}: made by [^>]*-->\n).*?(<!-- /{mark} -->)"
        after, found = re.subn(marks, lambda m: m[1] + "\n".join(lines) + "\n" + m[2], before, flags=re.S)
        if not found:
            sys.exit(f"bench: {readme} has no marks for {mark}")
        with open(readme, "w") as file:
            file.write(after)


def add(*parts):
    """The sum of several commands' times."""
    return tuple(map(sum, zip(*parts)))

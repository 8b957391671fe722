"""`scripts/bench high`: mydocker beside docker, podman and containerd's ctr, without a network."""
import itertools, os, shutil, subprocess

from bench_engines import Docker, MyDocker, Podman, base
from bench_kit import Row, add, cgroup, once, take_turns
from bench_low import FLOOR, bundle

# Ends at once when it is asked to, as a server does.
SERVER = ["sh", "-c", "trap 'exit 0' TERM; sleep 1000 & wait"]
LINES = 200_000


class Ctr:
    """containerd's own client, at the containerd of dockerd."""

    def __init__(self, docker, work):
        self.command = ["ctr", "-a", f"{work}/docker-run/containerd/containerd.sock", "-n", "bench"]
        self.group, self.numbers = cgroup(), itertools.count()
        saved = f"{work}/bench-base.tar"
        docker("save", "-o", saved, "bench-base")
        subprocess.run([*self.command, "image", "import", saved], check=True, stdout=subprocess.DEVNULL)

    def run(self, *words):
        id = f"ctr-{next(self.numbers)}"
        return once([*self.command, "run", "--rm", "--cgroup", f"/{self.group}/{id}",
                     "docker.io/library/bench-base:latest", id, *words])


class Fleet:
    """Containers of one engine."""

    def __init__(self, engine):
        self.engine, self.numbers, self.there = engine, itertools.count(), []
        self.group = ["--cgroup-parent", f"/{cgroup()}", "--network", "none"]

    def once(self, *words):
        return once([*self.engine.command, *words], self.engine.env)

    def run(self, *words):
        return self.once("run", "--rm", *self.group, "bench-base", *words)

    def detached(self, *words):
        name = f"bench-{next(self.numbers)}"
        took = self.once("run", "-d", "--name", name, *self.group, "bench-base", *words)
        self.there.append(name)
        return took

    def grow(self, count):
        while len(self.there) < count:
            self.detached("sleep", "1000")

    def remove(self):
        if self.there:
            self.engine(*self.engine.remove, *self.there)
        self.there = []

    def beside(self):
        """KiB of the proportional set size (proc_pid_smaps_rollup(5)) of the parents of the containers'
        first processes, a mean: mydocker's monitor, containerd's shim, conmon."""
        total = 0
        for name in self.there:
            pid = self.engine("inspect", "-f", "{{.State.Pid}}", name).strip()
            with open(f"/proc/{pid}/stat") as file:
                parent = file.read().rsplit(")", 1)[1].split()[1]
            with open(f"/proc/{parent}/smaps_rollup") as file:
                total += next(int(line.split()[1]) for line in file if line.startswith("Pss:"))
        return total / len(self.there),


def compare(work, runs, quick):
    """Measures all of it. The rows, and the names of the columns."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    engines = {"mydocker": MyDocker(work)}
    for name, kind in [("docker", Docker), ("podman", Podman)]:
        if shutil.which(name):
            engines[name] = kind(work)
    print(", ".join(f"{name} {engine.version()}" for name, engine in engines.items()), flush=True)
    archive = base(f"{work}/base.tar")
    for engine in engines.values():
        engine(*engine.import_, archive, "bench-base")
    fleets = {name: Fleet(engine) for name, engine in engines.items()}
    rows = []
    try:
        rows.extend(measure(fleets, engines, work, runs, quick))
    finally:
        for fleet in fleets.values():
            fleet.remove()
    return rows, ["floor", "mydocker", "docker", "podman", "ctr"]


def measure(fleets, engines, work, runs, quick):
    each = lambda does: {name: lambda fleet=fleet: does(fleet) for name, fleet in fleets.items()}
    plain = bundle(f"{work}/plain")
    runs_true = {"floor": lambda: once([FLOOR, f"{plain}/rootfs", "/bin/true"]),
                 **each(lambda fleet: fleet.run("true"))}
    if "docker" in engines and shutil.which("ctr"):
        ctr = Ctr(engines["docker"], work)
        runs_true["ctr"] = lambda: ctr.run("true")
    yield Row("`run --rm` of true", take_turns(runs_true, runs),
              ("floor", 3.5), ("docker", 0.07), ("podman", 0.1))

    yield Row("`run -d`", take_turns(each(lambda fleet: fleet.detached("sleep", "1000")), min(runs, 50)),
              ("docker", 0.1), ("podman", None))
    yield Row("`exec` of true", take_turns(each(lambda fleet: fleet.once("exec", fleet.there[0], "true")), runs),
              ("docker", 0.15), ("podman", None))

    def served(fleet):
        fleet.detached(*SERVER)
        name = fleet.there.pop()
        return add(fleet.once("stop", name), fleet.once("rm", name))

    yield Row("`stop` + `rm` of a server", take_turns(each(served), runs), ("docker", None), ("podman", None))

    lines = ["sh", "-c", f"yes 0123456789012345678901234567890123456789012345678901234567890 | head -n {LINES}"]
    yield Row(f"`run --rm` that prints {LINES} lines", take_turns(each(lambda fleet: fleet.run(*lines)),
                                                                   max(3, runs // 6)),
              ("docker", None), ("podman", None))

    for fleet in fleets.values():
        fleet.grow(50)
    yield Row("`ps` with 50 running", take_turns(each(lambda fleet: fleet.once("ps")), runs), ("docker", 0.4))
    yield Row("memory beside each of 50 idle containers", {name: fleet.beside() for name, fleet in fleets.items()},
              (None, 300), unit="KiB")
    for fleet in fleets.values():
        fleet.remove()

    def started(fleet, count):
        took = add(*(fleet.detached("sleep", "1000") for _ in range(count)))
        fleet.remove()
        return took

    yield Row("50 of `run -d`, one after the other", take_turns(each(lambda fleet: started(fleet, 50)), 1 if quick else 3),
              ("docker", 0.05), ("podman", 0.08))
    ours = {"mydocker": fleets["mydocker"]}
    if not quick:
        yield Row("200 of `run -d`, one after the other",
                  take_turns({name: lambda fleet=fleet: started(fleet, 200) for name, fleet in ours.items()}, 1))
    for count in [1, 100] if quick else [1, 100, 500, 1000]:
        ours["mydocker"].grow(count)
        yield Row(f"`ps` with {count} running", take_turns({"mydocker": lambda: ours["mydocker"].once("ps")}, runs))

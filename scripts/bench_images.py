"""`scripts/bench images`: commit, import, save, load, push and pull of 200 MB, beside docker and podman.

Everything is here and goes with the run: dockerd, podman's storage, the registry, in namespaces for
network (loopback only), mounts and processes. Files are in the page cache, and what was written before
is on the disk, when a time is taken. A push goes to an empty registry and an image that was never
pushed; a pull and a load to an engine that has nothing of the image.

The memory that a run fills was used before (`touch_memory`).

Each run has its own files, and nothing is removed before the end: for minutes ext4 does not use the
inodes of deleted files, and looks at each of them again for every new file. It takes 7 GB of disk for
each run.
"""
import mmap, os, random, re, shutil, socket, string, subprocess

from bench_engines import IMAGE, REGISTRY, Docker, Engine, MyDocker, Podman, base, wait_for
from bench_kit import Row, medians

SIZE, FILES = 200_000_000, 2000


def noise():
    """Bytes of which nothing can be compressed."""
    return lambda chance, size: chance.randbytes(size)


def text():
    """Words in lines; gzip leaves less than a half of it."""
    chance = random.Random(1)
    words = ["".join(chance.choices(string.ascii_lowercase, k=chance.randint(2, 9))) for _ in range(5000)]
    picked = chance.choices(words, weights=range(5000, 0, -1), k=800_000)
    corpus = "\n".join(" ".join(picked[at:at + 12]) for at in range(0, len(picked), 12)).encode()

    def piece(chance, size):
        start = chance.randrange(len(corpus))
        return corpus[start:start + size]

    return piece


def make_files(where, source, seed):
    """2000 files of 1 kB to some MB, 200 MB in all, none like another."""
    chance = random.Random(seed)
    sizes = [chance.lognormvariate(0, 1.2) for _ in range(FILES)]
    scale = SIZE / sum(sizes)
    for number, size in enumerate(sizes):
        path = f"{where}/d{number % 40}/f{number}"
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            left = int(size * scale)
            while left > 0:
                left -= file.write(source(chance, min(left, 1 << 16)))


def touch_memory():
    """A virtual machine is given memory by its host at the first use, which takes longer than writing to
    it: 2 ms for a megabyte, half a second for a copy of the files. Nearly all that is free is used before,
    for nobody knows which of it the kernel will give to a run."""
    with open("/proc/meminfo") as file:
        free = int(re.search(r"^MemFree: *(\d+) kB", file.read(), re.MULTILINE)[1]) << 10
    mmap.mmap(-1, free // 10 * 9, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE).close()


class Registry:
    """Debian's, on loopback."""

    def __init__(self, work):
        self.work, self.server = work, None
        with open(f"{work}/registry.yml", "w") as file:
            file.write(f"version: 0.1\nlog: {{level: error}}\nhttp: {{addr: {REGISTRY}}}\n"
                       f"storage: {{filesystem: {{rootdirectory: {work}/registry}}}}\n")

    def empty(self):
        """Begins anew, with nothing in it."""
        if self.server:
            self.server.kill()
            self.server.wait()
        shutil.rmtree(f"{self.work}/registry", ignore_errors=True)
        with open(f"{self.work}/registry.log", "w") as log:
            self.server = subprocess.Popen(["docker-registry", "serve", f"{self.work}/registry.yml"],
                                           stdout=log, stderr=log)
        host, port = REGISTRY.split(":")
        wait_for("the registry", lambda: socket.socket().connect_ex((host, int(port))) == 0)


class Run:
    """What one run works on: a directory, an archive of it, an archive of an image, one in the registry."""

    def __init__(self, work, name, source, seed, registry, giver):
        self.name, self.registry, self.giver = name, registry, giver
        self.files, self.archive = f"{work}/{name}", f"{work}/{name}.tar"
        make_files(self.files, source, seed)
        self.pack(self.archive)
        # The same files by other names, so that no engine has the layer.
        self.loadable = f"{work}/{name}-image.tar"
        self.other_image("loaded")
        giver(*giver.save, "-o", self.loadable, f"{IMAGE}:loaded-{name}")

    def pack(self, to, above="."):
        subprocess.run(["tar", "-C", self.files, f"--transform=s,^\\.,{above},", "-cf", to, "."], check=True)

    def other_image(self, above):
        """Makes one, and returns its name."""
        archive, image = f"{self.files}-{above}.tar", f"{IMAGE}:{above}-{self.name}"
        self.pack(archive, above)
        self.giver(*self.giver.import_, archive, image)
        os.remove(archive)
        return image

    def fill_registry(self):
        self.registry.empty()
        self.pullable = self.other_image("pulled")
        self.giver(*self.giver.push, self.pullable)

    def end(self):
        os.remove(self.archive)
        os.remove(self.loadable)


# What is measured, and what ours is to stay below.
DOCKERS, BEST = ("docker", 0.25), (("docker", "podman"), 0.5)
WORK = [
    ("commit of a stopped container", Engine.commits_stopped, DOCKERS),
    ("commit of a running container", Engine.commits_running, DOCKERS),
    ("import FILE.tar", Engine.imports, BEST),
    ("save -o FILE", Engine.saves, BEST),
    ("load -i FILE", Engine.loads, BEST),
    ("push to an empty registry", Engine.pushes, BEST),
    ("pull", Engine.pulls, BEST),
]


def compare(work, runs, _quick):
    """Measures all of it. The rows, and the names of the columns."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    registry = Registry(work)
    peers = [(name, kind) for name, kind in [("docker", Docker), ("podman", Podman)] if shutil.which(name)]
    engines = {"mydocker": MyDocker(work), **{name: kind(work) for name, kind in peers}}
    os.makedirs(f"{work}/giver")
    giver = (Podman if "podman" in engines else MyDocker)(f"{work}/giver")
    print(", ".join(f"{name} {engine.version()}" for name, engine in engines.items()), flush=True)
    archive = base(f"{work}/base.tar")
    for engine in engines.values():
        engine(*engine.import_, archive, "bench-base")
    rows = []
    for kind, source in [("random", noise()), ("text", text())]:
        taken = {what: {name: [] for name in engines} for what, _, _ in WORK}
        for number in range(runs):
            touch_memory()
            run = Run(work, f"{kind}-{number}", source, number, registry, giver)
            for what, does, _ in WORK:
                if does is Engine.pulls:
                    run.fill_registry()
                for name, engine in engines.items():
                    wall, cpu = does(engine, run)
                    taken[what][name].append((wall / 1e3, cpu))
            run.end()
        for what, _, goal in WORK:
            figures = {name: medians(times) for name, times in taken[what].items()}
            rows.append(Row(f"{what}, {kind}", figures, goal, unit="s"))
    return rows, list(engines)

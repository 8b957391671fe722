"""`scripts/bench images`: commit, import, save, load, push and pull of 200 MB, beside docker and podman.

Everything is here and goes with the run: dockerd, podman's storage, the registry, in namespaces for
network (loopback only), mounts and processes. Files are in the page cache, and what was written before
is on the disk, when a time is taken. A push goes to an empty registry and an image that was never
pushed; a pull and a load to an engine that has nothing of the image.

Each run has its own files, and nothing is removed before the end: for minutes ext4 does not use the
inodes of deleted files, and looks at each of them again for every new file. It takes 7 GB of disk for
each run.
"""
import json, os, random, re, shutil, socket, string, subprocess, sys, tarfile, time

from bench_kit import BUILT, HOME, cgroup, medians_of, once, table

SIZE, FILES = 200_000_000, 2000
REGISTRY = "127.0.0.1:5000"
IMAGE = f"{REGISTRY}/bench"


def wait_for(what, condition):
    """Until the condition holds, for a minute at most."""
    for _ in range(1200):
        if condition():
            return
        time.sleep(0.05)
    sys.exit(f"bench: {what} did not come within a minute")


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


class Engine:
    """One of the contestants: `command` is how its command lines begin."""

    def __init__(self, command, env, work):
        self.command, self.env, self.work, self.number = command, env, work, 0

    def __call__(self, *words):
        done = subprocess.run([*self.command, *words], env=self.env, stdin=subprocess.DEVNULL,
                              capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"bench: {' '.join([*self.command, *words])}: {done.stderr}")
        return done.stdout

    def timed(self, *words):
        """Wall and CPU milliseconds of a command, once the disk is at rest."""
        os.sync()
        before = self.others_cpu()
        wall, cpu = once([*self.command, *words], self.env)
        return wall, cpu + self.others_cpu() - before

    def others_cpu(self):
        """What others have used on its behalf, in milliseconds."""
        return 0

    # What is not alike.
    run = ["run", "-d"]
    commit = ["commit"]
    import_ = ["import"]
    save = ["save"]
    push = ["push"]
    pull = ["pull"]

    def container(self, files, lives):
        """One that has written the files, and runs on or does not."""
        self.number += 1
        name = f"bench-{self.number}"
        script = "cp -a /from /copied && touch /done && exec sleep 1000"
        self(*self.run, "--cgroup-parent", f"/{cgroup(self.work)}", "--name", name,
             "-v", f"{files}:/from:ro", "bench-base", "sh", "-c", script)
        has_it = [*self.command, "exec", name, "test", "-e", "/done"]
        wait_for("the container's files", lambda: subprocess.run(
            has_it, env=self.env, stdin=subprocess.DEVNULL, capture_output=True).returncode == 0)
        if not lives:
            self.stop(name)
        return name

    def stop(self, name):
        self("kill", name)
        self("wait", name)

    def commits_stopped(self, run):
        return self.timed(*self.commit, self.container(run.files, False), f"{IMAGE}:stopped-{run.name}")

    def commits_running(self, run):
        name = self.container(run.files, True)
        took = self.timed(*self.commit, name, f"{IMAGE}:running-{run.name}")
        self.stop(name)
        return took

    def imports(self, run):
        return self.timed(*self.import_, run.archive, f"{IMAGE}:{run.name}")

    def saves(self, run):
        to = f"{self.work}/saved.tar"
        took = self.timed(*self.save, "-o", to, f"{IMAGE}:{run.name}")
        os.remove(to)
        return took

    def pushes(self, run):
        run.registry.empty()
        return self.timed(*self.push, f"{IMAGE}:{run.name}")

    def loads(self, run):
        return self.timed("load", "-i", run.loadable)

    def pulls(self, run):
        return self.timed(*self.pull, run.pullable)


class Docker(Engine):
    run = ["run", "-d", "--network", "none"]

    def __init__(self, work):
        socket_ = f"unix://{work}/docker.sock"
        env = dict(os.environ, DOCKER_HOST=socket_, DOCKER_CONFIG=f"{work}/docker-config")
        super().__init__(["docker"], env, work)
        with open(f"{work}/daemon.json", "w") as file:
            json.dump({"bridge": "none", "iptables": False, "ip6tables": False}, file)
        with open(f"{work}/dockerd.log", "w") as log:
            subprocess.Popen(
                ["dockerd", "--config-file", f"{work}/daemon.json", "--data-root", f"{work}/docker",
                 "--exec-root", f"{work}/docker-run", "--pidfile", f"{work}/docker.pid",
                 "--host", socket_, "--storage-driver", "overlay2"], stdout=log, stderr=log)
        is_up = lambda: subprocess.run(["docker", "version"], env=env, capture_output=True).returncode == 0
        wait_for("dockerd", is_up)

    def others_cpu(self):
        """The daemons'."""
        ticks = 0
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/stat") as file:
                    name, rest = file.read().split("(", 1)[1].rsplit(")", 1)
            except OSError:
                continue
            if name in ("dockerd", "containerd"):
                ticks += sum(map(int, rest.split()[11:15]))
        return ticks * 1e3 / os.sysconf("SC_CLK_TCK")

    def version(self):
        return self("version", "-f", "{{.Server.Version}}").strip()


class Podman(Engine):
    run = ["run", "-d", "--network", "none"]
    # As docker does by default.
    commit = ["commit", "-q", "--pause"]
    import_ = ["import", "-q"]
    save = ["save", "-q", "--format", "docker-archive"]
    push = ["push", "-q", "--tls-verify=false"]
    pull = ["pull", "-q", "--tls-verify=false"]

    def __init__(self, work):
        with open(f"{work}/containers.conf", "w") as file:
            # Its own limits are higher than what somebody without CAP_SYS_RESOURCE may give.
            file.write('[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]\n'
                       '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n')
        env = dict(os.environ, CONTAINERS_CONF=f"{work}/containers.conf", HOME=f"{work}/home",
                   TMPDIR=f"{work}/tmp")
        os.makedirs(f"{work}/home")
        os.makedirs(f"{work}/tmp")
        options = ["--root", f"{work}/podman", "--runroot", f"{work}/podman-run",
                   "--tmpdir", f"{work}/podman-tmp", "--storage-driver", "overlay"]
        super().__init__(["podman", *options], env, work)

    def version(self):
        return self("version", "-f", "{{.Client.Version}}").strip()


class MyDocker(Engine):
    commit = ["commit", "-q"]
    import_ = ["import", "-q"]
    save = ["save", "-q"]
    push = ["push", "-q"]
    pull = ["pull", "-q"]

    def __init__(self, work):
        env = dict(os.environ, MYDOCKER_ROOT=f"{work}/lib", MYDOCKER_RUN=f"{work}/run",
                   HOME=f"{work}/home")
        super().__init__([f"{BUILT}/mydocker"], env, work)

    def version(self):
        return self("version", "-f", "{{.Version}}").strip()


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


def base(where):
    """The archive of an image that has what a container needs here."""
    with tarfile.open(where, "w") as tar:
        for name in ["bin", "tmp", "proc", "sys", "dev", "etc"]:
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        tar.add("/bin/busybox", "bin/busybox")
        for name in ["sh", "cp", "touch", "sleep", "test"]:
            entry = tarfile.TarInfo(f"bin/{name}")
            entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(entry)
    return where


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


# What is measured, by whom, and the peer that counts, if it is not the quickest.
WORK = [
    ("commit of a stopped container", Engine.commits_stopped, "docker"),
    ("commit of a running container", Engine.commits_running, "docker"),
    ("import FILE.tar", Engine.imports, None),
    ("save -o FILE", Engine.saves, None),
    ("load -i FILE", Engine.loads, None),
    ("push to an empty registry", Engine.pushes, None),
    ("pull", Engine.pulls, None),
]


def compare(work, runs, into_readme):
    """All the tables; the last sums them up."""
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
            run = Run(work, f"{kind}-{number}", source, number, registry, giver)
            for what, does, _ in WORK:
                if does is Engine.pulls:
                    run.fill_registry()
                for name, engine in engines.items():
                    taken[what][name].append(does(engine, run))
            run.end()
        for what, _, against in WORK:
            medians = medians_of(taken[what])
            others = [name for name in engines if name != "mydocker"] or ["mydocker"]
            against = against if against in engines else min(others, key=lambda name: medians[name][0])
            table(f"{what}, 200 MB, {kind}", medians, runs, against)
            rows.append((what, kind, against, medians))
    summary(rows, list(engines))
    if into_readme:
        for name in ["README.md", "README.zh-CN.md"]:
            write_table(f"{HOME}/{name}", rows, list(engines))


def summary(rows, names):
    print(f"\n{'':36} {''.join(f'{name:>14}' for name in names)}   ratio")
    for what, kind, against, medians in rows:
        walls = "".join(f"{medians[name][0] / 1e3:12.2f} s" for name in names)
        ratio = medians["mydocker"][0] / medians[against][0]
        print(f"{what + ', ' + kind:36} {walls}   {ratio:.2f} of {against}")


def write_table(path, rows, names):
    """Between the marks in a README."""
    lines = [f"| 200 MB in {FILES} files, s | {' | '.join(names)} | ratio |", "|---" * (len(names) + 2) + "|"]
    for what, kind, against, medians in rows:
        walls = " | ".join(f"{medians[name][0] / 1e3:.2f}" for name in names)
        ratio = medians["mydocker"][0] / medians[against][0]
        lines.append(f"| {what}, {kind} | {walls} | {ratio:.2f} |")
    with open(path) as file:
        before = file.read()
    marks = r"(<!-- images: made by [^>]*-->\n).*(<!-- /images -->)"
    after = re.sub(marks, lambda m: m[1] + "\n".join(lines) + "\n" + m[2], before, flags=re.S)
    with open(path, "w") as file:
        file.write(after)

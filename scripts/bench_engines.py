"""The contestants of `scripts/bench images` and `scripts/bench high`: mydocker, docker, podman.

Each has its state below one directory, which goes with the run. dockerd is started here.
"""
import json, os, subprocess, sys, tarfile, time

from bench_kit import BUILT, cgroup, once

REGISTRY = "127.0.0.1:5000"
IMAGE = f"{REGISTRY}/bench"


def wait_for(what, condition):
    """Until the condition holds, for a minute at most."""
    for _ in range(1200):
        if condition():
            return
        time.sleep(0.05)
    sys.exit(f"bench: {what} did not come within a minute")


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
    remove = ["rm", "-f"]
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
        self(*self.run, "--cgroup-parent", f"/{cgroup()}", "--name", name,
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
    # It would wait for a program that has no handler for SIGTERM, as docker does not.
    remove = ["rm", "-f", "-t", "0"]
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


def base(where):
    """The archive of an image that has what a container needs here."""
    with tarfile.open(where, "w") as tar:
        for name in ["bin", "tmp", "proc", "sys", "dev", "etc"]:
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        tar.add("/bin/busybox", "bin/busybox")
        for name in ["sh", "cp", "touch", "sleep", "test", "true", "yes", "head"]:
            entry = tarfile.TarInfo(f"bin/{name}")
            entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(entry)
    return where

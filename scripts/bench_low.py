"""`scripts/bench low`: `runtime` beside runc and crun, and beside the floor.

The floor (scripts/floor.rs) makes the system calls for the container of `runtime spec` and nothing
else: what the kernel needs.
"""
import json, os, shutil, subprocess

from bench_kit import BUILT, Row, add, at_once, once, take_turns

FLOOR = f"{BUILT}/examples/floor"
COUNTS = [1, 100, 1000]


def bundle(where, change=lambda config: None, args=("/bin/true",)):
    """The bundle of `runtime spec`, without a terminal, with a static busybox."""
    root = f"{where}/rootfs"
    for name in ["bin", "dev", "proc", "sys", "etc", "tmp"]:
        os.makedirs(f"{root}/{name}", exist_ok=True)
    shutil.copy("/bin/busybox", f"{root}/bin/busybox")
    for name in ["true", "sleep"]:
        if not os.path.lexists(f"{root}/bin/{name}"):
            os.symlink("busybox", f"{root}/bin/{name}")
    if os.path.exists(f"{where}/config.json"):
        os.remove(f"{where}/config.json")
    subprocess.run([f"{BUILT}/runtime", "spec", "--bundle", where], check=True)
    with open(f"{where}/config.json") as file:
        config = json.load(file)
    config["ociVersion"] = "1.0.2"  # Debian's crun knows no later one
    config["process"].update(terminal=False, args=list(args))
    change(config)
    with open(f"{where}/config.json", "w") as file:
        json.dump(config, file)
    return where


def docker_profile(work):
    """The seccomp profile that mydocker gives by default, as large as Docker's."""
    env = dict(os.environ, MYDOCKER_ROOT=f"{work}/lib", MYDOCKER_RUN=f"{work}/run")
    made = subprocess.run([f"{BUILT}/mydocker", "create", "busybox", "true"], env=env, check=True,
                          capture_output=True, text=True).stdout.strip()
    with open(f"{work}/lib/containers/{made}/config.json") as file:
        profile = json.load(file)["linux"]["seccomp"]
    subprocess.run([f"{BUILT}/mydocker", "rm", made], env=env, check=True, capture_output=True)
    return profile


def with_user_namespace(config):
    ids = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    config["linux"].update(uidMappings=ids, gidMappings=ids)
    config["linux"]["namespaces"].append({"type": "user"})


def peak(command):
    """KiB of the largest resident set among the processes of a command (GNU time)."""
    done = subprocess.run(["/usr/bin/time", "-f", "%M", *command], stdin=subprocess.DEVNULL, check=True,
                          stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    return int(done.stderr.split()[-1]),


def least_memory(command, work, name):
    """The smallest `memory.limit`, of powers of two in KiB, with which `run` of true ends well."""
    for kilobytes in [2 ** power for power in range(5, 16)]:
        limit = lambda config: config["linux"]["resources"].update(memory={"limit": kilobytes << 10})
        where = bundle(f"{work}/least", limit)
        tries = [subprocess.run([*command, "run", "-b", where, f"bench-{name}"], stdin=subprocess.DEVNULL,
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode
                 for _ in range(3)]
        subprocess.run([*command, "delete", "--force", f"bench-{name}"], stderr=subprocess.DEVNULL)
        if not any(tries):
            return kilobytes,
    return float("nan"),


def compare(work, runs, quick):
    """Measures all of it. The rows, and the names of the columns."""
    runtimes = {"runtime": [f"{BUILT}/runtime"]}
    for peer, extra in [("crun", ["--cgroup-manager=cgroupfs"]), ("runc", [])]:
        if shutil.which(peer):
            runtimes[peer] = [shutil.which(peer), *extra]
    plain = bundle(f"{work}/plain")
    rows = []
    each = lambda does: {name: lambda c=c, n=name: does(c, f"bench-{n}") for name, c in runtimes.items()}
    run = lambda where: each(lambda command, id: once([*command, "run", "-b", where, id]))
    floor = {"floor": lambda: once([FLOOR, f"{plain}/rootfs", "/bin/true"])}

    rows.append(Row("`run` of true, the bundle of `runtime spec`", take_turns({**floor, **run(plain)}, runs),
                    ("floor", 1.3), ("crun", 0.55)))

    # Beside the same without: the profile's own cost is the difference.
    profile = docker_profile(work)
    filtered = bundle(f"{work}/filtered", lambda config: config["linux"].update(seccomp=profile))
    without = {f"{name} without": does for name, does in run(plain).items()}
    figures = take_turns({**run(filtered), **without}, runs)
    cost = {name: (figures[name][0] - figures[f"{name} without"][0],) for name in runtimes}
    rows.append(Row("what Docker's seccomp profile adds to that", cost, (None, 0.3)))

    mapped = bundle(f"{work}/mapped", with_user_namespace)
    rows.append(Row("`run` of true in a user namespace", take_turns(run(mapped), runs), ("crun", None)))

    life = lambda command, id: add(once([*command, "create", "-b", plain, id]), once([*command, "start", id]),
                                   once([*command, "delete", "--force", id]))
    rows.append(Row("`create` + `start` + `delete --force`", take_turns(each(life), runs), ("crun", 0.5)))

    sleeping = bundle(f"{work}/sleeping", args=["sleep", "1000"])
    for name, command in runtimes.items():
        once([*command, "run", "--detach", "-b", sleeping, f"bench-{name}"])
    try:
        inside = each(lambda command, id: once([*command, "exec", id, "true"]))
        rows.append(Row("`exec` of true in a running container", take_turns(inside, runs), ("crun", 0.5)))
    finally:
        for name, command in runtimes.items():
            once([*command, "delete", "--force", f"bench-{name}"])

    for count in [8, 64]:
        together = each(lambda command, id: at_once(
            [[*command, "run", "-b", plain, f"{id}-{number}"] for number in range(count)]))
        alone = {"floor": lambda: at_once([[FLOOR, f"{plain}/rootfs", "/bin/true"]] * count)}
        goals = [("floor", 1.3)] if count == 64 else [("floor", None)]
        rows.append(Row(f"{count} times that `run` at once", take_turns({**alone, **together}, max(3, runs // 6)),
                        *goals))

    sizes = {"floor": peak([FLOOR, f"{plain}/rootfs", "/bin/true"]),
             **{name: peak([*c, "run", "-b", plain, f"bench-{name}"]) for name, c in runtimes.items()}}
    rows.append(Row("largest resident set of `run`", sizes, (None, 2560), unit="KiB"))
    least = {name: least_memory(command, work, name) for name, command in runtimes.items()}
    rows.append(Row("smallest memory limit that starts true", least, ("crun", None), unit="KiB"))

    rows.extend(growth(plain, sleeping, floor, runs, COUNTS[:2] if quick else COUNTS))
    return rows, ["floor", "runtime", "crun", "runc"]


def growth(plain, sleeping, floor, runs, counts):
    """`run` and `exec` of ours while more and more containers exist, and what the kernel needs then."""
    ours = [f"{BUILT}/runtime", "--root", "/run/bench-many"]
    there = []
    try:
        for count in counts:
            while len(there) < count:
                id = f"bench-many-{len(there)}"
                there.append(id)
                once([*ours, "run", "--detach", "-b", sleeping, id])
            does = {**floor, "runtime": lambda: once([*ours, "run", "-b", plain, "bench-one"])}
            yield Row(f"`run` of true beside {count} running", take_turns(does, runs))
            does = {"runtime": lambda: once([*ours, "exec", there[0], "true"])}
            yield Row(f"`exec` of true beside {count} running", take_turns(does, runs))
    finally:
        for id in there:
            subprocess.run([*ours, "delete", "--force", id], stderr=subprocess.DEVNULL)

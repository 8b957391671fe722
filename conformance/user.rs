//! mydocker for an ordinary user: what is different for him. (The rows of root that he can be promised
//! too are run besides, see ordinary.rs.)

use crate::Test;
use crate::frontend::world::kernel_is;
use crate::frontend::{Desk, Done, Place, finish, monitor_of, skip, strike, wait_for};
use anyhow::{Context, Result, ensure};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// All of them.
pub(crate) fn tests() -> Vec<Test> {
    type Check = fn(&Place) -> Result<()>;
    let all: [(&str, Check); 14] = [
        (
            "user: root of the container is the caller, others are subordinate ids",
            ids,
        ),
        ("user: the directories are those of XDG", directories),
        (
            "user: without a runtime directory of the user's own",
            no_runtime_directory,
        ),
        (
            "user: a limit without a controller is an error, or a warning",
            limits,
        ),
        ("user: limits in a delegated cgroup", delegated),
        ("user: with one id", one_id),
        (
            "user: containers of one time are in one user namespace",
            one_namespace,
        ),
        (
            "user: with every mydocker killed the container is found",
            all_killed,
        ),
        (
            "user: without a cgroup: top, pause, commit, stats, check",
            no_cgroup,
        ),
        ("user: where there may be no user namespaces", no_namespaces),
        ("user: runc makes containers too", by_runc),
        ("user: what a user may not is told", told),
        ("user: whose file systems may map ids", idmapped),
        ("user: root of a user namespace of others' making", nested),
    ];
    let test = |(name, run): (&str, Check)| Test {
        name: name.to_owned(),
        run: Box::new(run),
    };
    all.into_iter().map(test).collect()
}

fn uid() -> u32 {
    nix::unistd::geteuid().as_raw()
}

/// The user namespace of a process.
fn namespace(pid: i32) -> Result<PathBuf> {
    std::fs::read_link(format!("/proc/{pid}/ns/user")).context("look at a user namespace")
}

fn ids(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let volume = format!("{}:/to", desk.text("from"));
    let script =
        "echo $(cat /proc/self/uid_map); touch /to/root; touch /to/other; chown 7:8 /to/other";
    let done = desk
        .go(&["run", "-v", &volume, "busybox", "sh", "-c", script])?
        .ok()?;
    let words: Vec<u32> = done
        .out
        .split_whitespace()
        .map(|word| word.parse().context("a number"))
        .collect::<Result<_>>()?;
    ensure!(words.starts_with(&[0, uid(), 1, 1]), "{done:?}");
    let first = words.get(4).copied().unwrap_or_default();
    let owner = |name: &str| -> Result<u32> { Ok(desk.path("from").join(name).metadata()?.uid()) };
    ensure!(owner("root")? == uid(), "{}", owner("root")?);
    ensure!(owner("other")? == first + 6, "{} {first}", owner("other")?);
    let done = desk.go(&["run", "-u", "5:6", "busybox", "id"])?.ok()?;
    ensure!(done.out.starts_with("uid=5 gid=6"), "{done:?}");
    Ok(())
}

/// Runs mydocker without the variables that name its directories.
fn in_session(desk: &Desk, variables: &[(&str, &str)], args: &[&str]) -> Result<Done> {
    let mut command = desk.command(desk.program());
    command
        .env_remove("MYDOCKER_ROOT")
        .env_remove("MYDOCKER_RUN")
        .envs(variables.iter().copied())
        .args(args);
    finish(&mut command, &args.join(" "), "")
}

fn directories(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let run = desk.text("session");
    std::fs::create_dir(&run)?;
    let session = [("XDG_RUNTIME_DIR", run.as_str())];
    let info = |variables: &[(&str, &str)]| {
        in_session(
            &desk,
            variables,
            &["info", "-f", "{{.StateDir}} {{.RunDir}}"],
        )
    };
    let home = desk.text("home");
    info(&session)?
        .ok()?
        .says(&format!("{home}/.local/share/mydocker {run}/mydocker"))?;
    let mode = Path::new(&run)
        .join("mydocker")
        .metadata()?
        .permissions()
        .mode();
    ensure!(mode & 0o777 == 0o700, "{mode:o}");
    let data = desk.text("data");
    let session = [
        ("XDG_RUNTIME_DIR", run.as_str()),
        ("XDG_DATA_HOME", data.as_str()),
    ];
    info(&session)?
        .ok()?
        .says(&format!("{data}/mydocker {run}/mydocker"))?;
    in_session(&desk, &session, &["run", "--name", "x", "busybox", "true"])?.ok()?;
    ensure!(Path::new(&data).join("mydocker/images").is_dir());
    Ok(())
}

fn no_runtime_directory(place: &Place) -> Result<()> {
    if Path::new(&format!("/run/user/{}", uid())).exists() {
        return skip("this user has a session, whose directory is taken");
    }
    let fallback = PathBuf::from(format!("/tmp/mydocker-{}", uid()));
    if fallback.exists() {
        return skip(format!("{} is in use", fallback.display()));
    }
    let desk = Desk::new(place)?;
    // As after su: it is another user's.
    for variables in [&[][..], &[("XDG_RUNTIME_DIR", "/")]] {
        let done = in_session(&desk, variables, &["info", "-f", "{{.RunDir}}"])?.ok()?;
        done.says(&fallback.display().to_string())?;
        std::fs::remove_dir_all(&fallback)?;
    }
    // Nobody else may have made it.
    let open = desk.path("open");
    std::fs::create_dir(&open)?;
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o777))?;
    let mut command = desk.command(desk.program());
    command.env("MYDOCKER_RUN", &open).arg("ps");
    finish(&mut command, "ps", "")?.fails(1, &["is open to others", "XDG_RUNTIME_DIR"])?;
    Ok(())
}

fn limits(place: &Place) -> Result<()> {
    if crate::bundles::v2_root()?.is_some() {
        return skip("cgroups can be delegated here");
    }
    let desk = Desk::new(place)?;
    desk.start(&["--name", "u", "busybox", "top"])?;
    for (flag, value, controller) in [
        ("-m", "64m", "memory"),
        ("-cpushare", "512", "cpu"),
        ("-cpuset", "0", "cpuset"),
        ("--pids-limit", "20", "pids"),
    ] {
        let reason =
            format!("the controller {controller} is on cgroup v1, which only root may use");
        let line = "on the kernel's command line";
        for verb in [&["run"][..], &["create"], &["update"]] {
            let args = [verb, &[flag, value]].concat();
            let word = if verb == ["update"] { "u" } else { "busybox" };
            desk.go(&[&args[..], &[word]].concat())?
                .fails(125, &[&reason, line, "--best-effort"])?;
            let args = [verb, &["--best-effort", flag, value]].concat();
            let end: &[&str] = if word == "u" {
                &["u"]
            } else {
                &["busybox", "true"]
            };
            let done = desk.go(&[&args[..], end].concat())?.ok()?;
            ensure!(
                done.err.contains(&reason) && done.err.contains("; not applied"),
                "{done:?}"
            );
        }
    }
    // Nothing is claimed that is not so.
    ensure!(desk.inspect("u", "{{.HostConfig.Memory}}")? == "0");
    let left = desk
        .go(&["ps", "-aq", "--filter", "status=created"])?
        .ok()?;
    ensure!(
        left.out.lines().count() == 4,
        "the four of create --best-effort: {left:?}"
    );
    Ok(())
}

/// Asked of the files that the container itself sees.
fn delegated(place: &Place) -> Result<()> {
    if crate::bundles::v2_root()?.is_none() {
        return skip("a user has no cgroup of v1");
    }
    let desk = Desk::new(place)?;
    let limits = [
        "-m",
        "64m",
        "-cpushare",
        "512",
        "-cpuset",
        "0",
        "--pids-limit",
        "20",
    ];
    let files = ["memory.max", "cpu.weight", "cpuset.cpus", "pids.max"];
    let look = format!("cd /sys/fs/cgroup; cat {}", files.join(" "));
    let words = [&["run"], &limits[..], &["busybox", "sh", "-c", &look]].concat();
    let done = desk.go(&words)?.ok()?;
    ensure!(done.out == "67108864\n59\n0\n20\n", "{done:?}");
    ensure!(
        done.err.lines().all(|line| line.contains("made the image")),
        "{done:?}"
    );
    desk.start(&["--name", "u", "busybox", "sleep", "1000"])?;
    desk.go(&["update", "-m", "32m", "--pids-limit", "9", "u"])?
        .ok()?;
    let done = desk.go(&["exec", "u", "sh", "-c", &look])?.ok()?;
    ensure!(
        done.out.starts_with("33554432\n") && done.out.ends_with("\n9\n"),
        "{done:?}"
    );
    desk.go(&["pause", "u"])?.ok()?;
    ensure!(desk.row("u")?.context("no row")?.contains("paused"));
    desk.go(&["unpause", "u"])?.ok()?;
    let cgroup = format!("/proc/{}/cgroup", desk.pid("u")?);
    let text = std::fs::read_to_string(cgroup)?;
    let own = text.trim().strip_prefix("0::").context("no cgroup of v2")?;
    let dir = Path::new("/sys/fs/cgroup").join(own.trim_start_matches('/'));
    ensure!(dir.join("memory.max").exists(), "{}", dir.display());
    desk.go(&["rm", "-f", "u"])?.ok()?;
    ensure!(!dir.exists(), "{} is left", dir.display());
    Ok(())
}

fn one_id(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    // Without newuidmap(1) on the way.
    let alone = |args: &[&str]| {
        let mut command = desk.command(desk.program());
        command.env("PATH", "/nowhere").args(args);
        finish(&mut command, &args.join(" "), "")
    };
    let done = alone(&["run", "busybox", "cat", "/proc/self/uid_map"])?.ok()?;
    let told =
        "mydocker: containers have one id, which is yours: newuidmap is not there; for more: ";
    ensure!(done.err.contains(told), "{done:?}");
    let map: Vec<&str> = done.out.split_whitespace().collect();
    ensure!(map == ["0", &uid().to_string(), "1"], "{done:?}");
    // Once.
    let done = alone(&["run", "busybox", "id", "-u"])?.ok()?.says("0")?;
    ensure!(done.err.is_empty(), "{done:?}");
    let mut tar = tar::Builder::new(Vec::new());
    for (path, owner) in [("a", 5), ("b", 6)] {
        let mut header = tar::Header::new_ustar();
        header.set_uid(owner);
        header.set_gid(owner);
        header.set_size(0);
        header.set_mode(0o644);
        tar.append_data(&mut header, path, std::io::empty())?;
    }
    let archive = desk.path("owned.tar");
    std::fs::write(&archive, tar.into_inner()?)?;
    let done = alone(&["import", &desk.text("owned.tar"), "owned"])?.ok()?;
    let note = "files of other owners are root's: this user has one id";
    ensure!(done.err.matches(note).count() == 1, "{done:?}");
    alone(&["run", "-u", "5", "busybox", "true"])?.fails(125, &["5"])?;
    Ok(())
}

fn one_namespace(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.go(&["images"])?.ok()?;
    let names: Vec<String> = (0..6).map(|number| format!("c{number}")).collect();
    let desk = &desk;
    std::thread::scope(|scope| -> Result<()> {
        let runs: Vec<_> = names
            .iter()
            .map(|name| scope.spawn(move || desk.start(&["--name", name, "busybox", "top"])))
            .collect();
        for run in runs {
            run.join().map_err(|_| anyhow::anyhow!("it panicked"))??;
        }
        let first = namespace(desk.pid("c0")?)?;
        for name in &names {
            ensure!(namespace(desk.pid(name)?)? == first, "{name} is in another");
        }
        ensure!(first != std::fs::read_link("/proc/self/ns/user")?);
        let mut all = vec!["rm", "-f"];
        all.extend(names.iter().map(String::as_str));
        desk.go(&all)?.ok()?;
        Ok(())
    })
}

fn all_killed(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.start(&["--name", "z", "-u", "7", "busybox", "sleep", "1000"])?;
    let pid = desk.pid("z")?;
    let monitor = monitor_of(pid)?;
    strike(monitor)?;
    // By the list of those who are there nobody is found any more.
    std::fs::remove_file(desk.run_dir().join("keepers"))?;
    desk.go(&["exec", "-u", "9", "z", "id", "-u"])?
        .ok()?
        .says("9")?;
    ensure!(desk.pid("z")? == pid);
    desk.go(&["stop", "-t", "0", "z"])?.ok()?;
    wait_for("it is known how it ended", || {
        let row = desk.row("z")?.context("no row")?;
        Ok(row.contains("exited").then_some(()))
    })
}

fn no_cgroup(place: &Place) -> Result<()> {
    if crate::bundles::v2_root()?.is_some() {
        return skip("cgroups can be delegated here");
    }
    let desk = Desk::new(place)?;
    for name in ["a", "b"] {
        desk.start(&["--name", name, "busybox", "sleep", "1000"])?;
    }
    let top = desk.go(&["top", "a", "-o", "pid,args"])?.ok()?;
    let pid = desk.pid("a")?.to_string();
    let shown: Vec<&str> = top.out.lines().skip(1).collect();
    ensure!(
        shown.len() == 1 && shown[0].trim_start().starts_with(&pid),
        "{top:?}"
    );
    desk.go(&["pause", "a"])?
        .fails(1, &["has no cgroup of its own", "doctor"])?;
    desk.go(&["exec", "a", "touch", "/made"])?.ok()?;
    let done = desk.go(&["commit", "a", "mine"])?.ok()?;
    ensure!(
        done.err.contains("a goes on meanwhile: it has no cgroup"),
        "{done:?}"
    );
    desk.go(&["run", "mine", "ls", "/made"])?
        .ok()?
        .says("/made")?;
    let done = desk.go(&["stats", "--no-stream", "a"])?.ok()?;
    ensure!(done.out.contains("-- / --"), "{done:?}");
    let done = desk.go(&["check", "a"])?.ok()?;
    ensure!(done.out.contains("cgroup    none of its own"), "{done:?}");
    Ok(())
}

/// In a user namespace whose root allows none: for another user of it.
const NO_NAMESPACES: &str = r#"
echo 0 >/proc/sys/user/max_user_namespaces
mkdir -m 700 $1; chown 5:5 $1
dir=$1 program=$2; shift 2
exec setpriv --reuid 5 --regid 5 --clear-groups \
    env MYDOCKER_ROOT=$dir/lib MYDOCKER_RUN=$dir/run $program "$@"
"#;

fn no_namespaces(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let there = |name: &str, args: &[&str]| {
        let mut command = desk.command(Path::new("unshare"));
        command
            .args([
                "--map-root-user",
                "--map-auto",
                "bash",
                "-euc",
                NO_NAMESPACES,
                "bash",
            ])
            .arg(desk.path(name))
            .arg(desk.program())
            .args(args);
        finish(&mut command, &args.join(" "), "")
    };
    let remedy = "hint: sudo sysctl -w user.max_user_namespaces=15000";
    let done = there("a", &["doctor"])?.code(1)?;
    for line in [
        "missing  user namespaces: make a user namespace",
        "missing  overlay: ",
        remedy,
    ] {
        ensure!(done.out.contains(line), "{line}: {done:?}");
    }
    there("b", &["run", "busybox", "true"])?.fails(125, &["make a user namespace", remedy])?;
    Ok(())
}

fn by_runc(place: &Place) -> Result<()> {
    let runc = ["/usr/sbin/runc", "/usr/bin/runc"]
        .into_iter()
        .find(|path| Path::new(path).exists());
    let Some(runc) = runc else {
        return skip("apt-get install runc");
    };
    let desk = Desk::new(place)?;
    desk.start(&["--runtime", runc, "--name", "r", "busybox", "top"])?;
    desk.go(&["exec", "r", "id", "-u"])?.ok()?.says("0")?;
    desk.go(&["stop", "r"])?.ok()?;
    Ok(())
}

fn told(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.go(&["images"])?.ok()?;
    for (args, words) in [
        (
            &["run", "-v", "/nope/a:/x", "busybox", "true"][..],
            &["/nope/a"][..],
        ),
        (
            &["run", "--device-cgroup-rule", "c 1:3 r", "busybox", "true"],
            &["--device-cgroup-rule", "only root", "--best-effort"],
        ),
        (
            &["run", "--device", "/dev/null:/dev/x:r", "busybox", "true"],
            &["/dev/null:/dev/x:r", "only root"],
        ),
        (
            &["run", "--oom-score-adj=-500", "busybox", "true"],
            &["oomScoreAdj", "CAP_SYS_RESOURCE"],
        ),
        (
            &["run", "--ulimit", "nofile=99999999", "busybox", "true"],
            &["NOFILE", "CAP_SYS_RESOURCE"],
        ),
    ] {
        desk.go(args)?.fails(125, words)?;
    }
    desk.go(&[
        "run",
        "--device",
        "/dev/null:/dev/x",
        "busybox",
        "ls",
        "/dev/x",
    ])?
    .ok()?;
    if crate::bundles::v2_root()?.is_none() {
        desk.go(&["run", "--cgroup-parent", "team", "busybox", "true"])?
            .fails(125, &["--cgroup-parent team", "delegated"])?;
    }
    let mut command = desk.command(desk.program());
    command
        .env("MYDOCKER_ROOT", "/root/of/somebody/else")
        .args(["run", "busybox", "true"]);
    finish(&mut command, "run", "")?.fails(125, &["ermission denied", "MYDOCKER_ROOT"])?;
    Ok(())
}

/// The machine's file systems are not the user's, and one that he mounts is.
fn idmapped(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.go(&["images"])?.ok()?;
    let from = desk.text("from");
    let kept = ["run", "-q", "--userns", "keep-id"];
    let map = "idmap=uids=0-1-1;gids=0-1-1";
    for (options, map) in [(&kept[..1], map), (&kept, map), (&kept, "idmap")] {
        let volume = format!("{from}:/to:{map}");
        let words = [options, &["-v", &volume, "busybox", "true"]].concat();
        let expected = format!("map the ids of {from}");
        desk.go(&words)?.fails(125, &[&expected, "hint: "])?;
    }
    let volume = format!("{from}:/to:idmap");
    desk.go(&["run", "-v", &volume, "busybox", "true"])?
        .fails(125, &["user namespace of its own", "hint: "])?;
    // The words of the kernel, where the file system could do it for root.
    if kernel_is(6, 3)? && statfs("/dev/shm")?.filesystem_type() == TMPFS_MAGIC {
        let volume = format!("/dev/shm:/to:{map}");
        let words = [
            "map the ids of",
            "tmpfs",
            "not permitted",
            "hint: only root",
        ];
        desk.go(&["run", "-v", &volume, "busybox", "true"])?
            .fails(125, &words)?;
    }
    Ok(())
}

/// As in a container: mydocker makes no user namespace then, and finds none of its directories.
fn nested(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let inside = |words: &[&str]| {
        let mut command = desk.command("unshare".as_ref());
        command.args(["-rm", "--map-auto"]).args(words);
        finish(&mut command, "unshare", "")
    };
    let trial = inside(&["true"])?;
    if trial.code != 0 {
        return skip(trial.err);
    }
    ensure!(!desk.run_dir().exists(), "the run directory is there");
    let program = desk.program().display().to_string();
    inside(&[&program, "run", "-q", "busybox", "id", "-u"])?
        .ok()?
        .says("0")?;
    Ok(())
}

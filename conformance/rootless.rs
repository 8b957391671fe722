//! The runtime, called by an ordinary user whose systemd has delegated cgroups to the session: the
//! user "user" of the VM of scripts/vm, where `as-user` starts a program so.

use crate::frontend::{Desk, Place, Skip, finish};
use crate::{Check, Test};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

/// All of them.
pub(crate) fn tests(runtime: Option<&Path>) -> Vec<Test> {
    let all: [(&str, Check); 8] = [
        ("rootless: run with the caller's own id", own_id),
        ("rootless: run with a range of ids", range),
        ("rootless: limits in a delegated cgroup", limits),
        ("rootless: a scope of the user's systemd", scope),
        ("rootless: a scope, asked for in a user namespace", nested),
        ("rootless: a limit that is not delegated", not_delegated),
        (
            "rootless: exec from a login session into a scope of the user's systemd",
            from_session,
        ),
        (
            "rootless: mydocker from a login session and from a service",
            session,
        ),
    ];
    Test::of_runtime(runtime, &all)
}

/// What every script begins with; `$1` is the directory of the test.
const START: &str = r#"
set -e
dir=$1 id=$2
call="$3 --root $dir/state"
cgroup() { sed -n 's,^0::,/sys/fs/cgroup,p' /proc/$1/cgroup; }
trap 'rc=$?; $call delete --force $id || rc=1; exit $rc' EXIT
"#;

fn script(
    runtime: &Path,
    place: &Place,
    script: &str,
    change: impl FnOnce(&mut Value),
) -> Result<String> {
    let has = Path::new("/usr/local/bin/as-user").exists();
    if !has || !Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        let why = "this machine has no user with delegated cgroups (scripts/vm has)".to_owned();
        return Err(anyhow::Error::new(Skip(why)));
    }
    let desk = Desk::new(place)?;
    // What is in root's directory is out of the user's reach.
    let dir = PathBuf::from(format!(
        "/tmp/rootless-{}-{}",
        std::process::id(),
        place.dir.file_name().unwrap_or_default().to_string_lossy()
    ));
    let result = prepare(&dir, change).and_then(|()| {
        let (program, steps) = (dir.join("runtime"), dir.join("steps"));
        std::fs::copy(runtime, &program).context("copy the runtime")?;
        // In a file: systemd-run changes what looks like a variable in an argument.
        std::fs::write(&steps, format!("{START}{script}"))?;
        let mut command = desk.command(Path::new("as-user"));
        command
            .arg("bash")
            .args([&steps, &dir])
            .arg(dir.file_name().unwrap_or_default())
            .arg(&program);
        Ok(finish(&mut command, "(as an ordinary user)", "")?.ok()?.out)
    });
    let cleared = std::fs::remove_dir_all(&dir).context("remove the user's directory");
    let out = result?;
    cleared.map(|()| out)
}

/// A bundle of the user's, with the caller's own id as root.
fn prepare(dir: &Path, change: impl FnOnce(&mut Value)) -> Result<()> {
    let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("bundles");
    let text = std::fs::read(home.join("hostname/config.json")).context("read a bundle")?;
    let mut config: Value = serde_json::from_slice(&text)?;
    let rootfs = dir.join("rootfs");
    std::fs::create_dir_all(rootfs.join("bin"))?;
    for name in ["proc", "dev", "sys"] {
        std::fs::create_dir(rootfs.join(name))?;
    }
    std::fs::copy(home.join("rootfs/bin/busybox"), rootfs.join("bin/busybox"))?;
    for name in ["sh", "cat", "id", "grep", "sleep", "true"] {
        std::os::unix::fs::symlink("busybox", rootfs.join("bin").join(name))?;
    }
    config["root"]["path"] = rootfs.display().to_string().into();
    config["process"]["args"] = json!(["sh", "-c", "id -u; cat /proc/self/uid_map"]);
    let linux = &mut config["linux"];
    let namespaces = linux["namespaces"].as_array_mut().context("namespaces")?;
    namespaces.push(json!({"type": "user"}));
    for name in ["uidMappings", "gidMappings"] {
        linux[name] = json!([{"containerID": 0, "hostID": 1000, "size": 1}]);
    }
    change(&mut config);
    std::fs::write(dir.join("config.json"), config.to_string())?;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755))?;
    chown(dir, Some(1000), Some(1000)).context("give it to the user")
}

/// The words of the output, whose columns are padded.
fn words(out: &str) -> String {
    out.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn own_id(runtime: &Path, place: &Place) -> Result<()> {
    let out = script(runtime, place, "$call run --bundle $dir $id", |_| {})?;
    ensure!(words(&out) == "0 0 1000 1", "{out}");
    Ok(())
}

fn range(runtime: &Path, place: &Place) -> Result<()> {
    // user:FIRST:COUNT
    let table = std::fs::read_to_string("/etc/subuid").unwrap_or_default();
    let line = table.lines().find_map(|line| line.strip_prefix("user:"));
    let first: u32 = match line.and_then(|rest| rest.split(':').next()) {
        Some(first) => first.parse().context("/etc/subuid")?,
        None => 0,
    };
    let out = script(runtime, place, "$call run --bundle $dir $id", |config| {
        for name in ["uidMappings", "gidMappings"] {
            config["linux"][name] = json!([{"containerID": 0, "hostID": 1000, "size": 1},
                {"containerID": 1, "hostID": first, "size": 65535}]);
        }
    })?;
    let expected = format!("0 0 1000 1 1 {first} 65535");
    ensure!(words(&out) == expected, "{out}");
    Ok(())
}

/// With a cgroup namespace, from within which `exec` could make nothing.
fn waits(config: &mut Value) {
    if let Some(namespaces) = config["linux"]["namespaces"].as_array_mut() {
        namespaces.push(json!({"type": "cgroup"}));
    }
    config["process"]["args"] = json!(["sleep", "1000"]);
    config["linux"]["resources"] =
        json!({"memory": {"limit": 67108864}, "pids": {"limit": 20}, "cpu": {"shares": 512}});
}

/// Runs `$call`'s container, and looks at its cgroup from outside.
const LIFE: &str = r#"
$call run --detach --bundle $dir --pid-file $dir/pid $id </dev/null >$dir/out 2>&1 || { cat $dir/out; exit 1; }
cgroup=$(cgroup $(cat $dir/pid))
cat $cgroup/memory.max $cgroup/pids.max $cgroup/cpu.weight
$call exec $id id -u
$call update --pids-limit 30 $id
cat $cgroup/pids.max
$call pause $id; $call state $id | grep -o paused; $call resume $id
$call delete --force $id
[ ! -e $cgroup ]
echo ${cgroup##*/} | sed s/$id/ID/
"#;

fn limits(runtime: &Path, place: &Place) -> Result<()> {
    let out = script(runtime, place, LIFE, waits)?;
    ensure!(words(&out) == "67108864 20 59 0 30 paused ID", "{out}");
    Ok(())
}

fn scope(runtime: &Path, place: &Place) -> Result<()> {
    let steps = format!("call=\"$call --systemd-cgroup\"\n{LIFE}");
    let out = script(runtime, place, &steps, waits)?;
    let expected = "67108864 20 59 0 30 paused runtime-ID.scope";
    ensure!(words(&out) == expected, "{out}");
    Ok(())
}

/// As rootless Podman calls it: the user bus knows this user by another number.
fn nested(runtime: &Path, place: &Place) -> Result<()> {
    let steps = r#"
unshare --user --map-root-user --mount bash -c '
    trap "$1 delete --force $3" EXIT
    $1 --systemd-cgroup run --bundle $2 $3' bash "$call" $dir $id
"#;
    let out = script(runtime, place, steps, |config| {
        waits(config);
        config["process"]["args"] = json!(["grep", "-c", ".scope", "/proc/self/cgroup"]);
        let linux = config["linux"].as_object_mut();
        if let Some(linux) = linux {
            linux.remove("uidMappings");
            linux.remove("gidMappings");
            if let Some(list) = linux.get_mut("namespaces").and_then(Value::as_array_mut) {
                list.retain(|namespace| {
                    !["user", "cgroup"]
                        .iter()
                        .any(|kind| namespace["type"] == *kind)
                });
            }
        }
    })?;
    ensure!(out == "1\n", "{out}");
    Ok(())
}

/// `session COMMAND`: as in a login session, which is beside the tree of the user's systemd. `service
/// COMMAND`: within that. A unit that left a monitor ends when it is stopped, and has its container
/// stopped.
const SESSION: &str = r#"
set -e
dir=$1
scope=/sys/fs/cgroup/user.slice/user-1000.slice/session-conf.scope
mkdir $scope
state=(MYDOCKER_ROOT=$dir/lib MYDOCKER_RUN=$dir/run)
session() {
    bash -c 'echo $$ >$0/cgroup.procs; exec "$@"' $scope setpriv --reuid 1000 --regid 1000 --init-groups \
        env -i PATH="$PATH" XDG_RUNTIME_DIR=/run/user/1000 "${state[@]}" $dir/mydocker "$@"
}
service() { as-user env "${state[@]}" $dir/mydocker "$@"; }
trap 'rc=$?; session rm -f a b c || rc=1; rmdir $scope || rc=1; exit $rc' EXIT
session run --rm busybox echo '$$' '${HOME}'
session run -d --name a -m 40m busybox sleep 1000 >/dev/null
look='cat /sys/fs/cgroup/memory.max'
session exec a $look
service exec a $look
session create --name b -m 48m busybox sleep 1000 >/dev/null
session start b
session exec b $look
session update -m 32m b
service exec b $look
session pause b
session unpause b
as-user systemd-run --user --quiet --unit conf-told -p Type=oneshot -p RemainAfterExit=yes \
    ${state[@]/#/-E} $dir/mydocker run -d --name c --stop-timeout 1 busybox sleep 1000
service exec c echo up
as-user timeout 60 systemctl --user stop conf-told
service inspect -f {{.State.Status}} c
"#;

fn session(runtime: &Path, place: &Place) -> Result<()> {
    let (desk, dir) = outside(place, "session")?;
    let run = || -> Result<String> {
        chown(&dir, Some(1000), Some(1000)).context("give it to the user")?;
        for (program, name) in [(runtime, "runtime"), (desk.program(), "mydocker")] {
            std::fs::copy(program, dir.join(name)).context("copy the programs")?;
        }
        let mut command = desk.command(Path::new("bash"));
        command.args(["-c", SESSION, "bash"]).arg(&dir);
        Ok(finish(&mut command, "(as an ordinary user)", "")?.ok()?.out)
    };
    let out = run();
    let cleared = std::fs::remove_dir_all(&dir).context("remove the user's directory");
    let out = out?;
    let expected = "$$ ${HOME} 41943040 41943040 b 50331648 b 33554432 b b up exited a b c";
    ensure!(words(&out) == expected, "{out}");
    cleared
}

/// In a login session the runtime may put no process into a scope that is beside it. The container has
/// a cgroup namespace, whose root is the scope.
const FROM_SESSION: &str = r#"
set -e
dir=$1
scope=/sys/fs/cgroup/user.slice/user-1000.slice/session-exec.scope
mkdir $scope
call() {
    bash -c 'echo $$ >$0/cgroup.procs; exec "$@"' $scope setpriv --reuid 1000 --regid 1000 --init-groups \
        env -i PATH="$PATH" XDG_RUNTIME_DIR=/run/user/1000 $dir/runtime --root $dir/state --systemd-cgroup "$@"
}
trap 'rc=$?; call delete --force x || rc=1; rmdir $scope || rc=1; exit $rc' EXIT
call run --detach --bundle $dir x </dev/null >$dir/out 2>&1 || { cat $dir/out; exit 1; }
call exec x cat /proc/self/cgroup
"#;

fn from_session(runtime: &Path, place: &Place) -> Result<()> {
    let (desk, dir) = outside(place, "exec")?;
    let run = || -> Result<String> {
        prepare(&dir, waits)?;
        std::fs::copy(runtime, dir.join("runtime")).context("copy the runtime")?;
        let mut command = desk.command(Path::new("bash"));
        command.args(["-c", FROM_SESSION, "bash"]).arg(&dir);
        Ok(finish(&mut command, "(in a session)", "")?.ok()?.out)
    };
    let out = run();
    let cleared = std::fs::remove_dir_all(&dir).context("remove the user's directory");
    let out = out?;
    ensure!(out == "0::/\n", "{out}");
    cleared
}

/// A directory for the user, which what is called in a session can reach.
fn outside(place: &Place, name: &str) -> Result<(Desk, PathBuf)> {
    if !Path::new("/usr/local/bin/as-user").exists() || crate::bundles::v2_root()?.is_none() {
        let why = "this machine has no user with delegated cgroups (scripts/vm has)".to_owned();
        return Err(anyhow::Error::new(Skip(why)));
    }
    let dir = PathBuf::from(format!("/tmp/rootless-{name}-{}", std::process::id()));
    std::fs::create_dir(&dir).context("make a directory for the user")?;
    Ok((Desk::new(place)?, dir))
}

fn not_delegated(runtime: &Path, place: &Place) -> Result<()> {
    let steps = r#"
$call run --bundle $dir $id 2>$dir/err && exit 1
cat $dir/err
"#;
    // systemd has hugetlb to give to nobody.
    let out = script(runtime, place, steps, |config| {
        config["linux"]["resources"] =
            json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 4194304}]});
    })?;
    ensure!(
        out.contains("hint: systemd delegates the hugetlb controller to no user"),
        "{out}"
    );
    Ok(())
}

//! Cgroups that systemd makes (`--systemd-cgroup`). They need a machine whose PID 1 is systemd, such
//! as the VM of scripts/vm.

use crate::frontend::{Desk, Place, Skip, finish};
use crate::{Check, Test};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// All of them.
pub(crate) fn tests(runtime: Option<&Path>) -> Vec<Test> {
    let all: [(&str, Check); 5] = [
        (
            "systemd: a scope with limits, exec, update and delete",
            life,
        ),
        ("systemd: a scope ends with its container", ends_by_itself),
        ("systemd: a create that fails leaves no scope", fails),
        ("systemd: a create that is killed leaves no scope", killed),
        ("systemd: paths and annotations that cannot be", refused),
    ];
    Test::of_runtime(runtime, &all)
}

/// What every script begins with. `gone` waits for the end of a unit, which systemd gives no
/// command to wait for.
const START: &str = r#"
set -e
runtime="$1 --root $3/state --systemd-cgroup" bundle=$2 dir=$3 id=$4
unit=conf-$id.scope
trap 'rc=$?; $runtime delete --force $id || rc=1; exit $rc' EXIT
get() { systemctl show --value -p "$1" "$unit"; }
gone() {
    for i in $(seq 1 200); do
        [ "$(get ActiveState)" != inactive ] || [ "$(get LoadState)" != not-found ] || return 0
        sleep 0.05
    done
    echo "$unit is left: $(get ActiveState)"; exit 1
}
cgroup() { sed -n 's,^\(0::\|.*:name=systemd:\),,p' /proc/$1/cgroup | head -n 1; }
"#;

fn script(
    runtime: &Path,
    place: &Place,
    script: &str,
    change: impl FnOnce(&mut Value),
) -> Result<String> {
    if !Path::new("/run/systemd/system").exists() {
        let why = "the first process of this machine is not systemd".to_owned();
        return Err(anyhow::Error::new(Skip(why)));
    }
    let desk = Desk::new(place)?;
    let number = place.dir.file_name().unwrap_or_default().to_string_lossy();
    let id = format!("{}-{number}", std::process::id());
    let bundle = bundle(place, &id, change)?;
    let mut command = desk.command(Path::new("bash"));
    command
        .arg("-c")
        .arg(format!("{START}{script}"))
        .arg("bash")
        .args([runtime, &bundle, &place.dir])
        .arg(id);
    Ok(finish(&mut command, "(with systemd)", "")?.ok()?.out)
}

fn bundle(place: &Place, id: &str, change: impl FnOnce(&mut Value)) -> Result<PathBuf> {
    let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("bundles");
    let text = std::fs::read(home.join("hostname/config.json")).context("read a bundle")?;
    let mut config: Value = serde_json::from_slice(&text)?;
    config["process"]["args"] = json!(["sleep", "1000"]);
    config["root"]["path"] = home.join("rootfs").display().to_string().into();
    config["linux"]["cgroupsPath"] = format!("conf.slice:conf:{id}").into();
    change(&mut config);
    let bundle = place.dir.join("bundle");
    std::fs::create_dir_all(&bundle)?;
    std::fs::write(bundle.join("config.json"), config.to_string())?;
    Ok(bundle)
}

fn life(runtime: &Path, place: &Place) -> Result<()> {
    let steps = r#"
$runtime create --bundle "$bundle" --pid-file "$dir/pid" $id </dev/null >"$dir/out" 2>&1 || { cat "$dir/out"; exit 1; }
cgroup $(cat "$dir/pid") | sed "s/$id/ID/"
$runtime start $id
get Slice; get TasksMax; get TimeoutStopUSec; get Delegate; get CollectMode; get MemorySwapMax
$runtime exec $id true
$runtime exec $id grep -c "$unit" /proc/self/cgroup >"$dir/lines"
[ $(cat "$dir/lines") -ge 1 ]
$runtime update --pids-limit 30 $id
get TasksMax
# The quota stays: it is not half a CPU of the new period.
$runtime update --cpu-period 200000 $id
get CPUQuotaPerSecUSec
# What systemd would set again is what was set last.
systemctl daemon-reload
find /sys/fs/cgroup -path "*$unit/pids.max" | head -n 1 | xargs cat
$runtime exec $id sh -c ': </dev/loop-control' 2>"$dir/err" && exit 1
grep -o 'not permitted' "$dir/err"
$runtime pause $id; $runtime state $id | grep -o paused; $runtime resume $id
$runtime create --bundle "$bundle" $id-2 </dev/null 2>"$dir/err" && exit 1
grep -o 'choose another linux.cgroupsPath' "$dir/err"
$runtime delete --force $id
get LoadState
find /sys/fs/cgroup -name "$unit"
"#;
    let out = script(runtime, place, steps, |config| {
        config["linux"]["resources"] = json!({"pids": {"limit": 20}, "cpu": {"quota": 50000, "period": 100000},
            "memory": {"limit": 67108864, "swap": 67108864}});
        config["annotations"] = json!({"org.systemd.property.TimeoutStopSec": "uint32 7"});
        // A device that is there, and that no rule allows.
        config["linux"]["devices"] =
            json!([{"path": "/dev/loop-control", "type": "c", "major": 10, "minor": 237}]);
    })?;
    let lines: Vec<&str> = out.lines().collect();
    let swap = if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        "0"
    } else {
        "infinity"
    };
    let expected = [
        "/conf.slice/conf-ID.scope",
        "conf.slice",
        "20",
        "7s",
        "yes",
        "inactive-or-failed",
        swap,
        "30",
        "250ms",
        "30",
        "not permitted",
        "paused",
        "choose another linux.cgroupsPath",
        "not-found",
    ];
    ensure!(lines == expected, "{lines:?}");
    Ok(())
}

fn ends_by_itself(runtime: &Path, place: &Place) -> Result<()> {
    let steps = r#"
$runtime run --detach --bundle "$bundle" --pid-file "$dir/pid" $id </dev/null >"$dir/out" 2>&1
get ActiveState
kill -9 $(cat "$dir/pid")
gone
"#;
    let out = script(runtime, place, steps, |_| {})?;
    ensure!(out == "active\n", "{out}");
    Ok(())
}

fn fails(runtime: &Path, place: &Place) -> Result<()> {
    let steps = r#"
$runtime create --bundle "$bundle" $id </dev/null 2>"$dir/err" && exit 1
cat "$dir/err"
get LoadState
find /sys/fs/cgroup -name "$unit"
"#;
    let out = script(runtime, place, steps, |config| {
        config["hooks"] = json!({"createRuntime": [{"path": "/bin/false"}]});
    })?;
    ensure!(out.contains("createRuntime"), "{out}");
    ensure!(out.ends_with("not-found\n"), "{out}");
    Ok(())
}

fn killed(runtime: &Path, place: &Place) -> Result<()> {
    let steps = r#"
$runtime create --bundle "$bundle" $id </dev/null 2>"$dir/err" && exit 1
gone
"#;
    script(runtime, place, steps, |config| {
        // The hook kills its parent, the runtime, and then only ends with its own.
        let kill = "systemctl is-active --quiet conf-*.scope; kill -9 $PPID";
        config["hooks"] =
            json!({"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", kill]}]});
    })?;
    Ok(())
}

/// Nothing is asked of systemd here, so any machine will do.
fn refused(runtime: &Path, place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    for (path, annotation, words) in [
        ("/a/b", "1", "SLICE:PREFIX:NAME"),
        ("a.slice:b:c.slice", "1", "c.slice names a slice"),
        ("a:b:c", "1", "not the name of a slice"),
        ("a.slice:b:c/d", "1", "not the name of a unit"),
        (
            "a.slice:b:c",
            "nonsense",
            "annotations.org.systemd.property.TasksMax",
        ),
    ] {
        let bundle = bundle(place, "x", |config| {
            config["linux"]["cgroupsPath"] = path.into();
            config["annotations"] = json!({"org.systemd.property.TasksMax": annotation});
        })?;
        let mut command = desk.command(runtime);
        command
            .args([Path::new("--root"), &place.dir.join("state")])
            .args(["--systemd-cgroup", "create", "--bundle"])
            .arg(&bundle)
            .arg("x");
        let done = finish(&mut command, path, "")?;
        ensure!(done.code != 0 && done.err.contains(words), "{done:?}");
    }
    Ok(())
}

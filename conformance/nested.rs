//! The runtime, called by root of a user namespace, as rootless Podman calls it: no user namespace
//! in the config, and no right to anything of the machine's first one.

use crate::Test;
use crate::frontend::{Desk, Done, Place, finish};
use anyhow::{Result, ensure};
use serde_json::{Value, json};
use std::path::Path;

/// All of them.
pub(crate) fn tests(runtime: Option<&Path>) -> Vec<Test> {
    Test::of_runtime(
        runtime,
        &[
            (
                "nested: create, start, exec, kill and delete in a user namespace",
                life,
            ),
            (
                "nested: what is mounted below a source cannot be left out",
                mounted_below,
            ),
        ],
    )
}

/// Everything goes to one log, so that a failure shows what was said.
const SCRIPT: &str = r#"
set -e
runtime="$1 --root $3/state"
id=$4
trap '$runtime delete --force $id' EXIT
$runtime run --detach --bundle "$2" --pid-file "$3/pid" $id </dev/null >"$3/out" 2>&1 || { cat "$3/out"; exit 1; }
$runtime exec $id sh -c 'echo in $(hostname) $(cat /proc/1/comm)'
$runtime exec $id sh -c 'exit 7' && exit 1 || echo "code $?"
$runtime kill $id KILL
while kill -0 $(cat "$3/pid") 2>/dev/null; do read -t 0.05 _ <>/dev/zero || true; done
$runtime delete $id
$runtime list -q
"#;

/// Runs a script as root of a user namespace, with the runtime, the bundle, the test's directory and an id.
fn run(script: &str, runtime: &Path, place: &Place, bundle: &Path, desk: &Desk) -> Result<Done> {
    let mut command = desk.command(Path::new("unshare"));
    let number = place.dir.file_name().unwrap_or_default().to_string_lossy();
    command
        .args(["--user", "--map-root-user", "--mount", "bash", "-c"])
        .args([script, "bash"])
        .args([runtime, bundle, &place.dir])
        .arg(format!("conf-{}-{number}", std::process::id()));
    finish(&mut command, "(in a user namespace)", "")
}

fn life(runtime: &Path, place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let bundle = desk.bundle(&["sleep", "1000"])?;
    let done = run(SCRIPT, runtime, place, &bundle, &desk)?.ok()?;
    ensure!(done.out == "in box sleep\ncode 7\n", "{done:?}");
    Ok(())
}

/// There are the cgroups below /sys.
fn mounted_below(runtime: &Path, place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let bundle = desk.bundle(&["true"])?;
    let file = bundle.join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&file)?)?;
    for (how, code) in [("bind", 1), ("rbind", 0)] {
        config["mounts"] = json!([{"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/sys", "source": "/sys", "options": [how]}]);
        std::fs::write(&file, config.to_string())?;
        let script = r#""$1" --root "$3/state" run --bundle "$2" "$4""#;
        let done = run(script, runtime, place, &bundle, &desk)?.code(code)?;
        ensure!(
            (code == 1) == done.err.contains("hint: is something mounted below it?"),
            "{how}: {done:?}"
        );
    }
    Ok(())
}

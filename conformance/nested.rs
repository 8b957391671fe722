//! The runtime, called by root of a user namespace, as rootless Podman calls it: no user namespace
//! in the config, and no right to anything of the machine's first one.

use crate::Test;
use crate::frontend::{Desk, Place, finish};
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};

/// All of them.
pub(crate) fn tests(runtime: Option<&Path>) -> Vec<Test> {
    let default = || PathBuf::from(env!("CARGO_BIN_EXE_runtime"));
    let runtime = runtime.map_or_else(default, Path::to_owned);
    vec![Test {
        name: "nested: create, start, exec, kill and delete in a user namespace".to_owned(),
        run: Box::new(move |place| life(&runtime, place)),
    }]
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

fn life(runtime: &Path, place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("bundles");
    let text = std::fs::read(home.join("hostname/config.json")).context("read a bundle")?;
    let mut config: serde_json::Value = serde_json::from_slice(&text)?;
    config["process"]["args"] = serde_json::json!(["sleep", "1000"]);
    config["root"]["path"] = home.join("rootfs").display().to_string().into();
    let bundle = desk.path("bundle");
    std::fs::create_dir(&bundle)?;
    std::fs::write(bundle.join("config.json"), config.to_string())?;
    let mut command = desk.command(Path::new("unshare"));
    command
        .args([
            "--user",
            "--map-root-user",
            "--mount",
            "bash",
            "-c",
            SCRIPT,
            "bash",
        ])
        .args([runtime, &bundle, &place.dir])
        .arg(format!("conf-{}-nested", std::process::id()));
    let done = finish(&mut command, "(in a user namespace)", "")?.ok()?;
    ensure!(done.out == "in box sleep\ncode 7\n", "{done:?}");
    Ok(())
}

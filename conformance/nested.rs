//! The runtime, called by root of a user namespace, as rootless Podman calls it: no user namespace
//! in the config, and no right to anything of the machine's first one.

use crate::Test;
use crate::frontend::{Desk, Place, finish};
use anyhow::{Result, ensure};
use std::path::Path;

/// All of them.
pub(crate) fn tests(runtime: Option<&Path>) -> Vec<Test> {
    let name = "nested: create, start, exec, kill and delete in a user namespace";
    Test::of_runtime(runtime, &[(name, life)])
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
    let bundle = desk.bundle(&["sleep", "1000"])?;
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

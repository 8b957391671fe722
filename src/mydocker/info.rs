//! `version` and `info`.

use super::cli::{Global, Info, Version};
use super::image::Store;
use super::platform::Platform;
use super::record::{self, Entry};
use super::state_dirs::State;
use super::{format, print, run, runtime_cli};
use crate::cgroup;
use crate::error::{self, ResultExt};
use anyhow::Result;
use procfs::{FromRead, Meminfo};
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Stdio};

/// `mydocker version`
pub fn version(_: &State, global: &Global, args: &Version) -> Result<i32> {
    let object = json!({
        "Version": env!("CARGO_PKG_VERSION"),
        "Os": "linux",
        "Arch": Platform::of_machine().architecture,
        "Runtime": runtime(global),
    });
    show(args.format.as_deref(), &object)
}

/// `mydocker info`
pub fn info(state: &State, global: &Global, args: &Info) -> Result<i32> {
    let mut counts = [0; 4];
    for entry in record::all(state)? {
        let at = match entry {
            Entry::Known(_, status) => match status.word() {
                "running" => 0,
                "paused" => 1,
                _ => 2,
            },
            Entry::Damaged { .. } => 3,
        };
        counts[at] += 1;
    }
    let images = match state.root.join("images").exists() {
        true => Store::open(&state.root)?.list()?.len(),
        false => 0,
    };
    let kernel = nix::sys::utsname::uname().map(|name| name.release().to_owned());
    let layout = cgroup::Host::probe().map(|host| format!("{:?}", host.layout()).to_lowercase());
    let object = json!({
        "Version": env!("CARGO_PKG_VERSION"),
        "Containers": counts.iter().sum::<usize>(),
        "ContainersRunning": counts[0],
        "ContainersPaused": counts[1],
        "ContainersStopped": counts[2],
        "ContainersDamaged": counts[3],
        "Images": images,
        "DefaultImage": run::default_image(),
        "StateDir": state.root,
        "RunDir": state.run,
        "Runtime": runtime(global),
        "CgroupLayout": layout.unwrap_or_else(|error| error::message(&error)),
        "KernelVersion": kernel.unwrap_or_default().to_string_lossy(),
        "NCPU": std::thread::available_parallelism().map_or(0, usize::from),
        "MemTotal": memory(),
    });
    show(args.format.as_deref(), &object)
}

fn show(format: Option<&str>, object: &Value) -> Result<i32> {
    if let Some(format) = format {
        let text = format::one(format, object).exit_code(1)?;
        return print(&format!("{text}\n"));
    }
    let fields = object.as_object().into_iter().flatten();
    let rows: Vec<Vec<String>> = fields
        .map(|(name, value)| {
            let text = match value {
                Value::String(text) => text.clone(),
                Value::Object(map) => {
                    let word = |key: &str| map.get(key).and_then(Value::as_str).unwrap_or("");
                    format!("{} ({})", word("Path"), word("Version"))
                }
                other => other.to_string(),
            };
            vec![format!("{name}:"), text]
        })
        .collect();
    print(&format::columns(&rows))
}

/// Which runtime would be used, and what it says of itself.
fn runtime(global: &Global) -> Value {
    match runtime_cli::choose(global.runtime.as_deref()) {
        Ok(path) => json!({"Path": path, "Version": version_of(&path)}),
        Err(error) => json!({"Path": "", "Version": error::message(&error)}),
    }
}

fn version_of(program: &Path) -> String {
    let output = Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .output();
    match output {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            text.lines().next().unwrap_or_default().to_owned()
        }
        Err(error) => error.to_string(),
    }
}

/// Bytes, from proc_meminfo(5).
pub(super) fn memory() -> u64 {
    Meminfo::from_file("/proc/meminfo").map_or(0, |memory| memory.mem_total)
}

//! The runtime's own command line, verb by verb, where a bundle and its output cannot tell enough.
//! The rows run with any runtime: what is checked is what engines rely on.

mod agent;
mod checkpoint;
mod exec;
mod expected;
mod hooks;
mod hot_mounts;
mod life;
mod log;
mod manager;
mod mounts;
mod netdev;
mod notify;
mod places;
mod update;
mod values;
mod words;

use crate::Test;
use crate::frontend::{Done, Known, Place, ended, finish, skip};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::cell::RefCell;
use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A row of the table of tests.
type Row = (&'static str, fn(&Trial) -> Result<()>);

/// A test that is made of a line of some table.
type Body = dyn Fn(&Trial) -> Result<()> + Send + Sync;

/// All of them.
pub(crate) fn tests(runtime: Option<&Path>, systemd: bool) -> Vec<Test> {
    let runtime = crate::runtime_under_test(runtime);
    let rows = [
        hot_mounts::ROWS,
        life::ROWS,
        log::ROWS,
        hooks::ROWS,
        places::ROWS,
        update::ROWS,
        agent::ROWS,
        words::ROWS,
        checkpoint::ROWS,
        exec::ROWS,
        expected::ROWS,
        manager::ROWS,
        notify::ROWS,
        netdev::ROWS,
    ]
    .concat();
    let rows = rows.into_iter().map(|(name, run)| {
        let run: Box<Body> = Box::new(run);
        (name.to_owned(), run)
    });
    let tests = rows
        .chain(values::tests())
        .chain(mounts::tests())
        .map(|(name, run)| {
            let runtime = runtime.clone();
            Test {
                name: format!("verb {name}"),
                run: Box::new(move |place| {
                    let trial = Trial::new(&runtime, place, systemd)?;
                    trial.judge(run(&trial))
                }),
            }
        });
    tests.collect()
}

/// Adds a user namespace to a config: its ids from 0 on are the host's from 100000 on.
pub(crate) fn add_user_namespace(config: &mut Value) {
    let linux = &mut config["linux"];
    let maps = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    linux["uidMappings"] = maps.clone();
    linux["gidMappings"] = maps;
    if let Some(namespaces) = linux["namespaces"].as_array_mut() {
        namespaces.push(json!({"type": "user"}));
    }
}

/// A runtime with a state and a bundle of its own. Dropping it deletes its container.
pub(crate) struct Trial {
    runtime: PathBuf,
    dir: PathBuf,
    /// The container's id.
    pub(crate) id: String,
    /// systemd makes its cgroup.
    pub(crate) systemd: bool,
    measure: bool,
    known: RefCell<Option<String>>,
}

impl Trial {
    fn new(runtime: &Path, place: &Place, systemd: bool) -> Result<Trial> {
        let number = place.dir.file_name().unwrap_or_default().to_string_lossy();
        let trial = Trial {
            runtime: runtime.to_owned(),
            dir: place.dir.clone(),
            id: format!("conf-{}-{number}", std::process::id()),
            systemd,
            measure: place.measure,
            known: RefCell::default(),
        };
        for name in ["bundle", "shared"] {
            let mut dir = DirBuilder::new();
            dir.mode(0o755).create(trial.path(name))?;
        }
        Ok(trial)
    }

    /// The name of a cgroup, at the top of each hierarchy, for a row that wants its container's in
    /// another one. It goes with the row.
    pub(crate) fn parent(&self) -> String {
        format!("{}-parent", self.id)
    }

    /// A path in the row's directory. `shared/` is `/mnt` in the container.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Ends the row as skipped for the runtimes that hold this in their names; when it is to be
    /// measured what they do, this is why they fail.
    pub(crate) fn skip_for(&self, who: &str, why: &str) -> Result<()> {
        let name = self
            .runtime
            .file_name()
            .unwrap_or_default()
            .to_string_lossy();
        match (name.contains(who), self.measure) {
            (false, _) => Ok(()),
            (true, false) => skip(format!("{name}: {why}")),
            (true, true) => {
                self.known.replace(Some(why.to_owned()));
                Ok(())
            }
        }
    }

    /// Where the v1 hierarchy of a controller is mounted, if the row may move processes in it; else the
    /// row ends as skipped.
    pub(crate) fn v1_hierarchy(&self, controller: &str) -> Result<PathBuf> {
        let hierarchies = crate::bundles::hierarchies()?;
        let found = hierarchies
            .into_iter()
            .find(|dir| dir.ends_with(controller));
        match found.filter(|_| nix::unistd::geteuid().is_root()) {
            Some(dir) => Ok(dir),
            None => skip(format!(
                "there is no v1 hierarchy for {controller} to be moved in"
            )),
        }
    }

    /// Ends the row as skipped where systemd makes the cgroups.
    pub(crate) fn skip_with_systemd(&self, why: &str) -> Result<()> {
        match self.systemd {
            true => skip(why),
            false => Ok(()),
        }
    }

    /// Adds to a failure what helps to understand it.
    fn judge(&self, result: Result<()>) -> Result<()> {
        let result = result.with_context(|| format!("(the container: {:?})", self.said()));
        match self.known.take() {
            Some(why) => result.context(Known(why)),
            None => result,
        }
    }

    /// A config that runs this, with the usual namespaces.
    pub(crate) fn config(&self, args: &[&str]) -> Value {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("bundles/rootfs");
        json!({
            "ociVersion": "1.0.2",
            "process": {"args": args, "cwd": "/", "env": ["PATH=/bin"]},
            "root": {"path": root, "readonly": true},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
                {"destination": "/run", "type": "tmpfs", "source": "tmpfs"},
                {"destination": "/mnt", "type": "bind", "source": self.path("shared"),
                 "options": ["bind"]},
            ],
            "linux": {"namespaces": [
                {"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"},
                {"type": "network"}]},
        })
    }

    /// Writes the bundle.
    pub(crate) fn write(&self, config: &Value) -> Result<()> {
        let place = config["linux"]["cgroupsPath"].as_str();
        if self.systemd && place.is_some_and(|path| path.contains('/')) {
            return skip("its cgroupsPath is not one for systemd");
        }
        let path = self.path("bundle/config.json");
        std::fs::write(&path, config.to_string()).with_context(|| format!("{}", path.display()))
    }

    /// The runtime, with the environment that every row has.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        self.wrapped(&[], args)
    }

    /// The same, run by another program whose arguments end in a command.
    pub(crate) fn wrapped(&self, prefix: &[&str], args: &[&str]) -> Command {
        let mut command = match prefix {
            [] => Command::new(&self.runtime),
            [program, rest @ ..] => {
                let mut command = Command::new(program);
                command.args(rest).arg(&self.runtime);
                command
            }
        };
        command
            .arg("--root")
            .arg(self.path("root"))
            .args(self.systemd.then_some("--systemd-cgroup"))
            .args(args)
            .env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .current_dir(self.path("bundle"))
            .process_group(0)
            .stdin(Stdio::null());
        command
    }

    /// Runs a verb to its end.
    pub(crate) fn go(&self, args: &[&str]) -> Result<Done> {
        finish(&mut self.command(args), &args.join(" "), "")
    }

    /// Starts a verb that gives its streams to a container, which may keep them.
    pub(crate) fn spawn(&self, command: &mut Command) -> Result<Child> {
        let file = |name: &str| File::create(self.path(name));
        command.stdout(file("out")?).stderr(file("err")?);
        command.spawn().context("run the runtime")
    }

    /// Waits for the end of such a verb: it must have succeeded.
    pub(crate) fn finish(&self, mut child: Child) -> Result<()> {
        let waited = ended(child.id() as i32, "the runtime");
        let status = child.wait()?;
        waited?;
        ensure!(status.success(), "{status}: {}", self.said());
        Ok(())
    }

    /// What was said on the streams of [`Trial::spawn`].
    pub(crate) fn said(&self) -> String {
        let read = |name| std::fs::read_to_string(self.path(name)).unwrap_or_default();
        read("out") + &read("err")
    }

    /// The state as JSON.
    pub(crate) fn state(&self) -> Result<Value> {
        let done = self.go(&["state", &self.id])?.ok()?;
        serde_json::from_str(&done.out).context("the state")
    }
}

/// Has the program of a config.json run at a terminal.
fn give_terminal(config: &mut Value) -> Result<()> {
    config["process"]["terminal"] = true.into();
    config["mounts"][1] = json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
        "options": ["mode=755"]});
    let pts = json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
        "options": ["newinstance", "ptmxmode=0666", "mode=0620"]});
    config["mounts"].as_array_mut().context("mounts")?.push(pts);
    Ok(())
}

impl Drop for Trial {
    fn drop(&mut self) {
        let _ = self.go(&["delete", "--force", &self.id]);
        for base in crate::bundles::hierarchies().into_iter().flatten() {
            let _ = std::fs::remove_dir(base.join(self.parent()));
        }
    }
}

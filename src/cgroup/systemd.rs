//! The systemd manager: a container's cgroup is a transient scope that systemd makes around the
//! container's first process (systemd, "Control Group APIs and Delegation"). This file speaks with
//! systemd; what it says is made by [`super::systemd_unit`].
//!
//! A scope ends with its last process, and systemd then forgets it. So whatever kills us, nothing is
//! left: the first process ends when we do, for it waits for our word.

use super::dbus::{Bus, Refusal, Target};
use super::dbus_value::Value;
use super::systemd_unit::{Properties, Unit, version_number};
use super::{Cgroup, Layout, Manager, devices, join};
use crate::error::{ResultExt, errno};
use anyhow::{Context, Result, anyhow};
use oci_spec::runtime::LinuxResources;
use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long a job may take, though others end meanwhile.
const PATIENCE: Duration = Duration::from_secs(60);
const SERVICE: &str = "org.freedesktop.systemd1";
const MANAGER: Target<'static> = Target {
    service: SERVICE,
    path: "/org/freedesktop/systemd1",
    interface: "org.freedesktop.systemd1.Manager",
};

impl Cgroup {
    /// Whether the cgroup is made around a process that is there already ([`Cgroup::adopt`]),
    /// instead of before it ([`Cgroup::create`]).
    pub fn needs_a_process(&self) -> bool {
        matches!(self.manager, Manager::Systemd | Manager::SystemdUser)
    }

    /// Whether the systemd of the user's session makes it.
    pub fn is_of_user_systemd(&self) -> bool {
        self.manager == Manager::SystemdUser
    }

    /// Makes the scope with `pid` in it, under the limits that systemd has properties for. In the
    /// v1 hierarchies that systemd leaves alone, directories of the same name are made.
    ///
    /// # Errors
    /// What systemd says; what was made is gone again when the process is.
    pub fn adopt(
        &self,
        pid: i32,
        id: &str,
        resources: Option<&LinuxResources>,
        annotations: &HashMap<String, String>,
    ) -> Result<super::Created> {
        let unit = self.unit()?;
        let mut systemd = Systemd::connect(self.manager)?;
        let mut properties = Properties::of_scope(unit, id, pid, self.layout)?;
        properties.limits(resources, self.layout)?;
        if self.layout != Layout::V2 {
            let rules = resources.and_then(|r| r.devices().as_deref());
            properties.extend(devices::unit_properties(rules.unwrap_or_default())?);
        }
        properties.annotations(annotations)?;
        systemd.start(&unit.name, properties)?;
        let found = systemd.control_group(&unit.name)?;
        let wanted = self.dirs.iter().find(|d| d.is_systemds());
        if found.is_empty() {
            return Err(anyhow!(
                "the process that systemd made {} around has ended",
                unit.name
            ));
        }
        if let Some(dir) = wanted
            && dir.full() != join(&dir.mount_point, found.as_ref())
        {
            return Err(anyhow!(
                "systemd put {} at {found}, not at {}",
                unit.name,
                dir.path.display()
            ))
            .hint(
                "does the bus that was asked lead to the systemd of this user and this machine?",
            );
        }
        self.enter_beside(pid)
    }

    /// Puts `pid`, which waits for that, into the cgroup, which may be one below the scope's. Where
    /// this process may not, because it is in a session beside the tree that is delegated to the user
    /// (cgroup-v2.rst, "Delegation Containment"), systemd is asked to.
    pub fn take_in(&self, pid: i32) -> Result<()> {
        let refused = match self.add(pid) {
            Err(error) if is_forbidden(&error) && self.is_of_user_systemd() => error,
            other => return other,
        };
        let unit = self.unit()?;
        let dir = self.v2_dir().context("the scope has no directory")?;
        let below = dir.path.ancestors().find(|path| path.ends_with(&unit.name));
        let below = below.and_then(|scope| dir.path.strip_prefix(scope).ok());
        let below = below.map(|path| format!("/{}", path.display()));
        Systemd::connect(self.manager)?
            .attach(&unit.name, below.as_deref().unwrap_or("/"), pid)
            .with_context(|| format!("{refused:#}"))
    }

    /// Sets the limits that systemd has properties for, lest it set the old ones again some day.
    pub(super) fn update_unit(&self, resources: &LinuxResources) -> Result<()> {
        let unit = self.unit()?;
        let mut properties = Properties::default();
        properties.limits(Some(resources), self.layout)?;
        if properties.is_empty() {
            return Ok(());
        }
        Systemd::connect(self.manager)?.set(&unit.name, properties)
    }

    /// Ends the scope, if it has not ended by itself.
    pub(super) fn stop_unit(&self) -> Result<()> {
        let unit = self.unit()?;
        let there = |dir: &&super::Dir| dir.is_systemds() && dir.full().exists();
        if !self.dirs.iter().any(|dir| there(&dir)) {
            return Ok(());
        }
        Systemd::connect(self.manager)?.stop(&unit.name)
    }

    fn unit(&self) -> Result<&Unit> {
        self.unit
            .as_ref()
            .context("the container's state does not name its systemd unit")
    }
}

impl super::Dir {
    /// Where systemd keeps its units: the v2 tree, or v1's named hierarchy.
    fn is_systemds(&self) -> bool {
        self.is_v2() || self.has("name=systemd")
    }
}

/// The cgroup of the systemd that looks after this user's sessions.
///
/// # Errors
/// There is none that can be asked.
pub(super) fn user_tree() -> Result<PathBuf> {
    let mut systemd = Systemd::connect(Manager::SystemdUser)?;
    let path = systemd.property(MANAGER.path, MANAGER.interface, "ControlGroup")?;
    Ok(PathBuf::from(path))
}

/// Moves this process into a scope of its own, `NAME.scope`, of the systemd that looks after the
/// user's sessions: there cgroups are delegated to the user.
pub fn enter_user_scope(name: &str) -> Result<()> {
    // Zero is who asks, whatever its number is where systemd is.
    let properties = Properties::of_process(name, 0);
    Systemd::connect(Manager::SystemdUser)?.start(&format!("{name}.scope"), properties)
}

fn is_forbidden(error: &anyhow::Error) -> bool {
    matches!(errno(error), Some(libc::EACCES | libc::EPERM))
}

/// A connection to one systemd.
struct Systemd {
    bus: Bus,
    subscribed: bool,
}

impl Systemd {
    fn connect(manager: Manager) -> Result<Systemd> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let (address, hint) = if manager == Manager::SystemdUser {
            // As sd_bus_open_user(3); but an address may be of a bus that we cannot reach (abstract),
            // or that knows no systemd (dbus-run-session(1)).
            let session = variable("DBUS_SESSION_BUS_ADDRESS");
            let usual = variable("XDG_RUNTIME_DIR").map(|dir| format!("unix:path={dir}/bus"));
            let all: Vec<String> = session.into_iter().chain(usual).collect();
            (
                (!all.is_empty()).then(|| all.join(";")),
                "a session of this user with a D-Bus user bus is needed (apt-get install dbus-user-session; loginctl enable-linger), or leave --systemd-cgroup out",
            )
        } else {
            let address = variable("DBUS_SYSTEM_BUS_ADDRESS");
            (
                address.or_else(|| Some("unix:path=/run/dbus/system_bus_socket".to_owned())),
                "systemd and dbus must be running on this machine; or leave --systemd-cgroup out",
            )
        };
        let bus = address
            .context("neither DBUS_SESSION_BUS_ADDRESS nor XDG_RUNTIME_DIR is set")
            .and_then(|addresses| Bus::connect(&addresses, SERVICE))
            .context("ask systemd for a cgroup")
            .hint(hint)?;
        Ok(Systemd {
            bus,
            subscribed: false,
        })
    }

    /// Starts a transient unit and waits until it is there.
    fn start(&mut self, name: &str, properties: Properties) -> Result<()> {
        let properties = self.known(properties)?;
        self.follow_jobs()?;
        let none = Value::Array("(sa(sv))".into(), Vec::new());
        let args = [
            Value::text(name),
            Value::text("fail"),
            properties.into_value(),
            none,
        ];
        let answer = self
            .bus
            .call(MANAGER, "StartTransientUnit", &args)
            .with_context(|| format!("systemd: start {name}"));
        let answer = match refusal(&answer) {
            Some("org.freedesktop.systemd1.UnitExists") => answer
                .hint("choose another linux.cgroupsPath, or end the container that uses this one"),
            _ => answer,
        }?;
        self.wait_for_job(answer, name)
    }

    /// Moves a process into the cgroup `below` that of a unit; "/" is the unit's own.
    fn attach(&mut self, name: &str, below: &str, pid: i32) -> Result<()> {
        let pids = vec![Value::U32(u32::try_from(pid)?)];
        let args = [
            Value::text(name),
            Value::text(below),
            Value::Array("u".into(), pids),
        ];
        self.bus
            .call(MANAGER, "AttachProcessesToUnit", &args)
            .map(drop)
            .with_context(|| format!("systemd: put process {pid} into {name}"))
    }

    fn set(&mut self, name: &str, properties: Properties) -> Result<()> {
        let properties = self.known(properties)?;
        let args = [
            Value::text(name),
            Value::Bool(true),
            properties.into_value(),
        ];
        self.bus
            .call(MANAGER, "SetUnitProperties", &args)
            .with_context(|| format!("systemd: set the limits of {name}"))?;
        // It writes the files when it has answered, and before it takes the next message. What we
        // write into them, such as a quota that it can only round, must come after that.
        self.property(MANAGER.path, MANAGER.interface, "Version")?;
        Ok(())
    }

    /// Stops a unit and waits until it is gone. One that is not there is fine.
    fn stop(&mut self, name: &str) -> Result<()> {
        self.follow_jobs()?;
        let args = [Value::text(name), Value::text("replace")];
        let answer = self.bus.call(MANAGER, "StopUnit", &args);
        if refusal(&answer) != Some("org.freedesktop.systemd1.NoSuchUnit") {
            let answer = answer.with_context(|| format!("systemd: stop {name}"))?;
            self.wait_for_job(answer, name)?;
        }
        // One that failed, and that an annotation wants kept, is forgotten too.
        let _ = self
            .bus
            .call(MANAGER, "ResetFailedUnit", &[Value::text(name)]);
        Ok(())
    }

    /// The cgroup of a unit, as systemd knows it.
    fn control_group(&mut self, name: &str) -> Result<String> {
        let answer = self.bus.call(MANAGER, "GetUnit", &[Value::text(name)])?;
        let path = answer.first().and_then(Value::as_text);
        let path = path.context("systemd: GetUnit without a path")?.to_owned();
        self.property(&path, "org.freedesktop.systemd1.Scope", "ControlGroup")
    }

    fn property(&mut self, path: &str, interface: &str, name: &str) -> Result<String> {
        let target = Target {
            service: SERVICE,
            path,
            interface: "org.freedesktop.DBus.Properties",
        };
        let args = [Value::text(interface), Value::text(name)];
        let answer = self.bus.call(target, "Get", &args)?;
        let value = answer.first().and_then(Value::as_text);
        Ok(value
            .with_context(|| format!("systemd: {name} is not text"))?
            .to_owned())
    }

    /// Without what this systemd is too old for: the files of the cgroup say it too.
    fn known(&mut self, properties: Properties) -> Result<Properties> {
        let newest = properties.newest();
        if newest == 0 {
            return Ok(properties);
        }
        let version = self.property(MANAGER.path, MANAGER.interface, "Version")?;
        Ok(properties.up_to(version_number(&version)))
    }

    /// systemd sends its signals only when somebody asks for them.
    fn follow_jobs(&mut self) -> Result<()> {
        if !self.subscribed {
            self.bus.subscribe(
                "type='signal',sender='org.freedesktop.systemd1',\
                 interface='org.freedesktop.systemd1.Manager',member='JobRemoved'",
            )?;
            self.bus.call(MANAGER, "Subscribe", &[])?;
            self.subscribed = true;
        }
        Ok(())
    }

    fn wait_for_job(&mut self, answer: Vec<Value>, name: &str) -> Result<()> {
        let job = answer.first().and_then(Value::as_text);
        let job = job.context("systemd: an answer without a job")?.to_owned();
        let until = Instant::now() + PATIENCE;
        loop {
            let signal = self
                .bus
                .signal(until)
                .with_context(|| format!("systemd: wait for {name}"))?;
            // JobRemoved(id, job, unit, result)
            let text = |at: usize| signal.body.get(at).and_then(Value::as_text);
            if signal.member != "JobRemoved" || text(1) != Some(&job) {
                continue;
            }
            return match text(3) {
                Some("done") => Ok(()),
                result => Err(anyhow!(
                    "systemd: the job of {name} ended with {:?}",
                    result.unwrap_or_default()
                ))
                .hint(format!("`journalctl -u {name}` may say why")),
            };
        }
    }
}

/// The name of the error that systemd answered with.
fn refusal<T>(result: &Result<T>) -> Option<&str> {
    let error = result.as_ref().err()?;
    let refusal = error.chain().find_map(|e| e.downcast_ref::<Refusal>())?;
    Some(&refusal.name)
}

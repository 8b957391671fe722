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
use crate::error::ResultExt;
use anyhow::{Context, Result, anyhow, bail};
use oci_spec::runtime::LinuxResources;
use std::collections::HashMap;

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
        if let Some(dir) = wanted
            && dir.full() != join(&dir.mount_point, found.as_ref())
        {
            bail!(
                "systemd put {} at {found}, not at {}",
                unit.name,
                dir.path.display()
            );
        }
        let created = self.create_beside()?;
        for dir in self.dirs.iter().filter(|d| !d.is_v2()) {
            super::limit::put(&dir.full().join("cgroup.procs"), &pid.to_string())?;
        }
        Ok(created)
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

/// A connection to one systemd.
struct Systemd {
    bus: Bus,
    subscribed: bool,
}

impl Systemd {
    fn connect(manager: Manager) -> Result<Systemd> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let (address, hint) = if manager == Manager::SystemdUser {
            let address = variable("DBUS_SESSION_BUS_ADDRESS")
                .or_else(|| Some(format!("unix:path={}/bus", variable("XDG_RUNTIME_DIR")?)));
            (
                address,
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
            .and_then(|address| Bus::connect(&address))
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
        loop {
            let signal = self
                .bus
                .signal()
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

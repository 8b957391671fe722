//! What `exec` is told to run: by a file, or by the command line and the container's own process.

use super::check::{self, Checked};
use super::cli::Exec;
use super::plan::no_process;
use super::values::NO_ID;
use crate::error::ResultExt;
use crate::linux::caps;
use anyhow::{Context, Result, anyhow, bail};
use oci_spec::runtime::{Capability, LinuxCapabilities, Process, Spec, User};
use std::collections::HashSet;
use std::path::PathBuf;
use std::str::FromStr;

/// The process to run: the file of --process, or the container's own process with the options of
/// the command line.
pub(super) fn process(spec: &Spec, args: &Exec) -> Result<Process> {
    if let Some(path) = &args.process {
        refuse_options_beside_file(args)?;
        let checked = Checked::of_file(path, check::process).context("--process")?;
        return Ok(with_defaults_of(spec, checked.value));
    }
    if args.command.is_empty() {
        return Err(anyhow!("exec: no command"))
            .hint("runtime exec ID COMMAND [ARGUMENT...], or --process FILE");
    }
    let base = spec.process().clone();
    let mut process = base.map_or_else(no_process, Ok)?;
    process.set_args(Some(args.command.clone()));
    process.set_terminal(Some(args.tty));
    process.set_console_size(None);
    if let Some(cwd) = &args.cwd {
        if !cwd.starts_with('/') {
            bail!("--cwd {cwd}: it is not absolute");
        }
        process.set_cwd(PathBuf::from(cwd));
    }
    let mut env = process.env().clone().unwrap_or_default();
    for entry in &args.env {
        let (name, _) = entry
            .split_once('=')
            .with_context(|| format!("--env {entry}: it is not NAME=VALUE"))?;
        env.retain(|old| old.split('=').next() != Some(name));
        env.push(entry.clone());
    }
    process.set_env(Some(env));
    if args.no_new_privs {
        process.set_no_new_privileges(Some(true));
    }
    if args.apparmor.is_some() {
        process.set_apparmor_profile(args.apparmor.clone());
    }
    if args.process_label.is_some() {
        process.set_selinux_label(args.process_label.clone());
    }
    process.set_user(user(process.user(), args)?);
    if !args.cap.is_empty() {
        let sets = with_caps(
            process.capabilities().clone().unwrap_or_default(),
            &args.cap,
        )?;
        process.set_capabilities(Some(sets));
    }
    Ok(process)
}

/// What confines a process and is left open by the file of --process is as for the container's own, as
/// with runc.
fn with_defaults_of(spec: &Spec, mut process: Process) -> Process {
    let Some(own) = spec.process() else {
        return process;
    };
    if process.capabilities().is_none() {
        process.set_capabilities(own.capabilities().clone());
    }
    if process.rlimits().is_none() {
        process.set_rlimits(own.rlimits().clone());
    }
    if process.apparmor_profile().is_none() {
        process.set_apparmor_profile(own.apparmor_profile().clone());
    }
    if process.selinux_label().is_none() {
        process.set_selinux_label(own.selinux_label().clone());
    }
    if process.oom_score_adj().is_none() {
        process.set_oom_score_adj(own.oom_score_adj());
    }
    process
}

/// What the file of --process says of the process, the command line cannot say once more.
fn refuse_options_beside_file(args: &Exec) -> Result<()> {
    let given = [
        ("COMMAND", !args.command.is_empty()),
        ("--user", args.user.is_some()),
        ("--additional-gids", !args.additional_gids.is_empty()),
        ("--cwd", args.cwd.is_some()),
        ("--env", !args.env.is_empty()),
        ("--cap", !args.cap.is_empty()),
        ("--no-new-privs", args.no_new_privs),
        ("--apparmor", args.apparmor.is_some()),
        ("--process-label", args.process_label.is_some()),
    ];
    match given.iter().find(|(_, is_given)| *is_given) {
        Some((name, _)) => Err(anyhow!("{name}: not together with --process"))
            .hint("say it in the file, or leave --process out"),
        None => Ok(()),
    }
}

/// `--user UID[:GID]` and `--additional-gids`.
fn user(base: &User, args: &Exec) -> Result<User> {
    let mut user = base.clone();
    if let Some(text) = &args.user {
        let (uid, gid) = text.split_once(':').unwrap_or((text, "0"));
        let number = |part: &str| {
            let number = part.parse().ok().filter(|number| *number != NO_ID);
            number
                .with_context(|| {
                    format!("--user {text}: {part:?} is not a number of a user or group")
                })
                .hint("UID or UID:GID; names are known in the container only")
        };
        user.set_uid(number(uid)?);
        user.set_gid(number(gid)?);
        user.set_username(None);
    }
    if !args.additional_gids.is_empty() {
        let mut groups = user.additional_gids().clone().unwrap_or_default();
        groups.extend(&args.additional_gids);
        user.set_additional_gids(Some(groups));
    }
    Ok(user)
}

/// Adds capabilities to the sets that exec(2) makes root's from. As with runc, the inheritable and
/// ambient sets stay as the config has them.
fn with_caps(mut sets: LinuxCapabilities, names: &[String]) -> Result<LinuxCapabilities> {
    let mut wanted = HashSet::new();
    for name in names {
        let full = caps::number(name).and_then(caps::name);
        let full = full.with_context(|| format!("--cap {name}: unknown capability"))?;
        let capability = Capability::from_str(full.trim_start_matches("CAP_"))
            .map_err(|_| anyhow!("--cap {name}: unknown capability"))?;
        wanted.insert(capability);
    }
    let add = |set: &Option<HashSet<Capability>>| -> Option<HashSet<Capability>> {
        Some(
            set.iter()
                .flatten()
                .copied()
                .chain(wanted.iter().copied())
                .collect(),
        )
    };
    let (bounding, permitted, effective) = (
        add(sets.bounding()),
        add(sets.permitted()),
        add(sets.effective()),
    );
    sets.set_bounding(bounding);
    sets.set_permitted(permitted);
    sets.set_effective(effective);
    Ok(sets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cap_leaves_what_other_users_inherit_alone() {
        let spec = r#"{"bounding": ["CAP_KILL"], "effective": [], "permitted": ["CAP_KILL"],
            "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"]}"#;
        let spec: LinuxCapabilities = serde_json::from_str(spec).unwrap();
        let sets = with_caps(spec, &["CAP_SYSLOG".to_owned()]).unwrap();
        let both = HashSet::from([Capability::Kill, Capability::Syslog]);
        let kill = HashSet::from([Capability::Kill]);
        assert_eq!(sets.bounding(), &Some(both.clone()));
        assert_eq!(sets.permitted(), &Some(both));
        assert_eq!(sets.effective(), &Some(HashSet::from([Capability::Syslog])));
        assert_eq!(sets.inheritable(), &Some(kill.clone()));
        assert_eq!(sets.ambient(), &Some(kill));
    }
}

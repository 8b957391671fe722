//! AppArmor and SELinux: applied where the kernel has them. Where it has not, a process that is to be
//! confined is refused with a clear error.

use super::mounts::MountStep;
use crate::error::ResultExt;
use anyhow::{Context, Result, bail};
use oci_spec::runtime::{Process, Spec};
use std::path::Path;

/// Whether the kernel runs AppArmor.
pub fn has_apparmor() -> bool {
    std::fs::read("/sys/module/apparmor/parameters/enabled")
        .is_ok_and(|text| text.starts_with(b"Y"))
}

/// Whether the kernel runs SELinux.
pub fn has_selinux() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}

/// An error when the process asks for a label that this kernel cannot give.
pub fn check(process: &Process) -> Result<()> {
    if wanted(process.apparmor_profile()).is_some() && !has_apparmor() {
        return unsupported("process.apparmorProfile", "AppArmor");
    }
    if wanted(process.selinux_label()).is_some() && !has_selinux() {
        return unsupported("process.selinuxLabel", "SELinux");
    }
    Ok(())
}

/// `linux.mountLabel`, when there is one. Unlike a label of the process it confines nothing: where
/// the kernel does not run SELinux nobody reads it, and a warning is enough.
pub fn mount_label(spec: &Spec) -> Option<&str> {
    let label = spec.linux().as_ref()?.mount_label().as_deref()?;
    (!label.is_empty()).then_some(label)
}

/// Has the new file systems among the steps mounted with that label (mount(8), `context=`). What
/// is bound has its own; proc, sysfs and mqueue are labelled by the policy, as with runc.
pub fn label_mounts(steps: &mut [MountStep], label: &str) {
    for step in steps {
        if let MountStep::Fs { kind, options, .. } = step
            && !matches!(kind.as_str(), "proc" | "sysfs" | "mqueue")
            && !options.data.iter().any(|word| word.starts_with("context="))
        {
            // A label's categories are separated by commas, as options are.
            options.data.push(format!("context=\"{label}\""));
        }
    }
}

fn unsupported(field: &str, module: &str) -> Result<()> {
    Err(anyhow::anyhow!(
        "{field}: this kernel does not run {module}"
    ))
    .hint(format!(
        "take {field} out of config.json, or boot with {module}"
    ))
}

fn wanted(label: &Option<String>) -> Option<&str> {
    label
        .as_deref()
        .filter(|label| !label.is_empty() && *label != "unconfined")
}

/// Writes the labels that the next execve(2) of this process takes on. `/proc` is the container's
/// own, opened by the caller as a verified procfs.
pub fn apply_on_exec(process: &Process, proc: impl Fn(&str, &str) -> Result<()>) -> Result<()> {
    if let Some(profile) = wanted(process.apparmor_profile()) {
        // Since 5.8 each module has its own attr directory; before, they share one.
        let text = format!("exec {profile}");
        proc("self/attr/apparmor/exec", &text)
            .or_else(|_| proc("self/attr/exec", &text))
            .with_context(|| format!("apply the AppArmor profile {profile:?}"))?;
    }
    if let Some(label) = wanted(process.selinux_label()) {
        if label.contains('\0') {
            bail!("process.selinuxLabel: holds a null byte");
        }
        proc("self/attr/exec", label)
            .with_context(|| format!("apply the SELinux label {label:?}"))?;
    }
    Ok(())
}

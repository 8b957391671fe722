//! Annotations of crun's by which engines ask for what the specification has no field for (crun(1)).

use crate::linux::{Problem, seccomp};
use oci_spec::runtime::Spec;

/// "1": the program keeps the additional groups of who called the runtime (Podman's
/// `--group-add keep-groups`).
pub(super) const KEEP_GROUPS: &str = "run.oci.keep_original_groups";

/// The socket of the seccomp agent, where `listenerPath` names none.
pub(super) const RECEIVER: &str = "run.oci.seccomp.receiver";

/// The same for all containers of a caller.
const RECEIVER_VARIABLE: &str = "RUN_OCI_SECCOMP_RECEIVER";

/// Anything but "0": a system call that is not known is a mistake in the profile.
pub(super) const FAIL_UNKNOWN: &str = "run.oci.seccomp_fail_unknown_syscall";

/// Whether [`KEEP_GROUPS`] says so.
pub(super) fn keeps_groups(spec: &Spec) -> bool {
    value(spec, KEEP_GROUPS) == Some("1")
}

/// Puts what an annotation says where the specification has a field for it.
pub(super) fn apply(spec: &mut Spec) {
    let receiver = value(spec, RECEIVER)
        .map(Into::into)
        .or_else(|| std::env::var_os(RECEIVER_VARIABLE).map(Into::into));
    let Some(receiver) = receiver else { return };
    let Some(mut linux) = spec.linux().clone() else {
        return;
    };
    if let Some(mut profile) = linux.seccomp().clone()
        && profile.listener_path().is_none()
        && seccomp::notifies(&profile)
    {
        profile.set_listener_path(Some(receiver));
        linux.set_seccomp(Some(profile));
        spec.set_linux(Some(linux));
    }
}

/// What [`FAIL_UNKNOWN`] makes a mistake.
pub(super) fn check(spec: &Spec) -> Vec<Problem> {
    let profile = spec.linux().as_ref().and_then(|l| l.seccomp().as_ref());
    let is_strict = value(spec, FAIL_UNKNOWN).is_some_and(|value| value != "0");
    let Some(profile) = profile.filter(|_| is_strict) else {
        return Vec::new();
    };
    let unknown = seccomp::unknown_calls(profile).into_iter();
    let problem = |(index, name): (usize, String)| Problem {
        path: format!("linux.seccomp.syscalls[{index}].names"),
        what: format!("unknown system call {name:?}, which {FAIL_UNKNOWN} makes a mistake"),
    };
    unknown.map(problem).collect()
}

fn value<'a>(spec: &'a Spec, name: &str) -> Option<&'a str> {
    let annotations = spec.annotations().as_ref()?;
    annotations.get(name).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn spec(annotations: serde_json::Value, names: &[&str], action: &str) -> Spec {
        serde_json::from_value(json!({
            "ociVersion": "1.3.0",
            "annotations": annotations,
            "linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": names, "action": action}]}},
        }))
        .unwrap()
    }

    fn listener(spec: &Spec) -> Option<String> {
        let profile = spec.linux().as_ref()?.seccomp().as_ref()?;
        let path = profile.listener_path().as_ref()?;
        Some(path.to_string_lossy().into_owned())
    }

    #[test]
    fn a_receiver_is_the_listener_of_those_that_notify() {
        let receiver = json!({RECEIVER: "/run/agent"});
        let mut notifying = spec(receiver.clone(), &["mkdir"], "SCMP_ACT_NOTIFY");
        apply(&mut notifying);
        assert_eq!(listener(&notifying).as_deref(), Some("/run/agent"));
        let mut other = spec(receiver, &["mkdir"], "SCMP_ACT_ERRNO");
        apply(&mut other);
        assert_eq!(listener(&other), None);
    }

    #[test]
    fn unknown_calls_are_a_mistake_where_that_is_asked_for() {
        let of = |value: &str| {
            let names = ["mkdir", "mseal", "nosuch"];
            let spec = spec(json!({FAIL_UNKNOWN: value}), &names, "SCMP_ACT_ERRNO");
            check(&spec)
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
        };
        assert!(of("0").is_empty());
        let told = of("1");
        assert!(
            told.len() == 1 && told[0].contains("\"nosuch\""),
            "{told:?}"
        );
    }
}

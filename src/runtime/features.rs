//! `features`: what this runtime can do, as JSON (features.md, features-linux.md). It is made from
//! the tables that the work is done by, so that it cannot say more than is true.

use super::{annotations, checkpoint, hooks, kill, list, schema};
use crate::cgroup;
use crate::linux::{caps, mount_options, seccomp};
use anyhow::{Context, Result};
use serde_json::{Value, json};

/// Prints the features.
pub fn features() -> Result<()> {
    let text = serde_json::to_string_pretty(&all()).context("encode")?;
    list::print(&format!("{text}\n"))
}

fn all() -> Value {
    // Names that this kernel need not know: the specification asks for what the runtime knows.
    let capabilities: Vec<String> = (0..).map_while(caps::name).collect();
    json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": "1.3.0",
        "hooks": schema::hooks(),
        "mountOptions": mount_options::known(),
        "linux": {
            "namespaces": sorted(schema::NAMESPACES),
            "capabilities": capabilities,
            "cgroup": {
                "v1": true, "v2": true, "systemd": true, "systemdUser": true, "rdma": true,
            },
            "seccomp": {
                "enabled": true,
                "actions": sorted(schema::SECCOMP_ACTIONS),
                "operators": sorted(schema::SECCOMP_OPERATORS),
                "archs": architectures(),
                "knownFlags": sorted(schema::SECCOMP_FLAGS),
                "supportedFlags": supported_flags(),
            },
            // Whether or not this machine has them: without, a profile is refused.
            "apparmor": {"enabled": true},
            "selinux": {"enabled": true},
            "intelRdt": {"enabled": true, "schemata": true, "monitoring": true},
            "memoryPolicy": {
                "modes": sorted(schema::MEMORY_MODES),
                "flags": sorted(schema::MEMORY_FLAGS),
            },
            "mountExtensions": {"idmap": {"enabled": true}},
            "netDevices": {"enabled": true},
        },
        "annotations": {
            "io.github.seccomp.libseccomp.version": library(),
            // Under runc's name, which is what there is to ask for.
            "org.opencontainers.runc.checkpoint.enabled": "true",
        },
        "potentiallyUnsafeConfigAnnotations": [
            cgroup::UNIT_PROPERTIES,
            checkpoint::CONFIG_ANNOTATION,
            hooks::STDOUT_ANNOTATION,
            hooks::STDERR_ANNOTATION,
            kill::SIGNAL_ANNOTATION,
            annotations::KEEP_GROUPS,
            annotations::RECEIVER,
        ],
    })
}

fn sorted(words: &[&'static str]) -> Vec<&'static str> {
    let mut words = words.to_vec();
    words.sort_unstable();
    words
}

/// Those of the specification.
fn architectures() -> Vec<&'static str> {
    let mut words = sorted(schema::SECCOMP_ARCHITECTURES);
    words.retain(|word| *word != "SCMP_ARCH_NATIVE");
    words
}

/// Those that the running kernel takes.
fn supported_flags() -> Vec<&'static str> {
    let mut flags = sorted(schema::SECCOMP_FLAGS);
    flags.retain(|flag| seccomp::kernel_takes(flag));
    flags
}

fn library() -> String {
    libseccomp::ScmpVersion::current()
        .map(|version| format!("{}.{}.{}", version.major, version.minor, version.micro))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::{
        Hooks, LinuxNamespaceType, LinuxSeccompAction, LinuxSeccompFilterFlag,
        LinuxSeccompOperator, MemoryPolicyFlagType, MemoryPolicyModeType,
    };
    use serde::de::DeserializeOwned;

    /// Every word of a list makes a value of the type that the work is done with.
    fn all_become<T: DeserializeOwned>(words: &[&str]) {
        for word in words {
            if let Err(error) = serde_json::from_value::<T>(json!(word)) {
                panic!("{word}: {error}");
            }
        }
    }

    #[test]
    fn every_word_that_is_told_has_a_meaning() {
        all_become::<LinuxNamespaceType>(schema::NAMESPACES);
        all_become::<LinuxSeccompAction>(schema::SECCOMP_ACTIONS);
        all_become::<LinuxSeccompOperator>(schema::SECCOMP_OPERATORS);
        all_become::<LinuxSeccompFilterFlag>(schema::SECCOMP_FLAGS);
        all_become::<MemoryPolicyModeType>(schema::MEMORY_MODES);
        all_become::<MemoryPolicyFlagType>(schema::MEMORY_FLAGS);
        for hook in schema::hooks() {
            let hooks: Hooks = serde_json::from_value(json!({hook: [{"path": "/x"}]})).unwrap();
            assert_ne!(hooks, Hooks::default(), "{hook}");
        }
    }

    #[test]
    fn every_architecture_that_is_told_can_be_compiled_for() {
        let known = |arch: &&&str| !schema::FOREIGN_ARCHITECTURES.contains(*arch);
        for arch in schema::SECCOMP_ARCHITECTURES.iter().filter(known) {
            let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": [arch],
                "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}]});
            let profile = serde_json::from_value(profile).unwrap();
            if let Err(error) = seccomp::compile(&profile, None) {
                panic!("{arch}: {error:#}");
            }
        }
    }

    #[test]
    fn the_flags_are_asked_of_the_kernel() {
        assert!(supported_flags().contains(&"SECCOMP_FILTER_FLAG_TSYNC"));
        assert!(!seccomp::kernel_takes("SECCOMP_FILTER_FLAG_NO_SUCH"));
    }

    #[test]
    fn capabilities_are_told_whatever_the_kernel_knows() {
        let all = all();
        let told = all["linux"]["capabilities"].as_array().unwrap();
        assert_eq!(told.len(), 41);
        assert_eq!(told.last(), Some(&json!("CAP_CHECKPOINT_RESTORE")));
    }
}

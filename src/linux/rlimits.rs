//! Resource limits (config.md, `process.rlimits`; setrlimit(2)).

use crate::error::ResultExt;
use anyhow::{Context, Result};
use nix::sys::resource::{Resource, setrlimit};
use oci_spec::runtime::{PosixRlimit, PosixRlimitType as Type};

/// Sets every limit in the list.
pub fn apply(limits: &[PosixRlimit]) -> Result<()> {
    for limit in limits {
        let result = setrlimit(resource(limit.typ()), limit.soft(), limit.hard());
        let denied = result == Err(nix::errno::Errno::EPERM);
        let result = result.with_context(|| {
            let (name, soft, hard) = (limit.typ(), limit.soft(), limit.hard());
            format!("set {name} to soft {soft}, hard {hard}")
        });
        if denied {
            return result.hint("to raise a hard limit the caller needs CAP_SYS_RESOURCE");
        }
        result?;
    }
    Ok(())
}

fn resource(typ: Type) -> Resource {
    match typ {
        Type::RlimitCpu => Resource::RLIMIT_CPU,
        Type::RlimitFsize => Resource::RLIMIT_FSIZE,
        Type::RlimitData => Resource::RLIMIT_DATA,
        Type::RlimitStack => Resource::RLIMIT_STACK,
        Type::RlimitCore => Resource::RLIMIT_CORE,
        Type::RlimitRss => Resource::RLIMIT_RSS,
        Type::RlimitNproc => Resource::RLIMIT_NPROC,
        Type::RlimitNofile => Resource::RLIMIT_NOFILE,
        Type::RlimitMemlock => Resource::RLIMIT_MEMLOCK,
        Type::RlimitAs => Resource::RLIMIT_AS,
        Type::RlimitLocks => Resource::RLIMIT_LOCKS,
        Type::RlimitSigpending => Resource::RLIMIT_SIGPENDING,
        Type::RlimitMsgqueue => Resource::RLIMIT_MSGQUEUE,
        Type::RlimitNice => Resource::RLIMIT_NICE,
        Type::RlimitRtprio => Resource::RLIMIT_RTPRIO,
        Type::RlimitRttime => Resource::RLIMIT_RTTIME,
    }
}

//! Resource limits (config.md, `process.rlimits`; setrlimit(2)).

use crate::error::ResultExt;
use crate::sys::process::set_limit;
use anyhow::{Context, Result};
use oci_spec::runtime::{PosixRlimit, PosixRlimitType as Type};

/// Sets every limit in the list for the process `pid` (0: the caller).
pub fn apply(pid: i32, limits: &[PosixRlimit]) -> Result<()> {
    for limit in limits {
        let result = set_limit(pid, resource(limit.typ()), limit.soft(), limit.hard());
        let denied = matches!(&result, Err(error) if error.raw_os_error() == Some(libc::EPERM));
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

fn resource(typ: Type) -> u32 {
    match typ {
        Type::RlimitCpu => libc::RLIMIT_CPU,
        Type::RlimitFsize => libc::RLIMIT_FSIZE,
        Type::RlimitData => libc::RLIMIT_DATA,
        Type::RlimitStack => libc::RLIMIT_STACK,
        Type::RlimitCore => libc::RLIMIT_CORE,
        Type::RlimitRss => libc::RLIMIT_RSS,
        Type::RlimitNproc => libc::RLIMIT_NPROC,
        Type::RlimitNofile => libc::RLIMIT_NOFILE,
        Type::RlimitMemlock => libc::RLIMIT_MEMLOCK,
        Type::RlimitAs => libc::RLIMIT_AS,
        Type::RlimitLocks => libc::RLIMIT_LOCKS,
        Type::RlimitSigpending => libc::RLIMIT_SIGPENDING,
        Type::RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
        Type::RlimitNice => libc::RLIMIT_NICE,
        Type::RlimitRtprio => libc::RLIMIT_RTPRIO,
        Type::RlimitRttime => libc::RLIMIT_RTTIME,
    }
}

//! Scheduling and memory placement of a process: scheduler, I/O priority, CPU affinity,
//! personality, NUMA policy.

use crate::error::ResultExt;
use crate::sys::sched::{self, SchedAttr};
use anyhow::{Context, Result, bail};
use oci_spec::runtime::{
    IOPriorityClass, LinuxIOPriority, LinuxMemoryPolicy, LinuxPersonality, LinuxPersonalityDomain,
    LinuxSchedulerFlag as Flag, LinuxSchedulerPolicy as Policy, MemoryPolicyFlagType as NodeFlag,
    MemoryPolicyModeType as Mode, Scheduler,
};

/// `process.scheduler` (config.md; sched_setattr(2)).
pub fn set_scheduler(scheduler: &Scheduler) -> Result<()> {
    sched::setattr(attr(scheduler)?)
        .with_context(|| format!("set the scheduling policy {}", scheduler.policy()))
        .hint(
            "sched(7): a real-time policy needs CAP_SYS_NICE and, on cgroup v1, cpu.rt_runtime_us; \
             priorities go with real-time policies, and the deadline's three times with SCHED_DEADLINE",
        )
}

fn attr(scheduler: &Scheduler) -> Result<SchedAttr> {
    let policy = match scheduler.policy() {
        Policy::SchedOther => libc::SCHED_OTHER,
        Policy::SchedFifo => libc::SCHED_FIFO,
        Policy::SchedRr => libc::SCHED_RR,
        Policy::SchedBatch => libc::SCHED_BATCH,
        Policy::SchedIdle => libc::SCHED_IDLE,
        Policy::SchedDeadline => libc::SCHED_DEADLINE,
        // Reserved in sched(7), never implemented.
        Policy::SchedIso => bail!("set the scheduling policy SCHED_ISO: Linux does not have it"),
    };
    let flags = scheduler.flags().iter().flatten().fold(0, |flags, flag| {
        flags
            | match flag {
                Flag::SchedResetOnFork => 0x01,
                Flag::SchedFlagReclaim => 0x02,
                Flag::SchedFlagDLOverrun => 0x04,
                Flag::SchedFlagKeepPolicy => 0x08,
                Flag::SchedFlagKeepParams => 0x10,
                Flag::SchedFlagUtilClampMin => 0x20,
                Flag::SchedFlagUtilClampMax => 0x40,
            }
    });
    let priority = scheduler.priority().unwrap_or(0);
    Ok(SchedAttr {
        size: 0,
        policy: policy as u32,
        flags,
        nice: scheduler.nice().unwrap_or(0),
        priority: u32::try_from(priority)
            .with_context(|| format!("scheduling priority {priority}"))?,
        runtime: scheduler.runtime().unwrap_or(0),
        deadline: scheduler.deadline().unwrap_or(0),
        period: scheduler.period().unwrap_or(0),
    })
}

/// `process.ioPriority` (config.md; ioprio_set(2)).
pub fn set_io_priority(priority: &LinuxIOPriority) -> Result<()> {
    let class = match priority.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    let level = priority.priority();
    let level = u32::try_from(level)
        .ok()
        .filter(|level| *level < 8)
        .with_context(|| format!("I/O priority {level}: not in 0 to 7"))?;
    sched::ioprio_set(class, level)
        .with_context(|| format!("set the I/O priority {} {level}", priority.class()))
}

/// Binds `pid` (0: the caller) to a list of CPUs such as `0-3,7`.
pub fn set_affinity(pid: i32, list: &str) -> Result<()> {
    let cpus = parse_list(list).with_context(|| format!("CPU list {list:?}"))?;
    sched::set_affinity(pid, &cpus).with_context(|| format!("bind to the CPUs {list}"))
}

/// A list of CPUs as the mask that taskset(1) and the kernel's logs show: `0-1` is `0x3`.
pub fn mask_text(list: &str) -> Result<String> {
    let cpus = parse_list(list).with_context(|| format!("CPU list {list:?}"))?;
    let mut digits = vec![0u8; cpus.iter().max().map_or(1, |last| last / 4 + 1)];
    for cpu in cpus {
        digits[cpu / 4] |= 1 << (cpu % 4);
    }
    let text: String = digits
        .iter()
        .rev()
        .map(|digit| format!("{digit:x}"))
        .collect();
    Ok(format!("0x{text}"))
}

/// The numbers of a list such as `0-3,7` (cpuset(7), "List format").
pub fn parse_list(list: &str) -> Result<Vec<usize>> {
    const LIMIT: usize = 8192;
    let mut numbers = Vec::new();
    for part in list
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
    {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| {
            text.parse::<usize>()
                .ok()
                .filter(|n| *n < LIMIT)
                .with_context(|| format!("{text:?} is not a number below {LIMIT}"))
        };
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            bail!("the range {part} runs backwards");
        }
        numbers.extend(first..=last);
    }
    if numbers.is_empty() {
        bail!("it is empty");
    }
    Ok(numbers)
}

/// `linux/personality.h`: reports 32-bit machines to uname(2).
const PER_LINUX32: i32 = 0x0008;

/// `linux.personality` (config-linux.md; personality(2)).
pub fn set_personality(personality: &LinuxPersonality) -> Result<()> {
    // The spec reserves the flags and defines none.
    if let Some(flag) = personality.flags().iter().flatten().next() {
        bail!("linux.personality.flags: unknown flag {flag:?}");
    }
    let persona = match personality.domain() {
        LinuxPersonalityDomain::PerLinux => nix::sys::personality::Persona::empty(),
        LinuxPersonalityDomain::PerLinux32 => {
            nix::sys::personality::Persona::from_bits_retain(PER_LINUX32)
        }
    };
    nix::sys::personality::set(persona).context("set the personality")?;
    Ok(())
}

/// `linux.memoryPolicy` (config-linux.md; set_mempolicy(2)).
pub fn set_memory_policy(policy: &LinuxMemoryPolicy) -> Result<()> {
    let mode = match policy.mode() {
        Mode::MpolDefault => 0,
        Mode::MpolPreferred => 1,
        Mode::MpolBind => 2,
        Mode::MpolInterleave => 3,
        Mode::MpolLocal => 4,
        Mode::MpolPreferredMany => 5,
        Mode::MpolWeightedInterleave => 6,
    };
    let flags = policy.flags().iter().flatten().fold(0, |flags, flag| {
        flags
            | match flag {
                NodeFlag::MpolFStaticNodes => 1 << 15,
                NodeFlag::MpolFRelativeNodes => 1 << 14,
                NodeFlag::MpolFNumaBalancing => 1 << 13,
            }
    });
    let nodes = match policy.nodes().as_deref() {
        None | Some("") => Vec::new(),
        Some(list) => {
            parse_list(list).with_context(|| format!("linux.memoryPolicy.nodes {list:?}"))?
        }
    };
    sched::set_mempolicy(mode | flags, &nodes)
        .with_context(|| format!("set the memory policy {}", policy.mode()))
        .hint("set_mempolicy(2): name nodes of /sys/devices/system/node/online, for a mode that takes some")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read() {
        assert_eq!(parse_list("0-2,7").unwrap(), [0, 1, 2, 7]);
        assert_eq!(parse_list(" 3 ").unwrap(), [3]);
        assert_eq!(mask_text("0,1").unwrap(), "0x3");
        assert_eq!(mask_text("4-5,8").unwrap(), "0x130");
        for bad in ["", "a", "2-1", "1-", "99999"] {
            assert!(parse_list(bad).is_err(), "{bad}");
        }
    }
}

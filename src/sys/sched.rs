//! Scheduling: sched_setattr(2), ioprio_set(2), sched_setaffinity(2), set_mempolicy(2).

use super::check;
use std::io;

/// The argument of sched_setattr(2), as the kernel lays it out (`SCHED_ATTR_SIZE_VER0`).
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub struct SchedAttr {
    /// The size of this structure; filled in by [`setattr`].
    pub size: u32,
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// Nice value, for SCHED_OTHER and SCHED_BATCH.
    pub nice: i32,
    /// Static priority, for SCHED_FIFO and SCHED_RR.
    pub priority: u32,
    /// Nanoseconds, for SCHED_DEADLINE.
    pub runtime: u64,
    /// Nanoseconds, for SCHED_DEADLINE.
    pub deadline: u64,
    /// Nanoseconds, for SCHED_DEADLINE.
    pub period: u64,
}

/// sched_setattr(2) for the calling process.
pub fn setattr(attr: SchedAttr) -> io::Result<()> {
    let attr = SchedAttr {
        size: std::mem::size_of::<SchedAttr>() as u32,
        ..attr
    };
    // SAFETY: the structure has the kernel's layout and says its own size.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, std::ptr::addr_of!(attr), 0u32) })?;
    Ok(())
}

/// ioprio_get(2) of the caller: the class in bits 13 to 15, the priority below.
pub fn ioprio_get() -> io::Result<i32> {
    const IOPRIO_WHO_PROCESS: i32 = 1;
    // SAFETY: plain integers.
    let value = check(unsafe { libc::syscall(libc::SYS_ioprio_get, IOPRIO_WHO_PROCESS, 0) })?;
    Ok(value as i32)
}

/// ioprio_set(2) for the calling process: `class` and `priority` as in `IOPRIO_PRIO_VALUE`.
pub fn ioprio_set(class: u32, priority: u32) -> io::Result<()> {
    const IOPRIO_WHO_PROCESS: i32 = 1;
    const IOPRIO_CLASS_SHIFT: u32 = 13;
    // SAFETY: plain integers.
    check(unsafe {
        libc::syscall(
            libc::SYS_ioprio_set,
            IOPRIO_WHO_PROCESS,
            0,
            (class << IOPRIO_CLASS_SHIFT) | priority,
        )
    })?;
    Ok(())
}

/// sched_setaffinity(2) of `pid` (0: the caller) to these CPUs.
pub fn set_affinity(pid: i32, cpus: &[usize]) -> io::Result<()> {
    let words = cpus.iter().max().map_or(1, |max| max / 64 + 1);
    let mut mask = vec![0u64; words];
    for cpu in cpus {
        mask[cpu / 64] |= 1 << (cpu % 64);
    }
    // SAFETY: the mask is as long as said.
    check(unsafe {
        libc::syscall(
            libc::SYS_sched_setaffinity,
            pid,
            mask.len() * 8,
            mask.as_ptr(),
        )
    })?;
    Ok(())
}

/// set_mempolicy(2) of the calling process: `mode` with its flags, and the nodes it speaks of.
pub fn set_mempolicy(mode: i32, nodes: &[usize]) -> io::Result<()> {
    let words = nodes.iter().max().map_or(1, |max| max / 64 + 1);
    let mut mask = vec![0u64; words];
    for node in nodes {
        mask[node / 64] |= 1 << (node % 64);
    }
    let (pointer, bits) = if nodes.is_empty() {
        (std::ptr::null(), 0)
    } else {
        // The kernel reads one bit less than it is told (mm/mempolicy.c, get_nodes).
        (mask.as_ptr(), words * 64 + 1)
    };
    // SAFETY: the mask has at least the bits said.
    check(unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, pointer, bits) })?;
    Ok(())
}

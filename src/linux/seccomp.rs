//! Seccomp (config-linux.md, "Seccomp"): a profile becomes a filter, and a filter is loaded.
//!
//! libseccomp only compiles. What it does not know is put in front of its program here: calls newer
//! than it, and the answer ENOSYS to calls newer than the profile, by which C libraries learn to do
//! without them (EPERM they take for a refusal). The whole is made shorter (`compact`), and kept for the
//! next container of that profile (`cache`).

#[path = "seccomp_cache.rs"]
mod cache;
#[path = "seccomp_compact.rs"]
mod compact;

use crate::error::ResultExt;
use crate::linux::console;
use crate::sys::process::{seccomp_knows, seccomp_set_filter};
use anyhow::{Context, Result, anyhow, bail};
use libseccomp::{
    ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall,
    error::SeccompErrno,
};
use nix::sys::memfd::{MFdFlags, memfd_create};
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompFilterFlag as Flag,
    LinuxSeccompOperator as Operator, LinuxSyscall,
};
use serde_json::json;
use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

/// A program for the kernel, and how to load it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// `struct sock_filter` (linux/filter.h), one after the other.
    program: Vec<u8>,
    /// `SECCOMP_FILTER_FLAG_*`
    flags: u32,
}

impl Filter {
    /// Whether loading it gives a descriptor for an agent (`SCMP_ACT_NOTIFY`).
    pub fn needs_listener(&self) -> bool {
        self.flags & NEW_LISTENER != 0
    }
}

// linux/seccomp.h
const TSYNC: u32 = 1;
const LOG: u32 = 1 << 1;
const SPEC_ALLOW: u32 = 1 << 2;
const NEW_LISTENER: u32 = 1 << 3;
const TSYNC_ESRCH: u32 = 1 << 4;
const WAIT_KILLABLE_RECV: u32 = 1 << 5;

/// Makes a filter of a profile, or takes it from the directory `cache`.
///
/// # Errors
/// Names the field that is wrong.
pub fn compile(profile: &LinuxSeccomp, cache: Option<&Path>) -> Result<Filter> {
    let flags = flags(profile)?;
    let program = match cache {
        Some(dir) => cache::program(profile, dir, || program(profile))?,
        None => program(profile)?,
    };
    Ok(Filter { program, flags })
}

/// Loads the filter into this process; it stays over execve(2). Returns the descriptor for the agent
/// when the profile asks for one.
pub fn load(filter: &Filter) -> Result<Option<OwnedFd>> {
    let listener = seccomp_set_filter(&filter.program, filter.flags)
        .context("load the seccomp filter")
        .hint("without process.noNewPrivileges this takes CAP_SYS_ADMIN; the kernel may not know one of the flags")?;
    Ok(listener.filter(|_| filter.needs_listener()))
}

/// Sends the descriptor to the agent at `listenerPath`, with the process's state as JSON
/// (config-linux.md, "The Container Process State").
pub fn send_listener(
    profile: &LinuxSeccomp,
    listener: BorrowedFd<'_>,
    pid: i32,
    state: &serde_json::Value,
) -> Result<()> {
    let path = profile
        .listener_path()
        .as_ref()
        .context("linux.seccomp.listenerPath: it is missing")?;
    let message = json!({
        "ociVersion": state["ociVersion"],
        "fds": ["seccompFd"],
        "pid": pid,
        "metadata": profile.listener_metadata().clone().unwrap_or_default(),
        "state": state,
    });
    let socket = console::connect(path).context("linux.seccomp.listenerPath")?;
    console::send_fd(&socket, &message.to_string(), listener)
        .context("linux.seccomp.listenerPath: send the descriptor to the agent")
}

/// Whether a call of the profile is for an agent.
pub fn notifies(profile: &LinuxSeccomp) -> bool {
    let mut calls = profile.syscalls().iter().flatten();
    calls.any(|call| call.action() == Action::ScmpActNotify)
}

/// The calls that nobody knows here, with the places of their rules. They are passed over, since a call
/// that this machine does not have needs no rule.
pub fn unknown_calls(profile: &LinuxSeccomp) -> Vec<(usize, String)> {
    let is_known = |name: &str| {
        ScmpSyscall::from_name(name).is_ok() || NEWER.iter().any(|(newer, _)| *newer == name)
    };
    let calls = profile.syscalls().iter().flatten().enumerate();
    let named = calls.flat_map(|(index, call)| call.names().iter().map(move |name| (index, name)));
    named
        .filter(|(_, name)| !is_known(name))
        .map(|(index, name)| (index, name.clone()))
        .collect()
}

fn bit(flag: &Flag) -> u32 {
    match flag {
        Flag::SeccompFilterFlagLog => LOG,
        Flag::SeccompFilterFlagTsync => TSYNC,
        Flag::SeccompFilterFlagSpecAllow => SPEC_ALLOW,
        Flag::SeccompFilterFlagWaitKillableRecv => WAIT_KILLABLE_RECV,
    }
}

/// Whether the running kernel knows a flag of the spec by that name.
pub fn kernel_takes(name: &str) -> bool {
    let flag = serde_json::from_value::<Flag>(json!(name));
    flag.is_ok_and(|flag| match bit(&flag) {
        // It makes sense only with a listener.
        WAIT_KILLABLE_RECV => seccomp_knows(WAIT_KILLABLE_RECV | NEW_LISTENER),
        bit => seccomp_knows(bit),
    })
}

fn flags(profile: &LinuxSeccomp) -> Result<u32> {
    let mut bits = 0;
    for flag in profile.flags().iter().flatten() {
        bits |= bit(flag);
    }
    let calls = profile.syscalls().as_deref().unwrap_or_default();
    if profile.default_action() == Action::ScmpActNotify {
        bail!("linux.seccomp.defaultAction: SCMP_ACT_NOTIFY would stop the runtime itself");
    }
    let notifies = calls
        .iter()
        .position(|call| call.action() == Action::ScmpActNotify);
    match (notifies, profile.listener_path()) {
        (Some(index), None) => Err(anyhow!(
            "linux.seccomp.syscalls[{index}].action: SCMP_ACT_NOTIFY needs linux.seccomp.listenerPath"
        ))
        .hint("name the socket of the agent"),
        (Some(index), Some(_)) => {
            // The runtime hands the descriptor over by it.
            let call = &calls[index];
            let own = |name: &String| matches!(name.as_str(), "write" | "sendmsg");
            if call.names().iter().any(own) {
                bail!(
                    "linux.seccomp.syscalls[{index}].names: SCMP_ACT_NOTIFY for write or sendmsg \
                     would stop the runtime itself"
                );
            }
            let esrch = if bits & TSYNC != 0 { TSYNC_ESRCH } else { 0 };
            Ok(bits | NEW_LISTENER | esrch)
        }
        (None, _) if bits & WAIT_KILLABLE_RECV != 0 => {
            bail!("linux.seccomp.flags: SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV needs SCMP_ACT_NOTIFY")
        }
        (None, _) => Ok(bits),
    }
}

fn program(profile: &LinuxSeccomp) -> Result<Vec<u8>> {
    Ok(compact::compact(whole(profile)?))
}

/// The whole program: ours in front of libseccomp's.
fn whole(profile: &LinuxSeccomp) -> Result<Vec<u8>> {
    let default = action(profile.default_action(), profile.default_errno_ret());
    let mut context = ScmpFilterContext::new(default)
        .with_context(|| format!("linux.seccomp.defaultAction: {default:?}"))?;
    // no_new_privs is the specification's own field.
    context.set_ctl_nnp(false).context("seccomp")?;
    // A tree instead of a list: some ten comparisons for each call of a large profile, not hundreds.
    // Older libraries cannot.
    let _ = context.set_ctl_optimize(2);
    let arches = arches(profile)?;
    // A new context is for this machine, and stays so: a profile that does not name it says nothing of
    // it, and a filter without it would end the program at its first call.
    for arch in &arches {
        if !context.is_arch_present(*arch).unwrap_or(false) {
            match context.add_arch(*arch) {
                // Of another byte order: no program for it runs here.
                Err(error) if error.errno() == Some(SeccompErrno::EDOM) => {}
                other => {
                    other.with_context(|| format!("linux.seccomp.architectures: {arch:?}"))?;
                }
            }
        }
    }
    for (index, call) in profile.syscalls().iter().flatten().enumerate() {
        add(&mut context, call, default)
            .with_context(|| format!("linux.seccomp.syscalls[{index}]"))?;
    }
    let mut file = File::from(
        memfd_create(c"seccomp", MFdFlags::MFD_CLOEXEC).context("make a file for the filter")?,
    );
    context.export_bpf(&file).context("compile linux.seccomp")?;
    let mut theirs = Vec::new();
    file.rewind()
        .and_then(|()| file.read_to_end(&mut theirs))
        .context("read the compiled filter")?;
    let mut whole = prelude(profile);
    whole.extend(theirs);
    Ok(whole)
}

fn arches(profile: &LinuxSeccomp) -> Result<Vec<ScmpArch>> {
    let list = profile.architectures().as_deref().unwrap_or_default();
    list.iter()
        .map(|arch| {
            // The specification's names are libseccomp's.
            let name = format!("{arch}");
            let parsed = name.parse::<ScmpArch>();
            parsed.with_context(|| format!("linux.seccomp.architectures: {name}"))
        })
        .collect()
}

fn action(action: Action, errno: Option<u32>) -> ScmpAction {
    match action {
        Action::ScmpActKill | Action::ScmpActKillThread => ScmpAction::KillThread,
        Action::ScmpActKillProcess => ScmpAction::KillProcess,
        Action::ScmpActTrap => ScmpAction::Trap,
        Action::ScmpActErrno => ScmpAction::Errno(errno.unwrap_or(libc::EPERM as u32) as i32),
        Action::ScmpActNotify => ScmpAction::Notify,
        Action::ScmpActTrace => ScmpAction::Trace(errno.unwrap_or(libc::EPERM as u32) as u16),
        Action::ScmpActLog => ScmpAction::Log,
        Action::ScmpActAllow => ScmpAction::Allow,
    }
}

fn add(context: &mut ScmpFilterContext, call: &LinuxSyscall, default: ScmpAction) -> Result<()> {
    let action = action(call.action(), call.errno_ret());
    // libseccomp refuses a rule that says what the default says.
    if action == default {
        return Ok(());
    }
    let args = call.args().as_deref().unwrap_or_default();
    let mut comparisons = Vec::new();
    for (index, arg) in args.iter().enumerate() {
        if arg.index() > 5 {
            bail!("args[{index}].index: {} is not one of 0 to 5", arg.index());
        }
        let (operator, datum) = match arg.op() {
            Operator::ScmpCmpNe => (ScmpCompareOp::NotEqual, arg.value()),
            Operator::ScmpCmpLt => (ScmpCompareOp::Less, arg.value()),
            Operator::ScmpCmpLe => (ScmpCompareOp::LessOrEqual, arg.value()),
            Operator::ScmpCmpEq => (ScmpCompareOp::Equal, arg.value()),
            Operator::ScmpCmpGe => (ScmpCompareOp::GreaterEqual, arg.value()),
            Operator::ScmpCmpGt => (ScmpCompareOp::Greater, arg.value()),
            // `value` is the mask, `valueTwo` what must remain.
            Operator::ScmpCmpMaskedEq => (
                ScmpCompareOp::MaskedEqual(arg.value()),
                arg.value_two().unwrap_or(0),
            ),
        };
        comparisons.push(ScmpArgCompare::new(arg.index() as u32, operator, datum));
    }
    // Several conditions on one argument hold if one of them does, as in runc: each is a rule.
    let mut indices: Vec<_> = args.iter().map(|arg| arg.index()).collect();
    indices.sort_unstable();
    let repeated = indices.windows(2).any(|pair| pair[0] == pair[1]);
    for name in call.names() {
        // A call that this machine does not have needs no rule.
        let Ok(number) = ScmpSyscall::from_name(name) else {
            continue;
        };
        let what = || format!("names: {name}");
        if comparisons.is_empty() {
            context.add_rule(action, number).with_context(what)?;
        } else if repeated {
            for one in &comparisons {
                let rule = std::slice::from_ref(one);
                context
                    .add_rule_conditional(action, number, rule)
                    .with_context(what)?;
            }
        } else {
            context
                .add_rule_conditional(action, number, &comparisons)
                .with_context(what)?;
        }
    }
    Ok(())
}

/// Calls that libseccomp 2.5.4 does not know, by their numbers, which are the same on every
/// architecture since 424 (the kernel's scripts/syscall.tbl).
const NEWER: [(&str, u32); 18] = [
    ("set_mempolicy_home_node", 450),
    ("cachestat", 451),
    ("fchmodat2", 452),
    ("map_shadow_stack", 453),
    ("futex_wake", 454),
    ("futex_wait", 455),
    ("futex_requeue", 456),
    ("statmount", 457),
    ("listmount", 458),
    ("lsm_get_self_attr", 459),
    ("lsm_set_self_attr", 460),
    ("lsm_list_modules", 461),
    ("mseal", 462),
    ("setxattrat", 463),
    ("getxattrat", 464),
    ("listxattrat", 465),
    ("removexattrat", 466),
    ("open_tree_attr", 467),
];

// linux/bpf_common.h and linux/filter.h
const LOAD: u16 = 0x20;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_GREATER_EQUAL: u16 = 0x35;
const RETURN: u16 = 0x06;
/// Places in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
/// The calls of the x32 ABI have this bit, and the architecture of x86-64.
const X32_BIT: u32 = 0x4000_0000;

/// `struct sock_filter`
fn instruction(code: u16, when_true: u8, when_false: u8, value: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..2].copy_from_slice(&code.to_ne_bytes());
    bytes[2] = when_true;
    bytes[3] = when_false;
    bytes[4..].copy_from_slice(&value.to_ne_bytes());
    bytes
}

/// What comes before libseccomp's program, which begins anew with loading what it needs.
fn prelude(profile: &LinuxSeccomp) -> Vec<u8> {
    let refusing = matches!(
        profile.default_action(),
        Action::ScmpActKill
            | Action::ScmpActKillThread
            | Action::ScmpActKillProcess
            | Action::ScmpActTrap
            | Action::ScmpActErrno
    );
    let newer = newer(profile);
    let arches = profile.architectures().as_deref().unwrap_or_default();
    let mut blocks = Vec::new();
    for (token, arch) in [
        (Arch::ScmpArchX86_64, ScmpArch::X8664),
        (Arch::ScmpArchX86, ScmpArch::X86),
        (Arch::ScmpArchAarch64, ScmpArch::Aarch64),
    ] {
        if arch == ScmpArch::native() || arches.contains(&token) {
            let highest = refusing.then(|| highest(profile, arch, &newer)).flatten();
            blocks.extend(block(token as u32, &newer, highest));
        }
    }
    blocks
}

/// Of one architecture: if it is another, on to the next block.
fn block(token: u32, newer: &[(u32, u32)], highest: Option<u32>) -> Vec<u8> {
    // Each comparison of `body` is on the number, and falls through; the end goes on after it.
    let mut body: Vec<[u8; 8]> = Vec::new();
    body.push(instruction(LOAD, 0, 0, NUMBER));
    let tests = newer.len() * 2 + if highest.is_some() { 2 } else { 0 };
    if tests == 0 {
        return Vec::new();
    }
    // The x32 ABI's numbers are left to libseccomp.
    body.push(instruction(JUMP_GREATER_EQUAL, tests as u8, 0, X32_BIT));
    for (number, action) in newer {
        body.push(instruction(JUMP_EQUAL, 0, 1, *number));
        body.push(instruction(RETURN, 0, 0, *action));
    }
    if let Some(highest) = highest {
        body.push(instruction(JUMP_GREATER, 0, 1, highest));
        let errno = Action::ScmpActErrno.as_u32(Some(libc::ENOSYS as u32));
        body.push(instruction(RETURN, 0, 0, errno));
    }
    let mut whole = vec![
        instruction(LOAD, 0, 0, ARCHITECTURE),
        instruction(JUMP_EQUAL, 1, 0, token),
        instruction(JUMP, 0, 0, body.len() as u32),
    ];
    whole.extend(body);
    whole.concat()
}

/// The unconditional rules about calls that libseccomp does not know, as numbers and actions.
fn newer(profile: &LinuxSeccomp) -> Vec<(u32, u32)> {
    let mut found: Vec<(u32, u32)> = Vec::new();
    for call in profile.syscalls().iter().flatten() {
        if call.args().as_ref().is_some_and(|args| !args.is_empty()) {
            continue;
        }
        for name in call.names() {
            let known = NEWER.iter().find(|(known, _)| known == name);
            let Some((_, number)) = known else { continue };
            let unknown_to_library = ScmpSyscall::from_name(name).is_err();
            if unknown_to_library && found.iter().all(|(other, _)| other != number) {
                found.push((*number, call.action().as_u32(call.errno_ret())));
            }
        }
    }
    found
}

/// The newest call of an architecture that the profile names.
fn highest(profile: &LinuxSeccomp, arch: ScmpArch, newer: &[(u32, u32)]) -> Option<u32> {
    let names = profile
        .syscalls()
        .iter()
        .flatten()
        .flat_map(LinuxSyscall::names);
    let known = names.filter_map(|name| {
        let number = ScmpSyscall::from_name_by_arch(name, arch).ok()?;
        u32::try_from(number.as_raw_syscall()).ok()
    });
    // A handful of names is no list of what there is: an old call that it lacks is refused, not
    // unknown. So the line is never drawn below the calls that all architectures share.
    known
        .chain(newer.iter().map(|(number, _)| *number))
        .max()
        .map(|highest| highest.max(SHARED))
}

/// The last call before those that all architectures have under the same number.
const SHARED: u32 = 423;

#[cfg(test)]
#[path = "seccomp_tests.rs"]
mod tests;

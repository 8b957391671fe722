//! bpf(2) for programs that guard devices, and the few instructions they are made of.

use super::check;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// `struct bpf_insn` (linux/bpf.h): destination register in the low half of `registers`, source in
/// the high one.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    value: i32,
}

// Classes and operations of linux/bpf_common.h and linux/bpf.h.
const LOAD_U32: u8 = 0x61;
const AND: u8 = 0x54;
const RSH: u8 = 0x74;
const MOV: u8 = 0xb4;
const MOV_REG: u8 = 0xbc;
const JEQ: u8 = 0x15;
const JNE: u8 = 0x55;
const EXIT: u8 = 0x95;

const fn make(code: u8, to: u8, from: u8, offset: i16, value: i32) -> Instruction {
    Instruction {
        code,
        registers: to | from << 4,
        offset,
        value,
    }
}

/// `to = *(u32 *)(from + offset)`
pub const fn load_u32(to: u8, from: u8, offset: i16) -> Instruction {
    make(LOAD_U32, to, from, offset, 0)
}

/// `to &= value`, on 32 bits.
pub const fn alu_and(to: u8, value: i32) -> Instruction {
    make(AND, to, 0, 0, value)
}

/// `to >>= value`, on 32 bits.
pub const fn alu_rsh(to: u8, value: i32) -> Instruction {
    make(RSH, to, 0, 0, value)
}

/// `to = value`
pub const fn alu_mov(to: u8, value: i32) -> Instruction {
    make(MOV, to, 0, 0, value)
}

/// `to = from`, on 32 bits.
pub const fn alu_mov_reg(to: u8, from: u8) -> Instruction {
    make(MOV_REG, to, from, 0, 0)
}

/// Goes `over` the next instructions when `register == value`.
pub const fn jump_if_eq(register: u8, value: i32, over: i16) -> Instruction {
    make(JEQ, register, 0, over, value)
}

/// Goes `over` the next instructions when `register != value`.
pub const fn jump_if_ne(register: u8, value: i32, over: i16) -> Instruction {
    make(JNE, register, 0, over, value)
}

/// Ends the program; register 0 is its answer.
pub const fn exit() -> Instruction {
    make(EXIT, 0, 0, 0, 0)
}

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_ATTACH: libc::c_long = 8;
const BPF_PROG_DETACH: libc::c_long = 9;
const BPF_PROG_GET_FD_BY_ID: libc::c_long = 13;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_PROG_QUERY: libc::c_long = 16;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;

/// The part of `union bpf_attr` that BPF_PROG_LOAD needs; the kernel takes the rest as zero.
#[repr(C)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; NAME_LENGTH],
}

/// `BPF_OBJ_NAME_LEN`.
const NAME_LENGTH: usize = 16;

/// The name of the programs that are loaded here (`bpftool prog` shows it).
const NAME: [u8; NAME_LENGTH] = *b"oci_devices\0\0\0\0\0";

/// The part of `union bpf_attr` for BPF_PROG_ATTACH.
#[repr(C)]
struct Attach {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
}

/// bpf(2). The kernel takes what is missing of `attr` as zero, and may write to it.
///
/// # Safety
/// `attr` is the beginning of what `union bpf_attr` is for that command, and what it points to lives across
/// the call.
unsafe fn call<T>(command: libc::c_long, attr: &mut T) -> io::Result<libc::c_long> {
    let attr: *mut T = attr;
    // SAFETY: the caller's; the size is attr's own.
    check(unsafe { libc::syscall(libc::SYS_bpf, command, attr, std::mem::size_of::<T>()) })
}

/// Loads a program that decides on the use of devices. EPERM without CAP_BPF or CAP_SYS_ADMIN,
/// EINVAL when the kernel cannot or finds fault with it.
pub fn load_cgroup_device(program: &[Instruction]) -> io::Result<OwnedFd> {
    let license = c"Apache-2.0";
    let mut attr = Load {
        prog_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: program.len() as u32,
        insns: program.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
        prog_name: NAME,
    };
    // SAFETY: attr and what it points to live across the call; the size is attr's own.
    let fd = unsafe { call(BPF_PROG_LOAD, &mut attr) }?;
    // SAFETY: the kernel has just returned a new descriptor (close-on-exec by itself).
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Attaches a loaded program to a v2 cgroup, beside those that are there: all must allow.
pub fn attach_cgroup_device(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = Attach {
        target_fd: cgroup.as_raw_fd() as u32,
        attach_bpf_fd: program.as_raw_fd() as u32,
        attach_type: BPF_CGROUP_DEVICE,
        attach_flags: BPF_F_ALLOW_MULTI,
    };
    // SAFETY: attr lives across the call; the size is its own.
    unsafe { call(BPF_PROG_ATTACH, &mut attr) }?;
    Ok(())
}

/// The part of `union bpf_attr` for BPF_PROG_QUERY.
#[repr(C)]
struct Query {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    /// The kernel looks at it.
    padding: u32,
}

/// The most programs that a cgroup can have (`BPF_CGROUP_MAX_PROGS`).
const MOST: usize = 64;

/// The programs that decide on devices in exactly this cgroup.
pub fn attached_cgroup_device(cgroup: BorrowedFd<'_>) -> io::Result<Vec<OwnedFd>> {
    let mut ids = [0u32; MOST];
    let mut attr = Query {
        target_fd: cgroup.as_raw_fd() as u32,
        attach_type: BPF_CGROUP_DEVICE,
        query_flags: 0,
        attach_flags: 0,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: MOST as u32,
        padding: 0,
    };
    // SAFETY: attr and the room for prog_cnt numbers live across the call; the size is attr's own.
    unsafe { call(BPF_PROG_QUERY, &mut attr) }?;
    let found = ids.iter().take(attr.prog_cnt as usize);
    let gone = |found: &io::Result<OwnedFd>| {
        let error = found.as_ref().err();
        error.is_some_and(|error| error.kind() == io::ErrorKind::NotFound)
    };
    // systemd may replace its own meanwhile.
    let found = found.map(|id| program_by_id(*id));
    found.filter(|one| !gone(one)).collect()
}

fn program_by_id(id: u32) -> io::Result<OwnedFd> {
    // prog_id, next_id, open_flags
    let mut attr = [id, 0, 0];
    // SAFETY: attr lives across the call; the size is its own.
    let fd = unsafe { call(BPF_PROG_GET_FD_BY_ID, &mut attr) }?;
    // SAFETY: the kernel has just returned a new descriptor (close-on-exec by itself).
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// The part of `union bpf_attr` for BPF_OBJ_GET_INFO_BY_FD.
#[repr(C)]
struct GetInfo {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// `struct bpf_prog_info` up to the name.
#[repr(C)]
#[derive(Default)]
struct Info {
    before: [u64; 8],
    name: [u8; NAME_LENGTH],
}

/// Whether a program was loaded by [`load_cgroup_device`], by its name.
pub fn is_ours(program: BorrowedFd<'_>) -> io::Result<bool> {
    let mut info = Info::default();
    let mut attr = GetInfo {
        bpf_fd: program.as_raw_fd() as u32,
        info_len: std::mem::size_of::<Info>() as u32,
        info: std::ptr::addr_of_mut!(info) as u64,
    };
    // SAFETY: attr and the room for info_len bytes live across the call; the size is attr's own.
    unsafe { call(BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
    Ok(info.name == NAME)
}

/// Takes a program away from a cgroup.
pub fn detach_cgroup_device(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = Attach {
        target_fd: cgroup.as_raw_fd() as u32,
        attach_bpf_fd: program.as_raw_fd() as u32,
        attach_type: BPF_CGROUP_DEVICE,
        attach_flags: 0,
    };
    // SAFETY: attr lives across the call; the size is its own.
    unsafe { call(BPF_PROG_DETACH, &mut attr) }?;
    Ok(())
}

/// Runs a program on a context of 32-bit words, for tests of what programs decide.
#[cfg(test)]
pub(crate) fn simulate(program: &[Instruction], context: &[u32]) -> u32 {
    let mut r = [0u32; 11];
    let mut at = 0usize;
    loop {
        let i = program[at];
        let (to, from) = (usize::from(i.registers & 15), usize::from(i.registers >> 4));
        at += 1;
        let value = i.value as u32;
        match i.code {
            LOAD_U32 => r[to] = context[i.offset as usize / 4],
            AND => r[to] &= value,
            RSH => r[to] >>= value,
            MOV => r[to] = value,
            MOV_REG => r[to] = r[from],
            JEQ if r[to] == value => at += i.offset as usize,
            JNE if r[to] != value => at += i.offset as usize,
            JEQ | JNE => {}
            EXIT => return r[0],
            code => panic!("instruction {code:#x}"),
        }
    }
}

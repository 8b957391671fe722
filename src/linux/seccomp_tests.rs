use super::*;

pub(super) fn profile(text: serde_json::Value) -> LinuxSeccomp {
    serde_json::from_value(text).unwrap()
}

/// Runs a program of ours on a call, as the kernel would (the instructions that libseccomp and
/// we use). The result is the action.
pub(super) fn run(program: &[u8], arch: u32, number: u32, args: [u64; 6]) -> u32 {
    let mut data = [0u8; 64];
    data[..4].copy_from_slice(&number.to_ne_bytes());
    data[4..8].copy_from_slice(&arch.to_ne_bytes());
    for (index, arg) in args.iter().enumerate() {
        data[16 + index * 8..24 + index * 8].copy_from_slice(&arg.to_ne_bytes());
    }
    let (mut at, mut a) = (0, 0u32);
    loop {
        let i = &program[at * 8..at * 8 + 8];
        let code = u16::from_ne_bytes([i[0], i[1]]);
        let value = u32::from_ne_bytes([i[4], i[5], i[6], i[7]]);
        at += 1;
        let mut jump = |yes: bool| at += usize::from(if yes { i[2] } else { i[3] });
        match code {
            LOAD => {
                let place = value as usize;
                a = u32::from_ne_bytes(data[place..place + 4].try_into().unwrap());
            }
            0x54 => a &= value,
            JUMP => at += value as usize,
            JUMP_EQUAL => jump(a == value),
            JUMP_GREATER => jump(a > value),
            JUMP_GREATER_EQUAL => jump(a >= value),
            0x45 => jump(a & value != 0),
            RETURN => return value,
            other => panic!("instruction {other:#x}"),
        }
    }
}

const X86_64: u32 = Arch::ScmpArchX86_64 as u32;
const ALLOW: u32 = 0x7fff_0000;
const EPERM: u32 = 0x0005_0001;
const ENOSYS: u32 = 0x0005_0000 | libc::ENOSYS as u32;

#[test]
fn calls_are_allowed_refused_and_unknown() {
    let filter = compile(
        &profile(json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
            "syscalls": [
                {"names": ["read", "nosuchcall", "mseal"], "action": "SCMP_ACT_ALLOW"},
                {"names": ["write"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5},
                {"names": ["personality"], "action": "SCMP_ACT_ALLOW",
                 "args": [{"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}]},
            ],
        })),
        None,
    )
    .unwrap();
    let run = |number: libc::c_long, first: u64| {
        run(
            &filter.program,
            X86_64,
            number as u32,
            [first, 0, 0, 0, 0, 0],
        )
    };
    assert_eq!(run(libc::SYS_read, 0), ALLOW);
    assert_eq!(run(libc::SYS_write, 0), 0x0005_0005);
    assert_eq!(run(libc::SYS_personality, 8), ALLOW);
    assert_eq!(run(libc::SYS_personality, 9), EPERM);
    assert_eq!(
        run(libc::SYS_mount, 0),
        EPERM,
        "older than the profile: refused"
    );
    assert_eq!(run(462, 0), ALLOW, "newer than the library");
    assert_eq!(run(461, 0), EPERM, "between the two");
    assert_eq!(run(463, 0), ENOSYS, "newer than the profile");
    let x86 = Arch::ScmpArchX86 as u32;
    assert_eq!(
        super::tests::run(&filter.program, x86, 3, [0; 6]),
        ALLOW,
        "read there"
    );
    assert_eq!(super::tests::run(&filter.program, x86, 500, [0; 6]), ENOSYS);
    // x32: libseccomp was not told of it, and kills.
    assert_eq!(run((X32_BIT + 5000).into(), 0), 0);
}

#[test]
fn a_permissive_profile_keeps_new_calls() {
    let filter = compile(
        &profile(json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}],
        })),
        None,
    )
    .unwrap();
    let run = |number| run(&filter.program, X86_64, number, [0; 6]);
    assert_eq!(run(libc::SYS_mkdir as u32), EPERM);
    assert_eq!(run(9999), ALLOW);
    assert!(!filter.needs_listener());
}

#[test]
fn mistakes_are_named() {
    for (text, expected) in [
        (
            json!({"defaultAction": "SCMP_ACT_NOTIFY"}),
            "linux.seccomp.defaultAction",
        ),
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
                {"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]}),
            "listenerPath",
        ),
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/x", "syscalls": [
                {"names": ["write"], "action": "SCMP_ACT_NOTIFY"}]}),
            "syscalls[0].names",
        ),
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
                {"names": ["mkdir"], "action": "SCMP_ACT_ERRNO",
                 "args": [{"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}]}]}),
            "syscalls[0]: args[0].index",
        ),
    ] {
        let error = compile(&profile(text), None).unwrap_err();
        let message = crate::error::message(&error);
        assert!(message.contains(expected), "{message}");
    }
}

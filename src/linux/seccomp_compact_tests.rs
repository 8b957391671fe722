use super::super::tests::{profile, run};
use super::super::whole;
use super::*;
use libseccomp::{ScmpArch, ScmpSyscall};
use serde_json::{Value, json};

const X86_64: u32 = 0xc000_003e;
const X86: u32 = 0x4000_0003;
const X32_BIT: u32 = super::super::X32_BIT;

/// Numbers without a pattern (xorshift), the same each time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % below
    }
}

fn names(wanted: impl Fn(i32) -> bool) -> Vec<String> {
    let all = (0..470).filter(|number| wanted(*number));
    let name = |number| ScmpSyscall::from(number).get_name_by_arch(ScmpArch::native());
    all.filter_map(|number| name(number).ok()).collect()
}

/// Of the size and kind of Docker's.
fn large() -> Value {
    let personality = |value: u64| {
        json!({"names": ["personality"], "action": "SCMP_ACT_ALLOW",
        "args": [{"index": 0, "value": value, "op": "SCMP_CMP_EQ"}]})
    };
    // Some alone, some beside each other.
    let mut names = names(|number| number % 9 != 4 && !(155..180).contains(&number));
    names.retain(|name| !["personality", "clone", "clone3"].contains(&name.as_str()));
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 1,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [
            personality(0), personality(8), personality(0x2_0000), personality(0xffff_ffff),
            {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0,
                "value": 0x7e02_0000, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]},
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
            {"names": names, "action": "SCMP_ACT_ALLOW"},
            {"names": ["mseal", "cachestat"], "action": "SCMP_ACT_ALLOW"},
        ],
    })
}

/// Every operator, on both halves of a value, with two arguments and with one of them twice.
fn with_arguments(action: &str) -> Value {
    let wide: u64 = 0x12_3456_789a;
    let arg = |index: u32, op: &str| json!({"index": index, "value": wide, "valueTwo": 0x10_0000_0018u64, "op": op});
    let mut calls = Vec::new();
    for (name, op) in [
        ("mkdir", "SCMP_CMP_NE"),
        ("rmdir", "SCMP_CMP_LT"),
        ("link", "SCMP_CMP_LE"),
        ("open", "SCMP_CMP_EQ"),
        ("close", "SCMP_CMP_GE"),
        ("ioctl", "SCMP_CMP_GT"),
        ("mmap", "SCMP_CMP_MASKED_EQ"),
    ] {
        calls.push(json!({"names": [name], "action": action, "args": [arg(1, op)]}));
    }
    calls.push(json!({"names": ["fcntl", "futex"], "action": action,
        "args": [arg(0, "SCMP_CMP_EQ"), arg(5, "SCMP_CMP_GT")]}));
    calls.push(json!({"names": ["prctl"], "action": action,
        "args": [arg(2, "SCMP_CMP_EQ"), arg(2, "SCMP_CMP_GT")]}));
    json!(calls)
}

fn profiles() -> Vec<Value> {
    let two = json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]);
    vec![
        large(),
        json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": two,
            "syscalls": with_arguments("SCMP_ACT_ERRNO")}),
        json!({"defaultAction": "SCMP_ACT_KILL", "architectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"],
            "syscalls": with_arguments("SCMP_ACT_ALLOW")}),
        json!({"defaultAction": "SCMP_ACT_LOG", "syscalls": with_arguments("SCMP_ACT_TRACE")}),
        json!({"defaultAction": "SCMP_ACT_ERRNO", "listenerPath": "/x",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_ARM", "SCMP_ARCH_AARCH64"],
        "syscalls": [
            {"names": names(|number| number % 2 == 0), "action": "SCMP_ACT_NOTIFY"},
            {"names": names(|number| number % 6 == 1), "action": "SCMP_ACT_TRACE", "errnoRet": 7},
            {"names": names(|number| number % 6 == 3), "action": "SCMP_ACT_LOG"},
        ]}),
        json!({"defaultAction": "SCMP_ACT_TRAP",
            "syscalls": [{"names": ["read"], "action": "SCMP_ACT_KILL_PROCESS"}]}),
        json!({"defaultAction": "SCMP_ACT_ALLOW"}),
    ]
}

/// The numbers at which something may change, and those beside them.
fn edges(program: &[u8]) -> Vec<u32> {
    let values = instructions(program).unwrap();
    let mut edges: Vec<u32> = values.iter().map(|i| i.value).collect();
    edges.extend([0, X32_BIT, X32_BIT * 2, u32::MAX]);
    edges = edges
        .iter()
        .flat_map(|value| [value.wrapping_sub(1), *value, value.wrapping_add(1)])
        .collect();
    edges.sort_unstable();
    edges.dedup();
    edges
}

fn same_for_all_calls(original: &[u8], new: &[u8], dice: &mut Dice) {
    let edges = edges(original);
    let numbers = (0..600).chain(X32_BIT..X32_BIT + 600).chain(edges.clone());
    let numbers: Vec<u32> = numbers.collect();
    for arch in [
        X86_64,
        X86,
        0xc000_00b7,
        0x4000_0028,
        X86_64 + 1,
        0,
        u32::MAX,
    ] {
        for number in &numbers {
            for _ in 0..12 {
                let mut half = || u64::from(edges[dice.roll(edges.len())]);
                let args = [0; 6].map(|_: u64| half() << 32 | half());
                assert_eq!(
                    run(new, arch, *number, args),
                    run(original, arch, *number, args),
                    "arch {arch:#x}, number {number}, args {args:x?}"
                );
            }
        }
    }
}

#[test]
fn the_short_program_says_the_same() {
    let mut dice = Dice(1);
    for text in profiles() {
        let original = whole(&profile(text.clone())).unwrap();
        let new = compact(original.clone());
        same_for_all_calls(&original, &new, &mut dice);
        // Those with few numbers have nothing to gain.
        let names = text.to_string().len();
        assert!(new.len() < original.len() || names < 2000, "{text}");
    }
}

/// The arguments that tell the answers of `with_arguments` apart are rarely met by chance.
#[test]
fn arguments_are_compared_as_before() {
    let wide: u64 = 0x12_3456_789a;
    let text = json!({"defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": with_arguments("SCMP_ACT_ERRNO")});
    let original = whole(&profile(text)).unwrap();
    let new = compact(original.clone());
    let halves = [0, 1 << 32, wide, 0x10_0000_0018];
    let near = halves.map(|value| [value, value.wrapping_sub(1), value + 1, value ^ 1 << 40]);
    let values = near.concat();
    let mut refused = 0;
    for number in 0..500 {
        for first in &values {
            for last in &values {
                let args = [*first, *last, *first, 0, 0, *last];
                let action = run(&original, X86_64, number, args);
                assert_eq!(
                    run(&new, X86_64, number, args),
                    action,
                    "{number} {args:x?}"
                );
                refused += usize::from(action != 0x7fff_0000);
            }
        }
    }
    assert!(refused > 500, "{refused}");
}

#[test]
fn a_large_profile_becomes_short() {
    let original = whole(&profile(large())).unwrap();
    let new = compact(original.clone());
    assert!(
        new.len() * 3 < original.len(),
        "{} of {}",
        new.len() / 8,
        original.len() / 8
    );
    assert_eq!(compact(new.clone()), new, "there is nothing left to gain");
}

/// Far from what libseccomp makes: jumps to and fro among loads, and comparisons of all kinds.
#[test]
fn any_program_keeps_its_meaning() {
    let mut dice = Dice(7);
    let mut shorter = 0;
    for _ in 0..3000 {
        let length = 8 + dice.roll(40);
        let mut program = vec![instruction(LOAD, 0, 0, ARCHITECTURE)];
        program.push(instruction(JUMP_EQUAL, 0, dice.roll(5) as u8, X86));
        program.push(instruction(LOAD, 0, 0, NUMBER));
        while program.len() < length {
            let left = length - program.len();
            let mut step = || dice.roll(left.min(256)) as u8;
            let (yes, no) = (step(), step());
            let value = dice.roll(12) as u32;
            program.push(match dice.roll(16) {
                0 => instruction(LOAD, 0, 0, 16 + 4 * (value % 3)),
                1 => instruction(LOAD, 0, 0, NUMBER),
                2 => instruction(JUMP, 0, 0, yes.into()),
                3 | 4 => instruction(RETURN, 0, 0, value % 3),
                5 => instruction(JUMP_GREATER, yes, no, value),
                6 => instruction(JUMP_GREATER_EQUAL, yes, no, value),
                _ => instruction(JUMP_EQUAL, yes, no, value),
            });
        }
        program.push(instruction(RETURN, 0, 0, 9));
        let original = program.concat();
        let new = compact(original.clone());
        shorter += usize::from(new.len() < original.len());
        for number in (0..14).chain([X32_BIT, u32::MAX]) {
            for arch in [X86, X86_64] {
                for _ in 0..6 {
                    let args = [0; 6].map(|_: u64| dice.roll(14) as u64);
                    assert_eq!(
                        run(&new, arch, number, args),
                        run(&original, arch, number, args),
                        "{original:?}"
                    );
                }
            }
        }
    }
    assert!(shorter > 1000, "{shorter}");
}

/// More answers than a comparison can jump over.
#[test]
fn long_ways_are_jumped() {
    let mut program = vec![
        instruction(LOAD, 0, 0, ARCHITECTURE),
        instruction(JUMP_EQUAL, 1, 0, X86_64),
        instruction(RETURN, 0, 0, 1),
        instruction(LOAD, 0, 0, NUMBER),
    ];
    for number in 0..900 {
        program.push(instruction(JUMP_EQUAL, 0, 1, number * 2));
        program.push(instruction(RETURN, 0, 0, number % 300 * 7));
        // Nothing depends on it twice: it makes the original longer.
        program.push(instruction(JUMP, 0, 0, 0));
    }
    program.push(instruction(LOAD, 0, 0, 16));
    program.push(instruction(JUMP_EQUAL, 0, 1, 5));
    program.push(instruction(RETURN, 0, 0, 3));
    program.push(instruction(RETURN, 0, 0, 2));
    let original = program.concat();
    let new = compact(original.clone());
    assert!(new.len() < original.len());
    for number in 0..2000 {
        for first in [4, 5] {
            let args = [first, 0, 0, 0, 0, 0];
            let action = run(&original, X86_64, number, args);
            assert_eq!(run(&new, X86_64, number, args), action, "{number}");
        }
    }
}

#[test]
fn what_is_not_understood_stays() {
    const TAX: u16 = 0x07;
    let long = |odd: [u8; 8]| {
        let mut program = vec![instruction(LOAD, 0, 0, ARCHITECTURE)];
        program.push(instruction(JUMP_EQUAL, 1, 0, X86_64));
        program.push(instruction(RETURN, 0, 0, 0));
        program.push(instruction(LOAD, 0, 0, NUMBER));
        program.push(odd);
        program
            .extend((0..50).map(|number| instruction(JUMP_EQUAL, 49 - number, 0, number.into())));
        program.push(instruction(RETURN, 0, 0, 1));
        program.concat()
    };
    let plain = long(instruction(JUMP_EQUAL, 0, 0, 7));
    assert!(compact(plain.clone()).len() < plain.len());
    for odd in [
        instruction(TAX, 0, 0, 0),
        instruction(AND, 0, 0, 0xff),
        instruction(JUMP_SET, 0, 1, 1),
        // Out of the program.
        instruction(JUMP, 0, 0, 1000),
    ] {
        assert_eq!(compact(long(odd)), long(odd));
    }
    // Half an instruction, and none.
    let cut = plain[..plain.len() - 1].to_vec();
    assert_eq!(compact(cut.clone()), cut);
    assert_eq!(compact(Vec::new()), Vec::<u8>::new());
    // It knows no architecture.
    let one = instruction(RETURN, 0, 0, 1).to_vec();
    assert_eq!(compact(one.clone()), one);
}

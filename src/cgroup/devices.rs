//! Which devices a container may use: v1's `devices.allow` and `devices.deny`, v2's BPF program
//! (config-linux.md, "Allowed Device list"). Rules and programs are made by pure functions.

use super::dbus_value::Value;
use super::{Cgroup, Manager};
use crate::error::{ResultExt, errno};
use crate::sys::bpf::{self, Instruction};
use anyhow::{Context, Result, anyhow, bail};
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

mod v1;
use v1::v1_list;

const MKNOD: u8 = 1;
const READ: u8 = 2;
const WRITE: u8 = 4;
const EVERY: u8 = MKNOD | READ | WRITE;

/// The kind of device; the number is that of `BPF_DEVCG_DEV_*` (linux/bpf.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Block = 1,
    Char = 2,
}

/// One rule; a number that is `None` is any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule {
    allow: bool,
    /// `None`: both kinds.
    kind: Option<Kind>,
    major: Option<u32>,
    minor: Option<u32>,
    access: u8,
}

const fn allow(major: Option<u32>, minor: Option<u32>, access: u8) -> Rule {
    Rule {
        allow: true,
        kind: Some(Kind::Char),
        major,
        minor,
        access,
    }
}

/// What every container may use: the devices of config-linux.md, "Default Devices", the terminals,
/// the tunnel device, which VPNs in containers expect as runc and crun have it and which gives nothing
/// without CAP_NET_ADMIN, and mknod of anything, which gives no access.
const DEFAULTS: [Rule; 11] = [
    Rule {
        allow: true,
        kind: Some(Kind::Block),
        major: None,
        minor: None,
        access: MKNOD,
    },
    allow(None, None, MKNOD),
    allow(Some(1), Some(3), EVERY),
    allow(Some(1), Some(5), EVERY),
    allow(Some(1), Some(7), EVERY),
    allow(Some(1), Some(8), EVERY),
    allow(Some(1), Some(9), EVERY),
    allow(Some(5), Some(0), EVERY),
    allow(Some(5), Some(2), EVERY),
    allow(Some(136), None, EVERY),
    allow(Some(10), Some(200), EVERY),
];

impl Rule {
    fn parse(rule: &LinuxDeviceCgroup) -> Result<Rule> {
        let kind = match rule.typ() {
            None | Some(LinuxDeviceType::A) => None,
            Some(LinuxDeviceType::B) => Some(Kind::Block),
            Some(LinuxDeviceType::C | LinuxDeviceType::U) => Some(Kind::Char),
            Some(other) => bail!("linux.resources.devices: {other:?} is not a type of device"),
        };
        let mut access = 0;
        for letter in rule.access().as_deref().unwrap_or("rwm").chars() {
            access |= match letter {
                'r' => READ,
                'w' => WRITE,
                'm' => MKNOD,
                other => bail!("linux.resources.devices: access {other:?} is none of r, w and m"),
            };
        }
        Ok(Rule {
            allow: rule.allow(),
            kind,
            major: number(rule.major())?,
            minor: number(rule.minor())?,
            access,
        })
    }

    fn is_catch_all(&self) -> bool {
        self.kind.is_none() && self.major.is_none() && self.minor.is_none() && self.access == EVERY
    }

    /// Whether every device of `other` is one of this rule.
    fn covers(&self, other: &Rule) -> bool {
        fn at_least<T: PartialEq>(wide: Option<T>, narrow: Option<T>) -> bool {
            wide.is_none() || wide == narrow
        }
        at_least(self.kind, other.kind)
            && at_least(self.major, other.major)
            && at_least(self.minor, other.minor)
    }

    fn is_default(&self) -> bool {
        DEFAULTS.contains(self)
    }

    fn overlaps(&self, other: &Rule) -> bool {
        fn meet<T: PartialEq>(a: Option<T>, b: Option<T>) -> bool {
            a.is_none() || b.is_none() || a == b
        }
        meet(self.kind, other.kind)
            && meet(self.major, other.major)
            && meet(self.minor, other.minor)
    }
}

fn number(value: Option<i64>) -> Result<Option<u32>> {
    match value {
        None | Some(-1) => Ok(None),
        Some(n) => match u32::try_from(n) {
            Ok(n) => Ok(Some(n)),
            Err(_) => bail!("linux.resources.devices: {n} is not a device number"),
        },
    }
}

/// The rules in the order of their precedence, last wins: nothing allowed, the defaults, the
/// config's. The defaults come after the config's last catch-all, for `deny everything` in a config
/// means everything that is not a default (`runc spec` writes it so).
fn rules(config: &[LinuxDeviceCgroup]) -> Result<Vec<Rule>> {
    let config: Vec<Rule> = config.iter().map(Rule::parse).collect::<Result<_>>()?;
    let after = config
        .iter()
        .rposition(Rule::is_catch_all)
        .map_or(0, |at| at + 1);
    if after > 0 && config[after - 1].allow {
        return Ok(config[after - 1..].to_vec());
    }
    Ok(DEFAULTS.iter().chain(&config[after..]).copied().collect())
}

/// As in `devices.list`: `c 1:3 rwm`.
fn v1_text(rule: &Rule) -> String {
    let kind = match rule.kind {
        None => 'a',
        Some(Kind::Block) => 'b',
        Some(Kind::Char) => 'c',
    };
    let number = |n: Option<u32>| n.map_or_else(|| String::from("*"), |n| n.to_string());
    let access: String = [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')]
        .iter()
        .filter(|(bit, _)| rule.access & bit != 0)
        .map(|(_, letter)| *letter)
        .collect();
    format!(
        "{kind} {}:{} {access}",
        number(rule.major),
        number(rule.minor)
    )
}

/// The program that decides on v2. Each rule from the last to the first takes the accesses it
/// speaks of out of those asked: denied if it denies one, allowed when none is left.
fn program(rules: &[Rule]) -> Vec<Instruction> {
    use bpf::{alu_and, alu_mov, alu_mov_reg, alu_rsh, exit, jump_if_eq, jump_if_ne, load_u32};
    // struct bpf_cgroup_dev_ctx { u32 access_type /* access << 16 | kind */; u32 major; u32 minor; }
    let (asked, kind, major, minor, scratch) = (3, 2, 4, 5, 1);
    let mut program = vec![
        load_u32(kind, 1, 0),
        alu_mov_reg(asked, kind),
        alu_rsh(asked, 16),
        alu_and(kind, 0xffff),
        load_u32(major, 1, 4),
        load_u32(minor, 1, 8),
    ];
    let answer = |yes: bool| [alu_mov(0, i32::from(yes)), exit()];
    for rule in rules.iter().rev() {
        if rule.is_catch_all() {
            // What comes before is unreachable, and the verifier would refuse it.
            program.extend(answer(rule.allow));
            return program;
        }
        let tests = [
            rule.kind.map(|k| (kind, k as i32)),
            rule.major.map(|n| (major, n as i32)),
            rule.minor.map(|n| (minor, n as i32)),
        ];
        let body = if rule.allow {
            vec![
                alu_and(asked, !i32::from(rule.access)),
                jump_if_ne(asked, 0, 2),
            ]
        } else {
            vec![
                alu_mov_reg(scratch, asked),
                alu_and(scratch, i32::from(rule.access)),
                jump_if_eq(scratch, 0, 2),
            ]
        };
        let tests: Vec<_> = tests.into_iter().flatten().collect();
        let rest = body.len() + 2;
        for (at, (register, value)) in tests.iter().enumerate() {
            let over = tests.len() - at - 1 + rest;
            program.push(jump_if_ne(*register, *value, over as i16));
        }
        program.extend(body);
        program.extend(answer(rule.allow));
    }
    program.extend(answer(false));
    program
}

/// Whether two configs come to the same rules.
pub(super) fn are_same(one: &[LinuxDeviceCgroup], other: &[LinuxDeviceCgroup]) -> Result<bool> {
    Ok(rules(one)? == rules(other)?)
}

/// Sets the device rules of a new cgroup. In a user namespace, or without privilege, where the
/// kernel refuses them and gives no devices anyway, they are left out.
pub(super) fn apply(cgroup: &Cgroup, config: &[LinuxDeviceCgroup]) -> Result<()> {
    change(cgroup, None, config)
}

/// Sets other rules than `old`, the config's of before, on a cgroup in use. What both allow is allowed
/// all the time, but on v1 where the old rules allow everything: it has no way from there to a list of
/// devices. When it fails the rules are those of before.
pub(super) fn change(
    cgroup: &Cgroup,
    old: Option<&[LinuxDeviceCgroup]>,
    config: &[LinuxDeviceCgroup],
) -> Result<()> {
    let rules = rules(config)?;
    let old = old.map(self::rules).transpose()?;
    let result = if let Some(dir) = cgroup.v1_dir("devices") {
        let new = v1_list(&rules)?;
        match old {
            None => v1::apply(&dir.full(), &v1::writes(None, &new)),
            Some(old) => v1::change(&dir.full(), &v1_list(&old)?, &new),
        }
    } else if let Some(dir) = cgroup.v2_dir() {
        let program = (!is_everything(&rules)).then(|| program(&rules));
        let known = old.map_or(Known::Unknown, |old| match is_everything(&old) {
            true => Known::None,
            false => Known::One,
        });
        apply_v2(&dir.full(), program, cgroup.manager == Manager::Fs, known)
    } else if config.is_empty() {
        return Ok(());
    } else {
        bail!("linux.resources.devices: no hierarchy with the devices controller is mounted");
    };
    match result {
        Err(error)
            if matches!(errno(&error), Some(libc::EPERM | libc::EACCES)) && lacks_privilege() =>
        {
            Ok(())
        }
        other => other,
    }
}

/// The rules that will be in force, for a reader: the last that speaks of an access decides.
pub fn describe(config: &[LinuxDeviceCgroup]) -> Result<String> {
    let mut text = String::from("device rules, the last that matches wins: deny a *:* rwm");
    for rule in rules(config)? {
        text.push_str(if rule.allow { ", allow " } else { ", deny " });
        text.push_str(&v1_text(&rule));
    }
    Ok(text)
}

/// The rules of v1 as properties of a systemd unit: systemd writes its own idea of them into the
/// files again whenever it is told to reload.
pub(super) fn unit_properties(config: &[LinuxDeviceCgroup]) -> Result<Vec<(String, Value)>> {
    let list = v1_list(&rules(config)?)?;
    let policy = if list.allow { "auto" } else { "strict" };
    let majors = std::fs::read_to_string("/proc/devices").context("read /proc/devices")?;
    let entries = list.exceptions.iter().filter(|_| !list.allow);
    let entries = entries
        .filter_map(|rule| unit_entry(rule, &majors))
        .collect();
    Ok(vec![
        ("DevicePolicy".to_owned(), Value::text(policy)),
        (
            "DeviceAllow".to_owned(),
            Value::Array("(ss)".to_owned(), entries),
        ),
    ])
}

/// `("/dev/char/1:3", "rwm")`, `("char-pts", "rw")`, `("block-*", "m")`; systemd cannot name a
/// major number that the kernel has no name for.
fn unit_entry(rule: &Rule, majors: &str) -> Option<Value> {
    let (kind, section) = match rule.kind? {
        Kind::Block => ("block", "Block devices:"),
        Kind::Char => ("char", "Character devices:"),
    };
    let name = match (rule.major, rule.minor) {
        (Some(major), Some(minor)) => format!("/dev/{kind}/{major}:{minor}"),
        (None, None) => format!("{kind}-*"),
        (Some(major), None) => {
            let lines = majors.lines().skip_while(|line| *line != section).skip(1);
            let mut pairs = lines
                .take_while(|line| !line.is_empty())
                .filter_map(|line| line.trim().split_once(' '));
            let (_, name) = pairs.find(|(number, _)| *number == major.to_string())?;
            format!("{kind}-{name}")
        }
        (None, Some(_)) => return None,
    };
    let text = v1_text(rule);
    let access = text.rsplit(' ').next().unwrap_or_default();
    Some(Value::Struct(vec![Value::Text(name), Value::text(access)]))
}

/// Whether nothing is denied.
fn is_everything(rules: &[Rule]) -> bool {
    matches!(rules, [only] if only.is_catch_all() && only.allow)
}

/// What is known of a program of ours in a cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    Unknown,
    None,
    One,
}

/// Attaches the program, and then takes away those of before, which would go on to deny: a cgroup may
/// be used again. `alone`: all of them; else ours, for a unit may have another from systemd.
fn apply_v2(
    dir: &Path,
    program: Option<Vec<Instruction>>,
    alone: bool,
    known: Known,
) -> Result<()> {
    let dir_file = File::open(dir).with_context(|| format!("open {}", dir.display()))?;
    let cgroup = dir_file.as_fd();
    let old = bpf::attached_cgroup_device(cgroup).map(|mut old| {
        old.retain(|program| alone || bpf::is_ours(program.as_fd()).unwrap_or(false));
        old
    });
    let old = match (old, known) {
        (Ok(old), Known::One) if old.is_empty() => {
            let error = anyhow!("{}: its device rules are not ours", dir.display());
            return Err(error).hint("create the container anew to change them");
        }
        (Ok(old), _) => old,
        // A kernel that cannot say has none.
        (Err(_), Known::Unknown) => Vec::new(),
        (Err(error), _) => {
            return Err(error)
                .with_context(|| format!("look at the programs of {}", dir.display()));
        }
    };
    let attempt = || {
        if let Some(program) = program {
            let loaded = bpf::load_cgroup_device(&program)?;
            bpf::attach_cgroup_device(cgroup, loaded.as_fd())?;
        }
        old.iter()
            .try_for_each(|program| bpf::detach_cgroup_device(cgroup, program.as_fd()))
    };
    attempt()
        .with_context(|| format!("attach the device rules to {}", dir.display()))
        .hint("the kernel needs CONFIG_CGROUP_BPF, and this process CAP_BPF or CAP_SYS_ADMIN")
}

/// Whether this process is not root of the initial user namespace.
fn lacks_privilege() -> bool {
    if !nix::unistd::geteuid().is_root() {
        return true;
    }
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let fields: Vec<&str> = map.split_whitespace().collect();
    fields != ["0", "0", "4294967295"]
}

/// The v2 program for the rules of a config.
#[cfg(test)]
pub(super) fn program_of(config: &[LinuxDeviceCgroup]) -> Result<Vec<Instruction>> {
    Ok(program(&rules(config)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Vec<Rule> {
        let config: Vec<LinuxDeviceCgroup> = serde_json::from_str(json).expect("rules");
        rules(&config).expect("rules")
    }

    fn v1(json: &str) -> Result<String> {
        let list = v1_list(&parse(json))?;
        let texts: Vec<String> = list.exceptions.iter().map(v1_text).collect();
        Ok(format!("{} {}", list.allow, texts.join(", ")))
    }

    const DEFAULT_TEXT: &str = "b *:* m, c *:* m, c 1:3 rwm, c 1:5 rwm, c 1:7 rwm, c 1:8 rwm, \
        c 1:9 rwm, c 5:0 rwm, c 5:2 rwm, c 136:* rwm, c 10:200 rwm";

    #[test]
    fn lists_of_v1() {
        let fuse = r#"[{"allow":false,"access":"rwm"},{"allow":true,"type":"c","major":10,"minor":229,"access":"rw"}]"#;
        let cases = [
            ("[]", format!("false {DEFAULT_TEXT}")),
            (
                r#"[{"allow":false,"access":"rwm"}]"#,
                format!("false {DEFAULT_TEXT}"),
            ),
            (fuse, format!("false c 10:229 rw, {DEFAULT_TEXT}")),
            // As Docker writes it for /dev/fuse.
            (
                r#"[{"allow":false,"access":"rwm"},{"allow":false,"type":"c","major":10,"minor":229,"access":"rwm"}]"#,
                format!("false {DEFAULT_TEXT}"),
            ),
            (r#"[{"allow":true,"access":"rwm"}]"#, String::from("true ")),
            (
                r#"[{"allow":true},{"allow":false,"type":"b","major":8,"minor":-1,"access":"w"}]"#,
                String::from("true b 8:* w"),
            ),
            (
                r#"[{"allow":false,"type":"c","major":1,"minor":8,"access":"w"}]"#,
                format!(
                    "false c 1:8 rm, {}",
                    DEFAULT_TEXT.replace("c 1:8 rwm, ", "")
                ),
            ),
        ];
        for (json, expected) in cases {
            assert_eq!(v1(json).expect("list"), expected, "{json}");
        }
    }

    #[test]
    fn a_hole_in_a_wildcard_is_refused_on_v1() {
        let error = v1(r#"[{"allow":false,"type":"c","major":136,"minor":1,"access":"r"}]"#);
        assert!(error.is_err());
    }

    #[test]
    fn bad_rules_are_refused() {
        for json in [
            r#"[{"allow":true,"access":"x"}]"#,
            r#"[{"allow":true,"type":"c","major":-7}]"#,
            r#"[{"allow":true,"type":"p"}]"#,
        ] {
            let config: Vec<LinuxDeviceCgroup> = serde_json::from_str(json).expect("json");
            assert!(rules(&config).is_err(), "{json}");
        }
    }

    /// Runs a program as the kernel would.
    fn decide(program: &[Instruction], kind: u32, major: u32, minor: u32, access: u32) -> bool {
        bpf::simulate(program, &[access << 16 | kind, major, minor]) == 1
    }

    #[test]
    fn the_program_decides_as_the_rules_say() {
        let (block, char) = (Kind::Block as u32, Kind::Char as u32);
        let program = program(&parse(
            r#"[{"allow":false},{"allow":true,"type":"c","major":10,"access":"r"},
                {"allow":true,"type":"c","major":10,"minor":1,"access":"w"},
                {"allow":false,"type":"c","major":1,"minor":8,"access":"w"}]"#,
        ));
        let cases = [
            (char, 1, 3, READ | WRITE, true),
            (char, 136, 77, READ | WRITE, true),
            (char, 10, 1, READ | WRITE, true),
            (char, 10, 2, READ | WRITE, false),
            (char, 10, 2, READ, true),
            (char, 1, 8, WRITE, false),
            (char, 1, 8, READ, true),
            (char, 1, 8, READ | WRITE, false),
            (block, 8, 0, READ, false),
            (block, 8, 0, MKNOD, true),
        ];
        for (kind, major, minor, access, expected) in cases {
            let got = decide(&program, kind, major, minor, u32::from(access));
            assert_eq!(got, expected, "{kind} {major}:{minor} {access}");
        }
    }

    #[test]
    fn rules_for_a_reader() {
        let config = r#"[{"allow":false},{"allow":true,"type":"c","major":10,"minor":229,"access":"rw"},
            {"allow":false,"type":"b","major":8}]"#;
        let config: Vec<_> = serde_json::from_str(config).expect("rules");
        let text = describe(&config).expect("text");
        assert!(text.starts_with(
            "device rules, the last that matches wins: deny a *:* rwm, allow b *:* m"
        ));
        assert!(
            text.ends_with(
                "allow c 136:* rwm, allow c 10:200 rwm, allow c 10:229 rw, deny b 8:* rwm"
            ),
            "{text}"
        );
    }

    #[test]
    fn rules_for_systemd() {
        let majors = "Character devices:\n  1 mem\n136 pts\n\nBlock devices:\n  8 sd\n";
        let entry = |major, minor| {
            unit_entry(&allow(major, minor, READ | WRITE), majors).map(|value| match value {
                Value::Struct(pair) => pair
                    .iter()
                    .filter_map(Value::as_text)
                    .collect::<Vec<_>>()
                    .join(" "),
                other => format!("{other:?}"),
            })
        };
        assert_eq!(entry(Some(1), Some(3)).as_deref(), Some("/dev/char/1:3 rw"));
        assert_eq!(entry(Some(136), None).as_deref(), Some("char-pts rw"));
        assert_eq!(entry(None, None).as_deref(), Some("char-* rw"));
        assert_eq!(entry(Some(8), None), None);
        let all = unit_properties(&[]).expect("properties");
        assert_eq!(all[0], ("DevicePolicy".into(), Value::text("strict")));
    }

    #[test]
    fn allow_all_is_short() {
        let program = program(&parse(r#"[{"allow":true}]"#));
        assert!(decide(&program, 1, 8, 0, u32::from(EVERY)));
        assert_eq!(program.len(), 8);
    }
}

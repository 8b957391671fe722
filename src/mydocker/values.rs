//! The values of options: each parser says what is wrong and shows a right one.

use crate::linux::signals;
use std::fmt;
use std::time::Duration;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// An amount of memory, as it was written too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bytes {
    /// In bytes; -1: no limit.
    pub count: i64,
    /// As the user wrote it, for messages.
    pub text: String,
}

/// A point in time.
pub type When = OffsetDateTime;

/// How many lines from the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tail {
    All,
    Lines(usize),
}

/// When a container is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    #[default]
    No,
    /// After an exit code other than 0, at most so often if a number is given.
    OnFailure(Option<u32>),
    Always,
    UnlessStopped,
}

impl fmt::Display for Restart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Restart::No => f.write_str("no"),
            Restart::OnFailure(None) => f.write_str("on-failure"),
            Restart::OnFailure(Some(n)) => write!(f, "on-failure:{n}"),
            Restart::Always => f.write_str("always"),
            Restart::UnlessStopped => f.write_str("unless-stopped"),
        }
    }
}

type Parsed<T> = Result<T, String>;

/// `100m`, `1g`, `104857600`, by Docker's rules: a number, perhaps a space, and a unit in either case:
/// nothing or `b` for bytes, else `k`, `m`, `g`, `t` or `p`, alone or with `b` or `ib` behind it.
pub fn bytes(text: &str) -> Parsed<Bytes> {
    let end = text.trim_end_matches(|c: char| !c.is_ascii_digit() && c != '.');
    let (digits, unit) = text.split_at(end.len());
    let number: f64 = match digits.parse() {
        Ok(number) if digits.bytes().all(|b| b == b'.' || b.is_ascii_digit()) => number,
        _ => return Err("try 100m".into()),
    };
    let unit = unit.strip_prefix(' ').unwrap_or(unit).to_ascii_lowercase();
    let shift = match unit.as_str() {
        "" | "b" => Some(0),
        _ => unit
            .split_at_checked(1)
            .filter(|(_, rest)| matches!(*rest, "" | "b" | "ib"))
            .and_then(|(letter, _)| "kmgtp".find(letter))
            .map(|at| 10 * (at + 1)),
    };
    let shift = shift.ok_or_else(|| {
        format!("unknown unit {unit:?}: b, k, m, g, t or p, as in 100m, 100mb or 100mib")
    })?;
    let count = number * (1u64 << shift) as f64;
    if count >= i64::MAX as f64 {
        return Err("it is larger than any memory; try 100m".into());
    }
    Ok(Bytes {
        count: count as i64,
        text: text.to_owned(),
    })
}

/// As [`bytes`], or -1.
pub fn bytes_or_unlimited(text: &str) -> Parsed<Bytes> {
    if text == "-1" {
        return Ok(Bytes {
            count: -1,
            text: text.to_owned(),
        });
    }
    bytes(text).map_err(|_| "try 200m, or -1 for no limit".into())
}

/// cpu.shares: 2 to 262144; 0 is Docker's "not set".
pub fn cpu_shares(text: &str) -> Parsed<u64> {
    match text.parse() {
        Ok(shares @ (0 | 2..=262_144)) => Ok(shares),
        _ => Err("a number from 2 to 262144; 1024 is usual".into()),
    }
}

/// `0-1`, `0,2`: cpuset(7), "List format".
pub fn cpu_list(text: &str) -> Parsed<String> {
    let number = |part: &str| part.parse::<u32>().ok();
    let fine = text.split(',').all(|part| match part.split_once('-') {
        Some((from, to)) => matches!((number(from), number(to)), (Some(a), Some(b)) if a <= b),
        None => number(part).is_some(),
    });
    if fine {
        Ok(text.to_owned())
    } else {
        Err("try 0-1 or 0,2".into())
    }
}

/// How many CPUs: a positive number, or 0 for no limit.
pub fn cpus(text: &str) -> Parsed<f64> {
    match text.parse::<f64>() {
        Ok(n) if n == 0.0 || (0.01..=1e6).contains(&n) => Ok(n),
        _ => Err("try 0.5 or 2".into()),
    }
}

/// `NAME=VALUE` or `NAME`.
pub fn label(text: &str) -> Parsed<String> {
    match text.split('=').next() {
        None | Some("") => Err("a label has a name, as in name=value".into()),
        Some(_) => Ok(text.to_owned()),
    }
}

/// umask(2), octal.
pub fn umask(text: &str) -> Parsed<u32> {
    match u32::from_str_radix(text, 8) {
        Ok(mask @ 0..=0o777) => Ok(mask),
        _ => Err("it is octal, such as 0027".into()),
    }
}

/// The path of a cgroup below the root of each hierarchy.
pub fn cgroup_parent(text: &str) -> Parsed<String> {
    let path = text.trim_matches('/');
    let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
    if text.ends_with(".slice") {
        return Err("slices are systemd's; name the path of a cgroup, such as /teams/a".into());
    }
    match path.split('/').all(plain) {
        true => Ok(path.to_owned()),
        false => Err("try /teams/a".into()),
    }
}

/// `all` or a number. As Docker's, a negative one means all.
pub fn tail(text: &str) -> Parsed<Tail> {
    match text.parse::<i64>() {
        Ok(n) => Ok(usize::try_from(n).map_or(Tail::All, Tail::Lines)),
        Err(_) if text == "all" => Ok(Tail::All),
        Err(_) => Err("try 100, or all".into()),
    }
}

/// `no`, `on-failure[:N]`, `always`, `unless-stopped`.
pub fn restart(text: &str) -> Parsed<Restart> {
    match text.split_once(':') {
        None => match text {
            "no" => Ok(Restart::No),
            "on-failure" => Ok(Restart::OnFailure(None)),
            "always" => Ok(Restart::Always),
            "unless-stopped" => Ok(Restart::UnlessStopped),
            _ => Err("no, on-failure[:N], always or unless-stopped".into()),
        },
        Some(("on-failure", count)) => match count.parse() {
            Ok(count) => Ok(Restart::OnFailure(Some(count))),
            Err(_) => Err("try on-failure:3".into()),
        },
        Some(_) => Err("only on-failure takes a number, as in on-failure:3".into()),
    }
}

/// A signal by name, with or without SIG, or by number. The result is its whole name.
pub fn signal(text: &str) -> Parsed<String> {
    match signals::parse(text) {
        Some(number) => Ok(signals::name(number)),
        None => Err("try TERM, SIGKILL, RTMIN+3, or a number from 1 to 64".into()),
    }
}

/// A time: RFC 3339 (what is missing at the end is 0, and the zone UTC), seconds since the epoch, or
/// a duration before now such as 1h30m.
pub fn when(text: &str) -> Parsed<When> {
    if let Some(before) = duration(text) {
        return Ok(OffsetDateTime::now_utc() - before);
    }
    let seconds = text.parse::<f64>().ok().filter(|n| n.is_finite());
    if let Some(seconds) = seconds {
        let nanoseconds = (seconds * 1e9) as i128;
        return OffsetDateTime::from_unix_timestamp_nanos(nanoseconds)
            .map_err(|_| "the time is out of range".into());
    }
    // "2026-01-02", "2026-01-02T15:04", "2026-01-02T15:04:05", with Z or +01:00 or nothing.
    let whole = "0000-01-01T00:00:00";
    let zone = text
        .get(10..)
        .and_then(|rest| rest.find(['Z', 'z', '+', '-']));
    let (time, zone) = text.split_at(zone.map_or(text.len(), |at| at + 10));
    let filled = match whole.get(time.len()..) {
        Some(rest) if time.len() >= 4 => format!("{time}{rest}"),
        _ => time.to_owned(),
    };
    let zone = if zone.is_empty() { "Z" } else { zone };
    OffsetDateTime::parse(&format!("{filled}{zone}"), &Rfc3339)
        .map_err(|_| "try 10m, 2026-01-02T15:04:05Z or 1767366245".into())
}

/// Go's durations: numbers with units from ns to h, one after the other.
pub fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| c != '.' && !c.is_ascii_digit())?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let end = rest
            .find(|c: char| c == '.' || c.is_ascii_digit())
            .unwrap_or(rest.len());
        total += number
            * match &rest[..end] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" => 1e-6,
                "ns" => 1e-9,
                _ => return None,
            };
        rest = &rest[end..];
    }
    (!text.is_empty()).then(|| Duration::try_from_secs_f64(total).ok())?
}

/// A time between health checks: none, or at least a millisecond.
pub fn pause(text: &str) -> Parsed<Duration> {
    match duration(text) {
        Some(time) if time.is_zero() || time >= Duration::from_millis(1) => Ok(time),
        Some(_) => Err("at least 1ms".into()),
        None if text == "0" => Ok(Duration::ZERO),
        None => Err("try 30s or 1m30s".into()),
    }
}

/// Gives options that limit resources, of `run` as of `update`, a way to do without some of them.
macro_rules! leave_out_controllers {
    ($options:ident) => {
        impl $options {
            /// Forgets what a controller would limit.
            pub(super) fn leave_out(&mut self, controller: &str) {
                match controller {
                    "memory" => {
                        (self.memory, self.memory_swap) = (None, None);
                        self.memory_reservation = None;
                    }
                    "cpu" => {
                        (self.cpu_shares, self.cpus) = (None, None);
                        (self.cpu_period, self.cpu_quota) = (None, None);
                    }
                    "cpuset" => (self.cpuset_cpus, self.cpuset_mems) = (None, None),
                    "pids" => self.pids_limit = None,
                    _ => self.blkio_weight = None,
                }
            }
        }
    };
}
pub(super) use leave_out_controllers;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_of_memory() {
        for (text, count) in [
            ("64k", 65536),
            ("100m", 104_857_600),
            ("100M", 104_857_600),
            ("1g", 1 << 30),
            ("1.5g", 3 << 29),
            ("64mb", 64 << 20),
            ("64MiB", 64 << 20),
            ("104857600", 104_857_600),
            ("5b", 5),
            ("5B", 5),
            ("2 kb", 2048),
            ("1p", 1 << 50),
            ("2tib", 2 << 40),
        ] {
            assert_eq!(bytes(text).map(|b| b.count), Ok(count), "{text}");
        }
        for text in ["abc", "", "-5", "10q", "1e3", "m", "99999999999999999999g"] {
            assert!(bytes(text).is_err(), "{text}");
        }
        for text in [
            "50mbb", "50ib", "5kii", "5ki", "5bi", "5bb", "5  m", "5mm", "5é",
        ] {
            let why = bytes(text).unwrap_err();
            assert!(why.contains("b, k, m, g, t or p"), "{text}: {why}");
        }
    }

    #[test]
    fn times() {
        let at = |text| when(text).map(|time| time.unix_timestamp());
        assert_eq!(at("2026-01-02T15:04:05Z"), Ok(1_767_366_245));
        assert_eq!(at("2026-01-02T15:04:05.5Z"), Ok(1_767_366_245));
        assert_eq!(at("2026-01-02T16:04:05+01:00"), Ok(1_767_366_245));
        assert_eq!(at("2026-01-02T15:04"), Ok(1_767_366_240));
        assert_eq!(at("2026-01-02"), Ok(1_767_312_000));
        assert_eq!(at("1767366245.25"), Ok(1_767_366_245));
        let then = when("1h30m").unwrap();
        let ago = OffsetDateTime::now_utc() - then;
        assert!((5400..5460).contains(&ago.whole_seconds()));
        for text in ["whenever", "", "1x", "2026-13-01"] {
            assert!(when(text).is_err(), "{text}");
        }
        assert_eq!(duration("500ms"), Some(Duration::from_millis(500)));
    }

    #[test]
    fn labels() {
        for text in ["a=b", "a", "a=", "a=b=c"] {
            assert_eq!(label(text), Ok(text.into()));
        }
        assert!(label("").is_err() && label("=x").is_err());
    }

    #[test]
    fn masks_and_cgroups() {
        assert_eq!((cpus("0"), cpus("1.5")), (Ok(0.0), Ok(1.5)));
        for text in ["", "-1", "0.001", "NaN", "inf", "x"] {
            assert!(cpus(text).is_err(), "{text}");
        }
        assert_eq!((umask("0027"), umask("0")), (Ok(0o27), Ok(0)));
        assert!(umask("8").is_err() && umask("1000").is_err() && umask("").is_err());
        assert_eq!(cgroup_parent("/teams/a/"), Ok("teams/a".into()));
        for text in ["", "/", "a/../b", "a//b", "user.slice"] {
            assert!(cgroup_parent(text).is_err(), "{text}");
        }
    }

    #[test]
    fn lists_and_policies() {
        assert!(cpu_list("0-1,3").is_ok());
        for text in ["", "x-1", "2-1", "0,"] {
            assert!(cpu_list(text).is_err(), "{text}");
        }
        assert_eq!(restart("on-failure:2"), Ok(Restart::OnFailure(Some(2))));
        assert!(restart("sometimes").is_err() && restart("always:3").is_err());
        assert_eq!(signal("term"), Ok("SIGTERM".into()));
        assert_eq!(signal("9"), Ok("SIGKILL".into()));
        assert_eq!(signal("SIGRTMIN+3"), Ok("SIGRTMIN+3".into()));
        for text in ["NOSUCH", "0", "99"] {
            assert!(signal(text).unwrap_err().contains("1 to 64"), "{text}");
        }
        assert_eq!(tail("-1"), Ok(Tail::All));
    }
}

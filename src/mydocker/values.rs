//! The values of options: each parser says what is wrong and shows a right one.

use std::fmt;
use time::OffsetDateTime;

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

/// `100m`, `1g`, `104857600`: b, k, m, g, t with either case, and `kb`, `kib` as Docker takes them.
pub fn bytes(text: &str) -> Parsed<Bytes> {
    let lower = text.to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match lower[digits.len()..]
        .trim_end_matches('b')
        .trim_end_matches('i')
    {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return Err("try 100m".into()),
    };
    let number: f64 = match digits.parse() {
        Ok(number) if digits.starts_with(|c: char| c.is_ascii_digit()) => number,
        _ => return Err("try 100m".into()),
    };
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

/// How many CPUs: a positive number.
pub fn cpus(text: &str) -> Parsed<f64> {
    match text.parse::<f64>() {
        Ok(n) if n.is_finite() && n >= 0.01 && n <= 1e6 => Ok(n),
        _ => Err("try 0.5 or 2".into()),
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

/// A signal by name, with or without SIG, or by number. The result begins with SIG, but for
/// realtime signals without a name.
pub fn signal(text: &str) -> Parsed<String> {
    use nix::sys::signal::Signal;
    let known = match text.parse::<i32>() {
        Ok(number) => match Signal::try_from(number) {
            Ok(signal) => Some(signal.as_str().to_owned()),
            Err(_) if (32..=64).contains(&number) => Some(number.to_string()),
            Err(_) => None,
        },
        Err(_) => {
            let upper = text.to_ascii_uppercase();
            let name = if upper.starts_with("SIG") {
                upper
            } else {
                format!("SIG{upper}")
            };
            name.parse::<Signal>()
                .ok()
                .map(|signal| signal.as_str().to_owned())
        }
    };
    known.ok_or_else(|| "try TERM, SIGKILL or 9".into())
}

/// A time: RFC 3339 (parts may be missing at the end), seconds since the epoch, or a duration
/// before now such as 1h30m.
pub fn when(text: &str) -> Parsed<When> {
    let _ = text;
    Err("not written yet".into())
}

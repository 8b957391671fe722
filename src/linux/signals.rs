//! Signals by the names that people give them.

use nix::sys::signal::Signal;
use std::str::FromStr;

/// A signal by its number, or by its name with or without `SIG`, in any case. `None` is no signal.
pub fn parse(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=libc::SIGRTMAX()).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
    real_time(bare).or_else(|| {
        let signal = Signal::from_str(&format!("SIG{bare}"));
        signal.ok().map(|signal| signal as i32)
    })
}

/// `RTMIN`, `RTMIN+n`, `RTMAX`, `RTMAX-n` of signal(7).
fn real_time(bare: &str) -> Option<i32> {
    let (min, max) = (libc::SIGRTMIN(), libc::SIGRTMAX());
    let number = match bare.split_at_checked(5)? {
        ("RTMIN", "") => Some(min),
        ("RTMAX", "") => Some(max),
        ("RTMIN", rest) => min.checked_add(rest.strip_prefix('+')?.parse().ok()?),
        ("RTMAX", rest) => max.checked_sub(rest.strip_prefix('-')?.parse().ok()?),
        _ => None,
    };
    number.filter(|number| (min..=max).contains(number))
}

/// The name of a signal, beginning with SIG; its number where it has no name.
pub fn name(number: i32) -> String {
    let (min, max) = (libc::SIGRTMIN(), libc::SIGRTMAX());
    match Signal::try_from(number) {
        Ok(signal) => signal.as_str().to_owned(),
        Err(_) if number == min => "SIGRTMIN".to_owned(),
        Err(_) if number == max => "SIGRTMAX".to_owned(),
        Err(_) if (min..max).contains(&number) => format!("SIGRTMIN+{}", number - min),
        Err(_) => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_named_as_people_name_them() {
        for (text, number, whole) in [
            ("1", 1, "SIGHUP"),
            ("9", 9, "SIGKILL"),
            ("KILL", 9, "SIGKILL"),
            ("sigterm", 15, "SIGTERM"),
            ("SIGUSR1", 10, "SIGUSR1"),
            ("33", 33, "33"),
            ("RTMIN", 34, "SIGRTMIN"),
            ("SIGRTMIN+3", 37, "SIGRTMIN+3"),
            ("rtmax-1", 63, "SIGRTMIN+29"),
            ("64", 64, "SIGRTMAX"),
        ] {
            assert_eq!(parse(text), Some(number), "{text}");
            assert_eq!(name(number), whole, "{text}");
            assert_eq!(parse(whole), Some(number), "{whole}");
        }
        for text in [
            "",
            "0",
            "65",
            "999",
            "-1",
            "SIG",
            "NOPE",
            "RTMIN+99",
            "RTMIN+2147483647",
            "RTMAX--2147483648",
            "RTMIN3",
            "é",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}

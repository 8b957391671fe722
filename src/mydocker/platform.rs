//! Platforms by the names that images give them: `linux/amd64`, `linux/arm64/v8`. They are Go's.

use crate::error::ResultExt;
use anyhow::{Result, anyhow};
use serde::Deserialize;
use std::fmt;

/// What an image is for (image-spec: image-index.md, `platform`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Platform {
    pub(super) os: String,
    pub(super) architecture: String,
    #[serde(default)]
    pub(super) variant: String,
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match self.variant.is_empty() {
            true => Ok(()),
            false => write!(f, "/{}", self.variant),
        }
    }
}

impl Platform {
    /// The platform that the text names, as [`fits`] reads it; this machine's without one.
    pub(super) fn wanted(text: Option<&str>) -> Result<Platform> {
        let lower = text.unwrap_or("linux").to_ascii_lowercase();
        let parts: Vec<&str> = lower.split('/').collect();
        let (os, (name, implied), variant) = match parts.as_slice() {
            ["linux"] => ("linux", (machine(), ""), ""),
            ["windows" | "darwin" | "freebsd"] => (parts[0], (machine(), ""), ""),
            [name] if !name.is_empty() => ("linux", architecture(name), ""),
            [os, name] if !os.is_empty() && !name.is_empty() => (*os, architecture(name), ""),
            [os, name, variant] => (*os, architecture(name), *variant),
            _ => {
                let text = text.unwrap_or_default();
                return Err(anyhow!("invalid platform {text:?}"))
                    .hint("a platform is OS/ARCH[/VARIANT], such as linux/arm64");
            }
        };
        Ok(Platform {
            os: os.to_owned(),
            architecture: name.to_owned(),
            variant: if variant.is_empty() { implied } else { variant }.to_owned(),
        })
    }

    /// Which of these is the best for this platform: its own variant, or else the next older one.
    pub(super) fn best(&self, offered: &[Platform]) -> Option<usize> {
        let is_there = |variant: &str| {
            offered.iter().position(|one| {
                one.os == self.os
                    && one.architecture == self.architecture
                    && usual(&one.architecture, &one.variant) == variant
            })
        };
        let variant = usual(&self.architecture, &self.variant);
        let (letter, number) = match variant.strip_prefix('v').map(str::parse::<u8>) {
            Some(Ok(number)) if ["amd64", "arm"].contains(&self.architecture.as_str()) => {
                ("v", number)
            }
            _ => return is_there(variant),
        };
        (1..=number)
            .rev()
            .find_map(|number| is_there(&format!("{letter}{number}")))
    }
}

/// The variant with a name where images often give none.
fn usual<'a>(architecture: &str, variant: &'a str) -> &'a str {
    match (architecture, variant) {
        ("amd64", "") => "v1",
        ("arm64", "" | "8") => "v8",
        ("arm", "" | "7") => "v7",
        (_, variant) => variant,
    }
}

/// The architecture of this machine.
pub(super) fn machine() -> &'static str {
    architecture(std::env::consts::ARCH).0
}

/// Whether programs for the platform `text` are what a machine of this architecture runs. As Docker
/// reads it: `OS[/ARCHITECTURE[/VARIANT]]`, or an architecture alone, in either case of letters.
pub(super) fn fits(text: &str, machine: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    let mut parts: Vec<&str> = lower.split('/').collect();
    if parts.len() == 1 && parts[0] != "linux" {
        parts.insert(0, "linux");
    }
    let (asked, variant) = match parts.as_slice() {
        ["linux"] => return true,
        ["linux", asked] => architecture(asked),
        ["linux", asked, variant] => (architecture(asked).0, *variant),
        _ => return false,
    };
    // Of the older variants a machine runs all, of the newer ones perhaps: they are not looked for.
    let variants: &[&str] = match machine {
        "amd64" => &["", "v1"],
        "arm64" => &["", "v8", "8"],
        "arm" => &["", "v7", "7", "v6", "6", "v5", "5"],
        _ => &[""],
    };
    asked == machine && variants.contains(&variant)
}

/// Whether an image for the platform `offered` is what is `wanted`: a platform by name, or this
/// machine's. As with [`fits`], a name without a variant leaves the choice of it.
pub(super) fn is_for(offered: &str, wanted: Option<&str>) -> bool {
    let Some(wanted) = wanted else {
        return fits(offered, machine());
    };
    let lower = wanted.to_ascii_lowercase();
    let mut parts = lower.split('/').skip_while(|part| *part == "linux");
    match (parts.next(), parts.next()) {
        (None, _) => fits(offered, machine()),
        (Some(asked), None) => fits(offered, architecture(asked).0),
        (Some(asked), Some(variant)) => {
            let offered = offered.to_ascii_lowercase();
            offered == format!("linux/{}/{variant}", architecture(asked).0)
        }
    }
}

/// Go's name of an architecture, and the variant that the name says too.
fn architecture(name: &str) -> (&str, &str) {
    match name {
        "x86_64" | "x86-64" => ("amd64", ""),
        "x86" | "i386" | "i686" => ("386", ""),
        "aarch64" => ("arm64", ""),
        "armhf" => ("arm", "v7"),
        "armel" => ("arm", "v6"),
        "powerpc64" | "ppc64el" => ("ppc64le", ""),
        "loongarch64" => ("loong64", ""),
        other => (other, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_of_an_index_is_chosen() {
        let all = |texts: &str| -> Vec<Platform> {
            let read = |text| Platform::wanted(Some(text)).unwrap();
            texts.split(' ').map(read).collect()
        };
        for (wanted, offered, best) in [
            (
                "linux/amd64",
                "linux/arm64 linux/amd64/v3 linux/amd64",
                Some(2),
            ),
            ("linux/amd64", "linux/amd64/v2 windows/amd64", None),
            ("linux/amd64/v3", "linux/amd64 linux/amd64/v2", Some(1)),
            ("linux/arm64", "linux/arm/v7 linux/arm64/v8", Some(1)),
            ("linux/arm64/v8", "linux/arm64", Some(0)),
            ("linux/arm64/v9", "linux/arm64/v8", None),
            (
                "linux/arm",
                "linux/arm/v5 linux/arm/v6 linux/arm/v8",
                Some(1),
            ),
            ("linux/arm/v6", "linux/arm/v7 linux/arm/v5", Some(1)),
            ("armhf", "linux/arm/v7", Some(0)),
            ("linux/riscv64", "linux/riscv64", Some(0)),
            ("windows/amd64", "linux/amd64 windows/amd64", Some(1)),
        ] {
            let wanted = Platform::wanted(Some(wanted)).unwrap();
            assert_eq!(wanted.best(&all(offered)), best, "{wanted} of {offered}");
        }
        let own = Platform::wanted(None).unwrap();
        assert_eq!(own.architecture, machine());
        assert!(Platform::wanted(Some("")).is_err());
        assert!(Platform::wanted(Some("a/b/c/d")).is_err());
    }

    #[test]
    fn a_machine_runs_what_it_is() {
        for (machine, texts) in [
            (
                "amd64",
                "linux/amd64 linux/x86_64 Linux/AMD64 linux amd64 linux/amd64/v1",
            ),
            (
                "arm64",
                "linux/arm64 linux/arm64/v8 linux/aarch64 arm64 linux",
            ),
            ("arm", "linux/arm linux/arm/v7 linux/arm/v6 linux/armhf"),
            ("riscv64", "linux/riscv64 riscv64"),
        ] {
            for text in texts.split(' ') {
                assert!(fits(text, machine), "{text} on {machine}");
            }
        }
        for (machine, texts) in [
            (
                "amd64",
                "linux/arm64 linux/386 windows/amd64 linux/amd64/v4 linux/amd64/v1/x linux/ amd64/linux",
            ),
            ("arm64", "linux/amd64 amd64 linux/arm64/v9 linux/arm/v7"),
            ("riscv64", "linux/riscv64/v1"),
        ] {
            for text in texts.split(' ').chain([""]) {
                assert!(!fits(text, machine), "{text} on {machine}");
            }
        }
    }

    #[test]
    fn a_platform_is_chosen_by_name() {
        for (wanted, yes, no) in [
            ("linux/arm64", "linux/arm64/v8", "linux/amd64"),
            ("arm64", "linux/arm64", "linux/arm/v7"),
            ("linux/arm/v6", "linux/arm/v6", "linux/arm/v7"),
            ("linux/x86_64", "linux/amd64", "windows/amd64"),
        ] {
            assert!(is_for(yes, Some(wanted)), "{yes} for {wanted}");
            assert!(!is_for(no, Some(wanted)), "{no} for {wanted}");
        }
    }
}

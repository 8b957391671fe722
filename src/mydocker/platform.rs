//! Platforms by the names that images give them: `linux/amd64`, `linux/arm64/v8`. They are Go's.

use crate::error::ResultExt;
use anyhow::{Result, anyhow};
use oci_spec::image::ImageConfiguration;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fmt;

/// What an image is for (image-spec: image-index.md, `platform`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// Go's name: `amd64`.
    pub architecture: String,
    /// `linux`
    pub os: String,
    /// `v8`; mostly empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
    #[serde(flatten)]
    rest: Map<String, Value>,
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
    /// As Docker reads it: `OS/ARCHITECTURE[/VARIANT]`, or one of the two alone, in either case of
    /// letters. Names of the kernel's become Go's.
    ///
    /// # Errors
    /// It is none: what it should be, for a value of an option.
    pub fn parse(text: &str) -> Result<Platform, String> {
        let is_name = |part: &&str| {
            let mut bytes = part.bytes();
            !part.is_empty() && bytes.all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b))
        };
        let parts: Vec<&str> = text.split('/').collect();
        let error = || "it is OS/ARCH[/VARIANT], such as linux/arm64".to_owned();
        if !parts.iter().all(is_name) {
            return Err(error());
        }
        let (os, architecture, variant) = match parts.as_slice() {
            [os] if is_os(os) => (*os, std::env::consts::ARCH, ""),
            [architecture] => ("linux", *architecture, ""),
            [os, architecture] => (*os, *architecture, ""),
            [os, architecture, variant] => (*os, *architecture, *variant),
            _ => return Err(error()),
        };
        let named = Platform {
            os: os.to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.to_owned(),
            rest: Map::new(),
        };
        Ok(named.normal())
    }

    /// This machine's.
    pub fn of_machine() -> Platform {
        Platform {
            os: "linux".to_owned(),
            architecture: std::env::consts::ARCH.to_owned(),
            ..Platform::default()
        }
        .normal()
    }

    /// What the configuration of an image says.
    pub fn of_config(config: &ImageConfiguration) -> Platform {
        Platform {
            os: config.os().to_string(),
            architecture: config.architecture().to_string(),
            variant: config.variant().clone().unwrap_or_default(),
            rest: Map::new(),
        }
    }

    /// The one spelling of all that mean the same: without the variant that an architecture has
    /// anyway, but for arm, which has several.
    fn normal(&self) -> Platform {
        let [os, architecture, variant] =
            [&self.os, &self.architecture, &self.variant].map(|part| part.to_ascii_lowercase());
        let os = match os.as_str() {
            "macos" => "darwin",
            other => other,
        };
        let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
            ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
            ("x86_64" | "x86-64", variant) => ("amd64", variant),
            ("x86" | "i386" | "i686", _) => ("386", ""),
            ("aarch64" | "arm64", "8" | "v8") => ("arm64", ""),
            ("aarch64", variant) => ("arm64", variant),
            ("armhf", _) | ("arm", "" | "7") => ("arm", "v7"),
            ("armel", _) | ("arm", "6") => ("arm", "v6"),
            ("arm", "5") => ("arm", "v5"),
            ("powerpc64" | "ppc64el", variant) => ("ppc64le", variant),
            ("loongarch64", variant) => ("loong64", variant),
            same => same,
        };
        Platform {
            os: os.to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.to_owned(),
            rest: Map::new(),
        }
    }

    /// How well a platform runs what is for `offered`: not at all, or better the greater it is. Of
    /// amd64 and arm a newer variant runs what is for an older one.
    fn rank(&self, offered: &Platform) -> Option<u8> {
        let (mine, offered) = (self.normal(), offered.normal());
        if (&mine.os, &mine.architecture) != (&offered.os, &offered.architecture) {
            return None;
        }
        let number = |one: &Platform| match one.variant.as_str() {
            "" => Some(1),
            variant => variant.strip_prefix('v')?.parse::<u8>().ok(),
        };
        let is_graded = ["amd64", "arm"].contains(&mine.architecture.as_str());
        match (number(&mine), number(&offered)) {
            (Some(most), Some(asked)) if is_graded => (asked <= most).then_some(asked),
            _ => (mine.variant == offered.variant).then_some(0),
        }
    }

    /// Whether a machine of this platform runs what is for `offered`.
    pub fn suits(&self, offered: &Platform) -> bool {
        self.rank(offered).is_some()
    }

    /// What of these, each with what it is for, is the best for this platform.
    pub fn best<'a, T>(&self, offered: impl Iterator<Item = (T, &'a Platform)>) -> Option<T> {
        let ranked = offered.filter_map(|(one, platform)| Some((self.rank(platform)?, one)));
        // Of equals the first.
        let best = ranked.reduce(|best, next| if next.0 > best.0 { next } else { best });
        best.map(|(_, one)| one)
    }

    /// # Errors
    /// What is `for` the platform `has` is not what was asked for, if a platform was.
    pub fn check(wanted: Option<&Platform>, has: &Platform, what: &str) -> Result<()> {
        match wanted {
            Some(wanted) if !wanted.suits(has) => {
                Err(anyhow!("{what} is for {has}, not for {wanted}"))
                    .hint("without --platform it is taken as it is")
            }
            _ => Ok(()),
        }
    }

    /// # Errors
    /// It is asked for by `--platform`, and this machine does not run it.
    pub fn check_machine(&self) -> Result<()> {
        let machine = Platform::of_machine();
        match machine.suits(self) {
            true => Ok(()),
            false => Err(anyhow!("--platform {self}: this machine does not run it"))
                .hint(format!("it runs {machine}")),
        }
    }
}

/// Whether a word alone is the name of an operating system.
fn is_os(word: &str) -> bool {
    const ALL: &[&str] = &["linux", "windows", "darwin", "macos", "freebsd"];
    ALL.contains(&word.to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        Platform::parse(text).unwrap()
    }

    /// As an image may say it, which is not always the usual spelling.
    fn said(text: &str) -> Platform {
        let mut parts = text.split('/').map(str::to_owned);
        let mut next = || parts.next().unwrap_or_default();
        Platform {
            os: next(),
            architecture: next(),
            variant: next(),
            rest: Map::new(),
        }
    }

    #[test]
    fn one_platform_has_many_names() {
        let machine = Platform::of_machine().to_string();
        for (text, name) in [
            ("linux/x86_64", "linux/amd64"),
            ("Linux/AMD64/v1", "linux/amd64"),
            ("linux/amd64/v3", "linux/amd64/v3"),
            ("aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm64/8", "linux/arm64"),
            ("linux/arm64/v9", "linux/arm64/v9"),
            ("arm", "linux/arm/v7"),
            ("linux/arm/6", "linux/arm/v6"),
            ("armhf", "linux/arm/v7"),
            ("armel", "linux/arm/v6"),
            ("i386", "linux/386"),
            ("macos/aarch64", "darwin/arm64"),
            ("riscv64", "linux/riscv64"),
            ("linux", &machine),
        ] {
            assert_eq!(platform(text).to_string(), name, "{text}");
        }
        for text in ["", "linux/", "/amd64", "linux//v8", "a/b/c/d", "linux/a b"] {
            assert!(Platform::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_platform_runs_what_it_is() {
        for (wanted, offered) in [
            ("linux/amd64", "linux/amd64 linux/x86_64 Linux/AMD64"),
            ("linux/amd64", "linux/amd64/v1"),
            ("linux/amd64/v3", "linux/amd64 linux/amd64/v2"),
            ("linux/arm64", "linux/arm64 linux/arm64/v8 linux/aarch64"),
            ("linux/arm64/v8", "linux/arm64 linux/arm64/v8"),
            ("arm", "linux/arm linux/arm/v7 linux/arm/v6 linux/armhf"),
            ("linux/arm/v6", "linux/arm/v6 linux/arm/v5"),
            ("riscv64", "linux/riscv64"),
        ] {
            for text in offered.split(' ') {
                assert!(platform(wanted).suits(&said(text)), "{text} on {wanted}");
            }
        }
        for (wanted, offered) in [
            ("linux/amd64", "linux/arm64 linux/386 windows/amd64"),
            ("linux/amd64", "linux/amd64/v4 linux amd64/linux"),
            ("arm64", "linux/amd64 linux/arm64/v9 linux/arm/v7"),
            ("linux/arm/v6", "linux/arm linux/arm/v7"),
            ("riscv64", "linux/riscv64/v1"),
        ] {
            for text in offered.split(' ') {
                assert!(!platform(wanted).suits(&said(text)), "{text} on {wanted}");
            }
        }
    }

    #[test]
    fn the_best_is_chosen() {
        for (wanted, offered, best) in [
            (
                "linux/amd64",
                "linux/arm64 linux/amd64/v3 linux/amd64",
                Some(2),
            ),
            ("linux/amd64", "linux/amd64/v2 windows/amd64", None),
            ("linux/amd64/v3", "linux/amd64 linux/amd64/v2", Some(1)),
            ("linux/arm64", "linux/arm/v7 linux/arm64/v8", Some(1)),
            ("linux/arm64/v8", "linux/arm64 linux/arm64/v8", Some(0)),
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
            let all: Vec<Platform> = offered.split(' ').map(said).collect();
            let found = platform(wanted).best(all.iter().enumerate());
            assert_eq!(found, best, "{wanted} of {offered}");
        }
    }
}

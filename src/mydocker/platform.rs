//! Platforms by the names that images give them: `linux/amd64`, `linux/arm64/v8`. They are Go's.

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

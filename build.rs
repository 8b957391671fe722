//! What cargo cannot know: the entry point of `runtime`, which is its own (src/sys/entry.rs), and the
//! static library that both programs hold.

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-link-arg-bin=runtime=-Wl,--entry=seal_entry");
    println!("cargo::rerun-if-changed=scripts/order.d");
    if links_with_lld() {
        ["runtime", "mydocker"]
            .iter()
            .for_each(|program| order(program));
    }
    match libseccomp() {
        Ok(dir) => println!("cargo::rustc-link-search=native={}", dir.display()),
        Err(why) => println!("cargo::error={why}"),
    }
}

/// Puts the functions that usual commands call beside each other (scripts/order). Only lld takes such a
/// list; with another linker the program is as good, and needs some more pages.
fn order(program: &str) {
    let home = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    let list = format!("--symbol-ordering-file={home}/scripts/order.d/{program}");
    // Not by -Wl, which splits at commas: a directory may have one in its name.
    for arg in ["-Xlinker", &list, "-Xlinker", "--no-warn-symbol-ordering"] {
        println!("cargo::rustc-link-arg-bin={program}={arg}");
    }
}

/// Links as cargo is about to, to see whether that is with lld, which official compilers have brought
/// with them since 1.90.
fn links_with_lld() -> bool {
    let variable = |name: &str| std::env::var(name).ok();
    let dir = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default());
    let (source, program) = (dir.join("empty.rs"), dir.join("empty"));
    let linked = || {
        std::fs::write(&source, "fn main() {}").ok()?;
        let mut rustc = Command::new(variable("RUSTC")?);
        rustc.args(["--target", &variable("TARGET")?]);
        // RUSTFLAGS, or those of .cargo/config.toml, as cargo passes them on.
        let flags = variable("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
        rustc.args(flags.split('\x1f').filter(|flag| !flag.is_empty()));
        if let Some(linker) = variable("RUSTC_LINKER") {
            rustc.arg("-C").arg(format!("linker={linker}"));
        }
        rustc.args(["-C", "link-arg=-Wl,--symbol-ordering-file=/dev/null"]);
        let output = rustc.arg("-o").arg(&program).arg(&source).output().ok()?;
        Some(output.status.success())
    };
    linked().unwrap_or(false)
}

/// A directory with libseccomp.a and without libseccomp.so, which the linker would take instead.
fn libseccomp() -> Result<PathBuf, String> {
    const NAME: &str = "libseccomp.a";
    // As the linker finds it.
    let output = Command::new("cc")
        .arg(format!("-print-file-name={NAME}"))
        .output()
        .map_err(|error| format!("cc: {error}: apt-get install gcc libc6-dev"))?;
    let archive = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    // The bare name means that it is nowhere.
    if !archive.is_absolute() {
        return Err(format!("{NAME} is missing: apt-get install libseccomp-dev"));
    }
    println!("cargo::rerun-if-changed={}", archive.display());
    let dir = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default());
    link(&archive, &dir.join(NAME))?;
    Ok(dir)
}

fn link(archive: &Path, link: &Path) -> Result<(), String> {
    let _ = std::fs::remove_file(link);
    std::os::unix::fs::symlink(archive, link)
        .map_err(|error| format!("link {} to {}: {error}", link.display(), archive.display()))
}

//! The entry point of `runtime` is its own: see src/sys/entry.rs.
fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-link-arg-bin=runtime=-Wl,--entry=seal_entry");
}

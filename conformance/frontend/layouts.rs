//! OCI image layouts in a row's directory, written by hand.

use super::Desk;
use super::false_registry::digest;
use anyhow::Result;
use serde_json::{Value, json};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Adds a blob to the layout of a desk: its digest and size.
pub(crate) fn put(desk: &Desk, bytes: &[u8]) -> Result<(String, usize)> {
    let name = digest(bytes);
    let blobs = desk.path("layout/blobs/sha256");
    std::fs::create_dir_all(&blobs)?;
    std::fs::write(blobs.join(name.trim_start_matches("sha256:")), bytes)?;
    Ok((name, bytes.len()))
}

/// Adds an image of these uncompressed layers, as an index describes it.
pub(crate) fn put_image(desk: &Desk, layers: &[Vec<u8>], arch: &str) -> Result<Value> {
    let (mut diff_ids, mut blobs) = (Vec::new(), Vec::new());
    for layer in layers {
        let (digest, size) = put(desk, layer)?;
        let media_type = "application/vnd.oci.image.layer.v1.tar";
        blobs.push(json!({"mediaType": media_type, "digest": digest, "size": size}));
        diff_ids.push(digest);
    }
    let rootfs = json!({"type": "layers", "diff_ids": diff_ids});
    let (arch, variant) = arch.split_once('/').unwrap_or((arch, ""));
    let config = json!({
        "architecture": arch, "variant": variant, "os": "linux", "config": {}, "rootfs": rootfs,
    });
    let (config, size) = put(desk, config.to_string().as_bytes())?;
    let media_type = "application/vnd.oci.image.config.v1+json";
    let config = json!({"mediaType": media_type, "digest": config, "size": size});
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": blobs,
    });
    let (digest, size) = put(desk, manifest.to_string().as_bytes())?;
    let platform = json!({"os": "linux", "architecture": arch});
    Ok(json!({"mediaType": MANIFEST, "digest": digest, "size": size, "platform": platform}))
}

pub(crate) fn put_index(desk: &Desk, mut entry: Value, name: &str) -> Result<()> {
    entry["annotations"] = json!({"org.opencontainers.image.ref.name": name});
    let index = json!({"schemaVersion": 2, "manifests": [entry]});
    desk.write("layout/index.json", &index.to_string())?;
    desk.write("layout/oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    Ok(())
}

/// Writes a layout, `layout` in the row's directory, of one image of these uncompressed layers.
pub(crate) fn layout(desk: &Desk, name: &str, layers: &[Vec<u8>]) -> Result<()> {
    let _ = std::fs::remove_dir_all(desk.path("layout"));
    put_index(desk, put_image(desk, layers, machine())?, name)
}

/// Go's name of this machine.
pub(crate) fn machine() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

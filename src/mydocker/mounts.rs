//! `-v`, `--mount`, `--tmpfs`: what of the host, and what else, the container gets to see.

use super::values;
use crate::error::{with_exit_code, with_hint};
use anyhow::{Context, Error, Result, anyhow};
use serde_json::{Value, json};
use std::path::{Component, Path, PathBuf};

/// A mount of the user's.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Volume {
    /// `mounts[]` of the spec.
    pub(super) spec: Value,
    /// Docker's `Mounts[]` of `inspect`.
    pub(super) shown: Value,
    pub(super) target: PathBuf,
    /// A directory of the host that is made if it is missing.
    pub(super) host_dir: Option<PathBuf>,
}

const USAGE: &str = "HOST:CONTAINER[:ro]";

pub(super) fn wrong(flag: &str, value: &str, what: &str, hint: &str) -> Error {
    let error = anyhow!("invalid {flag} value '{value}' ({what})");
    with_exit_code(with_hint(error, hint), 125)
}

/// `-v HOST:CONTAINER[:OPTIONS]`. A missing directory of the host is made (D10).
pub(super) fn volume(text: &str) -> Result<Volume> {
    let wrong = |what: &str| wrong("-v", text, what, &format!("as in -v {USAGE}"));
    let parts: Vec<&str> = text.split(':').collect();
    let (host, target, options) = match parts.as_slice() {
        [single] if single.starts_with('/') => {
            return Err(wrong(&format!(
                "anonymous volumes are not supported yet; {USAGE}"
            )));
        }
        [host, target] => (*host, *target, ""),
        [host, target, options] => (*host, *target, *options),
        _ => return Err(wrong(USAGE)),
    };
    if host.is_empty() || target.is_empty() {
        return Err(wrong(USAGE));
    }
    if !host.starts_with(['/', '.', '~']) {
        return Err(wrong(&format!(
            "named volumes are not supported yet; a directory begins with / or ./: {USAGE}"
        )));
    }
    let target = checked_target(target).map_err(|what| wrong(&what))?;
    let mut flags = vec!["rbind".to_owned()];
    let (mut read_only, mut propagation) = (false, "rprivate");
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" | "rro" => read_only = true,
            "rw" => {}
            // Labels of SELinux, and a hint for other systems: without effect here, as in Docker.
            "z" | "Z" | "cached" | "delegated" | "consistent" => continue,
            "shared" | "rshared" | "slave" | "rslave" | "private" | "rprivate" => {
                propagation = option;
                continue;
            }
            _ => return Err(wrong(&format!("unknown option {option:?}; {USAGE}"))),
        }
        flags.push(option.to_owned());
    }
    flags.push(propagation.to_owned());
    let host = std::path::absolute(host).context("-v: make the host's path absolute")?;
    Ok(Volume {
        spec: json!({
            "destination": target, "type": "bind", "source": host, "options": flags,
        }),
        shown: shown(
            "bind",
            &host.display().to_string(),
            &target,
            read_only,
            propagation,
        ),
        target,
        host_dir: Some(host),
    })
}

fn shown(kind: &str, source: &str, target: &Path, read_only: bool, propagation: &str) -> Value {
    json!({
        "Type": kind, "Source": source, "Destination": target,
        "Mode": if read_only { "ro" } else { "" },
        "RW": !read_only, "Propagation": propagation,
    })
}

fn checked_target(target: &str) -> Result<PathBuf, String> {
    let path = Path::new(target);
    if !path.is_absolute() {
        return Err(format!("{target:?} in the container is not absolute"));
    }
    // By the words alone: links are the runtime's business.
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                clean.pop();
            }
            other => clean.push(other),
        }
    }
    if clean == Path::new("/") {
        return Err("it would hide the whole root of the container".to_owned());
    }
    Ok(clean)
}

/// `--mount type=bind|tmpfs,source=…,target=…[,readonly]`. A missing source is an error.
pub(super) fn mount(text: &str) -> Result<Volume> {
    let usage = "as in --mount type=bind,source=/srv,target=/data,readonly";
    let wrong = |what: String| wrong("--mount", text, &what, usage);
    let (mut kind, mut source, mut target) = ("volume", None, None);
    let (mut read_only, mut propagation, mut data) = (false, "rprivate", Vec::new());
    let fields = fields(text).map_err(wrong)?;
    for field in &fields {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (field.as_str(), None),
        };
        match (key, value) {
            ("type", Some(value)) => kind = value,
            ("source" | "src", Some(value)) => source = Some(value),
            ("target" | "dst" | "destination", Some(value)) => target = Some(value),
            ("readonly" | "ro", None | Some("true" | "1")) => read_only = true,
            ("readonly" | "ro", Some("false" | "0")) => read_only = false,
            ("bind-propagation", Some(value)) => propagation = value,
            ("tmpfs-size", Some(value)) => {
                let size = values::bytes(value).map_err(|why| wrong(format!("{field}: {why}")))?;
                data.push(format!("size={}", size.count));
            }
            ("tmpfs-mode", Some(value)) => match u32::from_str_radix(value, 8) {
                Ok(0..=0o7777) => data.push(format!("mode={value}")),
                _ => return Err(wrong(format!("{field}: it is octal, such as 1777"))),
            },
            ("consistency", Some(_)) => {}
            _ => return Err(wrong(format!("unknown field {field:?}"))),
        }
    }
    let target = target.ok_or_else(|| wrong("target= is missing".into()))?;
    let target = checked_target(target).map_err(wrong)?;
    let ro = if read_only { "ro" } else { "rw" };
    match (kind, source) {
        ("bind", Some(source)) => {
            let kinds = [
                "shared", "rshared", "slave", "rslave", "private", "rprivate",
            ];
            if !kinds.contains(&propagation) {
                return Err(wrong(format!("unknown bind-propagation {propagation:?}")));
            }
            if !Path::new(source).is_absolute() {
                return Err(wrong(format!("source {source:?} is not absolute")));
            }
            if !Path::new(source).exists() {
                let error = anyhow!("--mount: the source {source} does not exist");
                let hint = "make it first, or use -v, which makes directories";
                return Err(with_exit_code(with_hint(error, hint), 125));
            }
            Ok(Volume {
                spec: json!({
                    "destination": target, "type": "bind", "source": source,
                    "options": ["rbind", ro, propagation],
                }),
                shown: shown("bind", source, &target, read_only, propagation),
                target,
                host_dir: None,
            })
        }
        ("bind", None) => Err(wrong("source= is missing".into())),
        ("tmpfs", None) => {
            data.extend(["nosuid", "nodev", "noexec", ro].map(str::to_owned));
            Ok(tmpfs_at(target, data))
        }
        ("tmpfs", Some(_)) => Err(wrong("a tmpfs has no source".into())),
        ("volume", _) => Err(wrong(
            "volumes are not supported yet; type=bind or tmpfs".into(),
        )),
        _ => Err(wrong(format!("unknown type {kind:?}; bind or tmpfs"))),
    }
}

/// The fields of a line of comma-separated values. One in double quotes may hold commas; two double
/// quotes stand for one there.
fn fields(text: &str) -> Result<Vec<String>, String> {
    let mut fields = Vec::new();
    let mut field = String::new();
    let mut chars = text.chars().peekable();
    loop {
        match chars.next() {
            Some('"') if field.is_empty() => loop {
                match chars.next() {
                    Some('"') if chars.next_if_eq(&'"').is_none() => break,
                    Some(c) => field.push(c),
                    None => return Err("a quote is not closed".to_owned()),
                }
            },
            Some(',') => fields.push(std::mem::take(&mut field)),
            Some(c) => field.push(c),
            None => break,
        }
    }
    fields.push(field);
    Ok(fields)
}

/// `--tmpfs PATH[:OPTIONS]`, with Docker's defaults.
pub(super) fn tmpfs(text: &str) -> Result<Volume> {
    let (target, options) = text.split_once(':').unwrap_or((text, ""));
    let target = checked_target(target)
        .map_err(|what| wrong("--tmpfs", text, &what, "as in --tmpfs /run:size=64m"))?;
    let mut all: Vec<String> = ["rw", "nosuid", "nodev", "noexec"]
        .map(str::to_owned)
        .into();
    let given = options.split(',').filter(|option| !option.is_empty());
    all.extend(given.map(str::to_owned));
    Ok(tmpfs_at(target, all))
}

fn tmpfs_at(target: PathBuf, options: Vec<String>) -> Volume {
    let read_only = options.iter().any(|option| option == "ro");
    Volume {
        shown: shown("tmpfs", "", &target, read_only, ""),
        spec: json!({
            "destination": target, "type": "tmpfs", "source": "tmpfs", "options": options,
        }),
        target,
        host_dir: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::message;

    #[test]
    fn volumes() {
        let one = volume("/a:/b/../c:ro").unwrap();
        assert_eq!(one.target, Path::new("/c"));
        assert_eq!(one.spec["options"], json!(["rbind", "ro", "rprivate"]));
        assert_eq!(one.shown["RW"], json!(false));
        assert!(volume("./x:/b").unwrap().host_dir.unwrap().is_absolute());
        for text in [
            "",
            ":",
            ":/to",
            "/from:",
            "/a:/b:/c",
            "/a:/b:rox",
            "/a:rel",
            "/a:/",
            "/x",
            "n:/x",
        ] {
            let error = volume(text).unwrap_err();
            assert!(message(&error).contains("-v"), "{text}");
        }
        assert!(message(&volume("/x").unwrap_err()).contains(USAGE));
    }

    #[test]
    fn mounts() {
        let bind = mount("type=bind,src=/,dst=/b,readonly").unwrap();
        assert_eq!(bind.spec["options"], json!(["rbind", "ro", "rprivate"]));
        for text in [
            "type=nosuch,dst=/b",
            "src=/a",
            "type=bind,src=/,dst=rel",
            "nonsense",
            "type=bind,src=/nosuch,dst=/b",
            "type=bind,\"src=/,dst=/b",
            "type=tmpfs,dst=/b,tmpfs-size=1x",
            "type=tmpfs,dst=/b,tmpfs-mode=9",
        ] {
            assert!(
                message(&mount(text).unwrap_err()).contains("--mount"),
                "{text}"
            );
        }
        let quoted = fields(r#"type=bind,"src=/a,b""c",dst=/d"#).unwrap();
        assert_eq!(quoted, ["type=bind", "src=/a,b\"c", "dst=/d"]);
    }
}

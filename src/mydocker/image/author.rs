//! Writing an image configuration: a new one, one more layer on another, and Dockerfile
//! instructions applied to it (`import -c`, `commit -c`).

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::error::ResultExt;
use crate::linux::signals;
use crate::mydocker::platform::Platform;
use crate::mydocker::values;
use crate::mydocker::words::{self, Variables};

/// The instructions that change a configuration.
const KNOWN: &str =
    "CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME, WORKDIR";

/// What a new layer's history says.
#[derive(Debug, Default)]
pub(super) struct Note<'a> {
    pub(super) created_by: &'a str,
    pub(super) message: Option<&'a str>,
    pub(super) author: Option<&'a str>,
}

/// A configuration without layers for the machine it is made on.
pub(in crate::mydocker) fn blank() -> Value {
    json!({
        "architecture": Platform::of_machine().architecture,
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": []},
        "history": [],
    })
}

/// Adds a layer and its history.
pub(super) fn add_layer(
    image: &mut Value,
    diff_id: &str,
    created: OffsetDateTime,
    note: &Note<'_>,
) -> Result<()> {
    let created = created.format(&Rfc3339).context("write the time")?;
    let mut history = json!({"created": created, "created_by": note.created_by});
    if let Some(message) = note.message {
        history["comment"] = json!(message);
    }
    if let Some(author) = note.author {
        history["author"] = json!(author);
        image["author"] = json!(author);
    }
    image["created"] = json!(created);
    push(&mut image["history"], history);
    push(&mut image["rootfs"]["diff_ids"], json!(diff_id));
    Ok(())
}

/// Adds a step of a build to the history, with its layer if it has made one.
pub(in crate::mydocker) fn add_step(
    image: &mut Value,
    created: &str,
    created_by: &str,
    layer: Option<&str>,
) {
    let mut history = json!({"created": created, "created_by": created_by});
    match layer {
        Some(digest) => push(&mut image["rootfs"]["diff_ids"], json!(digest)),
        None => history["empty_layer"] = json!(true),
    }
    image["created"] = json!(created);
    push(&mut image["history"], history);
}

fn push(list: &mut Value, item: Value) {
    match list {
        Value::Array(items) => items.push(item),
        other => *other = json!([item]),
    }
}

/// A change of a configuration, as an instruction of a Dockerfile makes it: the values are final.
#[derive(Debug, Clone)]
pub(in crate::mydocker) enum Setting {
    Cmd(Vec<String>),
    Entrypoint(Vec<String>),
    Env(Vec<(String, String)>),
    Label(Vec<(String, String)>),
    /// `80`, `53/udp`, `8000-8010`
    Expose(Vec<String>),
    Volume(Vec<String>),
    User(String),
    /// Relative to the one before, if it is.
    Workdir(String),
    StopSignal(String),
    Shell(Vec<String>),
    /// From [`health`].
    Healthcheck(Value),
    OnBuild(String),
}

/// Applies Dockerfile instructions, one a line, as if they were a Dockerfile's.
pub(super) fn apply(image: &mut Value, lines: &[String]) -> Result<()> {
    let mut cmd = None;
    for line in lines {
        let text = line.trim();
        let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let env: Vec<String> =
            serde_json::from_value(image["config"]["Env"].clone()).unwrap_or_default();
        let lookup = |name: &str| {
            let mut values = env.iter().filter_map(|line| line.strip_prefix(name));
            values.find_map(|rest| rest.strip_prefix('=').map(str::to_owned))
        };
        let with = Variables::new('\\', &lookup);
        instruction(&word.to_ascii_uppercase(), rest.trim(), &with)
            .and_then(|setting| {
                if let Setting::Cmd(words) = &setting {
                    cmd = Some(words.clone());
                }
                set(image, setting)
            })
            .with_context(|| format!("invalid change {line:?}"))
            .hint(format!("a change is one Dockerfile instruction: {KNOWN}"))?;
    }
    // One that stands before its entry point is meant as much.
    match cmd {
        Some(words) => set(image, Setting::Cmd(words)),
        None => Ok(()),
    }
}

/// What an instruction says, with its variables replaced: those of the environment, as in a build.
fn instruction(word: &str, rest: &str, with: &Variables<'_>) -> Result<Setting> {
    if rest.is_empty() {
        bail!("{word:?} needs a value");
    }
    let single = || single(rest, with);
    let pairs = || pairs(rest, with);
    let words = || words(rest, with);
    Ok(match word {
        "CMD" => Setting::Cmd(command(rest)),
        "ENTRYPOINT" => Setting::Entrypoint(command(rest)),
        "USER" => Setting::User(single()?),
        "STOPSIGNAL" => Setting::StopSignal(single()?),
        "WORKDIR" => Setting::Workdir(single()?),
        "ENV" => Setting::Env(pairs()?),
        "LABEL" => Setting::Label(pairs()?),
        "EXPOSE" => Setting::Expose(words()?),
        "VOLUME" => Setting::Volume(json_list(rest).map_or_else(words, Ok)?),
        "ONBUILD" => Setting::OnBuild(rest.to_owned()),
        "HEALTHCHECK" => Setting::Healthcheck(health(rest)?),
        _ => bail!("{word:?} is not an instruction that can be applied here"),
    })
}

/// Changes the configuration of an image.
pub(in crate::mydocker) fn set(image: &mut Value, setting: Setting) -> Result<()> {
    if !image["config"].is_object() {
        image["config"] = json!({});
    }
    let Some(config) = image["config"].as_object_mut() else {
        bail!("the image configuration is not an object");
    };
    let mut put = |key: &str, value: Value| drop(config.insert(key.to_owned(), value));
    match setting {
        Setting::Cmd(words) => put("Cmd", json!(words)),
        Setting::Entrypoint(words) => {
            put("Entrypoint", json!(words));
            // The image's command belonged to the entry point that was.
            config.remove("Cmd");
        }
        Setting::User(user) => put("User", json!(user)),
        Setting::StopSignal(signal) => match signals::parse(&signal) {
            // Kept as it is written, once it is known to be one.
            Some(_) => put("StopSignal", json!(signal)),
            None => bail!("unknown signal {signal:?}"),
        },
        Setting::Workdir(dir) => {
            let dir = workdir(config, &dir);
            config.insert("WorkingDir".into(), json!(dir));
        }
        Setting::Env(pairs) => {
            for (key, value) in pairs {
                set_env(config, &key, &value);
            }
        }
        Setting::Label(pairs) => {
            let labels = object(config, "Labels");
            labels.extend(pairs.into_iter().map(|(key, value)| (key, json!(value))));
        }
        Setting::Expose(words) => {
            let ports = object(config, "ExposedPorts");
            for word in words {
                ports.extend(ports_of(&word)?.into_iter().map(|port| (port, json!({}))));
            }
        }
        Setting::Volume(dirs) => {
            let volumes = object(config, "Volumes");
            for dir in dirs {
                anyhow::ensure!(!dir.is_empty(), "the name of a volume's directory is empty");
                volumes.insert(dir, json!({}));
            }
        }
        Setting::OnBuild(text) => push(
            config.entry("OnBuild").or_insert_with(|| json!([])),
            json!(text),
        ),
        Setting::Shell(words) => put("Shell", json!(words)),
        Setting::Healthcheck(health) => put("Healthcheck", health),
    }
    Ok(())
}

/// The directory that `dir` is, seen from the configuration's own. By the words alone.
fn workdir(config: &Map<String, Value>, dir: &str) -> String {
    let old = config.get("WorkingDir").and_then(Value::as_str);
    let old = old.filter(|old| !old.is_empty()).unwrap_or("/");
    let mut clean = std::path::PathBuf::from("/");
    for part in std::path::Path::new(old).join(dir).components() {
        match part {
            std::path::Component::Normal(name) => clean.push(name),
            std::path::Component::ParentDir => drop(clean.pop()),
            _ => {}
        }
    }
    clean.to_string_lossy().into_owned()
}

fn object<'a>(config: &'a mut Map<String, Value>, key: &str) -> &'a mut Map<String, Value> {
    if !config.get(key).is_some_and(Value::is_object) {
        config.insert(key.to_owned(), json!({}));
    }
    match config.get_mut(key) {
        Some(Value::Object(map)) => map,
        _ => unreachable!("it was just made an object"),
    }
}

fn set_env(config: &mut Map<String, Value>, key: &str, value: &str) {
    let env = config.entry("Env").or_insert_with(|| json!([]));
    let line = json!(format!("{key}={value}"));
    let prefix = format!("{key}=");
    if let Value::Array(lines) = env {
        let is_it = |l: &&mut Value| l.as_str().is_some_and(|l| l.starts_with(&prefix));
        match lines.iter_mut().find(is_it) {
            Some(old) => *old = line,
            None => lines.push(line),
        }
    } else {
        *env = json!([line]);
    }
}

/// `["a", "b"]` is a command, anything else a line for the shell.
fn command(text: &str) -> Vec<String> {
    json_list(text).unwrap_or_else(|| ["/bin/sh", "-c", text].map(str::to_owned).to_vec())
}

fn json_list(text: &str) -> Option<Vec<String>> {
    serde_json::from_str(text).ok()
}

fn single(text: &str, with: &Variables<'_>) -> Result<String> {
    let mut all = words(text, with)?;
    match (all.pop(), all.is_empty()) {
        (Some(word), true) => Ok(word),
        _ => bail!("{text:?} is not one word"),
    }
}

/// `a=1 b="x y"`, or the old form `a 1`.
fn pairs(text: &str, with: &Variables<'_>) -> Result<Vec<(String, String)>> {
    let all = words(text, with)?;
    if !all.first().is_some_and(|word| word.contains('=')) {
        let (key, value) = text
            .split_once(char::is_whitespace)
            .context("it needs NAME=VALUE")?;
        return Ok(vec![(key.to_owned(), with.word(value.trim())?)]);
    }
    all.iter()
        .map(|word| match word.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
            _ => bail!("{word:?} is not NAME=VALUE"),
        })
        .collect()
}

/// The words of a line, without their quotes.
fn words(text: &str, with: &Variables<'_>) -> Result<Vec<String>> {
    let words = words::split(text, '\\')?.into_iter();
    words.map(|word| with.word(word)).collect()
}

/// `80`, `53/udp`, `8000-8010`, as the keys of `ExposedPorts`.
pub(in crate::mydocker) fn ports_of(word: &str) -> Result<Vec<String>> {
    let (ports, protocol) = word.split_once('/').unwrap_or((word, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let number = |text: &str| text.parse::<u16>().ok().filter(|&port| port > 0);
    match (number(first), number(last), protocol.as_str()) {
        (Some(first), Some(last), "tcp" | "udp" | "sctp") if first <= last => Ok((first..=last)
            .map(|port| format!("{port}/{protocol}"))
            .collect()),
        _ => bail!("{word:?} is not PORT[-PORT][/tcp|udp|sctp]"),
    }
}

/// `NONE`, or `[--interval=30s] … CMD command`, in Docker's form: times in nanoseconds.
pub(in crate::mydocker) fn health(text: &str) -> Result<Value> {
    if text.eq_ignore_ascii_case("none") {
        return Ok(json!({"Test": ["NONE"]}));
    }
    let mut health = json!({});
    let mut rest = text;
    while rest.starts_with("--") {
        let (flag, after) = rest
            .split_once(char::is_whitespace)
            .context("CMD is missing")?;
        let (key, value) = flag[2..].split_once('=').context("a flag needs a value")?;
        let time = || -> Result<u64> {
            let time = values::pause(value).map_err(|why| anyhow!("--{key}={value}: {why}"))?;
            u64::try_from(time.as_nanos()).with_context(|| format!("--{key}={value}: too long"))
        };
        match key {
            "interval" => health["Interval"] = json!(time()?),
            "timeout" => health["Timeout"] = json!(time()?),
            "start-period" => health["StartPeriod"] = json!(time()?),
            "start-interval" => health["StartInterval"] = json!(time()?),
            "retries" => health["Retries"] = json!(value.parse::<u32>().context("retries")?),
            other => bail!("unknown flag --{other}"),
        }
        rest = after.trim_start();
    }
    let (word, rest) = rest
        .split_once(char::is_whitespace)
        .context("CMD needs a command")?;
    anyhow::ensure!(word.eq_ignore_ascii_case("cmd"), "it must be NONE or CMD");
    health["Test"] = match json_list(rest.trim()) {
        Some(words) => {
            json!(
                std::iter::once("CMD".to_owned())
                    .chain(words)
                    .collect::<Vec<_>>()
            )
        }
        None => json!(["CMD-SHELL", rest.trim()]),
    };
    Ok(health)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_change_the_configuration() {
        let mut image = blank();
        for line in [
            "ENV PATH=/sbin",
            "ENV PATH=/bin:$PATH a=\"x y\" b='$PATH'",
            "env a z",
            "CMD [\"sh\"]",
            "ENTRYPOINT echo hi",
            "WORKDIR /a",
            "WORKDIR b",
            "USER nobody:nogroup",
            "EXPOSE 80 53/udp 8000-8001",
            "VOLUME [\"/v\", \"/w\"]",
            "VOLUME /x",
            "LABEL k=v \"l\"='m n'",
            "STOPSIGNAL SIGINT",
            "HEALTHCHECK --interval=1m30s --retries=2 CMD true",
        ] {
            apply(&mut image, &[line.to_owned()]).unwrap();
        }
        assert_eq!(
            image["config"],
            json!({
                "Env": ["PATH=/bin:/sbin", "a=z", "b=$PATH"],
                "Entrypoint": ["/bin/sh", "-c", "echo hi"],
                "WorkingDir": "/a/b",
                "User": "nobody:nogroup",
                "ExposedPorts": {"80/tcp": {}, "53/udp": {}, "8000/tcp": {}, "8001/tcp": {}},
                "Volumes": {"/v": {}, "/w": {}, "/x": {}},
                "Labels": {"k": "v", "l": "m n"},
                "StopSignal": "SIGINT",
                "Healthcheck": {"Test": ["CMD-SHELL", "true"], "Interval": 90_000_000_000u64, "Retries": 2},
            })
        );
    }

    #[test]
    fn bad_instructions_are_refused() {
        for line in [
            "",
            "CMD",
            "RUN ls",
            "ENV a",
            "ENV =b",
            "EXPOSE x",
            "USER a b",
            "ENV a='b",
            "STOPSIGNAL 999",
            "STOPSIGNAL NOPE",
        ] {
            let lines = [line.to_owned()];
            assert!(apply(&mut blank(), &lines).is_err(), "{line}");
        }
    }

    #[test]
    fn an_entry_point_takes_only_the_command_of_before() {
        let mut image = blank();
        let mut change = |lines: &[&str]| {
            let lines: Vec<String> = lines.iter().map(|&line| line.to_owned()).collect();
            apply(&mut image, &lines).unwrap();
            image["config"]["Cmd"].clone()
        };
        let cmd = change(&["CMD [\"a\"]", "ENTRYPOINT [\"b\"]"]);
        assert_eq!(cmd, json!(["a"]));
        assert_eq!(change(&["ENTRYPOINT [\"c\"]"]), Value::Null);
    }
}

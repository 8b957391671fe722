//! What instructions change of an image's configuration: those of a Dockerfile, and those of
//! `commit -c` and `import -c`.

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Map, Value, json};

use super::instruction::{Command, Instruction};
use super::lines;
use super::words::Variables;
use crate::error::ResultExt;
use crate::linux::signals;

/// The instructions that may be applied alone.
const ALONE: &str =
    "CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME, WORKDIR";

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

impl Setting {
    /// What an instruction sets, with its variables replaced. `shell` is before a line that is for a
    /// shell. `None`: it changes files, or begins a stage, or names variables or the author.
    pub(in crate::mydocker) fn of(
        instruction: &Instruction,
        with: &Variables<'_>,
        shell: &[String],
    ) -> Result<Option<Setting>> {
        let word = |text: &String| with.word(text);
        let pairs = |pairs: &[(String, String)]| -> Result<Vec<(String, String)>> {
            let each = |(name, value): &(String, String)| Ok((word(name)?, word(value)?));
            pairs.iter().map(each).collect()
        };
        Ok(Some(match instruction {
            Instruction::Cmd(command) => Setting::Cmd(command.words(shell)),
            Instruction::Entrypoint(command) => Setting::Entrypoint(command.words(shell)),
            Instruction::Env(all) => Setting::Env(pairs(all)?),
            Instruction::Label(all) => Setting::Label(pairs(all)?),
            Instruction::Expose(text) => Setting::Expose(with.words(text)?),
            Instruction::Volume(all) => {
                Setting::Volume(all.iter().map(word).collect::<Result<_>>()?)
            }
            Instruction::User(text) => Setting::User(word(text)?),
            Instruction::Workdir(text) => Setting::Workdir(word(text)?),
            Instruction::StopSignal(text) => Setting::StopSignal(word(text)?),
            Instruction::Shell(words) => Setting::Shell(words.clone()),
            Instruction::Healthcheck(value) => Setting::Healthcheck(value.clone()),
            Instruction::OnBuild(text) => Setting::OnBuild(text.clone()),
            Instruction::From(_)
            | Instruction::Arg(_)
            | Instruction::Run(_)
            | Instruction::Copy(_)
            | Instruction::Maintainer(_) => return Ok(None),
        }))
    }
}

impl Command {
    /// The words of the program.
    pub(in crate::mydocker) fn words(&self, shell: &[String]) -> Vec<String> {
        match self {
            Command::Exec(words) => words.clone(),
            Command::Shell(line) => [shell, std::slice::from_ref(line)].concat(),
        }
    }
}

/// What a line for the shell is behind, in this image.
pub(in crate::mydocker) fn shell(image: &Value) -> Vec<String> {
    match strings(&image["config"]["Shell"]) {
        words if words.is_empty() => ["/bin/sh", "-c"].map(str::to_owned).to_vec(),
        words => words,
    }
}

/// A variable of an image's environment.
pub(in crate::mydocker) fn variable(image: &Value, name: &str) -> Option<String> {
    let env = strings(&image["config"]["Env"]);
    let mut values = env.iter().filter_map(|line| line.strip_prefix(name));
    values.find_map(|rest| rest.strip_prefix('=').map(str::to_owned))
}

/// A list of an image's configuration.
pub(in crate::mydocker) fn strings(list: &Value) -> Vec<String> {
    serde_json::from_value(list.clone()).unwrap_or_default()
}

/// Applies instructions, which together are a Dockerfile without FROM.
pub(in crate::mydocker) fn apply(image: &mut Value, texts: &[String]) -> Result<()> {
    let file = lines::parse(&texts.join("\n")).context("invalid change")?;
    if !texts.is_empty() && file.lines.is_empty() {
        return Err(anyhow!("invalid change {:?}", texts.join(" "))).hint(known());
    }
    let mut settings = Settings::default();
    for line in &file.lines {
        let read = || -> Result<Setting> {
            let instruction = Instruction::read(line, file.escape)?;
            let lookup = |name: &str| variable(image, name);
            let with = Variables::new(file.escape, &lookup);
            match Setting::of(&instruction, &with, &shell(image))? {
                None | Some(Setting::Shell(_)) => {
                    bail!("{} cannot be applied here", line.keyword)
                }
                Some(setting) => Ok(setting),
            }
        };
        read()
            .and_then(|setting| settings.apply(image, setting))
            .with_context(|| format!("invalid change {:?}", line.text))
            .hint(known())?;
    }
    Ok(())
}

fn known() -> String {
    format!("a change is one Dockerfile instruction: {ALONE}")
}

/// Settings that belong together, one after the other.
#[derive(Debug, Default)]
pub(in crate::mydocker) struct Settings {
    cmd_is_set: bool,
}

impl Settings {
    /// The image's command belonged to its entry point: with another one it goes, unless it is one of
    /// these settings.
    pub(in crate::mydocker) fn apply(&mut self, image: &mut Value, setting: Setting) -> Result<()> {
        self.cmd_is_set |= matches!(setting, Setting::Cmd(_));
        let is_entry_point = matches!(setting, Setting::Entrypoint(_));
        set(image, setting)?;
        if is_entry_point
            && !self.cmd_is_set
            && let Some(config) = image["config"].as_object_mut()
        {
            config.remove("Cmd");
        }
        Ok(())
    }
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
        Setting::Entrypoint(words) => put("Entrypoint", json!(words)),
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

/// Adds to a list, which is made if it is missing.
pub(in crate::mydocker) fn push(list: &mut Value, item: Value) {
    match list {
        Value::Array(items) => items.push(item),
        other => *other = json!([item]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mydocker::image::author::blank;

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
            "ENV x=/x",
            "VOLUME $x",
            "ENV p=53",
            "EXPOSE $p/tcp",
            "ONBUILD RUN ls",
            "LABEL k=v \"l\"='m n'",
            "STOPSIGNAL SIGINT",
            "HEALTHCHECK --interval=1m30s --retries=2 CMD true",
        ] {
            apply(&mut image, &[line.to_owned()]).unwrap();
        }
        assert_eq!(
            image["config"],
            json!({
                "Env": ["PATH=/bin:/sbin", "a=z", "b=$PATH", "x=/x", "p=53"],
                "Entrypoint": ["/bin/sh", "-c", "echo hi"],
                "WorkingDir": "/a/b",
                "User": "nobody:nogroup",
                "ExposedPorts": {
                    "80/tcp": {}, "53/tcp": {}, "53/udp": {}, "8000/tcp": {}, "8001/tcp": {},
                },
                "OnBuild": ["RUN ls"],
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
            "RUN ls",
            "ARG a",
            "SHELL [\"/bin/ash\", \"-c\"]",
            "ONBUILD FROM a",
            "ONBUILD NOSUCH a",
            "VOLUME ''",
            "USER --x a",
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

    #[test]
    fn a_line_is_for_the_shell_of_the_image() {
        let mut image = blank();
        image["config"]["Shell"] = json!(["/bin/ash", "-ec"]);
        apply(&mut image, &["CMD echo hi\nENTRYPOINT".to_owned()]).unwrap();
        let config = &image["config"];
        assert_eq!(config["Cmd"], json!(["/bin/ash", "-ec", "echo hi"]));
        assert_eq!(config["Entrypoint"], json!([]));
    }
}

//! What the lines of a Dockerfile mean. Variables are still in it: their values are known when it is
//! carried out.

use super::lines::{self, Flag, Heredoc, Line};
use super::words;
use crate::error::ResultExt;
use crate::mydocker::values;
use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::{Value, json};

/// An instruction.
#[derive(Debug, Clone)]
pub(in crate::mydocker) enum Instruction {
    From(From),
    /// Names, and their defaults.
    Arg(Vec<(String, Option<String>)>),
    Run(Run),
    /// COPY and ADD.
    Copy(Copy),
    Env(Vec<(String, String)>),
    Label(Vec<(String, String)>),
    Expose(String),
    Volume(Vec<String>),
    User(String),
    Workdir(String),
    StopSignal(String),
    Cmd(Command),
    Entrypoint(Command),
    Shell(Vec<String>),
    /// As the image's configuration has it.
    Healthcheck(Value),
    OnBuild(String),
    Maintainer(String),
}

/// Where a stage begins.
#[derive(Debug, Clone)]
pub(in crate::mydocker) struct From {
    pub(in crate::mydocker) image: String,
    /// In small letters.
    pub(in crate::mydocker) name: Option<String>,
    pub(in crate::mydocker) platform: Option<String>,
}

/// A program with its arguments, or a line for the shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::mydocker) enum Command {
    Exec(Vec<String>),
    Shell(String),
}

#[derive(Debug, Clone)]
pub(in crate::mydocker) struct Run {
    pub(in crate::mydocker) command: Command,
    pub(in crate::mydocker) heredocs: Vec<Heredoc>,
    pub(in crate::mydocker) mounts: Vec<String>,
    pub(in crate::mydocker) network: Option<String>,
}

/// COPY, or ADD, which unpacks archives.
#[derive(Debug, Clone, Default)]
pub(in crate::mydocker) struct Copy {
    pub(in crate::mydocker) is_add: bool,
    /// ADD --unpack=false
    pub(in crate::mydocker) keeps_archives: bool,
    pub(in crate::mydocker) sources: Vec<String>,
    pub(in crate::mydocker) heredocs: Vec<Heredoc>,
    pub(in crate::mydocker) to: String,
    pub(in crate::mydocker) from: Option<String>,
    pub(in crate::mydocker) chown: Option<String>,
    pub(in crate::mydocker) chmod: Option<String>,
    pub(in crate::mydocker) exclude: Vec<String>,
}

impl Instruction {
    /// Reads a line.
    pub(in crate::mydocker) fn read(line: &Line, escape: char) -> Result<Instruction> {
        let rest = line.rest.as_str();
        let what = &line.keyword;
        let has_flags = ["FROM", "RUN", "COPY", "ADD", "HEALTHCHECK"].contains(&what.as_str());
        if let (Some(flag), false) = (line.flags.first(), has_flags) {
            return Err(unknown(flag));
        }
        let may_be_empty = ["CMD", "ENTRYPOINT", "SHELL"].contains(&what.as_str());
        ensure!(may_be_empty || !rest.is_empty(), "something must follow");
        Ok(match what.as_str() {
            "FROM" => Instruction::From(from(line)?),
            "ARG" => Instruction::Arg(args(rest, escape)?),
            "RUN" => Instruction::Run(run(line)?),
            "COPY" | "ADD" => Instruction::Copy(copy(line, escape)?),
            "ENV" => Instruction::Env(pairs(rest, escape)?),
            "LABEL" => Instruction::Label(pairs(rest, escape)?),
            "EXPOSE" => Instruction::Expose(rest.to_owned()),
            "VOLUME" => Instruction::Volume(list(rest, escape)?),
            "USER" => Instruction::User(single(rest, escape)?),
            "WORKDIR" => Instruction::Workdir(rest.to_owned()),
            "STOPSIGNAL" => Instruction::StopSignal(single(rest, escape)?),
            "CMD" => Instruction::Cmd(command(rest)),
            "ENTRYPOINT" => Instruction::Entrypoint(command(rest)),
            "SHELL" => match lines::json(rest) {
                Some(words) if !words.is_empty() => Instruction::Shell(words),
                _ => {
                    return Err(anyhow!("it needs a list"))
                        .hint("as in SHELL [\"/bin/sh\", \"-c\"]");
                }
            },
            "HEALTHCHECK" => Instruction::Healthcheck(health(&with_flags(line))?),
            "ONBUILD" => Instruction::OnBuild(trigger(&with_flags(line), escape)?),
            "MAINTAINER" => Instruction::Maintainer(rest.to_owned()),
            _ => {
                return Err(anyhow!("there is no such instruction")).hint(format!(
                    "a line that continues another one follows a {escape} at the end of that"
                ));
            }
        })
    }
}

fn unknown(flag: &Flag) -> anyhow::Error {
    anyhow!("unknown flag --{}", flag.name)
}

/// Flags and arguments in one text again.
fn with_flags(line: &Line) -> String {
    let mut text = String::new();
    for Flag { name, value } in &line.flags {
        text += &match value {
            Some(value) => format!("--{name}={value} "),
            None => format!("--{name} "),
        };
    }
    text + &line.rest
}

fn value_of(flag: &Flag) -> Result<String> {
    let value = flag.value.clone().filter(|value| !value.is_empty());
    value.with_context(|| format!("--{} needs a value", flag.name))
}

fn switch(flag: &Flag) -> Result<bool> {
    match flag.value.as_deref() {
        None | Some("true" | "1") => Ok(true),
        Some("false" | "0") => Ok(false),
        Some(other) => bail!("--{}={other}: it is true or false", flag.name),
    }
}

fn single(text: &str, escape: char) -> Result<String> {
    match words::split(text, escape)?.as_slice() {
        [_] => Ok(text.to_owned()),
        _ => bail!("{text:?} is not one word"),
    }
}

fn from(line: &Line) -> Result<From> {
    let mut platform = None;
    for flag in &line.flags {
        match flag.name.as_str() {
            "platform" => platform = Some(value_of(flag)?),
            _ => return Err(unknown(flag)),
        }
    }
    let words: Vec<&str> = line.rest.split_whitespace().collect();
    let name = match words.as_slice() {
        [_] => None,
        [_, r#as, name] if r#as.eq_ignore_ascii_case("as") => Some(name.to_ascii_lowercase()),
        _ => return Err(anyhow!("it is not IMAGE [AS NAME]")).hint("as in FROM busybox AS build"),
    };
    if let Some(name) = &name {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
        let begins = name.starts_with(|c: char| c.is_ascii_lowercase());
        ensure!(
            begins && name.chars().all(fits),
            "{name:?} is not the name of a stage: letters, digits, - _ and ., a letter first"
        );
    }
    Ok(From {
        image: words[0].to_owned(),
        name,
        platform,
    })
}

fn args(text: &str, escape: char) -> Result<Vec<(String, Option<String>)>> {
    let each = |word: &str| match word.split_once('=') {
        Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
        None => (word.to_owned(), None),
    };
    let args: Vec<_> = words::split(text, escape)?.into_iter().map(each).collect();
    for (name, _) in &args {
        ensure!(!name.is_empty(), "a name is empty");
    }
    Ok(args)
}

/// `a=1 b="x y"`, or the old form `a 1`.
fn pairs(text: &str, escape: char) -> Result<Vec<(String, String)>> {
    let words = words::split(text, escape)?;
    if !words.first().is_some_and(|word| word.contains('=')) {
        let (name, value) = text
            .split_once(char::is_whitespace)
            .context("it needs NAME=VALUE")?;
        return Ok(vec![(name.to_owned(), value.trim().to_owned())]);
    }
    words
        .iter()
        .map(|word| match word.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
            _ => Err(anyhow!("{word:?} is not NAME=VALUE"))
                .hint("a value with blanks stands in quotes"),
        })
        .collect()
}

/// A JSON list, or words.
fn list(text: &str, escape: char) -> Result<Vec<String>> {
    match lines::json(text) {
        Some(list) => Ok(list),
        None => Ok(words::split(text, escape)?
            .into_iter()
            .map(str::to_owned)
            .collect()),
    }
}

fn command(text: &str) -> Command {
    match lines::json(text) {
        // There is to be none.
        None if text.is_empty() => Command::Exec(Vec::new()),
        Some(words) => Command::Exec(words),
        None => Command::Shell(text.to_owned()),
    }
}

fn run(line: &Line) -> Result<Run> {
    let mut run = Run {
        command: command(&line.rest),
        heredocs: line.heredocs.clone(),
        mounts: Vec::new(),
        network: None,
    };
    for flag in &line.flags {
        match (flag.name.as_str(), flag.value.as_deref()) {
            ("mount", _) => run.mounts.push(value_of(flag)?),
            ("network", Some("default")) => {}
            ("network", Some("none" | "host")) => run.network = flag.value.clone(),
            ("network", _) => bail!("--network is default, none or host"),
            ("security", Some("sandbox")) => {}
            ("security" | "device", _) => {
                return Err(anyhow!("--{}: not supported", flag.name))
                    .hint("what a build runs has no rights that a container has not");
            }
            _ => return Err(unknown(flag)),
        }
    }
    if run.command == Command::Exec(Vec::new()) {
        bail!("the list is empty");
    }
    Ok(run)
}

fn copy(line: &Line, escape: char) -> Result<Copy> {
    let is_add = line.keyword == "ADD";
    let mut copy = Copy {
        is_add,
        heredocs: line.heredocs.clone(),
        ..Copy::default()
    };
    for flag in &line.flags {
        match flag.name.as_str() {
            "from" if !is_add => copy.from = Some(value_of(flag)?),
            "chown" => copy.chown = Some(value_of(flag)?),
            "chmod" => copy.chmod = Some(value_of(flag)?),
            "exclude" => copy.exclude.push(value_of(flag)?),
            // How layers are shared is no different here.
            "link" => drop(switch(flag)?),
            "unpack" if is_add => copy.keeps_archives = !switch(flag)?,
            "parents" | "checksum" | "keep-git-dir" => {
                return Err(anyhow!("--{}: not supported yet", flag.name)).hint("leave it out");
            }
            _ => return Err(unknown(flag)),
        }
    }
    let mut words = list(&line.rest, escape)?;
    let is_path = |word: &String| lines::heredoc(word).is_none();
    copy.to = words.pop().filter(is_path).unwrap_or_default();
    copy.sources = words;
    if !copy.heredocs.is_empty() {
        copy.sources.retain(is_path);
    }
    if copy.to.is_empty() || copy.sources.len() + copy.heredocs.len() == 0 {
        let usage = format!("as in {} FROM... TO", line.keyword);
        return Err(anyhow!("it needs a source and a destination")).hint(usage);
    }
    Ok(copy)
}

/// `NONE`, or `[--interval=30s] … CMD command`, in Docker's form: times in nanoseconds.
fn health(text: &str) -> Result<Value> {
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
    health["Test"] = match lines::json(rest.trim()) {
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

/// An instruction for those who build on the image. It is checked now.
fn trigger(text: &str, escape: char) -> Result<String> {
    let line = lines::parse_line(text)?;
    if ["ONBUILD", "FROM", "MAINTAINER"].contains(&line.keyword.as_str()) {
        bail!("{} cannot be a trigger", line.keyword);
    }
    Instruction::read(&line, escape).with_context(|| line.keyword.clone())?;
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::message;

    fn read(text: &str) -> Result<Instruction> {
        let file = lines::parse(text)?;
        Instruction::read(&file.lines[0], file.escape)
    }

    #[test]
    fn instructions_are_read() {
        let Ok(Instruction::From(from)) = read("FROM --platform=$P a:$t aS Build") else {
            panic!();
        };
        assert_eq!(
            (from.image.as_str(), from.name.as_deref()),
            ("a:$t", Some("build"))
        );
        assert_eq!(from.platform.as_deref(), Some("$P"));
        let Ok(Instruction::Copy(copy)) = read("COPY --from=x --chmod=755 a <<E b/ /to\nx\nE")
        else {
            panic!();
        };
        assert_eq!((copy.sources.len(), copy.heredocs.len()), (2, 1));
        assert_eq!(
            (copy.to.as_str(), copy.chmod.as_deref()),
            ("/to", Some("755"))
        );
        let Ok(Instruction::Copy(copy)) = read("ADD [\"a b\", \"/c d\"]") else {
            panic!();
        };
        assert_eq!(
            (copy.sources, copy.to.as_str()),
            (vec!["a b".to_owned()], "/c d")
        );
        for (text, shell) in [
            ("RUN [\"a\"]", false),
            ("RUN [\"a\"", true),
            ("RUN a", true),
        ] {
            let Ok(Instruction::Run(run)) = read(text) else {
                panic!("{text}");
            };
            assert_eq!(matches!(run.command, Command::Shell(_)), shell, "{text}");
        }
        let Ok(Instruction::Env(pairs)) = read("ENV a 1 'b'=2") else {
            panic!();
        };
        assert_eq!(pairs, [("a".to_owned(), "1 'b'=2".to_owned())]);
        assert!(matches!(read("ONBUILD RUN a"), Ok(Instruction::OnBuild(text)) if text == "RUN a"));
    }

    #[test]
    fn mistakes_are_told() {
        for (text, why) in [
            ("FRON a", "no such instruction"),
            ("FROM a b", "IMAGE [AS NAME]"),
            ("FROM a AS 1x", "name of a stage"),
            ("FROM", "must follow"),
            ("FROM --x a", "unknown flag --x"),
            ("RUN --mount a", "--mount needs a value"),
            ("RUN --network=bridge a", "default, none or host"),
            ("RUN --security=insecure a", "not supported"),
            ("RUN []", "empty"),
            ("ENV a=1 b", "\"b\" is not NAME=VALUE"),
            ("ENV a", "NAME=VALUE"),
            ("COPY a", "source and a destination"),
            ("COPY --checksum=x a b", "--checksum"),
            ("COPY --unpack a b", "unknown flag"),
            ("ADD --from=x a b", "unknown flag"),
            ("COPY --link=x a b", "true or false"),
            ("SHELL sh", "list"),
            ("HEALTHCHECK CMD", "CMD"),
            ("HEALTHCHECK --x=1 CMD a", "--x"),
            ("ONBUILD ONBUILD RUN a", "cannot be a trigger"),
            ("ONBUILD NOSUCH a", "no such instruction"),
            ("USER --x a", "unknown flag"),
            ("ARG =1", "empty"),
            ("ENV a='x", "not closed"),
        ] {
            let error = message(&read(text).unwrap_err());
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}

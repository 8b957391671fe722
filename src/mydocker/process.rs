//! What a container runs: arguments, environment, user, directory.

use super::cli::Run;
use super::ids;
use super::image::{DEFAULT_PATH, Image};
use super::keep_id::KeepId;
use crate::error::{ResultExt, with_exit_code, with_hint};
use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The entrypoint and the command by Docker's rules: an entrypoint on the command line drops the
/// image's command, a command on the command line replaces it. With neither, a shell (D2).
pub(super) fn args(image: &Image, flags: &Run, command: &[String]) -> Vec<String> {
    let args = named(image, flags, command);
    match args.is_empty() {
        true => vec![SHELL.to_owned()],
        false => args,
    }
}

/// An image that names no command is to be given one, unless it has the shell that is run then.
pub(super) fn check_command(
    image: &Image,
    name: &str,
    flags: &Run,
    command: &[String],
) -> Result<()> {
    if !named(image, flags, command).is_empty() || image.holds_command(SHELL) {
        return Ok(());
    }
    let error = anyhow!("the image {name} names no command, and has no {SHELL}");
    let hint = format!("give one: mydocker run {name} PROGRAM");
    Err(with_exit_code(with_hint(error, hint), 125))
}

const SHELL: &str = "sh";

fn named(image: &Image, flags: &Run, command: &[String]) -> Vec<String> {
    let config = image.config.config().as_ref();
    let mut args = match &flags.entrypoint {
        Some(program) if program.is_empty() => Vec::new(),
        Some(program) => vec![program.clone()],
        None => config
            .and_then(|c| c.entrypoint().clone())
            .unwrap_or_default(),
    };
    if !command.is_empty() {
        args.extend_from_slice(command);
    } else if flags.entrypoint.is_none() {
        args.extend(config.and_then(|c| c.cmd().clone()).unwrap_or_default());
    }
    args
}

/// The environment: the image's, then files, then flags; a later one replaces an earlier one.
/// Nothing of the caller's, but for `-e NAME`.
pub(super) fn environment(
    image: &Image,
    flags: &Run,
    hostname: &str,
    caller: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<String>> {
    let mut env = vec![
        format!("PATH={DEFAULT_PATH}"),
        format!("HOSTNAME={hostname}"),
    ];
    if flags.tty {
        env.push("TERM=xterm".to_owned());
    }
    let of_image = image.config.config().as_ref().and_then(|c| c.env().clone());
    for line in of_image.unwrap_or_default() {
        set(&mut env, &line);
    }
    extend(&mut env, &flags.env_file, &flags.env, caller)?;
    Ok(env)
}

/// Adds files of variables, and then single ones, to an environment.
pub(super) fn extend(
    env: &mut Vec<String>,
    files: &[PathBuf],
    single: &[String],
    caller: &dyn Fn(&str) -> Option<String>,
) -> Result<()> {
    for file in files {
        for line in lines(file, "--env-file")? {
            add(env, &line, caller).with_context(|| format!("--env-file {}", file.display()))?;
        }
    }
    for text in single {
        add(env, text, caller)
            .hint("-e NAME=VALUE, or -e NAME for the caller's value")
            .exit_code(125)?;
    }
    Ok(())
}

/// The lines of a file of variables or labels that say something, each with a name.
pub(super) fn lines(file: &Path, flag: &str) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("{flag}: read {}", file.display()))
        .hint("it names a file with lines NAME=VALUE")
        .exit_code(125)?;
    let lines = named_lines(&text)
        .with_context(|| format!("{flag} {}", file.display()))
        .hint("a line is NAME=VALUE, or NAME alone, with nothing before it")
        .exit_code(125)?;
    Ok(lines)
}

fn named_lines(text: &str) -> Result<Vec<String>> {
    // Windows' editors begin a file with this mark.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut named = Vec::new();
    for (at, line) in text.lines().map(str::trim_start).enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let name = line.split('=').next().unwrap_or_default();
        if name.is_empty() {
            bail!("line {}: {line:?} has no name", at + 1);
        }
        if name.contains(char::is_whitespace) {
            bail!("line {}: the name {name:?} contains whitespace", at + 1);
        }
        named.push(line.to_owned());
    }
    Ok(named)
}

fn add(env: &mut Vec<String>, text: &str, caller: &dyn Fn(&str) -> Option<String>) -> Result<()> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (text, caller(text)),
    };
    if name.is_empty() || text.contains('\0') {
        bail!("invalid environment variable {text:?}");
    }
    match value {
        Some(value) => set(env, &format!("{name}={value}")),
        // As Docker: a name without a value anywhere takes the variable away.
        None => env.retain(|line| line.split('=').next() != Some(name)),
    }
    Ok(())
}

fn set(env: &mut Vec<String>, line: &str) {
    let name = line.split('=').next();
    match env.iter_mut().find(|old| old.split('=').next() == name) {
        Some(old) => line.clone_into(old),
        None => env.push(line.to_owned()),
    }
}

/// `NAME=VALUE` or `NAME` as a map.
pub(super) fn map<'a>(lines: impl IntoIterator<Item = &'a String>) -> BTreeMap<String, String> {
    lines
        .into_iter()
        .map(|line| match line.split_once('=') {
            Some((name, value)) => (name.to_owned(), value.to_owned()),
            None => (line.clone(), String::new()),
        })
        .collect()
}

/// Who runs it: `user` of the spec.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct User {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
}

impl User {
    pub(super) fn json(&self) -> Value {
        let mut groups = self.groups.clone();
        if ids::are_single() {
            // Nor may there be any but the one, which every process has.
            groups.retain(|group| *group != self.gid);
        }
        json!({"uid": self.uid, "gid": self.gid, "additionalGids": groups})
    }
}

/// Reads a file of the container's, such as /etc/passwd; nothing if it is not there.
pub(super) type ReadFile<'a> = &'a dyn Fn(&str) -> Result<String>;

/// `USER[:GROUP]`, names or numbers, by the container's /etc/passwd and /etc/group (passwd(5),
/// group(5)). A user by name or number gets the groups that list it, unless a group is given.
pub(super) fn user(text: &str, further: &[String], read: ReadFile<'_>) -> Result<User> {
    let wrong = |what: String| {
        let error = with_hint(
            anyhow!("user {text:?}: {what}"),
            "-u takes a name of the image's /etc/passwd or a number: USER[:GROUP]",
        );
        with_exit_code(error, 125)
    };
    let passwd = read("/etc/passwd")?;
    let group = read("/etc/group")?;
    let (name, group_name) = match text.split_once(':') {
        Some((name, group)) => (name, Some(group)),
        None => (text, None),
    };
    let name = if name.is_empty() { "0" } else { name };
    let number = |text: &str| text.parse::<u32>().ok().filter(|n| *n <= i32::MAX as u32);
    let entry = passwd
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .filter(|fields| fields.len() >= 4)
        .find(|fields| {
            fields[0] == name || number(name).is_some_and(|n| number(fields[2]) == Some(n))
        });
    let mut user = User::default();
    let mut known_as = None;
    match (&entry, number(name)) {
        (Some(fields), _) => {
            user.uid = number(fields[2]).ok_or_else(|| wrong("/etc/passwd is damaged".into()))?;
            user.gid = number(fields[3]).unwrap_or(0);
            known_as = Some(fields[0]);
        }
        (None, Some(uid)) => user.uid = uid,
        (None, None) => return Err(wrong(format!("the image has no user {name:?}"))),
    }
    let gid_of = |name: &str| {
        let by_name = group.lines().find_map(|line| {
            let mut fields = line.split(':');
            (fields.next() == Some(name)).then(|| fields.nth(1).and_then(number))?
        });
        by_name.or_else(|| number(name))
    };
    match group_name.filter(|name| !name.is_empty()) {
        Some(name) => {
            user.gid =
                gid_of(name).ok_or_else(|| wrong(format!("the image has no group {name:?}")))?;
        }
        // With one id there are no groups beside it.
        None if ids::are_single() => {}
        None => user.groups = groups_of(known_as, &group),
    }
    for name in further {
        let gid = gid_of(name).ok_or_else(|| wrong(format!("--group-add: no group {name:?}")))?;
        user.groups.push(gid);
    }
    // Its own is one of them, or a file that is closed to this group would be open to it by another
    // one (CVE-2022-36109).
    user.groups.push(user.gid);
    user.groups.sort_unstable();
    user.groups.dedup();
    Ok(user)
}

impl User {
    /// Fails if the container has no such ids. `text` is how the user was named.
    pub(super) fn checked(self, text: &str, keep: Option<&KeepId>) -> Result<User> {
        let is_there = |uid, gid| match keep {
            Some(keep) => keep.outside((uid, gid)).is_some(),
            None => ids::hold(uid) && ids::hold(gid),
        };
        let ids = self.groups.iter().map(|gid| (self.uid, *gid, *gid));
        let mut ids = std::iter::once((self.uid, self.gid, self.uid)).chain(ids);
        match ids.find(|(uid, gid, _)| !is_there(*uid, *gid)) {
            None => Ok(self),
            Some((_, _, id)) => {
                let error = anyhow!("user {text:?}: the number {id} is not among this user's");
                Err(with_exit_code(with_hint(error, ids::hint()), 125))
            }
        }
    }
}

fn groups_of(user: Option<&str>, group: &str) -> Vec<u32> {
    let Some(user) = user else {
        return Vec::new();
    };
    group
        .lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let members = fields.get(3)?;
            let is_in = members.split(',').any(|member| member == user);
            is_in.then(|| fields[2].parse().ok())?
        })
        .collect()
}

/// An absolute directory of the container.
pub(super) fn directory(flag: &str, path: &str) -> Result<String> {
    if !path.starts_with('/') {
        return Err(anyhow!("{flag}: {path:?} is not absolute"))
            .hint(format!(
                "{flag} takes a path of the container, such as /srv"
            ))
            .exit_code(125);
    }
    Ok(path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &str) -> Result<String> {
        Ok(match path {
            "/etc/passwd" => "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:w:/:/bin/sh\n".into(),
            _ => "root:x:0:\nwheel:x:10:web,root\nwww:x:34:\n".into(),
        })
    }

    #[test]
    fn users_and_groups() {
        let of = |text| {
            let user = user(text, &[], &read).unwrap();
            (user.uid, user.gid, user.groups)
        };
        assert_eq!(of("web"), (33, 34, vec![10, 34]));
        assert_eq!(of("33"), (33, 34, vec![10, 34]));
        assert_eq!(of("web:wheel"), (33, 10, vec![10]));
        assert_eq!(of("1000"), (1000, 0, vec![0]));
        assert_eq!(of("1000:100"), (1000, 100, vec![100]));
        assert_eq!(of(":www"), (0, 34, vec![34]));
        for text in ["nosuch", "0:nosuch", "-1", "99999999999"] {
            assert!(user(text, &[], &read).is_err(), "{text}");
        }
        let more = user("web", &["7".to_owned(), "www".to_owned()], &read).unwrap();
        assert_eq!(more.groups, [7, 10, 34]);
    }

    #[test]
    fn variables_replace_each_other() {
        let caller = |name: &str| (name == "HOST").then(|| "h".to_owned());
        let mut env = vec!["A=1".to_owned(), "B=2".to_owned()];
        let single = ["A=3", "C=x=y", "HOST", "B", "NOSUCH"].map(str::to_owned);
        extend(&mut env, &[], &single, &caller).unwrap();
        assert_eq!(env, ["A=3", "C=x=y", "HOST=h"]);
        assert!(extend(&mut env, &[], &["=x".to_owned()], &caller).is_err());
    }

    #[test]
    fn lines_of_files_have_names() {
        let lines = named_lines("\u{feff}A=1\r\n\n  # no\n\tB=x y =z\nC\n").unwrap();
        assert_eq!(lines, ["A=1", "B=x y =z", "C"]);
        for (text, why) in [
            (
                "A=1\nA B=1\n",
                "line 2: the name \"A B\" contains whitespace",
            ),
            ("A =1", "the name \"A \" contains whitespace"),
            ("export A", "the name \"export A\""),
            ("=x", "line 1: \"=x\" has no name"),
        ] {
            let error = named_lines(text).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}

//! What happens to containers, images and volumes, as it happens. There is no daemon that could tell: whoever
//! does something appends a line to a log below the state directory, and `events` follows it.
//!
//! A line is written by one write(2) to the end of the file, so that none is torn by another or by a
//! process that is killed; what a full disk has torn ends before the next line. Nobody waits for
//! anybody. Files are numbered as those of a container's log; the oldest go.

use super::cli::{Events, Global};
use super::log;
use super::logs::Reader;
use super::record::{Exit, Record};
use super::state_dirs::{State, make_dir};
use super::{format, record};
use crate::error::{ResultExt, with_exit_code, with_hint};
use anyhow::{Context, Result, anyhow};
use nix::fcntl::{Flock, FlockArg};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use serde_json::{Map, Value, json};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Bytes of a file.
const FILE: u64 = 1 << 20;
/// How many there are at most.
const FILES: u64 = 4;

/// Notes what has happened to a container. Nothing fails for want of a note.
pub(super) fn of_container(state: &State, record: &Record, action: &str, more: &[(&str, &str)]) {
    let mut attributes: Map<String, Value> = Map::new();
    for (name, value) in &record.labels {
        attributes.insert(name.clone(), value.clone().into());
    }
    attributes.insert("image".into(), record.image.clone().into());
    attributes.insert("name".into(), record.name.clone().into());
    for (name, value) in more {
        attributes.insert((*name).into(), (*value).into());
    }
    let event = json!({
        "status": action, "id": record.id, "from": record.image,
        "Type": "container", "Action": action,
        "Actor": {"ID": record.id, "Attributes": attributes}, "scope": "local",
    });
    let _ = append(&directory(state), event);
}

/// Notes how a container has ended.
pub(super) fn of_end(state: &State, record: &Record, exit: &Exit) {
    if exit.oom {
        of_container(state, record, "oom", &[]);
    }
    let code = exit.code.map_or("unknown".into(), |code| code.to_string());
    of_container(state, record, "die", &[("exitCode", &code)]);
}

/// Notes what happens to an image.
pub(super) fn of_image(state: &State, action: &str, id: &str, name: &str) {
    let event = json!({
        "status": action, "id": id, "Type": "image", "Action": action,
        "Actor": {"ID": id, "Attributes": {"name": name}}, "scope": "local",
    });
    let _ = append(&directory(state), event);
}

/// Notes what happens to a volume.
pub(super) fn of_volume(state: &State, action: &str, name: &str) {
    let event = json!({
        "Type": "volume", "Action": action,
        "Actor": {"ID": name, "Attributes": {"driver": "local"}}, "scope": "local",
    });
    let _ = append(&directory(state), event);
}

fn directory(state: &State) -> PathBuf {
    state.root.join("events")
}

fn append(dir: &Path, mut event: Value) -> Result<()> {
    make_dir(dir)?;
    let now = OffsetDateTime::now_utc();
    event["time"] = now.unix_timestamp().into();
    // Until the year 2262.
    event["timeNano"] = (now.unix_timestamp_nanos() as i64).into();
    let mut file = newest(dir)?;
    let mut size = file.metadata().context("look at the events")?.len();
    if size >= FILE && begin_another(dir) {
        file = newest(dir)?;
        size = file.metadata().context("look at the events")?.len();
    }
    let mut last = *b"\n";
    if size > 0 {
        let _ = file.read_at(&mut last, size - 1);
    }
    // Perhaps somebody is just writing it; an empty line says nothing.
    let torn = if last == *b"\n" { "" } else { "\n" };
    let line = format!("{torn}{event}\n");
    file.write_all(line.as_bytes()).context("write the event")
}

/// The file that is written to.
fn newest(dir: &Path) -> Result<File> {
    let number = log::numbers(dir).last().copied().unwrap_or(1);
    open(&log::path(dir, number))
}

/// Begins another file, and removes the oldest. If somebody is at it, or has been stopped in it, the
/// old one grows meanwhile: a log that is too long does no harm.
fn begin_another(dir: &Path) -> bool {
    let lock = File::open(dir).ok();
    let lock = lock.and_then(|dir| Flock::lock(dir, FlockArg::LockExclusiveNonblock).ok());
    let numbers = log::numbers(dir);
    let (Some(_lock), Some(newest)) = (lock, numbers.last()) else {
        return false;
    };
    // Somebody may have been faster.
    let size = std::fs::metadata(log::path(dir, *newest)).map_or(0, |file| file.len());
    if size < FILE {
        return true;
    }
    let next = newest + 1;
    let begun = open(&log::path(dir, next)).is_ok();
    for old in numbers.iter().filter(|old| **old + FILES <= next) {
        let _ = std::fs::remove_file(log::path(dir, *old));
    }
    begun
}

fn open(path: &Path) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("open {}", path.display()))
}

/// `mydocker events`
pub fn events(state: &State, _: &Global, args: &Events) -> Result<i32> {
    let filters = filters(state, &args.filter)?;
    // Only what happens from now on, if nothing else is asked for.
    let now = OffsetDateTime::now_utc();
    let since = nanoseconds(args.since.unwrap_or(now));
    let until = args.until.map(nanoseconds);
    let dir = directory(state);
    make_dir(&dir).exit_code(1)?;
    // Watched before it is read, so that nothing falls in between.
    let watch = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).context("inotify")?;
    watch
        .add_watch(&dir, AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE)
        .with_context(|| format!("watch {}", dir.display()))?;
    let mut reader = Reader::new(&dir);
    loop {
        // Asked before reading: what was written before is then read after it.
        let left = until.map(|until| until - nanoseconds(OffsetDateTime::now_utc()));
        while let Some(line) = reader.next()? {
            // A line that a full disk has torn says nothing.
            let Ok(event) = serde_json::from_slice::<Value>(&line) else {
                continue;
            };
            let at = i128::from(event["timeNano"].as_i64().unwrap_or(0));
            let wanted = at >= since && until.is_none_or(|until| at <= until);
            if !wanted || !filters.fit(&event) {
                continue;
            }
            let text = shown(args.format.as_deref(), &event).exit_code(1)?;
            let mut out = std::io::stdout();
            match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
                Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(0),
                other => other.context("write to standard output")?,
            }
        }
        if left.is_some_and(|left| left <= 0) {
            return Ok(0);
        }
        let ms = left.map(|left| (left / 1_000_000 + 1).min(i32::MAX as i128) as i32);
        let timeout = ms.and_then(|ms| PollTimeout::try_from(ms).ok());
        let mut fds = [PollFd::new(watch.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut fds, timeout.unwrap_or(PollTimeout::NONE));
        let _ = watch.read_events();
    }
}

fn nanoseconds(time: OffsetDateTime) -> i128 {
    time.unix_timestamp_nanos()
}

/// A line of Docker's: time, type, action, id, attributes.
fn shown(format: Option<&str>, event: &Value) -> Result<String> {
    if let Some(format) = format {
        return Ok(format::one(format, &named(format, event))? + "\n");
    }
    let nanoseconds = event["timeNano"].as_i64().unwrap_or(0);
    let time = OffsetDateTime::from_unix_timestamp_nanos(nanoseconds.into())
        .ok()
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let attributes = event["Actor"]["Attributes"].as_object();
    // serde_json's maps are sorted.
    let attributes: Vec<String> = attributes
        .into_iter()
        .flatten()
        .map(|(name, value)| format!("{name}={}", text(value)))
        .collect();
    Ok(format!(
        "{time} {} {} {} ({})\n",
        text(&event["Type"]),
        text(&event["Action"]),
        text(&event["Actor"]["ID"]),
        attributes.join(", ")
    ))
}

/// The event for a template: there its fields have Go's names.
fn named(format: &str, event: &Value) -> Value {
    let mut event = event.clone();
    let is_json = format == "json" || format.replace(' ', "") == "{{json.}}";
    if let (Some(fields), false) = (event.as_object_mut(), is_json) {
        for (name, of) in [
            ("Status", "status"),
            ("ID", "id"),
            ("From", "from"),
            ("Scope", "scope"),
            ("Time", "time"),
            ("TimeNano", "timeNano"),
        ] {
            let value = fields.remove(of).unwrap_or_else(|| json!(""));
            fields.insert(name.to_owned(), value);
        }
    }
    event
}

/// Values of one name are alternatives; each name must fit.
#[derive(Debug)]
struct Filters(Vec<(String, Vec<String>)>);

fn filters(state: &State, texts: &[String]) -> Result<Filters> {
    const KNOWN: [&str; 6] = ["container", "event", "image", "label", "type", "volume"];
    let mut all: Vec<(String, Vec<String>)> = Vec::new();
    for text in texts {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        if !KNOWN.contains(&name) || value.is_empty() {
            let error = anyhow!("invalid --filter value '{text}'");
            let hint = format!("NAME=VALUE; the names are {}", KNOWN.join(", "));
            return Err(with_exit_code(with_hint(error, hint), 125));
        }
        let mut values = vec![value.to_owned()];
        // By its id, one that is renamed stays the same.
        if name == "container"
            && let Ok(id) = record::find_id(state, value)
        {
            values.push(id);
        }
        match all.iter_mut().find(|(known, _)| known == name) {
            Some((_, there)) => there.append(&mut values),
            None => all.push((name.to_owned(), values)),
        }
    }
    Ok(Filters(all))
}

impl Filters {
    fn fit(&self, event: &Value) -> bool {
        let (actor, kind) = (&event["Actor"], event["Type"].as_str().unwrap_or_default());
        let id = actor["ID"].as_str().unwrap_or_default();
        let attribute = |name: &str| actor["Attributes"][name].as_str();
        let action = event["Action"].as_str().unwrap_or_default();
        let plain = |name: &str| name.trim_end_matches(":latest").to_owned();
        let one = |name: &str, value: &String| match name {
            "type" => kind == value,
            // `exec_start` stands for `exec_start: sh -c …`.
            "event" => action == value || action.split(':').next() == Some(value),
            "volume" => kind == "volume" && id == value,
            "container" => {
                kind == "container"
                    && (attribute("name") == Some(value)
                        || (value.len() >= 4 && id.starts_with(value.as_str())))
            }
            "image" => {
                let of = if kind == "image" { "name" } else { "image" };
                attribute(of).is_some_and(|image| plain(image) == plain(value)) || id == value
            }
            _ => match value.split_once('=') {
                Some((name, wanted)) => attribute(name) == Some(wanted),
                None => attribute(value).is_some(),
            },
        };
        let any = |(name, values): &(String, Vec<String>)| values.iter().any(|v| one(name, v));
        self.0.iter().all(any)
    }
}

#[cfg(test)]
mod tests {
    use super::super::state_dirs::new_id;
    use super::*;

    fn scratch() -> PathBuf {
        std::env::temp_dir().join(format!("acts-events-{}", &new_id().unwrap()[..12]))
    }

    fn numbers_read(dir: &Path) -> Vec<i64> {
        let mut reader = Reader::new(dir);
        let mut found = Vec::new();
        while let Some(line) = reader.next().unwrap() {
            if let Ok(event) = serde_json::from_slice::<Value>(&line) {
                found.push(event["n"].as_i64().unwrap());
            }
        }
        found
    }

    #[test]
    fn no_event_is_lost_or_torn_between_writers() {
        let dir = scratch();
        let write = |from: i64| {
            for n in from..from + 100 {
                append(&dir, json!({"n": n})).unwrap();
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(|| write(0));
            scope.spawn(|| write(100));
        });
        let mut found = numbers_read(&dir);
        found.sort_unstable();
        assert_eq!(found, (0..200).collect::<Vec<_>>());
        // As a full disk tears it.
        let mut file = open(&log::path(&dir, 1)).unwrap();
        file.write_all(b"{\"n\": 20").unwrap();
        append(&dir, json!({"n": 201})).unwrap();
        assert_eq!(numbers_read(&dir).last(), Some(&201));
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn nobody_waits_for_one_that_is_stopped() {
        let dir = scratch();
        append(&dir, json!({"n": 0, "long": "x".repeat(FILE as usize)})).unwrap();
        let held = File::open(&dir).unwrap();
        let held = Flock::lock(held, FlockArg::LockExclusive).unwrap();
        let (done, all) = std::sync::mpsc::channel();
        let there = dir.clone();
        std::thread::spawn(move || done.send(append(&there, json!({"n": 1})).is_ok()));
        let patience = std::time::Duration::from_secs(60);
        assert_eq!(all.recv_timeout(patience), Ok(true));
        assert_eq!(log::numbers(&dir), [1], "it is not its turn to begin one");
        drop(held);
        append(&dir, json!({"n": 2})).unwrap();
        assert_eq!(log::numbers(&dir), [1, 2]);
        assert_eq!(numbers_read(&dir), [0, 1, 2]);
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn the_log_is_bounded() {
        let dir = scratch();
        let long = "x".repeat(1 << 18);
        for n in 0..40 {
            append(&dir, json!({"n": n, "long": long})).unwrap();
        }
        assert!(log::numbers(&dir).len() as u64 <= FILES);
        let found = numbers_read(&dir);
        let first = found[0];
        assert_eq!(found, (first..40).collect::<Vec<_>>(), "the newest, whole");
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn events_are_chosen_and_shown() {
        let event = json!({
            "Type": "container", "Action": "exec_start: ls", "timeNano": 1_000_000_000,
            "Actor": {"ID": "abcdef", "Attributes": {"image": "busybox", "name": "web", "k": "v"}},
        });
        let state = State {
            root: scratch(),
            run: scratch(),
        };
        let fit = |texts: &[&str]| {
            let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
            filters(&state, &texts).unwrap().fit(&event)
        };
        assert!(fit(&[]) && fit(&["container=web"]) && fit(&["container=abcd"]));
        assert!(fit(&["event=exec_start", "event=die"]) && !fit(&["event=die"]));
        assert!(fit(&["label=k"]) && fit(&["label=k=v"]) && !fit(&["label=k=w"]));
        assert!(fit(&["image=busybox:latest"]) && !fit(&["image=other"]));
        assert!(!fit(&["container=web", "type=image"]));
        assert!(filters(&state, &["x=y".into()]).is_err());
        let template = "{{.Type}} {{.Status}}{{.From}} {{.TimeNano}} {{.Actor.Attributes.none}}";
        let text = shown(Some(template), &event).unwrap();
        assert_eq!(text, "container  1000000000 <no value>\n");
        let text = shown(Some("{{json .}}"), &event).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), event);
        let line = "1970-01-01T00:00:01Z container exec_start: ls abcdef \
                    (image=busybox, k=v, name=web)\n";
        assert_eq!(shown(None, &event).unwrap(), line);
        let template = Some("{{.Actor.Attributes.name}} {{.Action}}");
        assert_eq!(shown(template, &event).unwrap(), "web exec_start: ls\n");
    }
}

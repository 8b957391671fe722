//! `logs`: what a container printed, each stream to its own.

use super::cli::{Global, Logs};
use super::log::{self, Entry, Stream};
use super::record::{self, Record};
use super::state_dirs::State;
use super::values::Tail;
use crate::error::ResultExt;
use anyhow::{Context, Result, anyhow};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// `mydocker logs`
pub fn logs(state: &State, _: &Global, args: &Logs) -> Result<i32> {
    let record = record::find(state, &args.container)?;
    state.unless_removed(&record.id, show(state, &record, args))
}

fn show(state: &State, record: &Record, args: &Logs) -> Result<i32> {
    if record.log.none {
        let name = &record.name;
        return Err(anyhow!(
            "{name} keeps no log: it was made with --log-driver none"
        ))
        .hint("--log-driver json-file, the default, keeps one")
        .exit_code(1);
    }
    let dir = state.container(&record.id);
    let mut printer = Printer::new(Some(args));
    if args.details {
        printer.details = details(record);
    }
    let mut reader = match args.follow {
        true => Reader::following(&dir),
        false => Reader::new(&dir),
    };
    if let Tail::Lines(count) = args.tail {
        reader.skip_to_last(count)?;
    }
    // Watched before it is read, so that nothing falls in between.
    let follow = match args.follow {
        true => Some(Follow::new(state, &record.id)?),
        false => None,
    };
    loop {
        // Asked before reading: what was written before the end is then read after it.
        let past = args
            .until
            .is_some_and(|until| until <= OffsetDateTime::now_utc());
        let over = past || follow.as_ref().is_none_or(Follow::is_over);
        if !printer.print_all(&mut reader)? {
            return Ok(0);
        }
        match &follow {
            Some(follow) if !over => follow.wait()?,
            _ => return Ok(0),
        }
    }
}

/// The labels and variables of a container that `--log-opt labels` and `env` name, with a blank behind
/// them if there are any.
fn details(record: &Record) -> String {
    let options = record.shown.host_config.get("LogConfig");
    let names = |option: &str| {
        let names = options.and_then(|options| options["Config"][option].as_str());
        names.unwrap_or_default().split(',').map(str::to_owned)
    };
    let env = record.shown.config.get("Env").and_then(Value::as_array);
    let of_env = |name: &str| {
        let lines = env.into_iter().flatten().filter_map(Value::as_str);
        let mut lines = lines.filter_map(|line| line.split_once('='));
        lines.find_map(|(key, value)| (key == name).then(|| value.to_owned()))
    };
    let labels = names("labels").filter_map(|name| Some((record.labels.get(&name)?.clone(), name)));
    let env = names("env").filter_map(|name| Some((of_env(&name)?, name)));
    let escaped = |text: &str| {
        utf8_percent_encode(text, QUERY)
            .to_string()
            .replace("%20", "+")
    };
    let mut all: Vec<String> = labels
        .chain(env)
        .map(|(value, name)| format!("{}={}", escaped(&name), escaped(&value)))
        .collect();
    all.sort();
    match all.is_empty() {
        true => String::new(),
        false => all.join(",") + " ",
    }
}

/// What stays as it is in the query of a URL.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// Reads one file after the other. The last may grow; one with a successor is read to its end first.
pub(super) struct Reader<'a> {
    dir: &'a Path,
    number: u64,
    file: Option<BufReader<File>>,
    /// The beginning of a line that is still being written.
    part: Vec<u8>,
    /// The file before it, read to what was its end.
    before: Option<BufReader<File>>,
    /// Whether what is not read yet is kept from being removed.
    holds: bool,
}

impl Reader<'_> {
    pub(super) fn new(dir: &Path) -> Reader<'_> {
        Reader {
            dir,
            number: 0,
            file: None,
            part: Vec::new(),
            before: None,
            holds: false,
        }
    }

    /// One that is not outrun by the writer.
    pub(super) fn following(dir: &Path) -> Reader<'_> {
        Reader {
            holds: true,
            ..Reader::new(dir)
        }
    }

    fn open(&self, number: u64) -> std::io::Result<BufReader<File>> {
        let file = File::open(log::path(self.dir, number))?;
        if self.holds {
            // Without it lines may be lost, which is told then.
            let _ = log::hold(&file);
        }
        Ok(BufReader::with_capacity(64 << 10, file))
    }

    /// The next whole line of the log, or `None` when there is none yet.
    pub(super) fn next(&mut self) -> Result<Option<Vec<u8>>> {
        let mut has_successor = false;
        loop {
            if self.file.is_none() && !self.open_next()? {
                return Ok(None);
            }
            let Some(file) = &mut self.file else {
                return Ok(None);
            };
            file.read_until(b'\n', &mut self.part)
                .context("read the log")?;
            if self.part.last() == Some(&b'\n') {
                self.part.pop();
                return Ok(Some(std::mem::take(&mut self.part)));
            }
            // At the end. What was written between this look and the making of a successor is read
            // by one more look.
            if has_successor {
                // A torn line at the end of a file stays torn.
                self.part.clear();
                self.before = self.file.take();
                has_successor = false;
                continue;
            }
            has_successor = log::numbers(self.dir)
                .last()
                .is_some_and(|n| *n > self.number);
            if !has_successor {
                return self.late();
            }
        }
    }

    /// A line of a writer that had opened the file before this one was made: the events have many.
    fn late(&mut self) -> Result<Option<Vec<u8>>> {
        let Some(before) = &mut self.before else {
            return Ok(None);
        };
        let mut line = Vec::new();
        before
            .read_until(b'\n', &mut line)
            .context("read the log")?;
        Ok((line.pop() == Some(b'\n')).then_some(line))
    }

    fn open_next(&mut self) -> Result<bool> {
        loop {
            let next = log::numbers(self.dir)
                .into_iter()
                .find(|n| *n > self.number);
            let Some(number) = next else {
                return Ok(false);
            };
            if self.number != 0 && number > self.number + 1 {
                super::note(&format!(
                    "what the log held here is lost: it was removed (--log-opt max-size, max-file) \
                     before it was read ({} files)",
                    number - self.number - 1
                ));
            }
            self.number = number;
            // The one before is still open, and with it this one is held.
            match self.open(number) {
                Ok(file) => {
                    self.file = Some(file);
                    return Ok(true);
                }
                // It was removed to keep the log in its bounds.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error).context("open the log"),
            }
        }
    }

    /// Goes to the last `count` lines of what the container printed. Only where they begin is kept.
    pub(super) fn skip_to_last(&mut self, count: usize) -> Result<()> {
        let mut starts: VecDeque<(u64, u64)> = VecDeque::new();
        let mut open = [false; 2];
        for number in log::numbers(self.dir) {
            let Ok(file) = File::open(log::path(self.dir, number)) else {
                continue;
            };
            let mut file = BufReader::with_capacity(64 << 10, file);
            let (mut at, mut line) = (0, Vec::new());
            loop {
                line.clear();
                let length = file.read_until(b'\n', &mut line).context("read the log")?;
                if length == 0 || line.pop() != Some(b'\n') {
                    break;
                }
                if let Some(entry) = log::parse(&line) {
                    let open = &mut open[index(entry.stream)];
                    if !*open {
                        starts.push_back((number, at));
                    }
                    *open = !entry.ends_line;
                    if starts.len() > count {
                        starts.pop_front();
                    }
                }
                at += length as u64;
            }
            self.number = number;
            self.file = None;
        }
        let Some((number, at)) = starts.front().copied() else {
            // Nothing that is there now: on from its end.
            if let Ok(mut file) = self.open(self.number) {
                std::io::Seek::seek(&mut file, std::io::SeekFrom::End(0)).context("seek")?;
                self.file = Some(file);
            }
            return Ok(());
        };
        self.number = number;
        let mut file = self.open(number).context("open the log")?;
        std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(at)).context("seek")?;
        self.file = Some(file);
        Ok(())
    }
}

fn index(stream: Stream) -> usize {
    match stream {
        Stream::Out => 0,
        Stream::Err => 1,
    }
}

/// Prints entries, each to its stream.
pub(super) struct Printer<'a> {
    /// What is wanted of `logs`; everything if `None`.
    args: Option<&'a Logs>,
    /// Whether the present line of a stream is within --since and --until.
    within: [bool; 2],
    /// Whether a stream is at the beginning of a line.
    fresh: [bool; 2],
    /// What is still to be written, and to which stream: a follower that makes a system call for each
    /// line is slower than a program that prints as fast as it can.
    pending: (Stream, Vec<u8>),
    /// What is in front of each line, after its time.
    details: String,
}

/// How much is written at once.
const BATCH: usize = 64 << 10;

impl Printer<'_> {
    pub(super) fn new(args: Option<&Logs>) -> Printer<'_> {
        Printer {
            args,
            within: [true; 2],
            fresh: [true; 2],
            pending: (Stream::Out, Vec::new()),
            details: String::new(),
        }
    }

    /// Prints what is there. `false`: nobody reads it.
    pub(super) fn print_all(&mut self, reader: &mut Reader<'_>) -> Result<bool> {
        let mut all = || -> Result<std::io::Result<()>> {
            while let Some(line) = reader.next()? {
                if let Some(entry) = log::parse(&line)
                    && let Err(error) = self.print(&entry)
                {
                    return Ok(Err(error));
                }
            }
            Ok(self.flush())
        };
        match all()? {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
            other => other.context("write").map(|()| true),
        }
    }

    fn print(&mut self, entry: &Entry<'_>) -> std::io::Result<()> {
        let at = index(entry.stream);
        let begins = self.fresh[at];
        self.fresh[at] = entry.ends_line;
        if begins {
            self.within[at] = self.is_within(entry.time);
        }
        if !self.within[at] {
            return Ok(());
        }
        if self.pending.0 != entry.stream || self.pending.1.len() > BATCH {
            self.flush()?;
            self.pending.0 = entry.stream;
        }
        let text = &mut self.pending.1;
        if begins && self.args.is_some_and(|args| args.timestamps) {
            text.extend_from_slice(entry.time.as_bytes());
            text.push(b' ');
        }
        if begins {
            text.extend_from_slice(self.details.as_bytes());
        }
        text.extend_from_slice(entry.text);
        if entry.ends_line {
            text.push(b'\n');
        }
        Ok(())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        let (stream, text) = &mut self.pending;
        let written = match stream {
            Stream::Out => {
                let mut out = std::io::stdout().lock();
                out.write_all(text).and_then(|()| out.flush())
            }
            Stream::Err => std::io::stderr().lock().write_all(text),
        };
        text.clear();
        written
    }

    fn is_within(&self, time: &str) -> bool {
        let Some(args) = self.args else {
            return true;
        };
        if args.since.is_none() && args.until.is_none() {
            return true;
        }
        let Ok(time) = OffsetDateTime::parse(time, &Rfc3339) else {
            return true;
        };
        args.since.is_none_or(|since| time >= since) && args.until.is_none_or(|until| time <= until)
    }
}

/// Wakes up when the log grows or the container is over.
pub(super) struct Follow<'a> {
    state: &'a State,
    id: &'a str,
    inotify: Inotify,
}

impl Follow<'_> {
    pub(super) fn new<'a>(state: &'a State, id: &'a str) -> Result<Follow<'a>> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC).context("inotify")?;
        // The log's files, and the record: it is replaced when a life begins or ends.
        let events =
            AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
        let watched = inotify.add_watch(&state.container(id), events);
        watched.context("watch the log")?;
        // The monitor's last acts: it writes the exit, and closes its lock.
        let lock = state.monitor_lock(id);
        let last = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MODIFY
            | AddWatchFlags::IN_DELETE_SELF;
        let _ = inotify.add_watch(&lock, last);
        Ok(Follow { state, id, inotify })
    }

    /// Whether nothing more can come: nobody writes the log.
    pub(super) fn is_over(&self) -> bool {
        let record = record::load(self.state, self.id).ok();
        let alive =
            record.filter(|record| record.exit.is_none() && record.status(self.state).is_alive());
        if self.state.is_monitored(self.id) {
            return false;
        }
        // Without a monitor nothing is written any more: it gets another one.
        if let Some(record) = &alive {
            super::rm::heal(self.state, record);
        }
        alive.is_none()
    }

    fn wait(&self) -> Result<()> {
        // The lock is let go a moment after the event of its last write.
        let limit = std::time::Duration::from_millis(250);
        if super::wait::until_readable(self.as_fd(), Some(limit)) {
            self.clear();
        }
        Ok(())
    }

    /// Readable when something has happened.
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }

    /// Takes note of what has happened.
    pub(super) fn clear(&self) {
        let _ = self.inotify.read_events();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_comes_late_is_read() {
        let dir = std::env::temp_dir().join(format!("acts-late-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let begin = |number| File::create(log::path(&dir, number)).unwrap();
        let (mut first, mut reader) = (begin(1), Reader::new(&dir));
        let mut next = || {
            let line = reader.next().unwrap()?;
            Some(String::from_utf8(line).unwrap())
        };
        first.write_all(b"one\n").unwrap();
        assert_eq!(next().as_deref(), Some("one"));
        let mut second = begin(2);
        second.write_all(b"two\n").unwrap();
        assert_eq!(next().as_deref(), Some("two"));
        first.write_all(b"late\n").unwrap();
        assert_eq!(next().as_deref(), Some("late"));
        assert_eq!(next(), None);
        second.write_all(b"three\n").unwrap();
        assert_eq!(next().as_deref(), Some("three"));
        std::fs::remove_dir_all(dir).unwrap();
    }
}

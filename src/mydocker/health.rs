//! Health checks: a program that is run in the container from time to time, and what it has told.
//! The monitor only keeps the time. Each check is done by a process of its own, mydocker with the
//! hidden verb [`VERB`], which notes the result in the record and ends: a monitor stays small.

use super::cli::{Exec, Run};
use super::exec::{Desk, become_subreaper, program};
use super::image::Image;
use super::record::{self, Record, Status};
use super::runtime_cli::{Runtime, Streams, code_of};
use super::state_dirs::State;
use super::{events, wait};
use crate::error::{message, with_exit_code, with_hint};
use crate::sys::fds::poll_timeout;
use crate::sys::process::{Ended, pidfd_open, pidfd_send_signal, try_wait, wait as reap};
use anyhow::{Context, Result, anyhow};
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::SigSet;
use nix::unistd::{pipe2, read};
use serde::{Deserialize, Serialize};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use time::OffsetDateTime;

/// The hidden verb of the process that does one check.
pub const VERB: &str = "probe";

/// How health is checked: Docker's `Healthcheck`, with durations in nanoseconds. Zero stands for
/// Docker's defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Check {
    /// `CMD` and a program with its arguments, or `CMD-SHELL` and a line for the shell.
    pub test: Vec<String>,
    #[serde(skip_serializing_if = "is_zero")]
    pub interval: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub timeout: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub start_period: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub start_interval: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub retries: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Docker's words.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    #[default]
    Starting,
    Healthy,
    Unhealthy,
}

impl Verdict {
    /// As it is shown.
    pub fn word(self) -> &'static str {
        match self {
            Verdict::Starting => "starting",
            Verdict::Healthy => "healthy",
            Verdict::Unhealthy => "unhealthy",
        }
    }
}

/// What the checks have told: Docker's `State.Health`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Health {
    /// All in all.
    pub status: Verdict,
    /// Failures since the last success.
    pub failing_streak: u64,
    /// The last five.
    pub log: Vec<Probe>,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Probe {
    #[serde(with = "time::serde::rfc3339")]
    pub start: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub end: OffsetDateTime,
    /// -1: it took too long.
    pub exit_code: i32,
    /// The first 4 KiB of both streams.
    pub output: String,
}

/// How many checks are kept.
const KEPT: usize = 5;
/// How much of the output of each.
const OUTPUT: usize = 4096;

impl Check {
    fn or(nanoseconds: u64, default: u64) -> Duration {
        match nanoseconds {
            0 => Duration::from_secs(default),
            n => Duration::from_nanos(n),
        }
    }

    /// What is run in the container; `None` if nothing is.
    fn command(&self) -> Option<Vec<String>> {
        let (kind, words) = self.test.split_first()?;
        match kind.as_str() {
            "CMD" if !words.is_empty() => Some(words.to_vec()),
            "CMD-SHELL" => {
                let mut line = ["/bin/sh", "-c"].map(str::to_owned).to_vec();
                line.push(words.join(" "));
                Some(line)
            }
            _ => None,
        }
    }

    fn is_in_start_period(&self, age: time::Duration) -> bool {
        age < Duration::from_nanos(self.start_period)
    }

    /// How long to wait before the next check.
    fn pause(&self, health: Option<&Health>, age: time::Duration) -> Duration {
        let starting = health.is_none_or(|health| health.status == Verdict::Starting);
        match starting && self.is_in_start_period(age) {
            true => Check::or(self.start_interval, 5),
            false => Check::or(self.interval, 30),
        }
    }
}

impl Health {
    /// Takes in the result of a check. While a container starts, failures do not count yet. `true`:
    /// the status is another one.
    fn take(&mut self, check: &Check, probe: Probe, in_start_period: bool) -> bool {
        let before = self.status;
        if probe.exit_code == 0 {
            self.failing_streak = 0;
            self.status = Verdict::Healthy;
        } else if before != Verdict::Starting || !in_start_period {
            self.failing_streak += 1;
            let most = if check.retries == 0 { 3 } else { check.retries };
            if self.failing_streak >= most {
                self.status = Verdict::Unhealthy;
            }
        }
        self.log.push(probe);
        self.log.drain(..self.log.len().saturating_sub(KEPT));
        self.status != before
    }
}

/// The check of a new container: the image's, with what the flags change.
pub(super) fn wanted(flags: &Run, image: &Image) -> Result<Option<Check>> {
    let of_image = &image.raw_config["config"]["Healthcheck"];
    merged(flags, serde_json::from_value(of_image.clone()).ok())
}

fn merged(flags: &Run, of_image: Option<Check>) -> Result<Option<Check>> {
    let times = [
        ("--health-interval", flags.health_interval),
        ("--health-timeout", flags.health_timeout),
        ("--health-start-period", flags.health_start_period),
        ("--health-start-interval", flags.health_start_interval),
    ];
    let retries = flags.health_retries.map(|_| "--health-retries");
    let mut named = times
        .iter()
        .filter(|(_, time)| time.is_some())
        .map(|(name, _)| *name);
    let first = named.next().or(retries);
    let usage = |error, hint| Err(with_exit_code(with_hint(error, hint), 125));
    if flags.no_healthcheck {
        let first = first.or(flags.health_cmd.as_ref().map(|_| "--health-cmd"));
        return match first {
            None => Ok(None),
            Some(name) => {
                let error = anyhow!("--no-healthcheck does not go with {name}");
                usage(error, "leave out one of them")
            }
        };
    }
    let mut check = of_image.filter(|check| check.command().is_some());
    if let Some(line) = flags.health_cmd.as_ref().filter(|line| !line.is_empty()) {
        let test = ["CMD-SHELL", line].map(str::to_owned).to_vec();
        check.get_or_insert_default().test = test;
    }
    let Some(mut check) = check else {
        return match first {
            None => Ok(None),
            Some(name) => {
                let error = anyhow!("{name} needs --health-cmd: the image has no health check");
                usage(error, "as in --health-cmd 'wget -q -O /dev/null localhost'")
            }
        };
    };
    let fields = [
        &mut check.interval,
        &mut check.timeout,
        &mut check.start_period,
        &mut check.start_interval,
    ];
    for (field, (_, time)) in fields.into_iter().zip(times) {
        if let Some(time) = time {
            *field = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        }
    }
    if let Some(retries) = flags.health_retries {
        check.retries = retries;
    }
    Ok(Some(check))
}

/// The monitor's part: when the next check is due, and the process that does one.
pub(super) struct Pulse {
    state: State,
    id: String,
    next: Instant,
    probe: Option<OwnedFd>,
}

impl Pulse {
    /// `None`: this container is not checked.
    pub(super) fn of(record: &Record, state: &State) -> Option<Pulse> {
        record.health_check.as_ref()?;
        let mut pulse = Pulse {
            state: state.clone(),
            id: record.id.clone(),
            next: Instant::now(),
            probe: None,
        };
        pulse.schedule();
        Some(pulse)
    }

    fn schedule(&mut self) {
        let record = record::load(&self.state, &self.id).ok();
        let pause = record.and_then(|record| {
            let check = record.health_check.as_ref()?;
            Some(check.pause(record.health.as_ref(), age(&record)))
        });
        self.next = Instant::now() + pause.unwrap_or(Duration::from_secs(30));
    }

    /// What to poll besides, and for how long.
    pub(super) fn waits_for(&self) -> (Option<BorrowedFd<'_>>, Option<Duration>) {
        if let Some(probe) = &self.probe {
            return (Some(probe.as_fd()), None);
        }
        let left = self.next.saturating_duration_since(Instant::now());
        (None, Some(left))
    }

    /// After a poll: begins a check that is due.
    pub(super) fn beat(&mut self) {
        if let Some(probe) = &self.probe {
            if !wait::until_readable(probe.as_fd(), Some(Duration::ZERO)) {
                return;
            }
            self.probe = None;
            self.schedule();
        }
        if Instant::now() < self.next {
            return;
        }
        self.probe = self.begin();
        if self.probe.is_none() {
            self.schedule();
        }
    }

    /// The loop reaps it as any child.
    fn begin(&self) -> Option<OwnedFd> {
        let child = Command::new("/proc/self/exe")
            .args([VERB, &self.id])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .ok()?;
        pidfd_open(child.id() as i32).ok()
    }
}

impl Drop for Pulse {
    /// The container has ended: what a check would still find means nothing.
    fn drop(&mut self) {
        if let Some(probe) = self.probe.take() {
            let _ = pidfd_send_signal(probe.as_fd(), libc::SIGKILL);
            // It may be reaped already.
            let _ = reap(probe.as_fd());
        }
    }
}

fn age(record: &Record) -> time::Duration {
    let now = OffsetDateTime::now_utc();
    record
        .started
        .map_or(time::Duration::ZERO, |started| now - started)
}

/// One check: `mydocker probe ID`.
pub fn main(id: &str) -> Result<()> {
    // The monitor holds back all signals.
    let _ = SigSet::empty().thread_set_mask();
    let state = State::from_env()?;
    let mut record = record::load(&state, id)?;
    let Some(check) = record.health_check.clone() else {
        return Ok(());
    };
    let Some(command) = check.command() else {
        return Ok(());
    };
    // A paused one answers nothing, which is not its fault.
    if !matches!(record.status(&state), Status::Running { .. }) {
        return Ok(());
    }
    let Some(probe) = probe(&state, &record, &check, command)? else {
        return Ok(());
    };
    if probe.exit_code != 0 && matches!(record.status(&state), Status::Paused { .. }) {
        return Ok(());
    }
    let process = record.process.clone();
    let in_start_period = check.is_in_start_period(age(&record));
    let mut changed = None;
    record.update(&state, false, |now| {
        // Of a life that is over it tells nothing.
        let same = now.process == process && now.exit.is_none();
        if same && now.process.as_ref().is_some_and(record::Process::is_alive) {
            let health = now.health.get_or_insert_default();
            if health.take(&check, probe, in_start_period) {
                changed = Some(health.status);
            }
        }
    })?;
    if let Some(verdict) = changed {
        let action = format!("health_status: {}", verdict.word());
        events::of_container(&state, &record, &action, &[]);
    }
    Ok(())
}

/// `None`: it was paused meanwhile.
fn probe(
    state: &State,
    record: &Record,
    check: &Check,
    command: Vec<String>,
) -> Result<Option<Probe>> {
    let start = OffsetDateTime::now_utc();
    let args = Exec {
        command,
        ..Exec::default()
    };
    let process = program(state, record, &args, false)?;
    let desk = Desk::new(&state.run_dir(&record.id))?;
    let (file, pid_file) = (desk.path().join("process.json"), desk.path().join("pid"));
    std::fs::write(&file, process.to_string())
        .with_context(|| format!("write {}", file.display()))?;
    become_subreaper()?;
    let (out, out_end) = pipe2(OFlag::O_CLOEXEC).context("make a pipe")?;
    let streams = Streams::of(None, out_end.try_clone().context("dup")?, out_end);
    let runtime = Runtime::new(state, &record.runtime);
    let begun = runtime.exec(&record.id, &file, &pid_file, None, streams);
    let (exit_code, output) = match begun {
        Err(error) => {
            let text = message(&error);
            // Between our look at it and the runtime's.
            if text.contains("paused") {
                return Ok(None);
            }
            (code_of(&text).unwrap_or(1), text)
        }
        Ok(()) => {
            let text = std::fs::read_to_string(&pid_file).context("read the pid")?;
            let pidfd = pidfd_open(text.trim().parse().context("read the pid")?)?;
            let limit = Check::or(check.timeout, 30);
            match listen(&out, &pidfd, limit, || record.is_frozen())? {
                (Some(ended), output) => (ended.code(), output),
                (None, _) => (-1, format!("health check exceeded its timeout ({limit:?})")),
            }
        }
    };
    Ok(Some(Probe {
        start,
        end: OffsetDateTime::now_utc(),
        exit_code,
        output,
    }))
}

/// How often a check that takes long is looked at: whether it can go on at all.
const LOOK: Duration = Duration::from_millis(200);

/// Until the program has ended, or has had its time: how, and the beginning of what it said. The time
/// for which it stands still is not its own.
fn listen(
    out: &OwnedFd,
    pidfd: &OwnedFd,
    limit: Duration,
    is_frozen: impl Fn() -> bool,
) -> Result<(Option<Ended>, String)> {
    let mut end = Instant::now() + limit;
    let mut kept: Vec<u8> = Vec::new();
    let (mut open, mut ended) = (true, None);
    loop {
        let begin = Instant::now();
        let left = end.saturating_duration_since(begin).min(LOOK);
        // What it has left in the pipe is read without waiting for those who still hold it.
        let left = if ended.is_some() {
            Duration::ZERO
        } else {
            left
        };
        let mut fds = vec![PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        if open {
            fds.push(PollFd::new(out.as_fd(), PollFlags::POLLIN));
        }
        let ready = poll(&mut fds, poll_timeout(Some(left))).unwrap_or(0);
        let readable = open && fds.get(1).is_some_and(|fd| fd.any() == Some(true));
        if readable {
            let mut buffer = [0; 4096];
            match read(out, &mut buffer) {
                Ok(count @ 1..) => {
                    let room = OUTPUT.saturating_sub(kept.len()).min(count);
                    kept.extend_from_slice(&buffer[..room]);
                }
                _ => open = false,
            }
            continue;
        }
        if ended.is_some() {
            break;
        }
        if let Some(how) = try_wait(pidfd.as_fd()).context("wait for the check")? {
            ended = Some(how);
        } else if is_frozen() {
            // At least as long as until the next look, however late this one was.
            end = (end + begin.elapsed()).max(Instant::now() + LOOK);
        } else if ready == 0 && Instant::now() >= end {
            let _ = pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL);
            let _ = reap(pidfd.as_fd());
            break;
        }
    }
    Ok((ended, String::from_utf8_lossy(&kept).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::super::cli::{Cli, Verb};
    use super::super::flags::{Parsed, parse};
    use super::*;

    fn probe_of(exit_code: i32) -> Probe {
        Probe {
            start: OffsetDateTime::UNIX_EPOCH,
            end: OffsetDateTime::UNIX_EPOCH,
            exit_code,
            output: String::new(),
        }
    }

    #[test]
    fn while_it_is_frozen_a_check_has_time() {
        let run = |frozen: bool| {
            let (out, out_end) = pipe2(OFlag::O_CLOEXEC).unwrap();
            let mut command = Command::new("sh");
            // It ends as soon as it has been looked at, which is after its time.
            let (reader, writer) = std::io::pipe().unwrap();
            command.args(["-c", "read line; exit 3"]).stdin(reader);
            let mut child = command.stdout(out_end).spawn().unwrap();
            drop(command);
            let pidfd = pidfd_open(child.id() as i32).unwrap();
            let writer = std::cell::Cell::new(Some(writer));
            let looks = std::cell::Cell::new(0);
            let is_frozen = || {
                looks.set(looks.get() + 1);
                drop((looks.get() == 3).then(|| writer.take()));
                frozen
            };
            let heard = listen(&out, &pidfd, Duration::from_millis(1), is_frozen);
            assert!(child.wait().is_err(), "it was left unreaped");
            heard.unwrap().0
        };
        assert_eq!(run(true), Some(Ended::Exited(3)));
        assert_eq!(run(false), None);
    }

    #[test]
    fn failures_count_after_the_start_only() {
        let check = Check {
            retries: 2,
            ..Check::default()
        };
        let mut health = Health::default();
        for _ in 0..9 {
            assert!(!health.take(&check, probe_of(1), true));
        }
        assert_eq!(
            (health.status, health.failing_streak),
            (Verdict::Starting, 0)
        );
        assert!(!health.take(&check, probe_of(1), false));
        assert!(health.take(&check, probe_of(-1), false));
        assert_eq!(health.status, Verdict::Unhealthy);
        assert!(health.take(&check, probe_of(0), true));
        assert_eq!(
            (health.status, health.failing_streak),
            (Verdict::Healthy, 0)
        );
        // Once it was healthy, the start is over.
        health.take(&check, probe_of(1), true);
        assert!(health.take(&check, probe_of(1), true));
        assert_eq!(
            (health.status, health.log.len()),
            (Verdict::Unhealthy, KEPT)
        );
    }

    #[test]
    fn when_the_next_check_is_due() {
        let second = 1_000_000_000;
        let check = Check {
            interval: 7 * second,
            start_period: 10 * second,
            start_interval: 2 * second,
            ..Check::default()
        };
        let (young, old) = (time::Duration::seconds(1), time::Duration::seconds(11));
        let seconds = |health, age| check.pause(health, age).as_secs();
        let healthy = Health {
            status: Verdict::Healthy,
            ..Health::default()
        };
        assert_eq!((seconds(None, young), seconds(None, old)), (2, 7));
        assert_eq!(seconds(Some(&healthy), young), 7);
        assert_eq!(Check::default().pause(None, young).as_secs(), 30);
    }

    fn flags(words: &str) -> Run {
        let words = format!("run {words} busybox");
        let words: Vec<&str> = words.split_whitespace().collect();
        match parse(words.into_iter().map(Into::into).collect()) {
            Ok(Parsed::Run(cli)) => match *cli {
                Cli {
                    verb: Verb::Run(run),
                    ..
                } => *run,
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_images_check_and_the_flags() {
        let image = Check {
            test: vec!["CMD".into(), "true".into()],
            interval: 5,
            retries: 9,
            ..Check::default()
        };
        let of = |words: &str, image: Option<&Check>| merged(&flags(words), image.cloned());
        assert_eq!(of("", None).unwrap(), None);
        assert_eq!(of("", Some(&image)).unwrap(), Some(image.clone()));
        assert_eq!(of("--no-healthcheck", Some(&image)).unwrap(), None);
        let check = of("--health-cmd x --health-interval 2s", Some(&image));
        let check = check.unwrap().unwrap();
        assert_eq!(check.test, ["CMD-SHELL", "x"]);
        assert_eq!((check.interval, check.retries), (2_000_000_000, 9));
        let command = ["/bin/sh", "-c", "x"].map(str::to_owned);
        assert_eq!(check.command().unwrap(), command);
        for words in [
            "--health-retries 3",
            "--no-healthcheck --health-cmd x",
            "--no-healthcheck --health-timeout 3s",
        ] {
            assert!(of(words, None).is_err(), "{words}");
        }
        let none = Check {
            test: vec!["NONE".into()],
            ..Check::default()
        };
        assert_eq!(of("", Some(&none)).unwrap(), None);
    }
}

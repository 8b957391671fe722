//! `exec`: another program in a running container. It is a child of this process, which passes its
//! streams on: the container never gets a descriptor of the caller's.

use super::cli::{Exec, Global};
use super::detach_keys::DetachKeys;
use super::input::Input;
use super::leaving::{Caller, Part, stand_beside};
use super::log::Stream;
use super::record::{self, Process, Record};
use super::relay::{Output, Relay, Signals};
use super::report::Report;
use super::run::is_terminal;
use super::runtime_cli::{Console, Runtime, Streams, code_of};
use super::state_dirs::{State, new_id};
use super::{events, process, relay, stop};
use crate::error::{self, ResultExt, with_exit_code, with_fallback_hint, with_hint};
use crate::linux::caps;
use crate::linux::root::Root;
use crate::sys::fds;
use crate::sys::process::{
    Cloned, Ended, clone_single_threaded, exit_now, pidfd_open, prctl, wait,
};
use anyhow::{Context, Result, anyhow};
use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use serde_json::{Value, json};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// `mydocker exec`
pub fn exec(state: &State, _: &Global, args: &Exec) -> Result<i32> {
    let record = record::find(state, &args.container)?;
    drop(stop::awake(state, &record)?);
    let terminal =
        args.tty || (!args.interactive && !args.detach && is_terminal(0) && is_terminal(1));
    if args.tty && args.interactive && !args.detach && !is_terminal(0) {
        let error = anyhow!("-t: stdin is not a terminal");
        return Err(with_exit_code(with_hint(error, "leave out -t"), 1));
    }
    let keys = DetachKeys::parse(&args.detach_keys).exit_code(125)?;
    let process = program(state, &record, args, terminal)?;
    let command = match args.command.as_slice() {
        [] => "sh".to_owned(),
        words => words.join(" "),
    };
    let mut caller = None;
    if terminal && !args.detach && !keys.is_none() {
        match stand_beside(None)? {
            Part::Called(called) => return called.attend(&command),
            Part::Beside(the) => caller = Some(the),
        }
    }
    let told = || -> Result<(Desk, PathBuf)> {
        let desk = Desk::new(&state.run_dir(&record.id))?;
        let file = desk.0.join("process.json");
        std::fs::write(&file, process.to_string())
            .with_context(|| format!("write {}", file.display()))?;
        Ok((desk, file))
    };
    let (desk, file) = told().map_err(|error| without_place(state, &record, error))?;
    become_subreaper()?;
    let session = Session {
        state,
        record: &record,
        exec_id: new_id()?,
        command,
        runtime: Runtime::new(state, &record.runtime),
        id: &record.id,
        desk: &desk.0,
        file: &file,
        pid_file: desk.0.join("pid"),
    };
    session.tell("create");
    if args.detach {
        return session.in_background(terminal);
    }
    let code = session.attend(terminal, keys, caller)?;
    session.tell_end(code);
    Ok(code)
}

/// The runtime ends after it has made the program: whose child that is then.
pub(super) fn become_subreaper() -> Result<()> {
    prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0).context("become a subreaper")?;
    Ok(())
}

/// A directory for one `exec`, removed at its end. What a killed one leaves goes with the next, or
/// with the container's own directory, in which it is.
pub(super) struct Desk(PathBuf);

impl Desk {
    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn new(run_dir: &Path) -> Result<Desk> {
        for entry in std::fs::read_dir(run_dir).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let pid = name.to_str().and_then(|name| name.strip_prefix(EXEC));
            if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
        let dir = run_dir.join(format!("{EXEC}{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        // The directory above it is the monitor's to make and to remove.
        std::fs::DirBuilder::new()
            .mode(0o711)
            .create(&dir)
            .with_context(|| format!("create {}", dir.display()))?;
        Ok(Desk(dir))
    }
}

const EXEC: &str = "exec-";

impl Drop for Desk {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What there is to say of the container if it has ended since.
fn ended(state: &State, record: &Record) -> Option<anyhow::Error> {
    let process = record.process.as_ref();
    if process.is_some_and(Process::is_alive) {
        return None;
    }
    // Its end, or another life, may be noted by now.
    let now = record::load(state, &record.id).and_then(|now| stop::alive(state, &now));
    let now = state.unless_removed(&record.id, now);
    let otherwise = || {
        let error = anyhow!("{} has just ended", record.name);
        with_exit_code(with_hint(error, "try again"), 1)
    };
    Some(now.err().unwrap_or_else(otherwise))
}

/// The error of what could not be made in the container's run directory: with its end that goes.
fn without_place(state: &State, record: &Record, error: anyhow::Error) -> anyhow::Error {
    let hint = "the run directory (MYDOCKER_RUN) must be there, and writable";
    ended(state, record).unwrap_or_else(|| with_fallback_hint(error, hint))
}

struct Session<'a> {
    state: &'a State,
    record: &'a Record,
    /// For those who read events.
    exec_id: String,
    command: String,
    runtime: Runtime,
    id: &'a str,
    desk: &'a Path,
    file: &'a Path,
    pid_file: PathBuf,
}

impl Session<'_> {
    fn tell(&self, what: &str) {
        let action = format!("exec_{what}: {}", self.command);
        let more = [("execID", self.exec_id.as_str())];
        events::of_container(self.state, self.record, &action, &more);
    }

    fn tell_end(&self, code: i32) {
        let code = code.to_string();
        let more = [("execID", self.exec_id.as_str()), ("exitCode", &code)];
        events::of_container(self.state, self.record, "exec_die", &more);
    }

    fn begin(&self, console: Option<&Console>, streams: Streams) -> Result<()> {
        self.started(console, streams)?;
        self.tell("start");
        Ok(())
    }

    fn started(&self, console: Option<&Console>, streams: Streams) -> Result<()> {
        self.runtime
            .exec(self.id, self.file, &self.pid_file, console, streams)
            .map_err(|failure| {
                if let Some(ended) = ended(self.state, self.record) {
                    return ended;
                }
                let message = error::message(&failure);
                // As Docker: whatever it is, the program cannot be run so.
                let code = code_of(&message).unwrap_or(126);
                let failure =
                    with_fallback_hint(failure, "is the program there, and may the user run it?");
                with_exit_code(failure, code)
            })
    }

    /// Runs it in the background. A process stays beside it until it ends, to reap it: a zombie
    /// would hold up the end of the container. Of a terminal it reads what the program prints, which
    /// nobody wants.
    fn in_background(&self, terminal: bool) -> Result<i32> {
        let (mut ours, theirs) = std::io::pipe().context("make a pipe")?;
        let cloned = clone_single_threaded(0, None).context("make a process")?;
        if let Cloned::Child = cloned {
            drop(ours);
            let _ = nix::unistd::setsid();
            fds::close_all_but(&[Some(theirs.as_raw_fd())]);
            let _ = std::env::set_current_dir("/");
            // This is not inherited: the program shall be our child, not our parent's.
            let begun = become_subreaper()
                .and_then(|()| self.begin_alone(terminal))
                .and_then(|master| Ok((self.pidfd()?, master)));
            match &begun {
                Ok(_) => Report::Started.send(File::from(OwnedFd::from(theirs))),
                Err(error) => Report::failed(error).send(File::from(OwnedFd::from(theirs))),
            }
            // Whoever reads the output of the command shall see its end.
            if let Ok(null) = File::options().read(true).write(true).open("/dev/null") {
                let _ = fds::duplicate_to_stdio(null.as_raw_fd());
            }
            if let Ok((pidfd, master)) = begun
                && let Ok(ended) = attend_alone(&pidfd, master)
            {
                self.tell_end(ended.code());
            }
            exit_now(0);
        }
        drop(theirs);
        let mut text = Vec::new();
        ours.read_to_end(&mut text)
            .context("wait for the program")?;
        Report::read(&text)
            .context("the process beside the program was killed")
            .hint("try again")??;
        Ok(0)
    }

    fn console(&self) -> Result<Console> {
        Console::listen(self.desk).map_err(|error| without_place(self.state, self.record, error))
    }

    /// Begins it with nobody at its streams: the master of its terminal, if it is to have one.
    fn begin_alone(&self, terminal: bool) -> Result<Option<OwnedFd>> {
        let console = terminal.then(|| self.console()).transpose()?;
        self.begin(console.as_ref(), Streams::null())?;
        console.map(|console| console.master()).transpose()
    }

    /// The program is a child of ours: until we wait for it, the number is its own.
    fn pidfd(&self) -> Result<OwnedFd> {
        let text = std::fs::read_to_string(&self.pid_file).context("read the program's pid")?;
        let pid: i32 = text.trim().parse().context("read the program's pid")?;
        pidfd_open(pid).context("open the program's pidfd")
    }

    /// Runs it in the foreground: its exit code.
    fn attend(&self, terminal: bool, keys: DetachKeys, caller: Option<Caller>) -> Result<i32> {
        let signals = Signals::hold()?;
        let console = terminal.then(|| self.console()).transpose()?;
        let mut outputs = Vec::new();
        let mut input = None;
        let mut master = None;
        if let Some(console) = console {
            self.begin(Some(&console), Streams::null())?;
            let terminal = console.master()?;
            let copy = || terminal.try_clone().context("duplicate the terminal");
            outputs.push(output(copy()?, Stream::Out));
            input = Some(Input::new(copy()?, true)?.until(keys));
            master = Some(terminal);
        } else {
            let pipe = || pipe2(OFlag::O_CLOEXEC).context("make a pipe");
            let (stdin, (out, out_end), (err, err_end)) = (pipe()?, pipe()?, pipe()?);
            self.begin(None, Streams::of(Some(stdin.0), out_end, err_end))?;
            outputs.push(output(out, Stream::Out));
            outputs.push(output(err, Stream::Err));
            input = Some(Input::new(stdin.1, false)?).or(input);
        }
        let pidfd = self.pidfd()?;
        let mut relay = Relay {
            signals: &signals,
            outputs,
            input,
            terminal: master,
            log: None,
            door: None,
            pulse: None,
            caller,
            proxy: true,
            is_step: false,
            interrupted: None,
            told: None,
        };
        let ended = relay.until_end(pidfd.as_fd(), true)?;
        relay.deliver();
        ended
            .map(Ended::code)
            .context("nobody knows how the program ended")
    }
}

/// Waits for a program's end, and keeps its terminal from filling up.
fn attend_alone(pidfd: &OwnedFd, master: Option<OwnedFd>) -> Result<Ended> {
    let Some(master) = master else {
        return wait(pidfd.as_fd()).context("wait for the program");
    };
    let signals = Signals::hold()?;
    let mut relay = Relay {
        signals: &signals,
        outputs: vec![Output::new(master, Stream::Out, None)],
        input: None,
        terminal: None,
        log: None,
        door: None,
        pulse: None,
        caller: None,
        proxy: false,
        is_step: false,
        interrupted: None,
        told: None,
    };
    let ended = relay.until_end(pidfd.as_fd(), true)?;
    ended.context("nobody knows how the program ended")
}

fn output(from: OwnedFd, stream: Stream) -> Output {
    let to = match stream {
        Stream::Out => fds::standard(1),
        Stream::Err => fds::standard(2),
    };
    Output::new(from, stream, Some(to))
}

/// `process` of the spec for the new program: the container's own with what the flags change.
pub(super) fn program(
    state: &State,
    record: &Record,
    args: &Exec,
    terminal: bool,
) -> Result<Value> {
    let path = state.config(&record.id);
    let bytes = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    let spec: Value =
        serde_json::from_slice(&bytes).with_context(|| format!("{} is damaged", path.display()))?;
    let mut process = spec["process"].clone();
    process["terminal"] = terminal.into();
    if let Some(size) = relay::size_of_ours().filter(|_| terminal) {
        process["consoleSize"] = json!({"height": size.rows, "width": size.columns});
    }
    process["args"] = match args.command.as_slice() {
        [] => json!(["sh"]),
        command => json!(command),
    };
    let strings =
        |list: &Value| -> Vec<String> { serde_json::from_value(list.clone()).unwrap_or_default() };
    let mut env = strings(&process["env"]);
    if terminal && !env.iter().any(|line| line.starts_with("TERM=")) {
        env.push("TERM=xterm".to_owned());
    }
    let caller = |name: &str| std::env::var(name).ok();
    process::extend(&mut env, &args.env_file, &args.env, &caller)?;
    process["env"] = json!(env);
    if let Some(dir) = &args.workdir {
        process["cwd"] = process::directory("-w", dir).exit_code(126)?.into();
    }
    let bounding = strings(&process["capabilities"]["bounding"]);
    let mut uid = process["user"]["uid"].as_u64().unwrap_or(0);
    if let Some(user) = &args.user {
        let process_of = record
            .process
            .as_ref()
            .context("the container has no process")?;
        let root = Root::open(&PathBuf::from(format!("/proc/{}/root", process_of.pid)))?;
        // It was the container's root when it was opened, if the process is the same now.
        anyhow::ensure!(
            Process::is_alive(process_of),
            "the container has just ended"
        );
        let user = process::user(user, &[], &|path| read_inside(&root, path))
            .and_then(|found| found.checked(user, record.keep_id.as_ref()))
            .exit_code(126)?;
        uid = user.uid.into();
        process["user"] = user.json();
    }
    if args.privileged {
        let all: Vec<String> = (0..=caps::last()).filter_map(caps::name).collect();
        let held = super::create::bounding()?;
        let all: Vec<String> = all
            .into_iter()
            .filter(|name| caps::number(name).is_some_and(|n| held & (1 << n) != 0))
            .collect();
        process["capabilities"] = super::rights::sets(&all, true);
    } else {
        process["capabilities"] = super::rights::sets(&bounding, uid == 0);
    }
    Ok(process)
}

/// A small file of the container's, with its links followed inside of it.
fn read_inside(root: &Root, path: &str) -> Result<String> {
    let Ok(found) = root.resolve(Path::new(path)) else {
        return Ok(String::new());
    };
    let link = fds::path(&found);
    let facts = nix::sys::stat::fstat(&found).context("look at a file of the container")?;
    if facts.st_mode & libc::S_IFMT != libc::S_IFREG {
        return Ok(String::new());
    }
    let file =
        std::fs::File::open(link).with_context(|| format!("open {path} of the container"))?;
    let mut bytes = Vec::new();
    let read = file.take(16 << 20).read_to_end(&mut bytes);
    read.with_context(|| format!("read {path} of the container"))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

//! The tests that run containers: hand-written bundles for any OCI runtime, and mydocker from end to
//! end.
//!
//! ```text
//! cargo test --test conformance -- [--runtime PATH] [--systemd-cgroup] [--rootless] [--mydocker PATH] [--jobs N]
//!     [--skip NAME]... [--list] [--soak COUNT | --clauses | --clauses-text | NAME...]
//! ```
//!
//! With --soak that is run alone, with so many containers.
//! With --clauses the tests of the specification's clauses are run, and the table is written anew
//! (clauses/mod.rs); with --clauses-text only its text is.
//! With --systemd-cgroup the cgroups of the bundles and of the rows of the verbs are made by systemd.
//! With --rootless the bundles and rows that need no root are run, by whoever calls this, who is not root
//! (ordinary.rs, user.rs).
//! A name is a part of a test's name; without one all are run, but those that --skip names. The last
//! line is the summary.

// It speaks to whoever runs it, and may end where nobody listens.
#![allow(clippy::print_stdout)]

mod bundles;
mod clauses;
mod crash;
mod frontend;
mod keep_id;
mod leaks;
mod mutations;
mod nested;
mod ordinary;
mod place;
mod rootless;
mod soak;
mod systemd;
mod user;
mod verbs;

use anyhow::{Context, Result, bail, ensure};
use frontend::{Place, Skip};
use std::collections::VecDeque;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Instant;

type Body = Box<dyn Fn(&Place) -> Result<()> + Send + Sync>;

/// A test by its name.
struct Test {
    name: String,
    run: Body,
}

/// A test of a runtime by its command line.
type Check = fn(&Path, &Place) -> Result<()>;

impl Test {
    /// Tests of the runtime that is named, or of ours.
    fn of_runtime(runtime: Option<&Path>, all: &[(&str, Check)]) -> Vec<Test> {
        let runtime = runtime_under_test(runtime);
        let make = |(name, check): &(&str, Check)| {
            let (runtime, check) = (runtime.clone(), *check);
            Test {
                name: (*name).to_owned(),
                run: Box::new(move |place| check(&runtime, place)),
            }
        };
        all.iter().map(make).collect()
    }
}

fn runtime_under_test(named: Option<&Path>) -> PathBuf {
    named.map_or_else(
        || PathBuf::from(env!("CARGO_BIN_EXE_runtime")),
        Path::to_owned,
    )
}

/// What the command line says.
#[derive(Debug)]
struct Options {
    mydocker: PathBuf,
    runtime: Option<PathBuf>,
    systemd_cgroup: bool,
    rootless: bool,
    jobs: usize,
    soak: Option<usize>,
    list: bool,
    clauses: bool,
    clauses_text: bool,
    exact: bool,
    skip: Vec<String>,
    names: Vec<String>,
}

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args().skip(1).collect();
    if let Some((crash::tracer::VERB, args)) =
        args.split_first().map(|(a, rest)| (a.as_str(), rest))
    {
        return match crash::tracer::main(args) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                println!("tracer: {error:#}");
                ExitCode::FAILURE
            }
        };
    }
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("conformance: {error:#}\n\n0 passed, 1 failed, 0 skipped");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<bool> {
    let options = options()?;
    if options.clauses_text {
        return clauses::write_texts().map(|()| true);
    }
    let tests = chosen(&options)?;
    if options.list {
        for test in &tests {
            println!("{}: test", test.name);
        }
        return Ok(true);
    }
    let room = match (options.rootless, nix::unistd::geteuid().is_root()) {
        (false, true) => place::Room::enter()?,
        (true, false) => place::Room::plain()?,
        (false, false) => {
            bail!("containers need root: run it as root, or the bundles with --rootless")
        }
        (true, true) => bail!("--rootless is for an ordinary user"),
    };
    let before = leaks::World::look()?;
    let mut tally = Tally::default();
    run_all(tests, &options, room.path(), &mut tally)?;
    tally.note(
        "leaks: nothing is left of the whole run",
        before.compare(room.path()),
    );
    if options.clauses {
        let runtime = runtime_under_test(options.runtime.as_deref());
        clauses::record(&runtime, &tally.outcomes)?;
    } else if options.is_whole() {
        let agree = clauses::agree(&tally.outcomes);
        tally.note("clauses: the results of this run are those told", agree);
    }
    Ok(tally.summary() || options.clauses)
}

/// All tests, or those that the command line names.
fn chosen(options: &Options) -> Result<Vec<Test>> {
    if let Some(count) = options.soak {
        return Ok(vec![soak::test(count)]);
    }
    let how = bundles::How {
        systemd: options.systemd_cgroup,
        rootless: options.rootless,
    };
    let mut tests = bundles::tests(options.runtime.as_deref(), how)?;
    match options.rootless {
        true => tests.extend(ordinary::rows()),
        false => add_those_of_root(options, &mut tests),
    }
    if options.clauses {
        let table = clauses::Table::read()?;
        let named = table.tests();
        tests.retain(|test| named.contains(&test.name.as_str()));
    }
    let chosen = |name: &str| match options.exact {
        true => options.names.iter().any(|wanted| name == wanted),
        false => options
            .names
            .iter()
            .any(|wanted| name.contains(wanted.as_str())),
    };
    tests.retain(|test| options.names.is_empty() || chosen(&test.name));
    let skipped = |name: &str| options.skip.iter().any(|part| name.contains(part.as_str()));
    tests.retain(|test| !skipped(&test.name));
    Ok(tests)
}

/// All but the bundles.
fn add_those_of_root(options: &Options, tests: &mut Vec<Test>) {
    let runtime = options.runtime.as_deref();
    tests.extend(mutations::tests(runtime));
    tests.extend(nested::tests(runtime));
    tests.extend(rootless::tests(runtime));
    tests.extend(systemd::tests(runtime));
    tests.extend(verbs::tests(runtime, options.systemd_cgroup));
    let rows = frontend::tests().into_iter();
    tests.extend(rows.chain(crash::ROWS.iter().copied()).map(|row| Test {
        name: row.name.to_owned(),
        run: Box::new(row.run),
    }));
    tests.extend(clauses::tests(tests));
}

impl Options {
    /// Whether our own runtime is tested with everything that there is.
    fn is_whole(&self) -> bool {
        self.runtime.is_none()
            && self.names.is_empty()
            && self.skip.is_empty()
            && self.soak.is_none()
            && !self.systemd_cgroup
            && !self.rootless
    }
}

fn options() -> Result<Options> {
    let mut options = Options {
        mydocker: PathBuf::from(env!("CARGO_BIN_EXE_mydocker")),
        runtime: None,
        systemd_cgroup: false,
        rootless: false,
        jobs: 4,
        soak: None,
        list: false,
        clauses: false,
        clauses_text: false,
        exact: false,
        skip: Vec::new(),
        names: Vec::new(),
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().with_context(|| format!("{arg} needs a value"));
        match arg.as_str() {
            "--runtime" => options.runtime = Some(absolute(&value()?)?),
            "--mydocker" => options.mydocker = absolute(&value()?)?,
            "--jobs" | "--test-threads" => {
                options.jobs = value()?.parse().context("--jobs takes a number")?;
            }
            "--soak" => {
                options.soak = Some(value()?.parse().context("--soak takes a number")?);
            }
            "--skip" => options.skip.push(value()?),
            "--systemd-cgroup" => options.systemd_cgroup = true,
            "--rootless" => options.rootless = true,
            "--clauses" => options.clauses = true,
            "--clauses-text" => options.clauses_text = true,
            "--list" => options.list = true,
            "--exact" => options.exact = true,
            // What cargo's own test runners pass on.
            "--nocapture" | "--quiet" | "-q" | "--show-output" => {}
            other if other.starts_with('-') => bail!("unknown option {other}"),
            name => options.names.push(name.to_owned()),
        }
    }
    Ok(options)
}

fn absolute(path: &str) -> Result<PathBuf> {
    let path = std::path::absolute(path)?;
    ensure!(path.exists(), "{} does not exist", path.display());
    Ok(path)
}

/// The results, in the order of their coming.
#[derive(Debug, Default)]
struct Tally {
    passed: usize,
    skipped: usize,
    failed: Vec<(String, String)>,
    outcomes: Vec<(String, clauses::Outcome)>,
}

impl Tally {
    fn note(&mut self, name: &str, result: Result<()>) {
        self.note_after(name, 0, result);
    }

    fn note_after(&mut self, test: &str, seconds: u64, result: Result<()>) {
        self.outcomes
            .push((test.to_owned(), clauses::Outcome::of(&result)));
        let name = match seconds {
            0..10 => test.to_owned(),
            _ => format!("{test} [{seconds} s]"),
        };
        let mut out = std::io::stdout().lock();
        let line = match result {
            Ok(()) => {
                self.passed += 1;
                format!("ok       {name}")
            }
            Err(error) => match error.downcast_ref::<Skip>() {
                Some(Skip(why)) => {
                    self.skipped += 1;
                    format!("skipped  {name} ({why})")
                }
                None => {
                    self.failed.push((name.clone(), format!("{error:#}")));
                    format!("FAILED   {name}")
                }
            },
        };
        let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    }

    fn summary(&self) -> bool {
        for remark in crash::REMARKS
            .lock()
            .iter()
            .flat_map(|remarks| remarks.iter())
        {
            println!("{remark}");
        }
        for (name, why) in &self.failed {
            println!("\n--- {name}\n{why}");
        }
        println!(
            "\n{} passed, {} failed, {} skipped",
            self.passed,
            self.failed.len(),
            self.skipped
        );
        self.failed.is_empty()
    }
}

fn run_all(tests: Vec<Test>, options: &Options, room: &Path, tally: &mut Tally) -> Result<()> {
    let queue: Mutex<VecDeque<(usize, Test)>> = Mutex::new(tests.into_iter().enumerate().collect());
    let results = Mutex::new(tally);
    std::thread::scope(|scope| {
        for _ in 0..options.jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().ok().and_then(|mut queue| queue.pop_front());
                    let Some((number, test)) = next else { return };
                    let place = Place {
                        mydocker: options.mydocker.clone(),
                        runtime: options.runtime.clone(),
                        measure: options.clauses,
                        dir: room.join(number.to_string()),
                    };
                    let start = Instant::now();
                    let result = one(&test, &place);
                    let seconds = start.elapsed().as_secs();
                    if let Ok(mut tally) = results.lock() {
                        tally.note_after(&test.name, seconds, result);
                    }
                }
            });
        }
    });
    Ok(())
}

/// What an ordinary user's containers have written there belongs to the user's subordinate ids.
fn remove(dir: &Path) -> Result<()> {
    let removed = std::fs::remove_dir_all(dir);
    if removed.is_err() && !nix::unistd::geteuid().is_root() {
        let _ = std::process::Command::new("unshare")
            .args(["--map-root-user", "--map-auto", "rm", "-rf"])
            .arg(dir)
            .status();
        if !dir.exists() {
            return Ok(());
        }
    }
    removed.with_context(|| format!("remove {}", dir.display()))
}

/// Runs a test in a directory of its own, which is gone afterwards.
fn one(test: &Test, place: &Place) -> Result<()> {
    std::fs::create_dir_all(&place.dir).context("make the test's directory")?;
    let result = catch_unwind(AssertUnwindSafe(|| (test.run)(place))).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        bail!("panicked: {}", text.unwrap_or_default())
    });
    let cleared = remove(&place.dir);
    result.and(cleared)
}

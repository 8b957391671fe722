//! From the words that people type to those that clap reads. Users of the seed project and of Go's
//! flag package write `-name x`, `-cpuset=0`, `--ti`; Docker's write `-it`, `-m100m`. All of them
//! are turned into `--long=value` and `-s`, by the tables of the clap command itself: long names
//! are looked up before short ones are split, and options end at the first other word where what
//! follows belongs to a program.

use super::cli::{Cli, LogFormat};
use super::foreign;
use crate::error::{with_exit_code, with_hint};
use anyhow::{Error, Result, anyhow};
use clap::builder::{Command, ValueRange};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, CommandFactory, FromArgMatches};
use std::ffi::OsString;

/// What the command line asks for.
#[derive(Debug)]
pub enum Parsed {
    /// To run a verb.
    Run(Box<Cli>),
    /// To print this (help, version).
    Print(String),
}

/// A command line that cannot be understood.
#[derive(Debug)]
pub struct Refused {
    /// What is wrong with it; the exit code is 125.
    pub error: Error,
    /// What `--log-format` and `--debug` said before the mistake.
    pub format: LogFormat,
    /// The same.
    pub debug: bool,
}

/// Reads the command line, without the program's name.
pub fn parse(args: Vec<OsString>) -> Result<Parsed, Refused> {
    let mut line = Line {
        verb: None,
        words: Vec::new().into_iter().peekable(),
        out: vec!["mydocker".to_owned()],
        typed: Vec::new(),
    };
    parse_line(args, &mut line).map_err(|error| Refused {
        error,
        format: line.log_format(),
        debug: line.says("--debug"),
    })
}

fn parse_line(args: Vec<OsString>, line: &mut Line) -> Result<Parsed> {
    let mut command = Cli::command();
    let mut words = Vec::with_capacity(args.len());
    for arg in args {
        let word = arg.into_string();
        words.push(word.map_err(|arg| {
            let error = anyhow!("{}: it is not valid UTF-8", arg.to_string_lossy());
            usage(error, "mydocker --help")
        })?);
    }
    line.words = words.into_iter().peekable();
    line.read(&command)?;
    let matches = command.try_get_matches_from_mut(&line.out);
    match matches.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => Ok(Parsed::Run(Box::new(cli))),
        Err(error) if !error.use_stderr() => Ok(Parsed::Print(error.to_string())),
        Err(error) if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            Ok(Parsed::Print(error.to_string()))
        }
        Err(error) => Err(line.explain(&error)),
    }
}

/// A command line that is being read.
struct Line {
    verb: Option<String>,
    words: std::iter::Peekable<std::vec::IntoIter<String>>,
    /// What clap gets.
    out: Vec<String>,
    /// The canonical spelling of each option and what the user typed for it.
    typed: Vec<(String, String)>,
}

impl Line {
    /// The options of `mydocker` itself, the verb, and the verb's.
    fn read(&mut self, program: &Command) -> Result<()> {
        let own = Command::new("mydocker").version("");
        let mut command = with_options(own, program.get_arguments());
        while let Some(word) = self.words.next() {
            if word == "--" {
                self.out.push(word);
                self.out.extend(self.words.by_ref());
                return Ok(());
            }
            if word == "-v" && self.verb.is_none() {
                // As with docker; a container's -v is a volume.
                self.out.push("--version".to_owned());
            } else if word.len() > 1 && word.starts_with('-') {
                self.option(&command, &word)?;
            } else if self.verb.is_none() {
                let kind = word.clone();
                let word = self.whole_verb(program, word);
                if word == "help" {
                    self.out.push(word);
                    self.out.extend(self.words.by_ref());
                    return Ok(());
                }
                let Some(verb) = program.find_subcommand(&word) else {
                    return Err(unknown_verb(program, &word));
                };
                self.verb = Some(verb.get_name().to_owned());
                self.out.push(word);
                if self.verb.as_deref() == Some("inspect") && kind != "inspect" {
                    self.out.push(format!("--type={kind}"));
                }
                let of_all = program.get_arguments().filter(|arg| arg.is_global_set());
                command = with_options(verb.clone(), of_all);
            } else if command.get_positionals().any(Arg::is_trailing_var_arg_set) {
                self.out.extend(["--".to_owned(), word]);
                self.out.extend(self.words.by_ref());
            } else {
                self.out.push(word);
            }
        }
        Ok(())
    }

    /// Docker's verbs of two words: `container ls` is `ps`, `container stop` is `stop`, and
    /// `system df` has that name here too.
    fn whole_verb(&mut self, program: &Command, first: String) -> String {
        let Some(second) = self.words.peek() else {
            return first;
        };
        let whole = format!("{first} {second}");
        let verb = match whole.as_str() {
            "container ls" | "container list" | "container ps" => "ps",
            "image ls" | "image list" => "images",
            "image rm" | "image remove" => "rmi",
            "volume list" => "volume ls",
            "volume remove" => "volume rm",
            "container remove" => "rm",
            "image build" | "builder build" | "buildx build" => "build",
            "buildx prune" => "builder prune",
            _ if program.find_subcommand(&whole).is_some() => &whole,
            _ => match first.as_str() {
                "container" if OF_CONTAINERS.contains(&second.as_str()) => second,
                "image"
                    if [
                        "history", "import", "inspect", "load", "pull", "push", "save", "tag",
                    ]
                    .contains(&second.as_str()) =>
                {
                    second
                }
                "system" if ["info", "events"].contains(&second.as_str()) => second,
                _ => return first,
            },
        };
        let verb = verb.to_owned();
        self.words.next();
        verb
    }

    /// Whether this is among our own options so far, in the spelling that clap gets.
    fn says(&self, option: &str) -> bool {
        let ours = self.out.iter().take_while(|word| *word != "--");
        ours.skip(1).any(|word| word == option)
    }

    fn log_format(&self) -> LogFormat {
        if self.says("--log-format=json") {
            LogFormat::Json
        } else {
            LogFormat::Text
        }
    }

    fn option(&mut self, command: &Command, word: &str) -> Result<()> {
        let body = word.strip_prefix("--").unwrap_or(&word[1..]);
        let (name, value) = match body.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (body, None),
        };
        let dashes = &word[..word.len() - body.len()];
        if name.chars().count() > 1
            && let Some(arg) = find_long(command, name)
        {
            let canonical = format!("--{}", arg.get_long().unwrap_or(name));
            return self.give(arg, canonical, format!("{dashes}{name}"), value);
        }
        if name.chars().count() > 1
            && let Some(verb) = self.verb.clone()
            && let Some(foreign) = foreign::option(&verb, name)
        {
            let next = || self.words.next_if(|_| foreign.takes_value);
            return foreign.check(&verb, word, value.or_else(next).as_deref());
        }
        self.cluster(command, word, dashes, body)
    }

    /// `-it`, `-m100m`, `-d`: one letter after the other, until one takes the rest as its value.
    fn cluster(&mut self, command: &Command, word: &str, dashes: &str, body: &str) -> Result<()> {
        // Checked as a whole first, so that an unknown word is named as it was typed.
        let letters: Vec<char> = body.chars().collect();
        let mut args = Vec::new();
        for letter in &letters {
            let Some(arg) = find_short(command, *letter) else {
                break;
            };
            args.push(arg);
            if takes_value(arg) {
                break;
            }
        }
        let valued = args.last().is_some_and(|arg| takes_value(arg));
        let whole = args.len() == letters.len();
        let next = letters.get(args.len());
        // `--m100m` and `--name1` are no clusters; `--ti` and `--m=5` are.
        let accepted = !args.is_empty()
            && (whole || (valued && (dashes == "-" || next == Some(&'='))))
            || (args.len() == 1 && next == Some(&'='));
        if !accepted {
            return Err(self.unknown_option(command, word));
        }
        let count = args.len();
        for (at, arg) in args.into_iter().enumerate() {
            let letter = letters[at];
            let rest: String = letters[at + 1..].iter().collect();
            let value = (at + 1 == count && !rest.is_empty())
                .then(|| rest.strip_prefix('=').unwrap_or(&rest).to_owned());
            let canonical = match arg.get_long() {
                Some(long) => format!("--{long}"),
                None => format!("-{letter}"),
            };
            self.give(arg, canonical, format!("-{letter}"), value)?;
        }
        Ok(())
    }

    /// Passes one option on, with its value from the next word if it needs one.
    fn give(
        &mut self,
        arg: &Arg,
        canonical: String,
        typed: String,
        value: Option<String>,
    ) -> Result<()> {
        self.typed.push((canonical.clone(), typed.clone()));
        let value = match value {
            Some(value) => Some(value),
            None if takes_value(arg) => Some(self.value(arg, &typed)?),
            None => None,
        };
        match value {
            Some(value) if arg.get_action().takes_values() => {
                self.out.push(format!("{canonical}={value}"));
            }
            // Go's flag package lets a switch have a value.
            Some(value) if value == "true" => self.out.push(canonical),
            Some(value) if value == "false" => {}
            Some(value) => {
                return Err(self.usage(anyhow!("{typed}: invalid value {value:?}: true or false")));
            }
            None => self.out.push(canonical),
        }
        Ok(())
    }

    fn value(&mut self, arg: &Arg, typed: &str) -> Result<String> {
        let negative = |word: &str| word[1..].starts_with(|c: char| c.is_ascii_digit());
        let fits = |word: &String| {
            !word.starts_with('-')
                || word == "-"
                || (negative(word) && arg.is_allow_hyphen_values_set())
        };
        if let Some(word) = self.words.next_if(fits) {
            return Ok(word);
        }
        let example = example(arg);
        let error = anyhow!("{typed} needs a value, as in {typed} {example}");
        Err(self.usage(error))
    }

    fn usage(&self, error: Error) -> Error {
        let error = match &self.verb {
            Some(verb) => error.context(verb.clone()),
            None => error,
        };
        usage(error, &self.help())
    }

    fn help(&self) -> String {
        match &self.verb {
            Some(verb) => format!("mydocker {verb} --help"),
            None => "mydocker --help".to_owned(),
        }
    }

    fn unknown_option(&self, command: &Command, word: &str) -> Error {
        let name = word.trim_start_matches('-').split('=').next().unwrap_or("");
        if let Some(verb) = &self.verb
            && let Some(foreign) = foreign::option(verb, name)
            && let Err(error) = foreign.check(verb, word, None)
        {
            return error;
        }
        let names = command.get_arguments().filter_map(Arg::get_long);
        let error = match &self.verb {
            Some(verb) => anyhow!("{verb}: unknown option {word}"),
            None => anyhow!("unknown option {word}"),
        };
        let hint = match nearest(name, names) {
            Some(near) => format!("did you mean --{near}? `{}` lists them", self.help()),
            None => format!("`{}` lists the options", self.help()),
        };
        with_exit_code(with_hint(error, hint), 125)
    }

    /// clap's error in one line of ours, with the option as it was typed.
    fn explain(&self, error: &clap::Error) -> Error {
        let text = |kind| match error.get(kind) {
            Some(ContextValue::String(text)) => Some(text.clone()),
            Some(ContextValue::Strings(texts)) => Some(texts.join(", ")),
            _ => None,
        };
        let name = text(ContextKind::InvalidArg).unwrap_or_default();
        let canonical = name.split([' ', '=', '[']).next().unwrap_or_default();
        let known = self.typed.iter().rfind(|(long, _)| long == canonical);
        let typed = known.map_or(name.clone(), |(_, typed)| typed.clone());
        let message = match error.kind() {
            ErrorKind::ValueValidation | ErrorKind::InvalidValue => {
                let value = text(ContextKind::InvalidValue).unwrap_or_default();
                let why = match std::error::Error::source(error) {
                    Some(source) => foreign::why_no_number(&source.to_string()),
                    None => match text(ContextKind::ValidValue) {
                        Some(valid) => format!("one of {valid}"),
                        None => "it must not be empty".to_owned(),
                    },
                };
                // As people know the option best: -m, not --memory.
                let shown = if canonical == "--memory" {
                    "-m"
                } else {
                    &typed
                };
                anyhow!("invalid {shown} value '{value}' ({why})")
            }
            ErrorKind::MissingRequiredArgument => anyhow!("it needs {name}"),
            ErrorKind::ArgumentConflict => {
                let other = text(ContextKind::PriorArg).unwrap_or_default();
                anyhow!("{typed} does not go with {other}")
            }
            ErrorKind::UnknownArgument => anyhow!("unexpected word {name:?}"),
            _ => {
                let rendered = error.to_string();
                let line = rendered.lines().next().unwrap_or_default();
                anyhow!("{}", line.trim_start_matches("error: ").to_owned())
            }
        };
        self.usage(message)
    }
}

/// What Docker has behind `container`, besides.
const OF_CONTAINERS: [&str; 23] = [
    "attach", "commit", "cp", "create", "diff", "exec", "export", "inspect", "kill", "logs",
    "pause", "rename", "restart", "rm", "run", "start", "stats", "stop", "top", "unpause",
    "update", "wait", "why",
];

fn usage(error: Error, help: &str) -> Error {
    let error = with_hint(error, format!("`{help}` tells how it is used"));
    with_exit_code(error, 125)
}

fn unknown_verb(program: &Command, word: &str) -> Error {
    if let Some(error) = foreign::verb(word) {
        return error;
    }
    let names = program.get_subcommands().map(Command::get_name);
    let hint = match nearest(word, names) {
        Some(near) => format!("did you mean `mydocker {near}`?"),
        None => "`mydocker --help` lists the verbs".to_owned(),
    };
    let error = with_hint(anyhow!("unknown verb {word:?}"), hint);
    with_exit_code(error, 125)
}

/// A command by itself, with more options. To build the program would make the options of all verbs,
/// which takes a millisecond.
fn with_options<'a>(command: Command, more: impl Iterator<Item = &'a Arg>) -> Command {
    let mut command = command.args(more);
    command.build();
    command
}

fn find_long<'a>(command: &'a Command, name: &str) -> Option<&'a Arg> {
    command.get_arguments().find(|arg| {
        arg.get_long() == Some(name)
            || arg
                .get_all_aliases()
                .is_some_and(|aliases| aliases.contains(&name))
    })
}

fn find_short(command: &Command, letter: char) -> Option<&Arg> {
    command
        .get_arguments()
        .find(|arg| arg.get_short() == Some(letter))
}

/// Whether the option takes the next word. `--rm[=BOOL]` does not.
fn takes_value(arg: &Arg) -> bool {
    let optional = arg.get_num_args() == Some(ValueRange::new(0..=1));
    matches!(arg.get_action(), ArgAction::Set | ArgAction::Append) && !optional
}

fn example(arg: &Arg) -> String {
    match arg.get_long().unwrap_or_default() {
        "cpuset-cpus" => "0-1".into(),
        "cpu-shares" => "512".into(),
        "memory" | "shm-size" => "100m".into(),
        "volume" => "/srv/data:/data".into(),
        "env" => "NAME=value".into(),
        "name" => "web".into(),
        "publish" => "8080:80".into(),
        _ => arg
            .get_value_names()
            .and_then(<[_]>::first)
            .map_or_else(|| "VALUE".into(), ToString::to_string),
    }
}

/// The known word that differs least, if it differs little.
fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // Of short words others are too many that differ in two letters.
    let limit = (word.chars().count() / 4).max(1);
    known
        .map(|name| (strsim::osa_distance(word, name), name))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{exit_code, message};
    use crate::mydocker::cli::{Run, Verb};

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    fn run(line: &str) -> Run {
        match parse(words(line)).map_err(|refused| message(&refused.error)) {
            Ok(Parsed::Run(cli)) => match cli.verb {
                Verb::Run(run) => *run,
                other => panic!("{line}: {other:?}"),
            },
            other => panic!("{line}: {other:?}"),
        }
    }

    fn fails(line: &str) -> String {
        let error = parse(words(line)).unwrap_err().error;
        assert_eq!(exit_code(&error), Some(125), "{line}");
        message(&error)
    }

    #[test]
    fn every_spelling_means_the_same() {
        for line in [
            "run -cpushare 512 x",
            "run --cpushare 512 x",
            "run -cpushare=512 x",
        ] {
            assert_eq!(run(line).cpu_shares, Some(512), "{line}");
        }
        for line in [
            "run -c 512 x",
            "run -c512 x",
            "run --cpu-shares=512 x",
            "run --c 512 x",
        ] {
            assert_eq!(run(line).cpu_shares, Some(512), "{line}");
        }
        for line in ["run -name x y", "run --name x y", "run -name=x y"] {
            assert_eq!(run(line).name.as_deref(), Some("x"), "{line}");
        }
        for line in [
            "run -it x",
            "run -ti x",
            "run --ti x",
            "run -t -i x",
            "run --t --i x",
        ] {
            let run = run(line);
            assert!(run.tty && run.interactive && run.words == ["x"], "{line}");
        }
        assert!(run("run -itd x").detach);
        assert!(run("run -d=true x").detach && !run("run -d=false x").detach);
        assert_eq!(run("run --rm=false x").rm, Some(false));
        assert_eq!(run("run --rm x").rm, Some(true));
        assert_eq!(run("run -m100m x").memory.unwrap().count, 100 << 20);
        assert_eq!(run("run --memory-swap -1 x").memory_swap.unwrap().count, -1);
        assert_eq!(run("run -net none x").network.as_deref(), Some("none"));
    }

    #[test]
    fn options_end_at_the_first_other_word() {
        let it = run("run -ti -m 100m stress --vm-bytes 200m -m 1");
        assert_eq!(it.words, ["stress", "--vm-bytes", "200m", "-m", "1"]);
        assert_eq!(run("run -- -x -d").words, ["-x", "-d"]);
        let Parsed::Run(cli) = parse(words("logs c -f")).unwrap() else {
            panic!();
        };
        assert!(matches!(cli.verb, Verb::Logs(logs) if logs.follow && logs.container == "c"));
        let Parsed::Run(cli) = parse(words("exec -e A=b c sh -c -x")).unwrap() else {
            panic!();
        };
        assert!(matches!(cli.verb, Verb::Exec(exec) if exec.command == ["sh", "-c", "-x"]));
    }

    #[test]
    fn mistakes_are_named_as_typed() {
        assert!(fails("run -ti -cpuset").contains("-cpuset 0-1"));
        assert!(fails("run -cpuset -m 1m x").contains("-cpuset needs a value"));
        assert_eq!(
            fails("run -m abc x"),
            "run: invalid -m value 'abc' (try 100m)"
        );
        assert_eq!(fails("run --nosuch=1 x"), "run: unknown option --nosuch=1");
        assert_eq!(fails("run -nosuch x"), "run: unknown option -nosuch");
        assert!(fails("run --gpus all x").contains("not supported"));
        assert!(fails("frobnicate").contains("frobnicate"));
        assert!(fails("stop").contains("CONTAINER"));
        assert!(fails("run --keep --rm x").contains("does not go with"));
        let error = parse(words("lgos x")).unwrap_err().error;
        assert!(crate::error::hint_of(&error).unwrap().contains("logs"));
        assert_eq!(
            fails("run --stop-timeout x y"),
            "run: invalid --stop-timeout value 'x' (it is not a whole number)"
        );
        // Verbs of Docker are no misspelled ones of ours.
        for verb in ["search", "port", "trust", "manifest"] {
            assert!(fails(verb).contains("not supported yet"), "{verb}");
        }
        let error = parse(words("zzll x")).unwrap_err().error;
        assert!(crate::error::hint_of(&error).unwrap().contains("--help"));
    }

    #[test]
    fn a_mistake_is_told_as_our_own_options_ask() {
        for (line, json, debug) in [
            ("--log-format json run --nosuch x", true, false),
            ("--debug -log-format=json frobnicate", true, true),
            ("run --log-format json --debug -m abc x", true, true),
            ("--debug stop", false, true),
            ("json", false, false),
            ("run --nosuch json", false, false),
            (
                "run -e json -m abc json --log-format=json --debug",
                false,
                false,
            ),
            ("ps --format json --nosuch", false, false),
            ("--log-format text --nosuch", false, false),
        ] {
            let refused = parse(words(line)).unwrap_err();
            assert_eq!(refused.format == LogFormat::Json, json, "{line}");
            assert_eq!(refused.debug, debug, "{line}");
        }
    }

    #[test]
    fn help_is_no_error() {
        for line in [
            "--help",
            "help",
            "run --help",
            "ps -h",
            "--version",
            "-v",
            "help run",
        ] {
            assert!(matches!(parse(words(line)), Ok(Parsed::Print(_))), "{line}");
        }
    }
}

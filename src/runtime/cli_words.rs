//! Command lines as Go's flag package reads them, which engines write for runc.

use super::cli::Cli;
use clap::Parser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use std::ffi::OsString;

impl Cli {
    /// Reads a command line. Long options may have one dash, as with Go's flag package: containerd
    /// restores with `-no-subreaper`.
    ///
    /// # Errors
    /// Those of clap, and what is no error but printed: help and version.
    pub fn of_words(words: Vec<OsString>) -> Result<Cli, clap::Error> {
        let first = match Cli::parse_with_values(words.clone()) {
            Err(error) if error.kind() == ErrorKind::UnknownArgument => error,
            other => return other,
        };
        // One after the other: behind the container's id they are for its program.
        let mut words = words;
        for at in 1..words.len() {
            let word = words[at].as_encoded_bytes();
            if !word.starts_with(b"-") || word.starts_with(b"--") || word.len() < 4 {
                continue;
            }
            let mut long = OsString::from("-");
            long.push(&words[at]);
            words[at] = long;
            match Cli::parse_with_values(words.clone()) {
                Err(error) if error.kind() == ErrorKind::UnknownArgument => {}
                Err(_) => break,
                Ok(cli) => return Ok(cli),
            }
        }
        Err(first)
    }

    /// Options without a value may have `=true` or `=false`, as with Go's flag package.
    fn parse_with_values(mut words: Vec<OsString>) -> Result<Cli, clap::Error> {
        loop {
            let error = match Cli::try_parse_from(&words) {
                Err(error) if error.kind() == ErrorKind::TooManyValues => error,
                other => return other,
            };
            words = without_value(words, &error).ok_or(error)?;
        }
    }
}

/// The words with the option that the error is about as the value says: there, or not. `None`: it is
/// something else that is wrong.
fn without_value(words: Vec<OsString>, error: &clap::Error) -> Option<Vec<OsString>> {
    let Some(ContextValue::String(option)) = error.get(ContextKind::InvalidArg) else {
        return None;
    };
    let value = |word: &OsString| {
        let (name, value) = word.to_str()?.split_once('=')?;
        (name == option).then(|| go_bool(value)).flatten()
    };
    let (at, is_wanted) = words
        .iter()
        .enumerate()
        .find_map(|(at, word)| Some((at, value(word)?)))?;
    // The last one counts.
    let is_taken_back = |index: usize, word: &OsString| index < at && word == option.as_str();
    let kept = words.iter().enumerate().filter_map(|(index, word)| {
        if index == at {
            return is_wanted.then(|| option.into());
        }
        (is_wanted || !is_taken_back(index, word)).then(|| word.clone())
    });
    Some(kept.collect())
}

/// As Go's strconv.ParseBool reads it.
fn go_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::cli::Verb;
    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::of_words(line.split(' ').map(OsString::from).collect())
    }

    #[test]
    fn a_long_option_may_have_one_dash() {
        // As containerd's go-runc writes it.
        let restore = "runtime restore --image-path i --detach -no-subreaper --bundle b x";
        let Ok(Cli {
            verb: Verb::Restore(args),
            ..
        }) = parse(restore)
        else {
            panic!("{restore}");
        };
        assert!(args.no_subreaper && args.detach);
        let exec = "runtime exec -no-new-privs x ls -no-subreaper";
        let Ok(Cli {
            verb: Verb::Exec(args),
            ..
        }) = parse(exec)
        else {
            panic!("{exec}");
        };
        assert!(args.no_new_privs);
        assert!(parse("runtime restore -no-such x").is_err());
        let error = parse("runtime list -nonsense --format xml").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnknownArgument);
    }

    #[test]
    fn an_option_without_a_value_may_have_one() {
        let exec = |line: &str| match parse(line).map(|cli| (cli.global.debug, cli.verb)) {
            Ok((debug, Verb::Exec(args))) => (debug, args.tty, args.detach, args.command),
            other => panic!("{line}: {other:?}"),
        };
        let line = "runtime --debug=true exec --tty --tty=false --detach=1 x ls --tty=false";
        let command = vec!["ls".to_owned(), "--tty=false".to_owned()];
        assert_eq!(exec(line), (true, false, true, command));
        let (_, tty, ..) = exec("runtime exec -no-new-privs=f -tty=T x ls");
        assert!(tty);
        for line in ["runtime exec --tty=maybe x ls", "runtime list --no=true"] {
            assert!(parse(line).is_err(), "{line}");
        }
        // One that has a value is not touched.
        let error = parse("runtime run --preserve-fds=true x").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ValueValidation);
    }
}

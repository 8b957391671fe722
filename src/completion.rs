//! The completion scripts of both programs, made from their command lines.

use crate::error::ResultExt;
use anyhow::Context;
use clap::{Args, Command, CommandFactory};
use clap_complete::Shell;
use std::io::Write;

// The options of the verb `completion`.
#[derive(Debug, Args)]
pub struct Completion {
    /// The shell that will read the script
    #[arg(value_name = "SHELL")]
    pub shell: Shell,
}

/// Prints the script for one shell. Whoever closes the output early wants no more.
pub fn print<C: CommandFactory>(args: &Completion) -> anyhow::Result<()> {
    match std::io::stdout().write_all(&script::<C>(args.shell)) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(error).context("write to standard output").exit_code(1)
        }
        _ => Ok(()),
    }
}

fn script<C: CommandFactory>(shell: Shell) -> Vec<u8> {
    let whole = C::command();
    let name = whole.get_name().to_owned();
    // Verbs that are not for people would be completed as well.
    let shown = whole.get_subcommands().filter(|verb| !verb.is_hide_set());
    let mut command = Command::new(name.clone())
        .args(whole.get_arguments())
        .subcommands(nested(shown))
        .disable_help_subcommand(whole.is_disable_help_subcommand_set())
        .disable_version_flag(whole.is_disable_version_flag_set());
    if whole.get_version().is_some() {
        command = command.version("");
    }
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut script);
    script
}

/// A verb of two words (`system df`) is one to clap, and to a shell a verb within a verb.
fn nested<'a>(verbs: impl Iterator<Item = &'a Command>) -> Vec<Command> {
    let mut all: Vec<Command> = Vec::new();
    for verb in verbs {
        let Some((outer, inner)) = verb.get_name().split_once(' ') else {
            all.push(verb.clone());
            continue;
        };
        let verb = verb.clone().name(inner.to_owned());
        match all.iter_mut().find(|known| known.get_name() == outer) {
            Some(known) => *known = known.clone().subcommand(verb),
            None => all.push(Command::new(outer.to_owned()).subcommand(verb)),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{mydocker, runtime};

    /// What a shell says that has read the script, and that has no other file to read.
    fn shell(program: &str, script: &[u8], then: &str) -> Option<String> {
        let path =
            std::env::temp_dir().join(format!("completion-{program}-{}", std::process::id()));
        std::fs::write(&path, script).unwrap();
        let text = format!(". {}; {then}", path.display());
        let output = std::process::Command::new(program)
            .args(["-c", &text])
            .env_clear()
            .output();
        let _ = std::fs::remove_file(&path);
        let output = output.ok()?;
        assert!(output.stderr.is_empty(), "{output:?}");
        Some(String::from_utf8(output.stdout).unwrap())
    }

    #[test]
    fn bash_completes_verbs_and_options() {
        // What bash does when the last word is to be completed.
        let ask = |words: &str| {
            let list: Vec<&str> = words.split(' ').collect();
            let (name, last) = (list[0], list.len() - 1);
            format!(
                "COMP_WORDS=({words}); COMP_CWORD={last}; _{name} {name} {} {}; \
                 echo \"${{COMPREPLY[@]}}\"",
                list[last],
                list[last - 1]
            )
        };
        let script = script::<runtime::cli::Cli>(Shell::Bash);
        let said = shell("bash", &script, &ask("runtime up"));
        assert_eq!(said.as_deref(), Some("update\n"));
        let said = shell("bash", &script, &ask("runtime create --pid"));
        assert_eq!(said.as_deref(), Some("--pid-file --pidfd-socket\n"));
        let script = self::script::<mydocker::cli::Cli>(Shell::Bash);
        let said = shell("bash", &script, &ask("mydocker unp"));
        assert_eq!(said.as_deref(), Some("unpause\n"));
        let said = shell("bash", &script, &ask("mydocker system d"));
        assert_eq!(said.as_deref(), Some("df\n"));
    }

    #[test]
    fn a_verb_keeps_its_words_when_its_options_come() {
        for mut whole in [mydocker::cli::Cli::command(), runtime::cli::Cli::command()] {
            let words = |whole: &Command| -> Vec<String> {
                let verbs = whole
                    .get_subcommands()
                    .filter(|verb| verb.get_name() != "help");
                verbs
                    .map(|verb| format!("{}: {:?}", verb.get_name(), verb.get_about()))
                    .collect()
            };
            let before = words(&whole);
            whole.build();
            assert_eq!(words(&whole), before);
        }
    }

    #[test]
    fn every_shell_gets_all_verbs_but_the_hidden_ones() {
        for one in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let text = String::from_utf8(script::<mydocker::cli::Cli>(one)).unwrap();
            for verb in ["run", "exec", "commit"] {
                assert!(text.contains(verb), "{one}: {verb}");
            }
            assert!(!text.contains(mydocker::background::VERB), "{one}");
        }
    }
}

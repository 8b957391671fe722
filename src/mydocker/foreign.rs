//! What Docker has and we have not: told as such, with what to do instead, so that nobody is sent to
//! another verb that happens to be spelled alike.

use super::cli::Cli;
use crate::error::{self, with_exit_code, with_hint};
use anyhow::{Error, Result, anyhow};
use clap::CommandFactory;

const PULL: &str = "`mydocker pull NAME` brings an image from a registry";
const NO_NETWORK: &str = "`mydocker run --network host` uses the host's network";

/// Verbs of Docker: what is missing, and what there is instead.
const VERBS: [(&str, &str, &str); 24] = [
    (
        "search",
        "registries are asked for images by name only",
        PULL,
    ),
    ("manifest", "manifests are not shown", PULL),
    ("trust", "signatures are not checked", PULL),
    ("builder", NO_VERB, "there are `build` and `builder prune`"),
    ("buildx", "", "there are `build` and `builder prune`"),
    ("port", "no ports are published", NO_NETWORK),
    ("network", "there are no networks", NO_NETWORK),
    (
        "volume",
        NO_VERB,
        "there are `volume create`, `ls`, `inspect`, `rm` and `prune`",
    ),
    ("checkpoint", "", "`mydocker pause` freezes a container"),
    (
        "compose",
        "",
        "`mydocker run --restart` keeps single containers going",
    ),
    ("image", NO_VERB, "`mydocker images` lists them"),
    ("container", NO_VERB, "`mydocker ps` lists them"),
    (
        "system",
        NO_VERB,
        "there are `system df`, `system prune`, `info` and `events`",
    ),
    ("stack", NO_SWARM, ONE_MACHINE),
    ("swarm", NO_SWARM, ONE_MACHINE),
    ("service", NO_SWARM, ONE_MACHINE),
    ("node", NO_SWARM, ONE_MACHINE),
    ("secret", NO_SWARM, ONE_MACHINE),
    ("config", NO_SWARM, ONE_MACHINE),
    (
        "context",
        "there is no daemon to choose",
        "MYDOCKER_ROOT chooses another state",
    ),
    (
        "plugin",
        "there are no plugins",
        "`mydocker --help` lists the verbs",
    ),
    ("ls", "", "`mydocker ps` lists the containers"),
    ("list", "", "`mydocker ps` lists the containers"),
    ("delete", "", "`mydocker rm` removes containers"),
];
/// It is the first of two words.
const NO_VERB: &str = "it needs a verb";
const NO_SWARM: &str = "there is this machine only";
const ONE_MACHINE: &str = "`runtime` is an OCI runtime that engines for many machines can use";

/// The error for a verb that is Docker's, or that many people try.
pub(super) fn verb(word: &str) -> Option<Error> {
    let (_, why, hint) = VERBS.iter().find(|(known, ..)| *known == word)?;
    let error = match *why {
        "" => anyhow!("{word}: there is no such verb"),
        NO_VERB => anyhow!("{word}: {NO_VERB}"),
        why => anyhow!("{word}: not supported yet: {why}"),
    };
    Some(with_exit_code(with_hint(error, hint), 125))
}

const NO_NETWORK_BETWEEN: &str = "containers have no network between them yet";
const ALL_STREAMS: &str = "without -d all streams are shown, and -i passes input on";
const NO_DEVICE_LIMITS: &str = "limits of single block devices are not supported yet";

/// Options of Docker's and Podman's `run` and `create` that have no place here, and why.
const OF_RUN: [(&str, &str); 30] = [
    (
        "gpus",
        "there is no support for GPUs; --device gives single devices",
    ),
    ("link", NO_NETWORK_BETWEEN),
    ("attach", ALL_STREAMS),
    ("a", ALL_STREAMS),
    ("blkio-weight-device", NO_DEVICE_LIMITS),
    ("device-read-bps", NO_DEVICE_LIMITS),
    ("device-read-iops", NO_DEVICE_LIMITS),
    ("device-write-bps", NO_DEVICE_LIMITS),
    ("device-write-iops", NO_DEVICE_LIMITS),
    (
        "memory-swappiness",
        "cgroup v2 has no such setting; --memory-swap bounds swap",
    ),
    (
        "oom-kill-disable",
        "a container at its limit would hang; --oom-score-adj tells the kernel whom to spare",
    ),
    (
        "pidfile",
        "`mydocker inspect -f {{.State.Pid}}` tells the pid",
    ),
    (
        "replace",
        "`mydocker rm -f NAME` makes room for another container",
    ),
    (
        "rootfs",
        "`mydocker import DIR NAME` makes an image of a directory",
    ),
    ("secret", "-v FILE:/run/secrets/NAME:ro mounts a file"),
    (
        "sdnotify",
        "`runtime` passes NOTIFY_SOCKET on, mydocker does not yet",
    ),
    (
        "systemd",
        "--tmpfs /run and --stop-signal RTMIN+3 are what systemd needs",
    ),
    ("timeout", "`timeout 60 mydocker run …` bounds its time"),
    (
        "tz",
        "-e TZ=… or -v /etc/localtime:/etc/localtime:ro sets the time zone",
    ),
    (
        "preserve-fds",
        "the program gets the three standard streams only",
    ),
    (
        "cpu-rt-period",
        "the kernel's realtime groups are not supported",
    ),
    ("isolation", "it is for Windows"),
    (
        "storage-opt",
        "the container's layer lies in a directory, without a size of its own",
    ),
    ("ip", NO_NETWORK_BETWEEN),
    ("ip6", NO_NETWORK_BETWEEN),
    ("mac-address", NO_NETWORK_BETWEEN),
    ("network-alias", NO_NETWORK_BETWEEN),
    (
        "cpu-rt-runtime",
        "the kernel's realtime groups are not supported",
    ),
    ("kernel-memory", "the kernel has no such limit any more"),
    ("use-api-socket", "there is no daemon"),
];

const NO_ATTESTATIONS: &str = "no attestations are made of images";
const NONE_STAYS: &str = "the container of a step is removed at its end, whichever that is";
const CACHE_IS_HERE: &str = "steps are taken over from builds on this machine only";
const NOT_ELSEWHERE: &str =
    "the image is kept on this machine; `mydocker save` and `mydocker export` write files";

/// The same of `build`, with the values that ask for what is done in any case.
const OF_BUILD: [(&str, &[&str], &str); 18] = [
    ("rm", &["true"], NONE_STAYS),
    ("force-rm", &["true"], NONE_STAYS),
    ("load", &["true"], NOT_ELSEWHERE),
    (
        "compress",
        &["true", "false"],
        "the context is sent nowhere",
    ),
    ("provenance", &["false"], NO_ATTESTATIONS),
    ("sbom", &["false"], NO_ATTESTATIONS),
    ("attest", &[], NO_ATTESTATIONS),
    (
        "push",
        &["false"],
        "`mydocker push` sends the image that was built",
    ),
    (
        "squash",
        &["false"],
        "each step keeps its layer; `mydocker export` and `import` make one of all",
    ),
    ("output", &[], NOT_ELSEWHERE),
    ("o", &[], NOT_ELSEWHERE),
    ("cache-from", &[], CACHE_IS_HERE),
    ("cache-to", &[], CACHE_IS_HERE),
    (
        "no-cache-filter",
        &[],
        "--no-cache carries out every step anew",
    ),
    (
        "build-context",
        &[],
        "there is one context; COPY --from takes files of images",
    ),
    (
        "ssh",
        &[],
        "RUN reaches no agent of ssh; --secret gives it a key",
    ),
    (
        "allow",
        &[],
        "RUN has the rights of a container, and with --network host the host's network",
    ),
    ("builder", &[], "there is one builder, mydocker itself"),
];

/// An option that is Docker's and not ours.
pub(super) struct Foreign {
    /// Values that ask for what is done in any case.
    so: &'static [&'static str],
    why: &'static str,
    /// Whether its value may be the next word.
    pub(super) takes_value: bool,
}

/// What Docker has of that name for a verb.
pub(super) fn option(verb: &str, name: &str) -> Option<Foreign> {
    let (so, why) = match verb {
        "run" | "create" => {
            let (_, why) = OF_RUN.iter().find(|(known, _)| *known == name)?;
            (&[][..], *why)
        }
        "build" => {
            let (_, so, why) = OF_BUILD.iter().find(|(known, ..)| *known == name)?;
            (*so, *why)
        }
        _ => return None,
    };
    Some(Foreign {
        so,
        why,
        takes_value: ["provenance", "sbom"].contains(&name),
    })
}

impl Foreign {
    /// Fails unless it asks for what is the case; `typed` is the whole word.
    pub(super) fn check(&self, verb: &str, typed: &str, value: Option<&str>) -> Result<()> {
        if self.so.contains(&value.unwrap_or("true")) {
            return Ok(());
        }
        let error = anyhow!("{verb}: {typed}: not supported: {}", self.why);
        Err(with_exit_code(
            with_hint(error, "leave the option out"),
            125,
        ))
    }
}

/// The hint for a first word of `run` that is neither an image nor a program: perhaps it is a verb.
pub(super) fn hint_for_run(word: &str) -> String {
    if word == "commit" {
        return "mydocker commit CONTAINER IMAGE[:TAG] makes an image of a container".to_owned();
    }
    if Cli::command().find_subcommand(word).is_some() {
        return format!("{word} is a verb of its own: `mydocker {word} --help`");
    }
    match word {
        "" => "`mydocker images` lists the images".to_owned(),
        // Not an image of that name in a registry, which is somebody else's.
        "stress" => "scripts/quickstart makes the image stress, as README says".to_owned(),
        _ => format!("`mydocker run --pull missing {word} …` or `mydocker pull {word}` brings it"),
    }
}

/// The error for a program that its runtime has not found in the container.
pub(super) fn no_program(name: &str, image: &str, failure: Error) -> Error {
    let message = error::message(&failure);
    if message.contains("not found in $PATH") {
        let error = anyhow!("{name}: not found in $PATH of image {image}");
        if name.starts_with('-') {
            let hint = "options come before the image: mydocker run";
            return with_hint(error, format!("{hint} {name} … {image}"));
        }
        return match error::hint_of(&failure) {
            Some(hint) => with_hint(error, hint),
            None => error,
        };
    }
    // And not what a script there is to be read by.
    if message.contains(&format!("stat {name}: ")) {
        let hint = format!("the image has no such file; it has: mydocker run {image} ls");
        return with_hint(failure, hint);
    }
    failure
}

/// Why a number cannot be read, without the words of the standard library.
pub(super) fn why_no_number(why: &str) -> String {
    let words = match why {
        "invalid digit found in string" | "cannot parse integer from empty string" => {
            "it is not a whole number"
        }
        "invalid float literal" | "cannot parse float from empty string" => "it is not a number",
        "number too large to fit in target type" => "it is too large",
        "number too small to fit in target type" => "it is too small",
        other => other,
    };
    words.to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::flags::{Parsed, parse};
    use super::*;
    use crate::error::{hint_of, message};
    use std::ffi::OsString;

    #[test]
    fn verbs_of_docker_are_told_as_such() {
        let error = verb("search").unwrap();
        assert!(message(&error).contains("not supported yet"));
        assert!(hint_of(&error).unwrap().contains("pull"));
        assert!(verb("frobnicate").is_none());
        // The first of two words is one.
        let error = message(&verb("volume").unwrap());
        assert_eq!(error, "volume: it needs a verb");
        // What there is needs no excuse. `image` and the like have verbs below them.
        for (word, why, _) in VERBS {
            let there = Cli::command().find_subcommand(word).is_some();
            assert!(why.is_empty() || !there, "{word}");
        }
    }

    #[test]
    fn what_is_the_case_anyway_may_be_asked_for() {
        let check = |name: &str, value| option("build", name).unwrap().check("build", name, value);
        for name in ["rm", "force-rm", "load", "compress"] {
            check(name, None).unwrap();
            check(name, Some("true")).unwrap();
        }
        for name in ["provenance", "sbom", "push", "squash", "compress"] {
            check(name, Some("false")).unwrap();
        }
        for (name, value) in [("rm", "false"), ("load", "false"), ("sbom", "true")] {
            check(name, Some(value)).unwrap_err();
        }
        let error = message(&check("push", None).unwrap_err());
        assert!(error.starts_with("build: push: not supported: `mydocker push`"));
        let line = "build --rm --load=true --sbom false --provenance=false .";
        assert!(matches!(parse(words(line)), Ok(Parsed::Run(_))));
    }

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn options_of_docker_are_told_as_such() {
        for (line, told) in [
            // No clusters of -i, -p and -l.
            (
                "run --ip 1.2.3.4 x",
                "run: --ip: not supported: containers have no network",
            ),
            (
                "create --ip6=::1 x",
                "create: --ip6=::1: not supported: containers have",
            ),
            (
                "run -link y x",
                "run: -link: not supported: containers have no network",
            ),
            (
                "run -a stdout x",
                "run: -a: not supported: without -d all streams",
            ),
            (
                "build -o dir .",
                "build: -o: not supported: the image is kept",
            ),
            (
                "build --rm=false .",
                "build: --rm=false: not supported: the container of",
            ),
            (
                "build --provenance mode=max .",
                "build: --provenance: not supported: no",
            ),
        ] {
            let error = message(&parse(words(line)).unwrap_err().error);
            assert!(error.starts_with(told), "{line}: {error}");
        }
        let program = Cli::command();
        let ours = |verb: &str, name: &str| {
            let verb = program.find_subcommand(verb).unwrap();
            let mut all = verb.get_arguments();
            all.any(|arg| arg.get_long() == Some(name))
        };
        assert!(OF_RUN.iter().all(|(name, _)| !ours("run", name)));
        assert!(OF_BUILD.iter().all(|(name, ..)| !ours("build", name)));
    }

    #[test]
    fn a_verb_behind_run_is_seen() {
        assert!(hint_for_run("commit").contains("CONTAINER IMAGE"));
        assert!(hint_for_run("logs").contains("mydocker logs"));
        let hint = hint_for_run("alpine");
        assert!(hint.contains("`mydocker run --pull missing alpine …`"));
        assert!(hint.contains("`mydocker pull alpine`"));
        assert!(hint_for_run("stress").contains("scripts/quickstart"));
    }
}

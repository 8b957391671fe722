//! Names and passwords for registries, where Docker keeps them: `config.json` in `$DOCKER_CONFIG` or
//! `~/.docker`, itself or through a credential helper (`credsStore`, `credHelpers`).

use super::state_dirs::lock_file;
use super::whole_file::replace_private;
use crate::error::{ResultExt, with_hint};
use anyhow::{Context, Result, anyhow, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nix::fcntl::{Flock, FlockArg};
use serde_json::{Map, Value, json};
use std::fmt;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Docker Hub's entry.
const HUB: &str = "https://index.docker.io/v1/";
/// The name that stands for an identity token.
const TOKEN: &str = "<token>";

/// What a user is known by at a registry.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub name: String,
    /// The password, or the token.
    pub secret: String,
    /// The secret is a token to get other tokens by (OAuth 2.0, RFC 6749, section 6).
    pub is_identity_token: bool,
}

impl Credentials {
    /// A name and a password.
    pub fn password(name: &str, secret: &str) -> Credentials {
        Credentials {
            name: name.to_owned(),
            secret: secret.to_owned(),
            is_identity_token: false,
        }
    }

    /// The name for messages.
    pub fn shown_name(&self) -> &str {
        if self.is_identity_token {
            return "the identity token";
        }
        &self.name
    }
}

/// Secrets are for nobody's log.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({})", self.shown_name())
    }
}

/// Where they are kept.
#[derive(Debug)]
pub struct Keeper {
    path: PathBuf,
}

impl Keeper {
    /// The caller's.
    pub fn of_caller() -> Keeper {
        let named = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let dir = match (named("DOCKER_CONFIG"), named("HOME")) {
            (Some(dir), _) => PathBuf::from(dir),
            (None, Some(home)) => PathBuf::from(home).join(".docker"),
            (None, None) => PathBuf::from("/root/.docker"),
        };
        Keeper {
            path: dir.join("config.json"),
        }
    }

    /// What is kept for a registry.
    pub fn get(&self, host: &str) -> Result<Option<Credentials>> {
        let config = self.read()?;
        if let Some(helper) = helper_for(&config, host) {
            return from_helper(&helper, host);
        }
        let Some(auths) = config.get("auths").and_then(Value::as_object) else {
            return Ok(None);
        };
        let exact = auths.get(key(host));
        let found = exact.or_else(|| {
            let mut all = auths.iter();
            all.find(|(name, _)| host_of(name) == host_of(key(host)))
                .map(|(_, entry)| entry)
        });
        found.map_or(Ok(None), |entry| {
            of_entry(entry)
                .with_context(|| format!("{}: the entry for {host}", self.path.display()))
                .hint(format!("mydocker login {host}"))
        })
    }

    /// Keeps them. Says where, for the user to know.
    pub fn put(&self, host: &str, credentials: &Credentials) -> Result<String> {
        let (config, lock) = self.lock()?;
        if let Some(helper) = helper_for(&config, host) {
            let entry = json!({
                "ServerURL": key(host), "Username": credentials.name, "Secret": credentials.secret,
            });
            ask_helper(&helper, "store", &entry.to_string())?;
            return Ok(format!("docker-credential-{helper}"));
        }
        let secret = format!("{}:{}", credentials.name, credentials.secret);
        self.change(config, |auths| {
            auths.insert(
                key(host).to_owned(),
                json!({"auth": STANDARD.encode(secret)}),
            );
        })?;
        drop(lock);
        Ok(self.path.display().to_string())
    }

    /// Forgets them; whether there were any.
    pub fn remove(&self, host: &str) -> Result<bool> {
        let (config, _lock) = self.lock()?;
        if let Some(helper) = helper_for(&config, host) {
            let known = from_helper(&helper, host)?.is_some();
            if known {
                ask_helper(&helper, "erase", key(host))?;
            }
            return Ok(known);
        }
        let mut known = false;
        self.change(config, |auths| {
            auths.retain(|name, _| {
                let it = host_of(name) == host_of(key(host));
                known |= it;
                !it
            });
        })?;
        Ok(known)
    }

    fn read(&self) -> Result<Map<String, Value>> {
        let at = || format!("read {}", self.path.display());
        match std::fs::read(&self.path) {
            Ok(bytes) if bytes.trim_ascii().is_empty() => Ok(Map::new()),
            Ok(bytes) => serde_json::from_slice(&bytes)
                .with_context(at)
                .hint("it must be a JSON object, as Docker writes it"),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Map::new()),
            Err(error) => Err(error).with_context(at),
        }
    }

    /// The file, for somebody who is alone in changing it.
    fn lock(&self) -> Result<(Map<String, Value>, Flock<File>)> {
        let dir = self.path.parent().context("a file without a directory")?;
        let make = || format!("make {}", dir.display());
        std::fs::DirBuilder::new()
            .mode(0o700)
            .recursive(true)
            .create(dir)
            .with_context(make)?;
        let lock = lock_file(File::open(dir).with_context(make)?, FlockArg::LockExclusive)
            .with_context(|| format!("lock {}", dir.display()))?;
        Ok((self.read()?, lock))
    }

    /// Changes `auths`, and leaves what else Docker keeps there.
    fn change(
        &self,
        mut config: Map<String, Value>,
        action: impl FnOnce(&mut Map<String, Value>),
    ) -> Result<()> {
        let auths = config.entry("auths").or_insert_with(|| json!({}));
        action(
            auths
                .as_object_mut()
                .with_context(|| format!("{}: auths is no object", self.path.display()))?,
        );
        let text = serde_json::to_string_pretty(&config)? + "\n";
        // A link to it stays one.
        let path = std::fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        replace_private(&path, text.as_bytes())
    }
}

/// The name by which Docker keeps a registry.
fn key(host: &str) -> &str {
    if host == "docker.io" { HUB } else { host }
}

/// The host of an entry: older programs wrote URLs.
pub(super) fn host_of(entry: &str) -> &str {
    let rest = entry.split_once("://").map_or(entry, |(_, rest)| rest);
    rest.split('/').next().unwrap_or(rest)
}

fn helper_for(config: &Map<String, Value>, host: &str) -> Option<String> {
    let own = config
        .get("credHelpers")
        .and_then(|all| all.get(key(host)).or(all.get(host)));
    let helper = own.or(config.get("credsStore"))?.as_str()?;
    (!helper.is_empty()).then(|| helper.to_owned())
}

fn of_entry(entry: &Value) -> Result<Option<Credentials>> {
    let text = |name: &str| entry[name].as_str().filter(|text| !text.is_empty());
    if let Some(token) = text("identitytoken") {
        return Ok(Some(Credentials {
            name: TOKEN.to_owned(),
            secret: token.to_owned(),
            is_identity_token: true,
        }));
    }
    if let (Some(name), Some(secret)) = (text("username"), text("password")) {
        return Ok(Some(Credentials::password(name, secret)));
    }
    let Some(encoded) = text("auth") else {
        return Ok(None);
    };
    let bytes = STANDARD.decode(encoded).context("it is not base64")?;
    let pair = String::from_utf8(bytes).context("it is not UTF-8")?;
    let (name, secret) = pair.split_once(':').context("it is not NAME:PASSWORD")?;
    // Docker pads it with zeros.
    Ok(Some(Credentials::password(
        name,
        secret.trim_end_matches('\0'),
    )))
}

fn from_helper(helper: &str, host: &str) -> Result<Option<Credentials>> {
    let Some(answer) = ask_helper(helper, "get", key(host))? else {
        return Ok(None);
    };
    let answer: Value = serde_json::from_str(&answer)
        .with_context(|| format!("docker-credential-{helper}: its answer"))?;
    let text = |name: &str| answer[name].as_str().unwrap_or_default().to_owned();
    let name = text("Username");
    Ok(Some(Credentials {
        is_identity_token: name == TOKEN,
        name,
        secret: text("Secret"),
    }))
}

/// Has a helper do something; `None` when it knows no credentials.
fn ask_helper(helper: &str, verb: &str, input: &str) -> Result<Option<String>> {
    if helper.contains('/') {
        bail!("{helper:?} is not the name of a credential helper");
    }
    let program = format!("docker-credential-{helper}");
    let run = || -> Result<std::process::Output> {
        let mut child = Command::new(&program)
            .arg(verb)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // One that does not read it says why.
            let _ = stdin.write_all(input.as_bytes());
        }
        Ok(child.wait_with_output()?)
    };
    let output = run()
        .with_context(|| program.clone())
        .hint("config.json names it as credsStore or credHelpers: install it, or take it out")?;
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if output.status.success() {
        return Ok(Some(said));
    }
    if said.contains("credentials not found") {
        return Ok(None);
    }
    let error = anyhow!("{program} {verb}: {said} ({})", output.status);
    Err(with_hint(
        error,
        "its own words; config.json names it as credsStore or credHelpers",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keeper(name: &str, text: &str) -> Keeper {
        let dir = std::env::temp_dir().join(format!("keeper-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("config.json");
        std::fs::write(&path, text).unwrap();
        Keeper { path }
    }

    #[test]
    fn entries_are_found_as_docker_finds_them() {
        let auth = STANDARD.encode("me:pass:word\0\0");
        let text = json!({"auths": {
            "https://index.docker.io/v1/": {"auth": auth},
            "https://old.example/v2/": {"username": "a", "password": "b"},
            "reg:5000": {"identitytoken": "t", "auth": auth},
            "empty": {},
        }});
        let keeper = keeper("found", &text.to_string());
        let secret = |host: &str| keeper.get(host).unwrap().map(|c| (c.name, c.secret));
        let pair = |a: &str, b: &str| Some((a.to_owned(), b.to_owned()));
        assert_eq!(secret("docker.io"), pair("me", "pass:word"));
        assert_eq!(secret("old.example"), pair("a", "b"));
        assert_eq!(secret("reg:5000"), pair(TOKEN, "t"));
        assert_eq!(secret("empty"), None);
        assert_eq!(secret("reg"), None);
        std::fs::remove_dir_all(keeper.path.parent().unwrap()).unwrap();
    }

    #[test]
    fn what_else_is_in_the_file_stays() {
        use std::os::unix::fs::PermissionsExt;
        let keeper = keeper(
            "stays",
            r#"{"detachKeys": "ctrl-a", "auths": {"b": {"auth": "x"}}}"#,
        );
        keeper.put("a", &Credentials::password("me", "pw")).unwrap();
        assert_eq!(
            keeper.get("a").unwrap(),
            Some(Credentials::password("me", "pw"))
        );
        let mode = keeper.path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(keeper.remove("a").unwrap());
        assert!(!keeper.remove("a").unwrap());
        let left = Value::Object(keeper.read().unwrap());
        assert_eq!(
            left,
            json!({"detachKeys": "ctrl-a", "auths": {"b": {"auth": "x"}}})
        );
        std::fs::remove_dir_all(keeper.path.parent().unwrap()).unwrap();
    }
}

//! Image names by Docker's rules: `[DOMAIN[:PORT]/]PATH[:TAG][@DIGEST]`
//! (the grammar of github.com/distribution/reference).

use std::fmt;

use anyhow::{Result, bail};

use crate::error::ResultExt;

/// A parsed image name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// The registry; `docker.io` when the name does not say.
    pub domain: String,
    /// The path on the registry; official images have `library/` in front.
    pub path: String,
    /// The tag, if the name has one.
    pub tag: Option<String>,
    /// The manifest's digest, `sha256:<hex>`, if the name has one.
    pub digest: Option<String>,
}

const HINT: &str = "a name is [REGISTRY/]NAME[:TAG], in lower case, such as busybox:1.36";

impl Reference {
    /// Parses and checks a name. The error names the part that is wrong.
    pub fn parse(text: &str) -> Result<Reference> {
        parse(text)
            .map_err(|error| error.context(format!("invalid image name {text:?}")))
            .hint(HINT)
    }

    /// A registry, given as `HOST[:PORT]`, without anything on it.
    pub fn of_registry(host: &str) -> Result<Reference> {
        check_domain(host)
            .map_err(|error| error.context(format!("invalid registry {host:?}")))
            .hint("a registry is HOST[:PORT], such as docker.io or localhost:5000")?;
        Ok(Reference {
            domain: host.to_owned(),
            path: String::new(),
            tag: None,
            digest: None,
        })
    }

    /// The repository in the short form that people type and `images` shows: `busybox`,
    /// `user/app`, `registry:5000/app`.
    pub fn repository(&self) -> String {
        if self.domain != "docker.io" {
            return format!("{}/{}", self.domain, self.path);
        }
        match self.path.strip_prefix("library/") {
            Some(name) if !name.contains('/') => name.to_owned(),
            _ => self.path.clone(),
        }
    }

    /// The tag, `latest` when the name has none.
    pub fn tag_or_latest(&self) -> &str {
        self.tag.as_deref().unwrap_or("latest")
    }

    /// The name under which the store's index holds it: `busybox:latest`, or `busybox@sha256:…`,
    /// where a tag says nothing more.
    pub fn key(&self) -> String {
        match &self.digest {
            Some(digest) => format!("{}@{digest}", self.repository()),
            None => format!("{}:{}", self.repository(), self.tag_or_latest()),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.repository())?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

fn parse(text: &str) -> Result<Reference> {
    if text.is_empty() {
        bail!("the name is empty");
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (text, None),
    };
    if let Some(digest) = digest {
        check_digest(digest)?;
    }
    // A colon after the last slash starts the tag; one before it belongs to a port.
    let slash = rest.rfind('/').map_or(0, |at| at + 1);
    let (name, tag) = match rest[slash..].find(':') {
        Some(at) => (&rest[..slash + at], Some(&rest[slash + at + 1..])),
        None => (rest, None),
    };
    if let Some(tag) = tag {
        check_tag(tag)?;
    }
    if is_hex(name, 64) {
        bail!("64 hexadecimal digits are an image id, not a name");
    }
    let (domain, path) = split_domain(name);
    check_domain(&domain)?;
    if path.is_empty() {
        bail!("the repository is empty");
    }
    for part in path.split('/') {
        check_component(part)?;
    }
    if domain.len() + path.len() + 1 > 255 {
        bail!("the repository is longer than 255 characters");
    }
    // With a tag of 64 digits it would look like the id of another image.
    if (domain.as_str(), path.as_str()) == ("docker.io", "library/sha256") {
        bail!("what begins with sha256: is an image id, not a name");
    }
    Ok(Reference {
        domain,
        path,
        tag: tag.map(str::to_owned),
        digest: digest.map(str::to_owned),
    })
}

fn split_domain(name: &str) -> (String, String) {
    let (domain, path) = match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.chars().any(|c| c.is_ascii_uppercase()) =>
        {
            (first, rest)
        }
        _ => ("docker.io", name),
    };
    let domain = if domain == "index.docker.io" {
        "docker.io"
    } else {
        domain
    };
    if domain == "docker.io" && !path.contains('/') && !path.is_empty() {
        return (domain.to_owned(), format!("library/{path}"));
    }
    (domain.to_owned(), path.to_owned())
}

fn check_domain(domain: &str) -> Result<()> {
    let (host, port) = match domain.rsplit_once(':') {
        Some((host, port)) if !domain.ends_with(']') => (host, Some(port)),
        _ => (domain, None),
    };
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    };
    let is_v6 = host.starts_with('[')
        && host.ends_with(']')
        && host[1..host.len() - 1]
            .chars()
            .all(|c| c.is_ascii_hexdigit() || c == ':');
    if !is_v6 && !host.split('.').all(is_label) {
        bail!("{host:?} is not the name of a registry");
    }
    if let Some(port) = port
        && (port.is_empty() || !port.chars().all(|c| c.is_ascii_digit()))
    {
        bail!("{port:?} is not a port");
    }
    Ok(())
}

/// `[a-z0-9]+` parts joined by one `.`, one or two `_`, or any number of `-`.
fn check_component(part: &str) -> Result<()> {
    if part.is_empty() {
        bail!("a part of the repository is empty");
    }
    if part.chars().any(|c| c.is_ascii_uppercase()) {
        bail!("the repository must be in lower case");
    }
    let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if let Some(wrong) = part.chars().find(|&c| !is_word(c) && !"._-".contains(c)) {
        bail!("the repository holds {wrong:?}");
    }
    for run in part.split(is_word).filter(|run| !run.is_empty()) {
        if !(matches!(run, "." | "_" | "__") || run.chars().all(|c| c == '-')) {
            bail!("the repository holds {run:?}");
        }
    }
    if !(part.starts_with(is_word) && part.ends_with(is_word)) {
        bail!("each part of the repository must start and end with a letter or a digit");
    }
    Ok(())
}

fn check_tag(tag: &str) -> Result<()> {
    let first = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if tag.is_empty() {
        bail!("the tag is empty");
    }
    if tag.len() > 128 {
        bail!("the tag is longer than 128 characters");
    }
    if !tag.starts_with(first) || !tag.chars().all(|c| first(c) || c == '.' || c == '-') {
        bail!("{tag:?} is not a tag");
    }
    Ok(())
}

fn check_digest(digest: &str) -> Result<()> {
    match digest.strip_prefix("sha256:") {
        Some(hex) if is_hex(hex, 64) => Ok(()),
        _ => bail!("{digest:?} is not a digest (sha256: and 64 hexadecimal digits)"),
    }
}

/// Whether `text` is exactly `len` lower-case hexadecimal digits.
pub(super) fn is_hex(text: &str, len: usize) -> bool {
    text.len() == len && text.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_take_their_short_form() {
        for (text, key) in [
            ("busybox", "busybox:latest"),
            ("busybox:1.36", "busybox:1.36"),
            ("docker.io/library/busybox", "busybox:latest"),
            ("index.docker.io/busybox:a", "busybox:a"),
            ("user/app", "user/app:latest"),
            ("docker.io/user/app:v1", "user/app:v1"),
            ("localhost/app", "localhost/app:latest"),
            ("reg:5000/app:v1", "reg:5000/app:v1"),
            ("a.b/c__d/e--f.g", "a.b/c__d/e--f.g:latest"),
            ("[::1]:5000/app", "[::1]:5000/app:latest"),
        ] {
            assert_eq!(
                Reference::parse(text).map(|r| r.key()).unwrap_or_default(),
                key,
                "{text}"
            );
        }
        for other in ["team/sha256:1", "reg.io/sha256", "sha256sum", "sha512"] {
            Reference::parse(other).unwrap();
        }
        let digest = format!("sha256:{}", "a".repeat(64));
        let full = Reference::parse(&format!("busybox:1@{digest}")).unwrap();
        assert_eq!(full.digest.as_deref(), Some(digest.as_str()));
        assert_eq!(full.to_string(), format!("busybox:1@{digest}"));
    }

    #[test]
    fn bad_names_say_what_is_wrong() {
        let id = "0".repeat(64);
        for (text, why) in [
            ("", "empty"),
            ("Busybox", "lower case"),
            ("busy box", "holds ' '"),
            ("a..b", "holds \"..\""),
            ("a___b", "holds \"___\""),
            ("-a", "start and end"),
            ("a:", "tag is empty"),
            ("a:-x", "not a tag"),
            ("a/", "empty"),
            ("a//b", "empty"),
            ("../a", "not the name of a registry"),
            ("/a", "empty"),
            ("a@sha256:12", "not a digest"),
            ("reg.io:x/a", "not a port"),
            (id.as_str(), "image id"),
            ("sha256", "is an image id"),
            ("sha256:latest", "is an image id"),
            (&format!("sha256:{id}"), "is an image id"),
            (&format!("docker.io/sha256:{id}"), "is an image id"),
            (
                &format!("index.docker.io/library/sha256:{id}"),
                "is an image id",
            ),
        ] {
            let error = crate::error::message(&Reference::parse(text).unwrap_err());
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}

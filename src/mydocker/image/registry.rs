//! What a registry is asked for, by its API (distribution-spec, "API"; Docker Registry v2 is the same):
//! who we are, redirections, and another try when the line was cut are settled here.

use std::io::Read;
use std::time::Duration;

use anyhow::{Context, Error, Result, anyhow, ensure};
use serde_json::Value;
use ureq::http::{HeaderMap, Method, Request, Response, StatusCode, header};
use ureq::{Body, SendBody};

use super::super::credentials::Credentials;
use super::Reference;
use super::manifest::{DOCKER_MANIFEST_TYPE, MANIFEST_TYPE, digest_of};
use super::registry_auth::Auth;
use super::transport::{
    MOST_REDIRECTIONS, Transport, Trust, explain, is_passing, join, location, origin,
};
use crate::error::{ResultExt, hint_of, with_hint};

/// Names of manifests and indexes, for what they are.
pub(super) const INDEX_TYPES: [&str; 2] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];

/// The largest manifest (distribution-spec: registries need not take larger ones).
const LARGEST_MANIFEST: u64 = 4 << 20;
/// How often something is tried again.
const RETRIES: u32 = 5;
/// The pause before the first retry; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause that a registry may ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What is to be done with a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Pull,
    Push,
    /// Nothing: who we are is to be checked.
    Login,
}

/// A repository of a registry.
#[derive(Debug)]
pub(super) struct Registry {
    /// The registry as the user knows it, `docker.io`.
    host: String,
    /// `https://HOST[:PORT]`
    base: String,
    /// `library/busybox`
    repository: String,
    transport: Transport,
    auth: Auth,
}

/// A document of a registry.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) bytes: Vec<u8>,
    pub(super) digest: String,
    pub(super) media_type: String,
}

/// Opens a body at its beginning.
pub(super) type Open<'a> = &'a (dyn Fn() -> Result<Box<dyn Read + 'a>> + 'a);

/// A request that can be made again.
pub(super) struct Call<'a> {
    pub(super) method: Method,
    pub(super) url: String,
    pub(super) headers: Vec<(header::HeaderName, String)>,
    /// Its length, if that is known before, and where it comes from.
    pub(super) body: Option<(Option<u64>, Open<'a>)>,
}

impl<'a> Call<'a> {
    pub(super) fn new(method: Method, url: String) -> Call<'a> {
        Call {
            method,
            url,
            headers: Vec::new(),
            body: None,
        }
    }

    pub(super) fn with(mut self, name: header::HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// Pauses between tries, each twice as long as the one before.
#[derive(Debug, Default)]
pub(super) struct Patience {
    tries: u32,
}

impl Patience {
    /// Waits, as long as the registry asks if it does; false if it has been tried often enough.
    pub(super) fn wait(&mut self, asked: Option<Duration>) -> bool {
        if self.tries == RETRIES || asked.is_some_and(|asked| asked > LONGEST_PAUSE) {
            return false;
        }
        std::thread::sleep(asked.unwrap_or(FIRST_PAUSE * 2u32.pow(self.tries)));
        self.tries += 1;
        true
    }
}

impl Registry {
    /// Finds out how the registry of `reference` is reached. Where no certificate is asked for,
    /// that may be plain HTTP, as with Docker.
    pub(super) fn open(
        reference: &Reference,
        access: Access,
        mounts: &[String],
        trust: Trust,
        credentials: Option<Credentials>,
    ) -> Result<Registry> {
        let host = reference.domain.as_str();
        let address = match host {
            "docker.io" => "registry-1.docker.io",
            other => other,
        };
        let of = |path: &str, actions: &str| format!("repository:{path}:{actions}");
        let mut scopes = match access {
            Access::Login => Vec::new(),
            Access::Pull => vec![of(&reference.path, "pull")],
            Access::Push => vec![of(&reference.path, "pull,push")],
        };
        scopes.extend(mounts.iter().map(|path| of(path, "pull")));
        let transport = Transport::new(address, trust);
        let mut registry = Registry {
            host: host.to_owned(),
            base: format!("https://{address}"),
            repository: reference.path.clone(),
            auth: Auth::new(host, credentials, scopes),
            transport,
        };
        if let Err(error) = registry.ping() {
            if registry.may_be_plain(&error) {
                registry.base = format!("http://{address}");
            } else if !is_passing(&error) {
                return Err(registry.explained(error));
            }
            registry.wait_for_ping()?;
        }
        Ok(registry)
    }

    fn may_be_plain(&self, error: &Error) -> bool {
        let address = self.base.trim_start_matches("https://");
        // With a port given there is one place only to try; a refusal there is one for both.
        let refused = error.chain().any(|link| {
            link.downcast_ref::<std::io::Error>()
                .is_some_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused)
        });
        let has_port = super::transport::without_port(address) != address;
        self.transport
            .trusts(super::transport::without_port(address))
            && !(refused && has_port)
    }

    /// Whether there is a registry at all. Who asks is no question yet: it may have things for
    /// everybody although it forbids this.
    fn ping(&self) -> Result<()> {
        let request = Request::get(format!("{}/v2/", self.base)).body(SendBody::none())?;
        let response = self.transport.send(request)?;
        match response.status() {
            StatusCode::NOT_FOUND => Err(anyhow!("{}: it is no registry", self.host))
                .hint("/v2/ is not there: check the host and the port"),
            _ => Ok(()),
        }
    }

    fn wait_for_ping(&self) -> Result<()> {
        let mut patience = Patience::default();
        loop {
            match self.ping() {
                Err(error) if is_passing(&error) && patience.wait(None) => {}
                Err(error) => return Err(self.explained(error)),
                Ok(()) => return Ok(()),
            }
        }
    }

    /// Where something of the repository is: `manifests/latest`.
    pub(super) fn url(&self, what: &str) -> String {
        format!("{}/v2/{}/{what}", self.base, self.repository)
    }

    /// The registry as the user knows it.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// Sends a request, with a pause again when it may help. Any status but those that ask for
    /// another try is a success.
    pub(super) fn call(&self, call: &Call<'_>) -> Result<Response<Body>> {
        self.call_for(call, Ok)
    }

    /// The same with what is read of the answer: it is asked for again also when the line is cut in the
    /// middle of it.
    fn call_for<T>(
        &self,
        call: &Call<'_>,
        read: impl Fn(Response<Body>) -> Result<T>,
    ) -> Result<T> {
        let mut patience = Patience::default();
        loop {
            let answer = match self.try_once(call) {
                Ok(response) if is_busy(response.status()) => {
                    if !patience.wait(retry_after(response.headers())) {
                        return Err(self.refusal(response));
                    }
                    continue;
                }
                answer => answer.and_then(&read),
            };
            match answer {
                Err(error) if is_passing(&error) && patience.wait(None) => {}
                Err(error) => return Err(self.explained(error)),
                done => return done,
            }
        }
    }

    /// An error of the line in words for people; one that has a hint has them.
    pub(super) fn explained(&self, error: Error) -> Error {
        match hint_of(&error) {
            Some(_) => error,
            None => explain(error, &self.host),
        }
    }

    /// Sends a request once: says who we are when asked, and follows redirections of what only reads.
    /// A secret goes to the registry itself, and nowhere else.
    pub(super) fn try_once(&self, call: &Call<'_>) -> Result<Response<Body>> {
        let own = origin(&self.base);
        let mut url = call.url.clone();
        let (mut redirections, mut answers) = (0, 0);
        loop {
            let reads = [Method::GET, Method::HEAD].contains(&call.method);
            let is_own = origin(&url) == own;
            let secret = self.auth.header().filter(|_| is_own);
            let mut request = Request::builder().method(call.method.clone()).uri(&url);
            for (name, value) in &call.headers {
                request = request.header(name, value);
            }
            if let Some(secret) = &secret {
                request = request.header(header::AUTHORIZATION, secret);
            }
            let response = match &call.body {
                None => {
                    // Some servers insist on being told that there is nothing.
                    if !reads {
                        request = request.header(header::CONTENT_LENGTH, 0);
                    }
                    self.transport.send(request.body(SendBody::none())?)?
                }
                Some((length, body)) => {
                    let mut body = body()?;
                    // Otherwise it goes in chunks.
                    if let Some(length) = length {
                        request = request.header(header::CONTENT_LENGTH, *length);
                    }
                    let body = SendBody::from_reader(&mut body);
                    self.transport.send(request.body(body)?)?
                }
            };
            match response.status() {
                // Twice: a token may have run out.
                StatusCode::UNAUTHORIZED if is_own && answers < 2 => {
                    answers += 1;
                    self.auth
                        .answer(response.headers(), secret.as_deref(), &self.transport)?;
                }
                status if reads && is_redirection(status) => {
                    redirections += 1;
                    ensure!(
                        redirections <= MOST_REDIRECTIONS,
                        "{}: more than {MOST_REDIRECTIONS} redirections",
                        self.host
                    );
                    url = join(&url, location(&response)?)?;
                }
                _ => return Ok(response),
            }
        }
    }

    /// The manifest or the index of this tag or digest, checked against the digest.
    pub(super) fn manifest(&self, tag_or_digest: &str) -> Result<Document> {
        let call = Call::new(Method::GET, self.url(&format!("manifests/{tag_or_digest}")));
        let call = call.with(header::ACCEPT, accepted());
        let (headers, bytes) = self.call_for(&call, |response| {
            if response.status() != StatusCode::OK {
                return Err(self.refusal(response));
            }
            let headers = response.headers().clone();
            let bytes = read_at_most(response, LARGEST_MANIFEST).context("read the manifest")?;
            Ok((headers, bytes))
        })?;
        let digest = digest_of(&bytes);
        let announced = match tag_or_digest.contains(':') {
            true => Some(tag_or_digest.to_owned()),
            false => digest_in(&headers),
        };
        if let Some(announced) = announced.filter(|announced| *announced != digest) {
            return Err(anyhow!(
                "{}: the manifest's digest is {digest}, not {announced}",
                self.host
            ))
            .hint("the registry is at fault, or somebody on the way to it: nothing was kept");
        }
        Ok(Document {
            media_type: media_type(&headers, &bytes),
            bytes,
            digest,
        })
    }

    /// What the registry says why it does not do it, as an error.
    pub(super) fn refusal(&self, response: Response<Body>) -> Error {
        let status = response.status();
        let asked = retry_after(response.headers());
        let body = read_at_most(response, 64 << 10).unwrap_or_default();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let first = &body["errors"][0];
        let code = first["code"].as_str().unwrap_or_default();
        let said = printable(first["message"].as_str().unwrap_or_default());
        let why = match said.as_str() {
            "" => status.to_string(),
            said => format!("{said} ({})", status.as_u16()),
        };
        let hint = match (status.as_u16(), code) {
            (401 | 403, _) | (_, "DENIED" | "UNAUTHORIZED") => {
                format!("mydocker login {}, as somebody who may", self.host)
            }
            (_, "MANIFEST_UNKNOWN" | "NAME_UNKNOWN") | (404, _) => {
                "check the name and the tag; a private one needs mydocker login".to_owned()
            }
            (429, _) => match asked {
                Some(asked) => format!("the registry asks to wait {} s", asked.as_secs()),
                None => "the registry asks to wait; a login may raise its limit".to_owned(),
            },
            (500.., _) => "the registry is at fault: try again later".to_owned(),
            _ => "its own words".to_owned(),
        };
        with_hint(anyhow!("{}: {why}", self.host), hint)
    }
}

/// Whether a registry lets somebody in.
///
/// # Errors
/// It does not, or it is not there.
pub fn login(host: &str, credentials: Credentials, trust: Trust) -> Result<()> {
    let reference = Reference::of_registry(host)?;
    let registry = Registry::open(&reference, Access::Login, &[], trust, Some(credentials))?;
    let url = format!("{}/v2/", registry.base);
    let response = registry.call(&Call::new(Method::GET, url))?;
    match response.status() {
        StatusCode::OK => Ok(()),
        _ => Err(registry.refusal(response)),
    }
}

/// The most that may come of a body, or an error.
pub(super) fn read_at_most(response: Response<Body>, most: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = response.into_body().into_reader().take(most + 1);
    std::io::BufReader::new(read).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(anyhow!("it is larger than {most} bytes"))
            .hint("the registry is at fault: nothing was kept");
    }
    Ok(bytes)
}

fn accepted() -> String {
    [[MANIFEST_TYPE, DOCKER_MANIFEST_TYPE], INDEX_TYPES]
        .concat()
        .join(", ")
}

/// The document's own word, or else the header's.
fn media_type(headers: &HeaderMap, bytes: &[u8]) -> String {
    let document: Value = serde_json::from_slice(bytes).unwrap_or_default();
    let header = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let header = header
        .unwrap_or_default()
        .split(';')
        .next()
        .unwrap_or_default()
        .trim();
    document["mediaType"].as_str().unwrap_or(header).to_owned()
}

pub(super) fn digest_in(headers: &HeaderMap) -> Option<String> {
    let value = headers.get("docker-content-digest")?.to_str().ok()?;
    Some(value.to_owned())
}

pub(super) fn is_redirection(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

pub(super) fn is_busy(status: StatusCode) -> bool {
    matches!(status.as_u16(), 429 | 500 | 502 | 503 | 504)
}

/// The pause that a registry asks for, in seconds; a date is as good as nothing.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?;
    value.trim().parse().ok().map(Duration::from_secs)
}

/// Somebody else's words, fit for a terminal.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(500).collect()
}

//! Who we are to a registry: nobody, a name and a password, or the bearer of a token that another
//! server gives for them (distribution's "Token Authentication Specification", RFC 7617, RFC 6750).

use std::io::Read;
use std::sync::Mutex;

use anyhow::{Context, Result, anyhow, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http_auth::{ChallengeParser, ChallengeRef};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use ureq::http::{HeaderMap, Method, Request, Response, header};
use ureq::{Body, SendBody};

use super::super::credentials::Credentials;
use super::registry::is_redirection;
use super::transport::{
    MOST_REDIRECTIONS, Transport, explain, is_loopback, join, location, origin,
};
use crate::error::{ResultExt, with_hint};

/// The most that a token server may answer.
const LONGEST_ANSWER: u64 = 1 << 20;

/// What a registry is told of who asks, shared by all that ask it at once.
#[derive(Debug)]
pub(super) struct Auth {
    /// The registry, for messages.
    host: String,
    credentials: Option<Credentials>,
    /// `repository:NAME:pull,push`
    scopes: Vec<String>,
    /// The value of the `Authorization` header, once there is one.
    current: Mutex<Option<String>>,
}

impl Auth {
    pub(super) fn new(host: &str, credentials: Option<Credentials>, scopes: Vec<String>) -> Auth {
        Auth {
            host: host.to_owned(),
            credentials,
            scopes,
            current: Mutex::new(None),
        }
    }

    /// The `Authorization` header to send now.
    pub(super) fn header(&self) -> Option<String> {
        self.current.lock().ok()?.clone()
    }

    /// Finds what to answer to a 401 with these headers, after a request that said `refused`.
    pub(super) fn answer(
        &self,
        headers: &HeaderMap,
        refused: Option<&str>,
        transport: &Transport,
    ) -> Result<()> {
        let mut current = self
            .current
            .lock()
            .map_err(|_| anyhow!("another request failed"))?;
        // Somebody else has found it meanwhile.
        if current.as_deref() != refused {
            return Ok(());
        }
        *current = Some(self.found(headers, refused.is_some(), transport)?);
        Ok(())
    }

    fn found(&self, headers: &HeaderMap, again: bool, transport: &Transport) -> Result<String> {
        let lines: Vec<&str> = headers
            .get_all(header::WWW_AUTHENTICATE)
            .iter()
            .filter_map(|line| line.to_str().ok())
            .collect();
        let challenges: Vec<ChallengeRef<'_>> = lines
            .iter()
            .flat_map(|line| ChallengeParser::new(line))
            .map_while(Result::ok)
            .collect();
        let of = |scheme: &str| {
            challenges
                .iter()
                .find(|challenge| challenge.scheme.eq_ignore_ascii_case(scheme))
        };
        if let Some(challenge) = of("Bearer") {
            return self.token(challenge, transport);
        }
        if of("Basic").is_none() {
            bail!("{}: it wants to know who asks, and not how", self.host);
        }
        match &self.credentials {
            Some(credentials) if !again => Ok(basic(&credentials.name, &credentials.secret)),
            _ => Err(self.denied()),
        }
    }

    /// A token of the server that the challenge names.
    fn token(&self, challenge: &ChallengeRef<'_>, transport: &Transport) -> Result<String> {
        let parameter = |name: &str| {
            let found = challenge
                .params
                .iter()
                .find(|(key, _)| key.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.to_unescaped())
        };
        let realm = parameter("realm").context("the registry names no token server")?;
        let mut query: Vec<(&str, String)> = Vec::new();
        query.extend(parameter("service").map(|service| ("service", service)));
        let mut scopes = self.scopes.clone();
        scopes.extend(parameter("scope").filter(|scope| !scopes.contains(scope)));
        query.extend(scopes.into_iter().map(|scope| ("scope", scope)));
        let request = self.token_request(&realm, query, transport)?;
        let (response, host) = ask(request, transport)?;
        let status = response.status();
        let mut text = String::new();
        response
            .into_body()
            .into_reader()
            .take(LONGEST_ANSWER)
            .read_to_string(&mut text)
            .with_context(|| format!("read the token of {host}"))?;
        if matches!(status.as_u16(), 401 | 403) {
            return Err(self.denied());
        }
        let answer: Value = serde_json::from_str(&text).unwrap_or_default();
        let token = answer["token"].as_str().or(answer["access_token"].as_str());
        match token {
            Some(token) if status.is_success() && !token.is_empty() => {
                Ok(format!("Bearer {token}"))
            }
            _ => Err(anyhow!("{host}: no token, but status {status}"))
                .hint("the registry's token server is at fault: try again later"),
        }
    }

    /// Asks by GET for a name and a password or for nobody, by POST for an identity token.
    fn token_request(
        &self,
        realm: &str,
        mut query: Vec<(&str, String)>,
        transport: &Transport,
    ) -> Result<Request<SendBody<'static>>> {
        let identity = self.credentials.as_ref().filter(|c| c.is_identity_token);
        if let Some(credentials) = &self.credentials {
            let host = realm.parse::<ureq::http::Uri>().ok();
            let host = host.as_ref().and_then(|uri| uri.host()).unwrap_or_default();
            let is_safe =
                realm.starts_with("https://") || is_loopback(host) || transport.trusts(host);
            if !is_safe {
                return Err(anyhow!(
                    "{}: it wants the password to be sent unencrypted to {host}",
                    self.host
                ))
                .hint("--insecure allows it if that is the registry's own host");
            }
            if identity.is_none() {
                query.push(("account", credentials.name.clone()));
            }
        }
        let Some(identity) = identity else {
            let separator = if realm.contains('?') { '&' } else { '?' };
            let mut request = Request::get(format!("{realm}{separator}{}", encoded(&query)));
            if let Some(credentials) = &self.credentials {
                let value = basic(&credentials.name, &credentials.secret);
                request = request.header(header::AUTHORIZATION, value);
            }
            return Ok(request.body(SendBody::none())?);
        };
        // One parameter with all scopes, unlike above.
        let scopes: Vec<String> = query
            .iter()
            .filter(|(name, _)| *name == "scope")
            .map(|(_, scope)| scope.clone())
            .collect();
        query.retain(|(name, _)| *name != "scope");
        query.push(("scope", scopes.join(" ")));
        query.push(("grant_type", "refresh_token".to_owned()));
        query.push(("client_id", "mydocker".to_owned()));
        query.push(("refresh_token", identity.secret.clone()));
        let body = std::io::Cursor::new(encoded(&query).into_bytes());
        Ok(Request::post(realm)
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(SendBody::from_owned_reader(body))?)
    }

    fn denied(&self) -> anyhow::Error {
        match &self.credentials {
            Some(credentials) => with_hint(
                anyhow!(
                    "{}: access denied for {}",
                    self.host,
                    credentials.shown_name()
                ),
                format!("mydocker login {}, as somebody who may", self.host),
            ),
            None => with_hint(
                anyhow!("{}: access denied without a login", self.host),
                format!("mydocker login {}", self.host),
            ),
        }
    }
}

/// Sends a request to a token server, and follows redirections of one that only reads. The password
/// goes to no other server than the one that was to have it.
fn ask(
    mut request: Request<SendBody<'static>>,
    transport: &Transport,
) -> Result<(Response<Body>, String)> {
    let mut secret = request.headers().get(header::AUTHORIZATION).cloned();
    let reads = request.method() == Method::GET;
    let mut redirections = 0;
    loop {
        let url = request.uri().to_string();
        let host = request.uri().host().unwrap_or_default().to_owned();
        let response = transport
            .send(request)
            .map_err(|error| explain(error, &host).context("ask for a token"))?;
        if !reads || !is_redirection(response.status()) || redirections == MOST_REDIRECTIONS {
            return Ok((response, host));
        }
        redirections += 1;
        let next = join(&url, location(&response)?)?;
        secret = secret.filter(|_| origin(&next) == origin(&url));
        let mut again = Request::get(&next);
        if let Some(secret) = &secret {
            again = again.header(header::AUTHORIZATION, secret);
        }
        request = again.body(SendBody::none())?;
    }
}

fn basic(name: &str, secret: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{name}:{secret}")))
}

fn encoded(query: &[(&str, String)]) -> String {
    let pairs: Vec<String> = query
        .iter()
        .map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC)))
        .collect();
    pairs.join("&")
}

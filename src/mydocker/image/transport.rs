//! HTTP and HTTPS, one request at a time: whom to trust, which way to go, what failed and whether it
//! may pass. What registries say by it is `registry.rs`'s business.

use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Error, Result, anyhow, bail};
use ureq::http::{Request, Response, Uri, header};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body, SendBody, Timeout};

use super::proxy::proxy_for;
use super::registry::is_redirection;
use crate::error::{ResultExt, message, with_hint};
use crate::sys::net::resolve_by_files_and_dns;

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(10);
/// How long the other side may say nothing.
const SILENCE: Duration = Duration::from_secs(60);

/// How often a server may send us elsewhere.
pub(super) const MOST_REDIRECTIONS: u32 = 10;

/// Whose word is taken without a certificate of a known authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// This machine's own (loopback addresses), as Docker does.
    Loopback,
    /// The registry's, whoever answers for it: `--insecure`.
    Registry,
    /// Nobody's: `--insecure=false`.
    Nobody,
}

impl Trust {
    /// What `--insecure[=BOOL]` says.
    pub fn of(insecure: Option<bool>) -> Trust {
        match insecure {
            None => Trust::Loopback,
            Some(true) => Trust::Registry,
            Some(false) => Trust::Nobody,
        }
    }
}

/// The connections to a registry, and to where it sends us.
#[derive(Debug)]
pub(super) struct Transport {
    /// The registry, `host[:port]`.
    host: String,
    trust: Trust,
    /// Agents that check certificates, and that do not; made when needed.
    checking: OnceLock<Agent>,
    trusting: OnceLock<Agent>,
}

impl Transport {
    pub(super) fn new(host: &str, trust: Trust) -> Transport {
        Transport {
            host: host.to_owned(),
            trust,
            checking: OnceLock::new(),
            trusting: OnceLock::new(),
        }
    }

    /// Whether this host is trusted without a certificate, and spoken to without encryption.
    pub(super) fn trusts(&self, host: &str) -> bool {
        match self.trust {
            Trust::Nobody => false,
            Trust::Loopback => is_loopback(host),
            Trust::Registry => is_loopback(host) || host == without_port(&self.host),
        }
    }

    /// Sends one request. A redirection is a response like any other.
    pub(super) fn send(&self, request: Request<SendBody<'_>>) -> Result<Response<Body>> {
        let uri = request.uri();
        let host = uri.host().context("a URL without a host")?;
        let proxy = proxy_for(uri.scheme_str().unwrap_or_default(), host)?;
        let agent = self.agent(host)?;
        let request = agent.configure_request(request).proxy(proxy).build();
        agent.run(request).map_err(|error| match error {
            ureq::Error::Io(error) => error.into(),
            other => other.into(),
        })
    }

    fn agent(&self, host: &str) -> Result<&Agent> {
        let (place, roots) = match self.trusts(host) {
            true => (&self.trusting, None),
            false => (&self.checking, Some(&self.host)),
        };
        if place.get().is_none() {
            resolve_by_files_and_dns();
            // If two threads make one, the first one's stays.
            let _ = place.set(new_agent(roots.map(String::as_str))?);
        }
        place.get().context("no agent")
    }
}

/// A file of the web, and its size if that is told.
///
/// # Errors
/// It is not there, or not reached. One that comes in part only is an error of the reader.
pub(super) fn download(url: &str) -> Result<(Box<dyn std::io::Read>, Option<u64>)> {
    let (_, host, port) = origin(url).with_context(|| format!("{url:?} is no URL"))?;
    let transport = Transport::new(&format!("{host}:{port}"), Trust::Loopback);
    let mut place = url.to_owned();
    for _ in 0..=MOST_REDIRECTIONS {
        let request = Request::get(&place).body(SendBody::none())?;
        let response = transport
            .send(request)
            .map_err(|error| explain(error, &host))?;
        match response.status().as_u16() {
            200 => {
                let body = response.into_body();
                let size = body.content_length();
                return Ok((Box::new(body.into_reader()), size));
            }
            _ if is_redirection(response.status()) => place = join(&place, location(&response)?)?,
            _ => {
                let error = anyhow!("{host}: {}", response.status());
                return Err(with_hint(error, "check the URL"));
            }
        }
    }
    Err(with_hint(
        anyhow!("{host}: more than {MOST_REDIRECTIONS} redirections"),
        "check the URL",
    ))
}

/// Where a response sends us.
pub(super) fn location(response: &Response<Body>) -> Result<&str> {
    let place = response.headers().get(header::LOCATION);
    place
        .and_then(|place| place.to_str().ok())
        .context("the server does not say where to go on")
}

/// An agent that knows the system's authorities and those for this registry; without a registry, one
/// that checks nothing.
fn new_agent(registry: Option<&str>) -> Result<Agent> {
    let tls = match registry {
        Some(registry) => {
            TlsConfig::builder().root_certs(RootCerts::Specific(Arc::new(authorities(registry)?)))
        }
        None => TlsConfig::builder().disable_verification(true),
    };
    Ok(Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .user_agent(concat!("mydocker/", env!("CARGO_PKG_VERSION")))
        .timeout_resolve(Some(CONNECT))
        .timeout_connect(Some(CONNECT))
        .timeout_recv_response(Some(SILENCE))
        .timeout_per_read(Some(SILENCE))
        .timeout_per_write(Some(SILENCE))
        .input_buffer_size(256 << 10)
        .output_buffer_size(256 << 10)
        .tls_config(tls.build())
        .build()
        .into())
}

/// The certificates of the system's authorities (`SSL_CERT_FILE` and `SSL_CERT_DIR` name others), and
/// those that Docker's users put into `/etc/docker/certs.d/REGISTRY/*.crt`.
fn authorities(registry: &str) -> Result<Vec<Certificate<'static>>> {
    let system = rustls_native_certs::load_native_certs();
    let mut all: Vec<_> = system
        .certs
        .iter()
        .map(|cert| Certificate::from_der(cert).to_owned())
        .collect();
    let dir = Path::new("/etc/docker/certs.d").join(registry);
    for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
        let path = entry.path();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => {}
            // Docker would show them to the registry.
            Some("cert" | "key") => {
                let error = anyhow!(
                    "{}: certificates of clients are not supported yet",
                    path.display()
                );
                return Err(with_hint(
                    error,
                    "log in with a name instead, and move it away",
                ));
            }
            _ => continue,
        }
        let read = || format!("read {}", path.display());
        let pem = std::fs::read(&path).with_context(read)?;
        for item in parse_pem(&pem) {
            if let PemItem::Certificate(cert) = item.with_context(read)? {
                all.push(cert);
            }
        }
    }
    if all.is_empty() {
        let error = anyhow!("no certificates of authorities on this system");
        return Err(with_hint(error, "apt-get install ca-certificates"));
    }
    Ok(all)
}

/// Whether a host of a URL is this machine: `localhost`, 127.0.0.0/8 or ::1.
pub(super) fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host
            .trim_matches(['[', ']'])
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// The host of `host[:port]`.
pub(super) fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    }
}

/// Scheme, host and port: where a secret may go.
pub(super) fn origin(url: &str) -> Option<(String, String, u16)> {
    let uri: Uri = url.parse().ok()?;
    let scheme = uri.scheme_str()?.to_ascii_lowercase();
    let port = uri
        .port_u16()
        .unwrap_or(if scheme == "https" { 443 } else { 80 });
    Some((scheme, uri.host()?.to_ascii_lowercase(), port))
}

/// The URL that a `Location` leads to from `base` (RFC 3986, section 5.2, without dot segments).
pub(super) fn join(base: &str, location: &str) -> Result<String> {
    let rest = base.split_once("://").map_or("", |(_, rest)| rest);
    let path = base.len() - rest.len() + rest.find(['/', '?']).unwrap_or(rest.len());
    let scheme = location.split_once("://").map(|(scheme, _)| scheme);
    let is_scheme = |text: &str| {
        text.bytes()
            .all(|c| c.is_ascii_alphanumeric() || b"+-.".contains(&c))
    };
    let url = if scheme.is_some_and(is_scheme) {
        location.to_owned()
    } else if let Some(other) = location.strip_prefix("//") {
        format!("{}://{other}", base.split("://").next().unwrap_or_default())
    } else if location.starts_with('/') {
        format!("{}{location}", &base[..path])
    } else {
        let whole = base.split('?').next().unwrap_or(base);
        let dir = whole
            .rfind('/')
            .filter(|at| *at >= path)
            .unwrap_or(whole.len());
        format!("{}/{location}", &whole[..dir])
    };
    match origin(&url) {
        // Whoever asked for an encrypted answer gets no other.
        Some((scheme, ..)) if scheme == "http" && base.starts_with("https:") => {
            Err(anyhow!("it leads from https to {url}, unencrypted"))
                .hint("the server, or a proxy before it, is set up wrongly")
        }
        Some((scheme, ..)) if scheme == "https" || scheme == "http" => Ok(url),
        _ => bail!("it leads to {location:?}, which is no URL"),
    }
}

/// Whether the same request may succeed in a moment: the connection was cut, or nothing came. Who
/// refuses it, has no name or no certificate does so the next time, too.
pub(super) fn is_passing(error: &Error) -> bool {
    error.chain().any(|link| {
        link.downcast_ref().is_some_and(is_cut) || link.downcast_ref().is_some_and(is_silent)
    })
}

fn is_cut(error: &std::io::Error) -> bool {
    use ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::ConnectionReset
            | Kind::ConnectionAborted
            | Kind::BrokenPipe
            | Kind::UnexpectedEof
            | Kind::TimedOut
    ) || error
        .get_ref()
        .and_then(|inner| inner.downcast_ref())
        .is_some_and(is_silent)
}

fn is_silent(error: &ureq::Error) -> bool {
    match error {
        ureq::Error::Timeout(Timeout::Connect | Timeout::Resolve) => false,
        ureq::Error::Timeout(_) => true,
        _ => false,
    }
}

/// The error with what a person can do about it.
pub(super) fn explain(error: Error, host: &str) -> Error {
    let text = message(&error);
    let with = |what: String, hint: String| with_hint(anyhow!("{what}"), hint);
    if text.contains("CaUsedAsEndEntity") {
        return with(
            format!("{host}: its certificate is an authority's, not a server's"),
            "make one with basicConstraints=CA:false, or trust it blindly with --insecure"
                .to_owned(),
        );
    }
    if text.contains("invalid peer certificate") {
        return with(
            format!("{host}: {text}"),
            format!(
                "put the certificate of its authority into /etc/docker/certs.d/{host}/ca.crt, \
                 or trust it blindly with --insecure"
            ),
        );
    }
    if text.contains("failed to lookup address") || text.contains("host not found") {
        return with(
            format!("{host}: no such host"),
            "check its name, /etc/resolv.conf and the network".to_owned(),
        );
    }
    if text.contains("onnection refused") {
        return with(
            format!("{host}: connection refused"),
            "nothing listens there: check the host and the port".to_owned(),
        );
    }
    with(
        format!("{host}: {text}"),
        "check the network, and HTTPS_PROXY if there is a proxy".to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_is_followed_from_where_it_was_given() {
        let base = "https://reg:5000/v2/a/blobs/uploads/?x=1";
        for (location, url) in [
            ("/v2/a/b?_state=1", "https://reg:5000/v2/a/b?_state=1"),
            ("https://other/x", "https://other/x"),
            ("/x?next=http://y", "https://reg:5000/x?next=http://y"),
            ("//other/x", "https://other/x"),
            ("id?x=2", "https://reg:5000/v2/a/blobs/uploads/id?x=2"),
        ] {
            assert_eq!(join(base, location).unwrap(), url);
        }
        assert_eq!(join("http://reg", "a").unwrap(), "http://reg/a");
        assert_eq!(join("http://reg", "http://b/a").unwrap(), "http://b/a");
        for bad in [
            "ftp://reg/x",
            "file:///etc/passwd",
            "http:///x",
            "http://a b/",
            "http://reg:5000/x",
        ] {
            assert!(join(base, bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_secret_belongs_to_scheme_host_and_port() {
        let same = |a: &str, b: &str| origin(a) == origin(b) && origin(a).is_some();
        assert!(same("https://Reg/a", "https://reg:443/b?c"));
        assert!(same("http://reg/a", "http://reg:80"));
        assert!(!same("https://reg/a", "http://reg/a"));
        assert!(!same("https://reg/a", "https://reg:5000/a"));
        assert!(!same("https://reg/a", "https://reg.evil/a"));
        assert!(!same("https://reg/a", "https://reg@evil/a"));
    }

    #[test]
    fn only_this_machine_is_trusted_unasked() {
        let insecure = |host: &str, trust, to: &str| Transport::new(host, trust).trusts(to);
        for host in ["localhost", "127.0.0.1", "127.9.9.9", "[::1]", "LOCALHOST"] {
            assert!(insecure("reg:5000", Trust::Loopback, host), "{host}");
            assert!(!insecure("reg:5000", Trust::Nobody, host), "{host}");
        }
        for host in ["reg", "localhost.evil", "128.0.0.1", "10.0.0.1", "127.evil"] {
            assert!(!insecure("reg:5000", Trust::Loopback, host), "{host}");
        }
        assert!(insecure("reg:5000", Trust::Registry, "reg"));
        assert!(!insecure("reg:5000", Trust::Registry, "cdn"));
        for (text, host) in [
            ("a:5000", "a"),
            ("a", "a"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
        ] {
            assert_eq!(without_port(text), host);
        }
    }
}

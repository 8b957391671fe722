//! The proxy for a host, as the environment says: `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY`, in
//! capitals or not, with the meaning they have for Docker.

use std::net::IpAddr;

use anyhow::{Context, Result, bail};
use ureq::Proxy;

/// The proxy by which `host` is reached with this scheme; `None` for the direct way.
pub(super) fn proxy_for(scheme: &str, host: &str) -> Result<Option<Proxy>> {
    let name = match scheme {
        "https" => "HTTPS_PROXY",
        _ => "HTTP_PROXY",
    };
    let Some(url) = variable(name) else {
        return Ok(None);
    };
    if super::transport::is_loopback(host)
        || variable("NO_PROXY").is_some_and(|list| is_excepted(&list, host))
    {
        return Ok(None);
    }
    let proxy =
        Proxy::new(&url).with_context(|| format!("{name}={url} is not the URL of a proxy"))?;
    if !matches!(url.split_once("://"), None | Some(("http" | "https", _))) {
        bail!("{name}={url}: only http and https proxies are supported");
    }
    Ok(Some(proxy))
}

fn variable(name: &str) -> Option<String> {
    [name.to_owned(), name.to_ascii_lowercase()]
        .iter()
        .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
}

/// Whether `NO_PROXY` names the host: itself, a domain that it is in, a network, or all with `*`.
fn is_excepted(list: &str, host: &str) -> bool {
    let host = host.trim_matches(['[', ']']).to_ascii_lowercase();
    let address: Option<IpAddr> = host.parse().ok();
    list.split(',').map(str::trim).any(|entry| {
        let entry = entry.to_ascii_lowercase();
        if let (Some(address), Some((network, bits))) = (address, entry.split_once('/')) {
            return is_within(address, network, bits);
        }
        let domain = entry.trim_start_matches('*').trim_start_matches('.');
        entry == "*"
            || !domain.is_empty() && (host == domain || host.ends_with(&format!(".{domain}")))
    })
}

fn is_within(address: IpAddr, network: &str, bits: &str) -> bool {
    let (Ok(network), Ok(bits)) = (network.parse::<IpAddr>(), bits.parse::<u32>()) else {
        return false;
    };
    let (a, b, width) = match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (u128::from(a.to_bits()), u128::from(b.to_bits()), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits(), b.to_bits(), 128),
        _ => return false,
    };
    let rest = match bits {
        0..=128 if bits <= width => width - bits,
        _ => return false,
    };
    (a ^ b).checked_shr(rest).unwrap_or(0) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_proxy_names_hosts_domains_and_networks() {
        let list = "example.com, .corp,10.0.0.0/8,fd00::/8,*.star.org";
        for host in [
            "example.com",
            "a.example.com",
            "EXAMPLE.com",
            "x.corp",
            "10.200.1.1",
            "[fd00::1]",
            "a.star.org",
        ] {
            assert!(is_excepted(list, host), "{host}");
        }
        for host in ["notexample.com", "11.0.0.1", "fe80::1", "org", "10.example"] {
            assert!(!is_excepted(list, host), "{host}");
        }
        assert!(is_excepted("*", "anything") && !is_excepted("", "anything"));
    }
}

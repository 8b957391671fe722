//! `linux.netDevices` (config-linux.md, "Network Devices"): network devices of the host go into the
//! container's network namespace, perhaps under another name, with their addresses, and up.

use super::Problem;
use super::namespaces::Namespaces;
use super::rtnetlink::{Socket, attributes, number, put, put_name};
use crate::error::ResultExt;
use crate::sys::process::setns;
use anyhow::{Context, Result, anyhow};
use nix::errno::Errno;
use oci_spec::runtime::{Linux, LinuxNamespaceType as Kind, LinuxNetDevice};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

type Devices = HashMap<String, LinuxNetDevice>;

/// The size of `struct ifaddrmsg`.
const ADDRESS: usize = 8;

/// What can be said of the names without looking at the devices.
pub fn check(linux: &Linux, namespaces: &Namespaces) -> Vec<Problem> {
    let devices = linux.net_devices().iter().flatten();
    let mut problems = Vec::new();
    let mut taken = BTreeMap::new();
    for (name, device) in devices.collect::<BTreeMap<_, _>>() {
        let mut wrong = |what: String| {
            problems.push(Problem {
                path: format!("linux.netDevices.{name}"),
                what,
            });
        };
        if !namespaces.has(Kind::Network) {
            wrong("it needs a network namespace in linux.namespaces".to_owned());
        }
        let new = new_name(name, device);
        let template = new.replacen("%d", "0", 1);
        for (word, is_name) in [(name.as_str(), is_name(name)), (new, is_name(&template))] {
            if !is_name {
                wrong(format!("{word:?} is no name of a network device"));
            }
        }
        if template == new
            && let Some(other) = taken.insert(new, name)
        {
            wrong(format!("{other} becomes {new} as well"));
        }
    }
    problems.dedup();
    problems
}

/// At most 15 bytes, and nothing that would make a strange path in /sys.
fn is_name(name: &str) -> bool {
    let odd = |c: char| c.is_whitespace() || c.is_control() || "/:%".contains(c);
    !name.is_empty()
        && name.len() < libc::IFNAMSIZ
        && name != "."
        && name != ".."
        && !name.contains(odd)
}

fn new_name<'a>(name: &'a str, device: &'a LinuxNetDevice) -> &'a str {
    match device.name() {
        Some(new) if !new.is_empty() => new,
        _ => name,
    }
}

/// Moves all devices into a network namespace. Nothing is moved when one of them cannot be.
pub fn move_all(devices: &Devices, namespace: BorrowedFd<'_>) -> Result<()> {
    let host = Socket::open()?;
    let inside = inside(namespace, Socket::open)?;
    let mut found = Vec::new();
    for (name, device) in devices.iter().collect::<BTreeMap<_, _>>() {
        let what = || format!("linux.netDevices.{name}");
        let index = index_of(&host, name)
            .map_err(|errno| match errno {
                Errno::ENODEV => anyhow!("there is no such network device"),
                other => other.into(),
            })
            .with_context(what)
            .hint("`ip link` lists the devices of the host")?;
        let new = new_name(name, device);
        if index_of(&inside, new).is_ok() {
            return Err(anyhow!("the container has a network device {new} already"))
                .with_context(what)
                .hint("give it another name there, or one that ends in %d");
        }
        found.push((name, new, index));
    }
    for (name, new, index) in found {
        move_one(&host, &inside, namespace, index, new)
            .with_context(|| format!("linux.netDevices.{name}"))?;
    }
    Ok(())
}

fn move_one(
    host: &Socket,
    inside: &Socket,
    namespace: BorrowedFd<'_>,
    index: u32,
    name: &str,
) -> Result<()> {
    let addresses = addresses_of(host, index).context("list its addresses")?;
    let before = indexes(inside).context("list the container's devices")?;
    let mut body = link(index, 0);
    let fd = (namespace.as_raw_fd() as u32).to_ne_bytes();
    put(&mut body, libc::IFLA_NET_NS_FD, &fd);
    put_name(&mut body, libc::IFLA_IFNAME, name);
    host.ask(libc::RTM_NEWLINK, 0, &body)
        .with_context(|| format!("move it into the container as {name}"))
        .hint("some devices, such as lo, belong to their namespace; and CAP_NET_ADMIN is needed")?;
    // Its number may be another one there, and the kernel chooses the name for a template.
    let after = indexes(inside).context("list the container's devices")?;
    let moved = match index_of(inside, name) {
        Ok(index) => index,
        Err(_) => *after
            .difference(&before)
            .next()
            .context("it has not arrived in the container")?,
    };
    for address in addresses {
        address.add(inside, moved)?;
    }
    let up = link(moved, libc::IFF_UP as u32);
    host_answer(inside.ask(libc::RTM_NEWLINK, 0, &up)).context("bring it up")
}

fn host_answer<T>(answer: Result<T, Errno>) -> Result<()> {
    answer.map(drop).map_err(Into::into)
}

/// Does something in that network namespace, by going there and back (setns(2)). Only the calling
/// thread goes.
pub fn inside<T>(namespace: BorrowedFd<'_>, act: impl FnOnce() -> Result<T>) -> Result<T> {
    let own = File::open("/proc/self/ns/net").context("open /proc/self/ns/net")?;
    setns(namespace, libc::CLONE_NEWNET).context("enter the container's network namespace")?;
    let done = act();
    setns(own.as_fd(), libc::CLONE_NEWNET).context("return from the network namespace")?;
    done
}

/// The `ifinfomsg` of a device, with flags to set.
fn link(index: u32, flags: u32) -> Vec<u8> {
    let mut body = vec![0; 4];
    body.extend(index.to_ne_bytes());
    body.extend(flags.to_ne_bytes());
    body.extend(flags.to_ne_bytes());
    body
}

fn index_of(socket: &Socket, name: &str) -> Result<u32, Errno> {
    let mut body = link(0, 0);
    put_name(&mut body, libc::IFLA_IFNAME, name);
    let answer = socket.ask(libc::RTM_GETLINK, 0, &body)?;
    let found = answer.first().map(|message| number(&message.body, 4));
    found.ok_or(Errno::ENODEV)
}

fn indexes(socket: &Socket) -> Result<BTreeSet<u32>, Errno> {
    let all = socket.ask(libc::RTM_GETLINK, libc::NLM_F_DUMP, &link(0, 0))?;
    Ok(all.iter().map(|message| number(&message.body, 4)).collect())
}

/// An address as the kernel tells it.
#[derive(Debug, PartialEq, Eq)]
struct Address {
    family: u8,
    prefix: u8,
    flags: u32,
    attributes: Vec<(u16, Vec<u8>)>,
}

/// The addresses that last (`IFA_F_PERMANENT`) and are not only for a link or this host.
fn addresses_of(socket: &Socket, index: u32) -> Result<Vec<Address>, Errno> {
    let all = socket.ask(libc::RTM_GETADDR, libc::NLM_F_DUMP, &[0; ADDRESS])?;
    let ours = all
        .iter()
        .filter(|message| number(&message.body, 4) == index);
    Ok(ours
        .filter_map(|message| Address::kept(&message.body))
        .collect())
}

impl Address {
    fn kept(body: &[u8]) -> Option<Address> {
        let &[family, prefix, flags, scope, ..] = body else {
            return None;
        };
        let found = attributes(body, ADDRESS);
        let long = found.iter().find(|(kind, _)| *kind == libc::IFA_FLAGS);
        let flags = long.map_or(u32::from(flags), |(_, value)| number(value, 0));
        if flags & libc::IFA_F_PERMANENT == 0 || scope != libc::RT_SCOPE_UNIVERSE {
            return None;
        }
        // Not whether somebody else was found to have it: that is for the new place to find out.
        let stays = libc::IFA_F_PERMANENT
            | libc::IFA_F_NOPREFIXROUTE
            | libc::IFA_F_NODAD
            | libc::IFA_F_HOMEADDRESS
            | libc::IFA_F_MANAGETEMPADDR
            | libc::IFA_F_MCAUTOJOIN;
        let kinds = [
            libc::IFA_ADDRESS,
            libc::IFA_LOCAL,
            libc::IFA_BROADCAST,
            IFA_RT_PRIORITY,
        ];
        Some(Address {
            family,
            prefix,
            flags: flags & stays,
            attributes: found
                .into_iter()
                .filter(|(kind, _)| kinds.contains(kind))
                .map(|(kind, value)| (kind, value.to_vec()))
                .collect(),
        })
    }

    fn add(&self, socket: &Socket, index: u32) -> Result<()> {
        let mut body = vec![self.family, self.prefix, 0, libc::RT_SCOPE_UNIVERSE];
        body.extend(index.to_ne_bytes());
        for (kind, value) in &self.attributes {
            put(&mut body, *kind, value);
        }
        put(&mut body, libc::IFA_FLAGS, &self.flags.to_ne_bytes());
        let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        match socket.ask(libc::RTM_NEWADDR, flags, &body) {
            // It has come along.
            Err(Errno::EEXIST) => Ok(()),
            other => {
                host_answer(other).with_context(|| format!("add its address {}", self.shown()))
            }
        }
    }

    fn shown(&self) -> String {
        let local = self
            .attributes
            .iter()
            .find(|(kind, _)| *kind == libc::IFA_LOCAL);
        let value = local
            .or(self.attributes.first())
            .map(|(_, value)| value.as_slice());
        let address = match value.unwrap_or_default() {
            four if four.len() == 4 => {
                <[u8; 4]>::try_from(four).map(|b| std::net::IpAddr::from(b).to_string())
            }
            other => <[u8; 16]>::try_from(other).map(|b| std::net::IpAddr::from(b).to_string()),
        };
        format!("{}/{}", address.unwrap_or_default(), self.prefix)
    }
}

/// include/uapi/linux/if_addr.h
const IFA_RT_PRIORITY: u16 = 9;

#[cfg(test)]
mod tests {
    use super::*;

    fn told(devices: &str, namespaces: &str) -> Vec<String> {
        let json = format!(r#"{{"netDevices": {devices}, "namespaces": {namespaces}}}"#);
        let linux: Linux = serde_json::from_str(&json).unwrap();
        check(&linux, &Namespaces::new(&linux))
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn names_are_checked() {
        let network = r#"[{"type": "network"}]"#;
        let good =
            r#"{"a": {}, "b": {"name": "eth%d"}, "c": {"name": "eth%d"}, "d": {"name": "x"}}"#;
        assert!(told(good, network).is_empty());
        assert_eq!(told(r#"{"a": {}}"#, "[]").len(), 1);
        for bad in [
            r#"{"a/b": {"name": "c"}}"#,
            r#"{"": {"name": "c"}}"#,
            r#"{"a": {"name": ".."}}"#,
            r#"{"a": {"name": "sixteen-letters-"}}"#,
            r#"{"a": {"name": "a b"}}"#,
            r#"{"a": {"name": "%d%d"}}"#,
            r#"{"a": {"name": "x%s"}}"#,
            r#"{"a": {"name": "x"}, "b": {"name": "x"}}"#,
            r#"{"a": {}, "b": {"name": "a"}}"#,
        ] {
            assert_eq!(told(bad, network).len(), 1, "{bad}");
        }
    }

    /// As the kernel tells it: 10.1.2.3/24, with these flags and this scope.
    fn told_address(flags: u32, scope: u8) -> Vec<u8> {
        let mut body = vec![libc::AF_INET as u8, 24, 0, scope, 7, 0, 0, 0];
        put(&mut body, libc::IFA_LOCAL, &[10, 1, 2, 3]);
        put(&mut body, libc::IFA_FLAGS, &flags.to_ne_bytes());
        put(&mut body, libc::IFA_CACHEINFO, &[0; 16]);
        body
    }

    #[test]
    fn only_lasting_global_addresses_are_kept() {
        let permanent = libc::IFA_F_PERMANENT;
        let kept = Address::kept(&told_address(permanent | libc::IFA_F_TENTATIVE, 0)).unwrap();
        assert_eq!(kept.shown(), "10.1.2.3/24");
        assert_eq!(kept.flags, permanent);
        assert_eq!(kept.attributes.len(), 1);
        assert!(Address::kept(&told_address(0, 0)).is_none());
        assert!(Address::kept(&told_address(permanent, libc::RT_SCOPE_LINK)).is_none());
    }
}

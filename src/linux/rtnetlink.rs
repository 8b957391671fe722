//! Messages to the kernel's network configuration: rtnetlink(7), as far as it is needed to look at
//! links and addresses and to move them.

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send,
    socket,
};
use std::os::fd::{AsRawFd, OwnedFd};

const HEADER: usize = 16;
/// What the kernel puts into one packet of a long answer at most.
const PACKET: usize = 64 * 1024;

/// A socket to the network namespace in which it was made.
#[derive(Debug)]
pub struct Socket(OwnedFd);

/// A part of an answer: its type, and what follows its header.
#[derive(Debug)]
pub struct Message {
    /// Such as `RTM_NEWLINK`.
    pub kind: u16,
    /// A structure of that type, and attributes.
    pub body: Vec<u8>,
}

impl Socket {
    /// Makes one in the caller's network namespace.
    pub fn open() -> Result<Socket> {
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkRoute,
        )
        .context("make a netlink socket")?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0)).context("bind a netlink socket")?;
        Ok(Socket(fd))
    }

    /// Asks for something and waits for the answer. With `NLM_F_DUMP` it is all there is, else what
    /// comes before the kernel's acknowledgement.
    pub fn ask(&self, kind: u16, flags: i32, body: &[u8]) -> Result<Vec<Message>, Errno> {
        let flags = flags | libc::NLM_F_REQUEST | libc::NLM_F_ACK;
        let mut packet = Vec::with_capacity(HEADER + body.len());
        packet.extend(((HEADER + body.len()) as u32).to_ne_bytes());
        packet.extend(kind.to_ne_bytes());
        packet.extend((flags as u16).to_ne_bytes());
        // One question at a time: no number is needed to tell the answers apart.
        packet.extend([0; 8]);
        packet.extend(body);
        send(self.0.as_raw_fd(), &packet, MsgFlags::empty())?;
        let mut answer = Vec::new();
        let mut buffer = vec![0; PACKET];
        loop {
            let length = match recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Err(Errno::EINTR) => continue,
                other => other?,
            };
            let received = buffer.get(..length).unwrap_or_default();
            if let Some(end) = take(received, &mut answer) {
                return end.map(|()| answer);
            }
        }
    }
}

/// Takes the messages of one packet. `Some`: the answer has ended, in this way.
fn take(mut packet: &[u8], answer: &mut Vec<Message>) -> Option<Result<(), Errno>> {
    while packet.len() >= HEADER {
        let length = number(packet, 0) as usize;
        let kind = u16::from_ne_bytes([packet[4], packet[5]]);
        let body = packet.get(HEADER..length).unwrap_or_default();
        match i32::from(kind) {
            libc::NLMSG_ERROR | libc::NLMSG_DONE => {
                let code = -(number(body, 0) as i32);
                return Some(match code {
                    0 => Ok(()),
                    code => Err(Errno::from_raw(code)),
                });
            }
            _ => answer.push(Message {
                kind,
                body: body.to_vec(),
            }),
        }
        packet = packet
            .get(aligned(length.max(HEADER))..)
            .unwrap_or_default();
    }
    None
}

fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

/// The four bytes at `at` as a number; 0 if they are not there.
pub fn number(bytes: &[u8], at: usize) -> u32 {
    let found = bytes.get(at..at + 4).and_then(|four| four.try_into().ok());
    found.map_or(0, u32::from_ne_bytes)
}

/// Appends an attribute.
pub fn put(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    body.extend(((4 + value.len()) as u16).to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(aligned(body.len()), 0);
}

/// Appends a name, which ends in a null byte.
pub fn put_name(body: &mut Vec<u8>, kind: u16, name: &str) {
    let mut value = name.as_bytes().to_vec();
    value.push(0);
    put(body, kind, &value);
}

/// The attributes behind a structure of `from` bytes.
pub fn attributes(body: &[u8], from: usize) -> Vec<(u16, &[u8])> {
    let mut found = Vec::new();
    let mut rest = body.get(from..).unwrap_or_default();
    while rest.len() >= 4 {
        let length = usize::from(u16::from_ne_bytes([rest[0], rest[1]]));
        let kind = u16::from_ne_bytes([rest[2], rest[3]]);
        let Some(value) = rest.get(4..length) else {
            break;
        };
        found.push((kind, value));
        rest = rest.get(aligned(length)..).unwrap_or_default();
    }
    found
}

/// The text of a null-terminated attribute.
pub fn text(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0);
    String::from_utf8_lossy(&value[..end.unwrap_or(value.len())]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_is_found() {
        let mut body = vec![9; 8];
        put_name(&mut body, 3, "eth0");
        put(&mut body, 4, &7u32.to_ne_bytes());
        let found = attributes(&body, 8);
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].0, text(found[0].1).as_str()), (3, "eth0"));
        assert_eq!((found[1].0, number(found[1].1, 0)), (4, 7));
        // Cut off within an attribute.
        assert_eq!(attributes(&body[..body.len() - 2], 8).len(), 1);
        assert!(attributes(&[0; 16], 0).is_empty());
    }

    #[test]
    fn the_kernel_answers() {
        let socket = Socket::open().unwrap();
        let body = [0; 16];
        let links = socket
            .ask(libc::RTM_GETLINK, libc::NLM_F_DUMP, &body)
            .unwrap();
        let names: Vec<_> = links
            .iter()
            .flat_map(|link| attributes(&link.body, 16))
            .filter(|(kind, _)| *kind == libc::IFLA_IFNAME)
            .map(|(_, value)| text(value))
            .collect();
        assert!(names.contains(&"lo".to_owned()), "{names:?}");
        let mut body = body.to_vec();
        put_name(&mut body, libc::IFLA_IFNAME, "no-such-link");
        let error = socket.ask(libc::RTM_GETLINK, 0, &body).unwrap_err();
        assert_eq!(error, Errno::ENODEV);
    }
}

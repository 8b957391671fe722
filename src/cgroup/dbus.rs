//! The little of D-Bus that it takes to ask systemd for a cgroup: one blocking connection, method
//! calls and their answers, and signals (D-Bus Specification, "Message Protocol").
//!
//! Written here because it is little. The crates for D-Bus bring an executor or a second `nix`
//! along, and none leaves the user's number out of the authentication, without which a caller in a
//! user namespace is turned away: the bus sees another number than it does itself.

use super::dbus_value::{Reader, Value, signature_of, write_all};
use crate::error::ResultExt;
use anyhow::{Context, Result, anyhow, bail};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// How long one answer may take. systemd answers a start when its job is queued.
const PATIENCE: Duration = Duration::from_secs(30);
/// The largest message that is read.
const LARGEST: usize = 16 << 20;

/// A connection to a message bus.
#[derive(Debug)]
pub(super) struct Bus {
    stream: UnixStream,
    serial: u32,
    /// Signals that came while an answer was awaited.
    signals: Vec<Message>,
}

/// A message as it came.
#[derive(Debug, Default)]
pub(super) struct Message {
    kind: u8,
    reply_to: u32,
    error: String,
    pub(super) member: String,
    pub(super) body: Vec<Value>,
}

/// Whom and what a call is for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) service: &'a str,
    pub(super) path: &'a str,
    pub(super) interface: &'a str,
}

/// An answer that is an error: its D-Bus name and text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// `org.freedesktop.systemd1.NoSuchUnit`
    pub(super) name: String,
    text: String,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.text, self.name)
    }
}

impl std::error::Error for Refusal {}

/// The message bus.
const ITSELF: Target<'static> = Target {
    service: "org.freedesktop.DBus",
    path: "/org/freedesktop/DBus",
    interface: "org.freedesktop.DBus",
};

const CALL: u8 = 1;
const RETURN: u8 = 2;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;

impl Bus {
    /// Connects to an address such as `unix:path=/run/dbus/system_bus_socket`; of several, separated by
    /// semicolons, to the first bus on which there is that service.
    pub(super) fn connect(addresses: &str, service: &str) -> Result<Bus> {
        let mut last = anyhow!("D-Bus address {addresses:?}: only unix:path= is supported");
        for address in addresses.split(';') {
            let path = address
                .strip_prefix("unix:")
                .and_then(|rest| rest.split(',').find_map(|pair| pair.strip_prefix("path=")));
            let Some(path) = path else { continue };
            let stream = UnixStream::connect(path).map_err(anyhow::Error::new);
            let found = stream
                .and_then(Bus::greet)
                .and_then(|bus| bus.with(service));
            match found {
                Ok(bus) => return Ok(bus),
                Err(error) => last = error.context(format!("connect to {path}")),
            }
        }
        Err(last)
    }

    fn with(mut self, service: &str) -> Result<Bus> {
        let has = self.call(ITSELF, "NameHasOwner", &[Value::text(service)])?;
        match has.first() {
            Some(Value::Bool(true)) => Ok(self),
            _ => bail!("{service} is not on this bus"),
        }
    }

    /// Says who we are (the socket tells the bus) and gets a name on the bus.
    fn greet(mut stream: UnixStream) -> Result<Bus> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream
            .write_all(b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n")
            .context("write to the D-Bus socket")?;
        for expected in ["DATA", "OK "] {
            let line = read_line(&mut stream)?;
            if !line.starts_with(expected) {
                return Err(anyhow!("the message bus turned us away: {line:?}"))
                    .hint("this user must be one that the bus knows");
            }
        }
        let mut bus = Bus {
            stream,
            serial: 0,
            signals: Vec::new(),
        };
        bus.call(ITSELF, "Hello", &[])?;
        Ok(bus)
    }

    /// Asks for the signals that match a rule (D-Bus Specification, "Match Rules").
    pub(super) fn subscribe(&mut self, rule: &str) -> Result<()> {
        self.call(ITSELF, "AddMatch", &[Value::text(rule)])?;
        Ok(())
    }

    /// Calls a method and waits for its answer.
    ///
    /// # Errors
    /// A [`Refusal`] among the causes when the answer is an error.
    pub(super) fn call(
        &mut self,
        target: Target<'_>,
        method: &str,
        args: &[Value],
    ) -> Result<Vec<Value>> {
        self.serial += 1;
        let serial = self.serial;
        let message = encode(serial, target, method, args)?;
        self.stream
            .write_all(&message)
            .with_context(|| format!("D-Bus: call {method}"))?;
        loop {
            let message = self.read().with_context(|| format!("D-Bus: {method}"))?;
            match message.kind {
                RETURN if message.reply_to == serial => return Ok(message.body),
                ERROR if message.reply_to == serial => {
                    let text = message.body.first().and_then(Value::as_text);
                    let refusal = Refusal {
                        text: text.unwrap_or_default().to_owned(),
                        name: message.error,
                    };
                    return Err(anyhow::Error::new(refusal).context(method.to_owned()));
                }
                SIGNAL => self.signals.push(message),
                _ => {}
            }
        }
    }

    /// The next signal, one that was kept first; an error when `until` has come.
    pub(super) fn signal(&mut self, until: Instant) -> Result<Message> {
        if !self.signals.is_empty() {
            return Ok(self.signals.remove(0));
        }
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("D-Bus: wait for a signal: it did not come in time");
            }
            self.stream.set_read_timeout(Some(left))?;
            let message = self.read().context("D-Bus: wait for a signal")?;
            if message.kind == SIGNAL {
                self.stream.set_read_timeout(Some(PATIENCE))?;
                return Ok(message);
            }
        }
    }

    fn read(&mut self) -> Result<Message> {
        let mut head = [0; 16];
        self.stream
            .read_exact(&mut head)
            .context("read a message")?;
        let (body, fields) = sizes(&head)?;
        let mut rest = vec![0; fields.next_multiple_of(8) + body];
        self.stream
            .read_exact(&mut rest)
            .context("read a message")?;
        decode(&head, &rest, fields)
    }
}

fn read_line(stream: &mut UnixStream) -> Result<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    while !line.ends_with(b"\r\n") {
        stream
            .read_exact(&mut byte)
            .context("read from the D-Bus socket")?;
        line.push(byte[0]);
        if line.len() > 1000 {
            bail!("the message bus does not speak D-Bus");
        }
    }
    Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
}

/// A method call in bytes.
fn encode(serial: u32, target: Target<'_>, method: &str, args: &[Value]) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    write_all(&mut body, args)?;
    let field =
        |code: u8, value: Value| Value::Struct(vec![Value::Byte(code), Value::variant(value)]);
    let mut fields = vec![
        field(1, Value::Path(target.path.to_owned())),
        field(2, Value::text(target.interface)),
        field(3, Value::text(method)),
        field(6, Value::text(target.service)),
    ];
    if !args.is_empty() {
        fields.push(field(8, Value::Signature(signature_of(args))));
    }
    // Little-endian; no flags; version 1 of the protocol.
    let mut message = vec![b'l', CALL, 0, 1];
    message.extend(u32::try_from(body.len())?.to_le_bytes());
    message.extend(serial.to_le_bytes());
    write_all(&mut message, &[Value::Array("(yv)".to_owned(), fields)])?;
    message.resize(message.len().next_multiple_of(8), 0);
    message.extend(body);
    Ok(message)
}

/// The sizes of the body and of the header's fields.
fn sizes(head: &[u8; 16]) -> Result<(usize, usize)> {
    if head[0] != b'l' {
        bail!("the message bus has another byte order than this machine");
    }
    let number = |at: usize| {
        u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]) as usize
    };
    let (body, fields) = (number(4), number(12));
    if body > LARGEST || fields > LARGEST {
        bail!("a message of {body} bytes is too long");
    }
    Ok((body, fields))
}

/// `rest` is the header's fields, padded, and the body.
fn decode(head: &[u8; 16], rest: &[u8], fields: usize) -> Result<Message> {
    let mut message = Message {
        kind: head[1],
        ..Message::default()
    };
    // With their length, the fields are an array of structures at offset 12 of the message.
    let mut array = vec![0; 4];
    array.extend(&head[12..]);
    array.extend(&rest[..fields]);
    let mut reader = Reader::new(&array, 4);
    let mut signature = String::new();
    let Value::Array(_, found) = reader.read("a(yv)")? else {
        bail!("a message without a header");
    };
    for field in found {
        let Value::Struct(pair) = field else { continue };
        let [Value::Byte(code), Value::Variant(value)] = pair.as_slice() else {
            continue;
        };
        match (code, value.as_ref()) {
            (3, Value::Text(member)) => message.member.clone_from(member),
            (4, Value::Text(error)) => message.error.clone_from(error),
            (5, Value::U32(serial)) => message.reply_to = *serial,
            (8, Value::Signature(found)) => signature.clone_from(found),
            _ => {}
        }
    }
    let mut reader = Reader::new(&rest[fields.next_multiple_of(8)..], 0);
    message.body = reader.read_all(&signature)?;
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: Target<'_> = Target {
        service: "a.b",
        path: "/c",
        interface: "d.e",
    };

    #[test]
    fn a_call_is_read_back() {
        let args = [
            Value::text("x"),
            Value::Array(
                "(sv)".into(),
                vec![Value::Struct(vec![
                    Value::text("Name"),
                    Value::variant(Value::U64(5)),
                ])],
            ),
        ];
        let bytes = encode(7, TARGET, "Method", &args).expect("encode");
        let head: [u8; 16] = bytes[..16].try_into().expect("head");
        let (body, fields) = sizes(&head).expect("sizes");
        assert_eq!(bytes.len(), 16 + fields.next_multiple_of(8) + body);
        let message = decode(&head, &bytes[16..], fields).expect("decode");
        assert_eq!(message.kind, CALL);
        assert_eq!(message.member, "Method");
        assert_eq!(message.body, args);
    }

    #[test]
    fn the_bytes_are_those_of_the_specification() {
        // "l", method call, no flags, version 1, an empty body, serial 1, 60 bytes of fields.
        let bytes = encode(1, TARGET, "M", &[]).expect("encode");
        assert_eq!(&bytes[..16], b"l\x01\x00\x01\0\0\0\0\x01\0\0\0\x3c\0\0\0");
        assert_eq!(&bytes[16..27], b"\x01\x01o\0\x02\0\0\0/c\0");
        assert_eq!(bytes.len() % 8, 0);
    }

    #[test]
    fn a_bus_of_our_own_answers() {
        let (ours, mut theirs) = UnixStream::pair().expect("pair");
        let bus = std::thread::spawn(move || {
            let mut bus = Bus::greet(ours).expect("greet");
            bus.call(TARGET, "Fail", &[]).expect_err("refused")
        });
        let mut hello = vec![0; b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n".len()];
        theirs.read_exact(&mut hello).expect("read");
        theirs.write_all(b"DATA\r\nOK 1234\r\n").expect("write");
        let answer = |stream: &mut UnixStream, kind: u8, fields: Vec<Value>, body: &[Value]| {
            let mut head = [0; 16];
            stream.read_exact(&mut head).expect("head");
            let (size, length) = sizes(&head).expect("sizes");
            let mut rest = vec![0; length.next_multiple_of(8) + size];
            stream.read_exact(&mut rest).expect("rest");
            let mut data = Vec::new();
            write_all(&mut data, body).expect("body");
            let mut message = vec![b'l', kind, 0, 1];
            message.extend((data.len() as u32).to_le_bytes());
            message.extend(9u32.to_le_bytes());
            write_all(&mut message, &[Value::Array("(yv)".into(), fields)]).expect("fields");
            message.resize(message.len().next_multiple_of(8), 0);
            message.extend(data);
            stream.write_all(&message).expect("write");
        };
        let field = |code, value| Value::Struct(vec![Value::Byte(code), Value::variant(value)]);
        answer(&mut theirs, RETURN, vec![field(5, Value::U32(1))], &[]);
        let fields = vec![
            field(4, Value::text("x.NoSuchUnit")),
            field(5, Value::U32(2)),
            field(8, Value::Signature("s".into())),
        ];
        answer(&mut theirs, ERROR, fields, &[Value::text("no")]);
        let error = bus.join().expect("thread");
        let refusal = error.downcast_ref::<Refusal>().expect("refusal");
        assert_eq!(refusal.to_string(), "no (x.NoSuchUnit)");
    }
}

//! Values of D-Bus: their signatures and their bytes (D-Bus Specification, "Type System" and
//! "Marshaling"). Little-endian, as all machines are that this runs on. Pure.

use anyhow::{Context, Result, bail};

/// One value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Byte(u8),
    Bool(bool),
    I16(i16),
    U16(u16),
    I32(i32),
    U32(u32),
    I64(i64),
    U64(u64),
    Double(f64),
    Text(String),
    Path(String),
    Signature(String),
    /// The signature of an element, and the elements.
    Array(String, Vec<Value>),
    Struct(Vec<Value>),
    Variant(Box<Value>),
}

impl Value {
    pub(super) fn text(text: &str) -> Value {
        Value::Text(text.to_owned())
    }

    pub(super) fn variant(value: Value) -> Value {
        Value::Variant(Box::new(value))
    }

    /// A string or an object path; also in a variant.
    pub(super) fn as_text(&self) -> Option<&str> {
        match self {
            Value::Text(text) | Value::Path(text) => Some(text),
            Value::Variant(value) => value.as_text(),
            _ => None,
        }
    }

    /// The signature of its type.
    pub(super) fn signature(&self) -> String {
        match self {
            Value::Byte(_) => "y".into(),
            Value::Bool(_) => "b".into(),
            Value::I16(_) => "n".into(),
            Value::U16(_) => "q".into(),
            Value::I32(_) => "i".into(),
            Value::U32(_) => "u".into(),
            Value::I64(_) => "x".into(),
            Value::U64(_) => "t".into(),
            Value::Double(_) => "d".into(),
            Value::Text(_) => "s".into(),
            Value::Path(_) => "o".into(),
            Value::Signature(_) => "g".into(),
            Value::Array(element, _) => format!("a{element}"),
            Value::Struct(fields) => format!("({})", signature_of(fields)),
            Value::Variant(_) => "v".into(),
        }
    }

    fn write(&self, out: &mut Vec<u8>) -> Result<()> {
        pad(out, alignment(&self.signature()));
        match self {
            Value::Byte(n) => out.push(*n),
            Value::Bool(yes) => out.extend(u32::from(*yes).to_le_bytes()),
            Value::I16(n) => out.extend(n.to_le_bytes()),
            Value::U16(n) => out.extend(n.to_le_bytes()),
            Value::I32(n) => out.extend(n.to_le_bytes()),
            Value::U32(n) => out.extend(n.to_le_bytes()),
            Value::I64(n) => out.extend(n.to_le_bytes()),
            Value::U64(n) => out.extend(n.to_le_bytes()),
            Value::Double(n) => out.extend(n.to_le_bytes()),
            Value::Text(text) | Value::Path(text) => {
                out.extend(u32::try_from(text.len())?.to_le_bytes());
                out.extend(text.as_bytes());
                out.push(0);
            }
            Value::Signature(text) => {
                out.push(u8::try_from(text.len())?);
                out.extend(text.as_bytes());
                out.push(0);
            }
            Value::Array(element, items) => {
                let at = out.len();
                out.extend([0; 4]);
                // The length counts neither itself nor the padding before the first element.
                pad(out, alignment(element));
                let start = out.len();
                write_all(out, items)?;
                let length = u32::try_from(out.len() - start)?;
                out[at..at + 4].copy_from_slice(&length.to_le_bytes());
            }
            Value::Struct(fields) => write_all(out, fields)?,
            Value::Variant(value) => {
                Value::Signature(value.signature()).write(out)?;
                value.write(out)?;
            }
        }
        Ok(())
    }
}

/// The signatures of several values in a row.
pub(super) fn signature_of(values: &[Value]) -> String {
    values.iter().map(Value::signature).collect()
}

/// Several values in a row. `out` begins where a message or a body does.
pub(super) fn write_all(out: &mut Vec<u8>, values: &[Value]) -> Result<()> {
    values.iter().try_for_each(|value| value.write(out))
}

fn pad(out: &mut Vec<u8>, alignment: usize) {
    out.resize(out.len().next_multiple_of(alignment), 0);
}

fn alignment(signature: &str) -> usize {
    match signature.as_bytes().first() {
        Some(b'y' | b'g' | b'v') | None => 1,
        Some(b'n' | b'q') => 2,
        Some(b'x' | b't' | b'd' | b'(' | b'{') => 8,
        Some(_) => 4,
    }
}

/// The first complete type of a signature, and the rest.
fn split(signature: &str) -> Result<(&str, &str)> {
    let length = length_of(signature.as_bytes(), 0)
        .with_context(|| format!("{signature:?} is no D-Bus signature"))?;
    Ok(signature.split_at(length))
}

fn length_of(signature: &[u8], depth: usize) -> Option<usize> {
    // The specification allows 32 arrays and 32 structures.
    if depth > 64 {
        return None;
    }
    match signature.first()? {
        b'a' => Some(1 + length_of(&signature[1..], depth + 1)?),
        open @ (b'(' | b'{') => {
            let close = if *open == b'(' { b')' } else { b'}' };
            let mut at = 1;
            while *signature.get(at)? != close {
                at += length_of(&signature[at..], depth + 1)?;
            }
            Some(at + 1)
        }
        b'y' | b'b' | b'n' | b'q' | b'i' | b'u' | b'x' | b't' | b'd' | b's' | b'o' | b'g'
        | b'v' | b'h' => Some(1),
        _ => None,
    }
}

/// Reads values out of bytes.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    depth: usize,
}

impl<'a> Reader<'a> {
    /// `bytes` begins at a multiple of eight of the message; `at` is where to start in it.
    pub(super) fn new(bytes: &'a [u8], at: usize) -> Reader<'a> {
        Reader {
            bytes,
            at,
            depth: 0,
        }
    }

    /// One value for each type of the signature.
    pub(super) fn read_all(&mut self, signature: &str) -> Result<Vec<Value>> {
        let mut values = Vec::new();
        let mut rest = signature;
        while !rest.is_empty() {
            let (first, others) = split(rest)?;
            values.push(self.read(first)?);
            rest = others;
        }
        Ok(values)
    }

    /// A value of a complete type.
    pub(super) fn read(&mut self, signature: &str) -> Result<Value> {
        if self.depth > 64 {
            bail!("a D-Bus value is nested too deeply");
        }
        self.depth += 1;
        let value = self.read_inner(signature);
        self.depth -= 1;
        value
    }

    fn read_inner(&mut self, signature: &str) -> Result<Value> {
        self.at = self.at.next_multiple_of(alignment(signature));
        Ok(match signature.as_bytes().first() {
            Some(b'y') => Value::Byte(u8::from_le_bytes(self.take()?)),
            Some(b'b') => Value::Bool(u32::from_le_bytes(self.take()?) != 0),
            Some(b'n') => Value::I16(i16::from_le_bytes(self.take()?)),
            Some(b'q') => Value::U16(u16::from_le_bytes(self.take()?)),
            Some(b'i') => Value::I32(i32::from_le_bytes(self.take()?)),
            Some(b'u' | b'h') => Value::U32(u32::from_le_bytes(self.take()?)),
            Some(b'x') => Value::I64(i64::from_le_bytes(self.take()?)),
            Some(b't') => Value::U64(u64::from_le_bytes(self.take()?)),
            Some(b'd') => Value::Double(f64::from_le_bytes(self.take()?)),
            Some(b's') => Value::Text(self.string()?),
            Some(b'o') => Value::Path(self.string()?),
            Some(b'g') => Value::Signature(self.signature()?),
            Some(b'v') => {
                let inner = self.signature()?;
                Value::variant(self.read(&inner)?)
            }
            Some(b'(' | b'{') => Value::Struct(self.read_all(&signature[1..signature.len() - 1])?),
            Some(b'a') => self.array(&signature[1..])?,
            _ => bail!("{signature:?} is no D-Bus type"),
        })
    }

    fn array(&mut self, element: &str) -> Result<Value> {
        let length = u32::from_le_bytes(self.take()?) as usize;
        self.at = self.at.next_multiple_of(alignment(element));
        let end = self
            .at
            .checked_add(length)
            .context("a D-Bus array is too long")?;
        if end > self.bytes.len() {
            bail!("a D-Bus array is longer than its message");
        }
        let mut items = Vec::new();
        while self.at < end {
            items.push(self.read(element)?);
        }
        Ok(Value::Array(element.to_owned(), items))
    }

    fn string(&mut self) -> Result<String> {
        let length = u32::from_le_bytes(self.take()?) as usize;
        self.chars(length)
    }

    fn signature(&mut self) -> Result<String> {
        let [length] = self.take()?;
        self.chars(usize::from(length))
    }

    /// Characters, and the zero byte behind them.
    fn chars(&mut self, length: usize) -> Result<String> {
        let bytes = self
            .bytes
            .get(self.at..)
            .and_then(|rest| rest.get(..length));
        let text = bytes.context("a D-Bus message is cut off")?;
        self.at += length + 1;
        Ok(String::from_utf8(text.to_vec())?)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let bytes = self.bytes.get(self.at..).and_then(|rest| rest.get(..N));
        let bytes = bytes.context("a D-Bus message is cut off")?;
        self.at += N;
        Ok(bytes.try_into()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_is_read_back() {
        let values = vec![
            Value::Byte(1),
            Value::Bool(true),
            Value::I16(-2),
            Value::U16(3),
            Value::I32(-4),
            Value::U32(5),
            Value::I64(-6),
            Value::U64(7),
            Value::Double(0.5),
            Value::text("text"),
            Value::Path("/p".into()),
            Value::Signature("a{sv}".into()),
            Value::Array("t".into(), vec![Value::U64(1), Value::U64(2)]),
            Value::Array("t".into(), vec![]),
            Value::Struct(vec![Value::Byte(1), Value::variant(Value::text("v"))]),
        ];
        let mut bytes = Vec::new();
        write_all(&mut bytes, &values).expect("write");
        let signature = signature_of(&values);
        assert_eq!(signature, "ybnqiuxtdsogatat(yv)");
        let read = Reader::new(&bytes, 0).read_all(&signature).expect("read");
        assert_eq!(read, values);
        // Whatever is cut off is an error, never a panic.
        for length in 0..bytes.len() - 1 {
            assert!(
                Reader::new(&bytes[..length], 0)
                    .read_all(&signature)
                    .is_err(),
                "{length}"
            );
        }
    }

    #[test]
    fn values_are_aligned() {
        let mut bytes = Vec::new();
        let values = [
            Value::Byte(1),
            Value::Array("t".into(), vec![Value::U64(2)]),
        ];
        write_all(&mut bytes, &values).expect("write");
        assert_eq!(bytes, b"\x01\0\0\0\x08\0\0\0\x02\0\0\0\0\0\0\0");
    }

    #[test]
    fn signatures() {
        for (signature, first) in [("a(sv)u", "a(sv)"), ("su", "s"), ("a{sa(i)}", "a{sa(i)}")] {
            assert_eq!(split(signature).expect(signature).0, first);
        }
        let deep = "a".repeat(100) + "y";
        for bad in ["", "a", "(s", "z", deep.as_str()] {
            assert!(split(bad).is_err(), "{bad}");
        }
    }
}

//! SHA-256 of much data. By ring, which is here for TLS: it uses the CPU's instructions for it, and
//! where there are none its vectors, which makes it nearly twice as fast there as `sha2`.

use ring::digest::{Context, SHA256};

use super::image::hex;

/// A hash on its way.
pub(super) struct Sha256(Context);

impl Sha256 {
    pub(super) fn new() -> Sha256 {
        Sha256(Context::new(&SHA256))
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// 64 hexadecimal digits.
    pub(super) fn finish(self) -> String {
        hex(self.0.finish().as_ref())
    }

    /// That of these bytes.
    pub(super) fn of(bytes: &[u8]) -> String {
        let mut hash = Sha256::new();
        hash.update(bytes);
        hash.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_sha_256() {
        // FIPS 180-2, appendix B.1.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(Sha256::of(b"abc"), abc);
    }
}

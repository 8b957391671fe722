//! A blob as it comes from a registry, read to its end although the line is cut on the way.

use std::io::{Error as IoError, ErrorKind, Read};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Error, Result, anyhow, ensure};
use ureq::http::{Method, StatusCode, header};

use super::manifest::Descriptor;
use super::registry::{Call, Patience, Registry};
use super::transport::is_passing;
use crate::error::with_hint;

/// What must have come since the last cut for a new one to count as the first again.
const PROGRESS: u64 = 1 << 20;

/// Reads a blob. Nothing is checked here but that it goes on where it was cut.
pub(super) struct BlobReader<'a> {
    registry: &'a Registry,
    digest: &'a str,
    size: u64,
    at: u64,
    /// Where it was cut last.
    cut_at: u64,
    patience: Patience,
    body: Option<Box<dyn Read>>,
    /// Set when nobody wants the rest.
    stop: &'a AtomicBool,
    /// Why it failed: an error of a reader cannot say all of it.
    failure: Option<Error>,
}

impl<'a> BlobReader<'a> {
    pub(super) fn new(registry: &'a Registry, blob: &'a Descriptor, stop: &'a AtomicBool) -> Self {
        BlobReader {
            registry,
            digest: &blob.digest,
            size: blob.size,
            at: 0,
            cut_at: 0,
            patience: Patience::default(),
            body: None,
            stop,
            failure: None,
        }
    }

    /// Why it failed, if it did, or else `error`.
    pub(super) fn or(&mut self, error: Error) -> Error {
        self.failure.take().unwrap_or(error)
    }

    /// Asks for what has not come yet.
    fn open(&self) -> Result<Box<dyn Read>> {
        let url = self.registry.url(&format!("blobs/{}", self.digest));
        let mut call = Call::new(Method::GET, url);
        if self.at > 0 {
            call = call.with(header::RANGE, format!("bytes={}-", self.at));
        }
        let response = self.registry.call(&call)?;
        let mut skip = 0;
        match response.status() {
            StatusCode::OK => skip = self.at,
            StatusCode::PARTIAL_CONTENT => {
                let range = response.headers().get(header::CONTENT_RANGE);
                let range = range
                    .and_then(|range| range.to_str().ok())
                    .unwrap_or_default();
                ensure!(
                    range.starts_with(&format!("bytes {}-", self.at)),
                    "asked for the bytes from {} on, the registry sends {range:?}",
                    self.at
                );
            }
            _ => return Err(self.registry.refusal(response)),
        }
        let mut body = response.into_body().into_reader();
        // One that cannot begin in the middle is heard again.
        let skipped = std::io::copy(&mut (&mut body).take(skip), &mut std::io::sink())?;
        if skipped < skip {
            return Err(IoError::from(ErrorKind::UnexpectedEof).into());
        }
        Ok(Box::new(body))
    }

    fn read_on(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let mut body = match self.body.take() {
            Some(body) => body,
            None => self.open()?,
        };
        match body.read(buffer) {
            Ok(0) if self.at < self.size => Err(IoError::from(ErrorKind::UnexpectedEof).into()),
            Ok(n) => {
                self.at += n as u64;
                self.body = Some(body);
                Ok(n)
            }
            // All is there; what else should come?
            Err(_) if self.at == self.size => Ok(0),
            Err(error) => Err(error.into()),
        }
    }

    fn may_go_on(&mut self, error: &Error) -> bool {
        if self.at - self.cut_at >= PROGRESS {
            self.patience = Patience::default();
        }
        self.cut_at = self.at;
        is_passing(error) && self.patience.wait(None)
    }

    fn given_up(&self, error: Error) -> Error {
        if !is_passing(&error) {
            return self.registry.explained(error);
        }
        let (at, size, host) = (self.at, self.size, self.registry.host());
        let error = anyhow!("{host}: the connection was cut again and again, {at} bytes of {size}");
        with_hint(error, "check the network and the registry, and try again")
    }
}

impl Read for BlobReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Err(IoError::other("another part failed"));
            }
            match self.read_on(buffer) {
                Ok(n) => return Ok(n),
                Err(error) if self.may_go_on(&error) => {}
                Err(error) => {
                    self.failure = Some(self.given_up(error));
                    return Err(IoError::other("the download failed"));
                }
            }
        }
    }
}

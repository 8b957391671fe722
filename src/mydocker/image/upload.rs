//! Giving a registry what it does not have: blobs and manifests (distribution-spec, "Push").

use std::io::Read;
use std::sync::Mutex;

use anyhow::{Context, Result, anyhow};
use ureq::http::{Method, StatusCode, header};

use super::manifest::{Descriptor, digest_of};
use super::registry::{Call, Open, Patience, Registry, digest_in, is_busy, retry_after};
use super::transport::{is_passing, join, location};
use crate::error::ResultExt;

/// How a blob came to be in the repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Arrival {
    /// It was there.
    Known,
    /// From another repository of the same registry, without being sent.
    Mounted(String),
    Sent,
}

impl Registry {
    /// Whether the repository has this blob.
    pub(super) fn has_blob(&self, digest: &str) -> Result<bool> {
        let url = self.url(&format!("blobs/{digest}"));
        let response = self.call(&Call::new(Method::HEAD, url))?;
        match response.status() {
            StatusCode::OK => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            _ => Err(self.refusal(response)),
        }
    }

    /// Sends what a reader gives, as it comes, when nobody knows yet what it will be. Returns where the
    /// registry has it, for [`Registry::put_blob`]; or nothing, so that it is sent again from its
    /// beginning, should anything be in the way.
    pub(super) fn send_ahead(&self, from: impl Read + Send) -> Option<String> {
        let from = Mutex::new(Some(from));
        let open = || -> Result<Box<dyn Read + '_>> {
            let from = from.lock().ok().and_then(|mut from| from.take());
            Ok(Box::new(from.context("it can be read once")?))
        };
        let begun = self.try_once(&Call::new(Method::POST, self.url("blobs/uploads/")));
        let begun = begun
            .ok()
            .filter(|it| it.status() == StatusCode::ACCEPTED)?;
        let place = |response| join(&self.url("blobs/uploads/"), location(response).ok()?).ok();
        let mut call = Call::new(Method::PATCH, place(&begun)?)
            .with(header::CONTENT_TYPE, "application/octet-stream");
        call.body = Some((None, &open));
        let sent = self.try_once(&call).ok()?;
        (sent.status() == StatusCode::ACCEPTED).then(|| place(&sent))?
    }

    /// Ends an upload that was sent ahead; false if the registry does not take it.
    fn end_upload(&self, place: &str, digest: &str) -> Result<bool> {
        let call = Call::new(Method::PUT, self.upload_url(place, digest)?);
        let response = self.try_once(&call);
        Ok(response.is_ok_and(|response| response.status() == StatusCode::CREATED))
    }

    /// Sees to it that the repository has this blob, perhaps from one of those other repositories, or
    /// by what was sent ahead.
    pub(super) fn put_blob(
        &self,
        blob: &Descriptor,
        others: &[String],
        sent: Option<&str>,
        open: Open<'_>,
    ) -> Result<Arrival> {
        if self.has_blob(&blob.digest)? {
            if let Some(place) = sent {
                // The registry forgets it some day in any case.
                let _ = self.try_once(&Call::new(Method::DELETE, place.to_owned()));
            }
            return Ok(Arrival::Known);
        }
        if let Some(place) = sent
            && self.end_upload(place, &blob.digest)?
        {
            return Ok(Arrival::Sent);
        }
        let mut place = None;
        for other in others {
            let what = format!("blobs/uploads/?mount={}&from={other}", blob.digest);
            let response = self.call(&Call::new(Method::POST, self.url(&what)))?;
            match response.status() {
                StatusCode::CREATED => return Ok(Arrival::Mounted(other.clone())),
                // It does not, and has begun an upload instead.
                StatusCode::ACCEPTED => {
                    place = Some(self.upload_url(location(&response)?, &blob.digest)?);
                    break;
                }
                _ => {}
            }
        }
        self.send(blob, place, open)?;
        Ok(Arrival::Sent)
    }

    /// Sends it in one piece; after a cut all over again, since the upload that was cut is of no use.
    fn send(&self, blob: &Descriptor, mut place: Option<String>, open: Open<'_>) -> Result<()> {
        let mut patience = Patience::default();
        loop {
            let url = match place.take() {
                Some(url) => url,
                None => self.new_upload(&blob.digest)?,
            };
            let mut call =
                Call::new(Method::PUT, url).with(header::CONTENT_TYPE, "application/octet-stream");
            call.body = Some((Some(blob.size), open));
            match self.try_once(&call) {
                Ok(response) if response.status() == StatusCode::CREATED => return Ok(()),
                Ok(response) => {
                    let again = is_busy(response.status())
                        && patience.wait(retry_after(response.headers()));
                    if !again {
                        return Err(self.refusal(response));
                    }
                }
                Err(error) if is_passing(&error) && patience.wait(None) => {}
                Err(error) => return Err(self.explained(error)),
            }
        }
    }

    fn new_upload(&self, digest: &str) -> Result<String> {
        let response = self.call(&Call::new(Method::POST, self.url("blobs/uploads/")))?;
        match response.status() {
            StatusCode::ACCEPTED => self.upload_url(location(&response)?, digest),
            _ => Err(self.refusal(response)),
        }
    }

    fn upload_url(&self, location: &str, digest: &str) -> Result<String> {
        let url = join(&self.url("blobs/uploads/"), location)?;
        let separator = if url.contains('?') { '&' } else { '?' };
        Ok(format!("{url}{separator}digest={digest}"))
    }

    /// Puts a manifest under a tag.
    pub(super) fn put_manifest(&self, tag: &str, media_type: &str, bytes: &[u8]) -> Result<()> {
        let url = self.url(&format!("manifests/{tag}"));
        let mut call = Call::new(Method::PUT, url).with(header::CONTENT_TYPE, media_type);
        let open = || -> Result<Box<dyn Read + '_>> { Ok(Box::new(bytes)) };
        call.body = Some((Some(bytes.len() as u64), &open));
        let response = self.call(&call)?;
        if !response.status().is_success() {
            return Err(self.refusal(response));
        }
        let digest = digest_of(bytes);
        match digest_in(response.headers()).filter(|other| *other != digest) {
            None => Ok(()),
            Some(other) => Err(anyhow!(
                "{}: it took the manifest {digest} for {other}",
                self.host()
            ))
            .hint("the registry, or somebody on the way to it, has changed it"),
        }
    }
}

//! A registry on loopback that behaves as a test wants: each request goes to a function, and is kept
//! for the test to look at. And an image to be had from it.

use super::images_made::{Entry, packed};
use anyhow::{Context, Result};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// A request.
#[derive(Debug, Clone)]
pub(crate) struct Heard {
    pub(crate) method: String,
    /// With the query.
    pub(crate) path: String,
    /// Names in lower case.
    headers: Vec<(String, String)>,
    /// How many requests of this method and path there were before.
    pub(crate) before: usize,
}

impl Heard {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut all = self.headers.iter();
        all.find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// As if it had not been there.
    pub(crate) fn forget(&mut self, name: &str) {
        self.headers.retain(|(key, _)| key != name);
    }

    /// Whether it asks for a blob.
    pub(crate) fn blob(&self) -> bool {
        self.path.contains("/blobs/sha256:")
    }
}

/// What is answered. The connection is closed after it.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// What Content-Length says, when that is not the truth.
    pub(crate) length: Option<usize>,
    /// The body comes again and again until the other side has enough.
    pub(crate) endless: bool,
}

impl Answer {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Answer {
        Answer {
            status,
            headers: Vec::new(),
            body: body.into(),
            length: None,
            endless: false,
        }
    }

    pub(crate) fn with(mut self, name: &str, value: impl Into<String>) -> Answer {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// An error as registries word it.
    pub(crate) fn error(status: u16, code: &str, message: &str) -> Answer {
        let body = json!({"errors": [{"code": code, "message": message}]});
        Answer::new(status, body.to_string())
    }
}

type Behaviour = dyn Fn(&Heard) -> Answer + Send + Sync;

/// The registry. It ends when it is dropped.
pub(crate) struct FalseRegistry {
    address: SocketAddr,
    heard: Arc<Mutex<Vec<Heard>>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl FalseRegistry {
    pub(crate) fn start(
        behaviour: impl Fn(&Heard) -> Answer + Send + Sync + 'static,
    ) -> Result<FalseRegistry> {
        let listener = TcpListener::bind("127.0.0.1:0").context("listen on loopback")?;
        let address = listener.local_addr()?;
        let heard: Arc<Mutex<Vec<Heard>>> = Arc::default();
        let over = Arc::new(AtomicBool::new(false));
        let behaviour: Arc<Behaviour> = Arc::new(behaviour);
        let (all, ended) = (heard.clone(), over.clone());
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                let (all, behaviour) = (all.clone(), behaviour.clone());
                // A client that goes away in the middle is none of our business.
                std::thread::spawn(move || drop(serve(&stream, &all, &*behaviour)));
            }
        });
        Ok(FalseRegistry {
            address,
            heard,
            over,
            thread: Some(thread),
        })
    }

    /// `127.0.0.1:PORT`
    pub(crate) fn host(&self) -> String {
        self.address.to_string()
    }

    /// All requests so far.
    pub(crate) fn heard(&self) -> Vec<Heard> {
        self.heard.lock().map(|all| all.clone()).unwrap_or_default()
    }
}

impl Drop for FalseRegistry {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(stream: &TcpStream, all: &Mutex<Vec<Heard>>, behaviour: &Behaviour) -> Result<()> {
    let mut reader = BufReader::new(stream);
    // The beginning of a TLS handshake: here nobody speaks that.
    if reader.fill_buf()?.first() == Some(&0x16) {
        return Ok(());
    }
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, path) = (
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
    );
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.trim_end().split_once(": ") {
            Some((name, value)) => headers.push((name.to_ascii_lowercase(), value.to_owned())),
            None => break,
        }
    }
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length = length
        .and_then(|(_, value)| value.parse().ok())
        .unwrap_or(0);
    std::io::copy(&mut reader.take(length), &mut std::io::sink())?;
    let heard = {
        let Ok(mut all) = all.lock() else {
            return Ok(());
        };
        let same = |other: &&Heard| other.method == method && other.path == path;
        let before = all.iter().filter(same).count();
        all.push(Heard {
            method,
            path,
            headers,
            before,
        });
        all.last().cloned().context("a request")?
    };
    say(stream, &heard, &behaviour(&heard))
}

fn say(mut stream: &TcpStream, heard: &Heard, answer: &Answer) -> Result<()> {
    let mut head = format!("HTTP/1.1 {} Answer\r\nConnection: close\r\n", answer.status);
    for (name, value) in &answer.headers {
        head += &format!("{name}: {value}\r\n");
    }
    if !answer.endless {
        let length = answer.length.unwrap_or(answer.body.len());
        head += &format!("Content-Length: {length}\r\n");
    }
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    if heard.method == "HEAD" {
        return Ok(());
    }
    loop {
        stream.write_all(&answer.body)?;
        if !answer.endless {
            return Ok(());
        }
    }
}

/// An image with one layer, and what a registry says of it.
#[derive(Debug, Clone)]
pub(crate) struct Fixture {
    pub(crate) layer: Vec<u8>,
    pub(crate) config: Vec<u8>,
    pub(crate) manifest: Value,
}

pub(crate) fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("sha256:{hex}")
}

impl Fixture {
    /// One whose layer has a file `noise` of so many bytes.
    pub(crate) fn new(size: usize) -> Result<Fixture> {
        Fixture::of("amd64", size)
    }

    /// The same for another architecture.
    pub(crate) fn of(architecture: &str, size: usize) -> Result<Fixture> {
        let mut state = 1u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 56) as u8
        })
        .take(size)
        .collect();
        let plain = packed(&[Entry::File("noise", 0o644, &noise)])?;
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(&plain)?;
        let layer = gzip.finish()?;
        let config = json!({
            "architecture": architecture, "os": "linux", "config": {"Cmd": ["true"]},
            "rootfs": {"type": "layers", "diff_ids": [digest(&plain)]},
        });
        let config = config.to_string().into_bytes();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": digest(&config), "size": config.len(),
            },
            "layers": [{
                "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                "digest": digest(&layer), "size": layer.len(),
            }],
        });
        Ok(Fixture {
            layer,
            config,
            manifest,
        })
    }

    /// The digest of its manifest.
    pub(crate) fn digest(&self) -> String {
        digest(self.manifest.to_string().as_bytes())
    }

    /// What an honest registry answers, which has the image in every repository, under every tag.
    pub(crate) fn honest(&self, heard: &Heard) -> Answer {
        let (path, last) = (
            &heard.path,
            heard.path.rsplit('/').next().unwrap_or_default(),
        );
        if path == "/v2/" {
            return Answer::new(200, "{}");
        }
        if path.contains("/manifests/") {
            let kind = self.manifest["mediaType"].as_str().unwrap_or_default();
            return Answer::new(200, self.manifest.to_string())
                .with("Content-Type", kind)
                .with("Docker-Content-Digest", self.digest());
        }
        let blobs = [&self.layer, &self.config];
        let found = blobs.into_iter().find(|blob| digest(blob) == last);
        let Some(blob) = found else {
            return Answer::error(404, "BLOB_UNKNOWN", "blob unknown to registry");
        };
        let from = heard.header("range").and_then(|range| {
            let start = range.strip_prefix("bytes=")?.strip_suffix('-')?;
            start.parse::<usize>().ok()
        });
        match from {
            None => Answer::new(200, blob.clone()),
            Some(from) => {
                let range = format!("bytes {from}-{}/{}", blob.len() - 1, blob.len());
                Answer::new(206, &blob[from.min(blob.len())..]).with("Content-Range", range)
            }
        }
    }
}

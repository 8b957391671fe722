//! Registries that lie, break off, refuse, or lead astray: a clear error, and the store as it was.

use super::false_registry::{Answer, FalseRegistry, Fixture, Heard, digest};
use super::kit::{Desk, Place};
use super::layouts::machine;
use super::{Row, world::World};
use anyhow::{Result, ensure};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The rows of this file.
pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "registry: what lies about its digest or its size is refused",
        run: lies,
    },
    Row {
        name: "registry: a pull goes on where the connection was cut",
        run: cut,
    },
    Row {
        name: "registry: a pull gives up when it is cut again and again",
        run: cut_for_ever,
    },
    Row {
        name: "registry: a token is fetched as the registry says, and again when it has run out",
        run: token,
    },
    Row {
        name: "registry: a wrong password is refused, and not kept",
        run: wrong_password,
    },
    Row {
        name: "registry: a pause that it asks for is kept, unless it is too long",
        run: busy,
    },
    Row {
        name: "registry: a redirection gets no password",
        run: redirection,
    },
    Row {
        name: "registry: of an index this machine's image is taken, or none",
        run: platforms,
    },
    Row {
        name: "registry: what never ends is cut off",
        run: endless,
    },
    Row {
        name: "registry: what is no image is not one",
        run: no_image,
    },
    Row {
        name: "registry: nobody there, or somebody else",
        run: nobody,
    },
];

/// Pulls from a registry of this behaviour: that must fail with these words, and change nothing.
fn fails(
    desk: &Desk,
    behaviour: impl Fn(&Heard) -> Answer + Send + Sync + 'static,
    words: &[&str],
) -> Result<()> {
    let registry = FalseRegistry::start(behaviour)?;
    // A store that is there, with its lock and index.
    if !desk.root().exists() {
        let archive = desk.path("any.tar.gz");
        std::fs::write(&archive, Fixture::new(10)?.layer)?;
        let archive = archive.display().to_string();
        desk.go(&["import", "-q", &archive, "any"])?.ok()?;
    }
    let before = World::of(desk)?;
    let name = format!("{}/app", registry.host());
    desk.go(&["pull", "-q", &name])?.fails(1, words)?;
    before.is_back(desk)
}

fn lies(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.import("busybox", Vec::new(), &[])?;
    let fixture = Fixture::new(300_000)?;
    // Another layer under the digest of this one.
    let (one, other) = (fixture.clone(), Fixture::new(300_001)?);
    let layer = digest(&fixture.layer);
    let change = move |heard: &Heard, body: &dyn Fn(&[u8]) -> Vec<u8>| {
        let mut answer = one.honest(heard);
        if heard.path.ends_with(&layer) {
            answer.body = body(&answer.body);
        }
        answer
    };
    let change = Arc::new(change);
    let turn = change.clone();
    fails(
        &desk,
        move |heard| {
            turn(heard, &|body| {
                let mut body = body.to_vec();
                let middle = body.len() / 2;
                body[middle] ^= 1;
                body
            })
        },
        &["layer sha256:"],
    )?;
    let swap = change.clone();
    let wrong = other.layer.clone();
    fails(
        &desk,
        move |heard| swap(heard, &|_| wrong.clone()),
        &["layer sha256:"],
    )?;
    // Longer than announced.
    let longer = change.clone();
    fails(
        &desk,
        move |heard| longer(heard, &|body| [body, b"more"].concat()),
        &["longer than"],
    )?;
    // A header that says another digest than the document has.
    let one = fixture.clone();
    fails(
        &desk,
        move |heard| {
            let mut answer = one.honest(heard);
            for (name, value) in &mut answer.headers {
                if name == "Docker-Content-Digest" {
                    *value = digest(b"other");
                }
            }
            answer
        },
        &["digest"],
    )?;
    // A configuration that is another.
    let (one, other) = (fixture.clone(), other.config);
    let config = digest(&fixture.config);
    fails(
        &desk,
        move |heard| match heard.path.ends_with(&config) {
            true => Answer::new(200, other.clone()),
            false => one.honest(heard),
        },
        &["configuration", "digest"],
    )?;
    // A document that is not what its digest, by which it was asked for, says.
    let registry = FalseRegistry::start(move |heard| fixture.honest(heard))?;
    let name = format!("{}/app@{}", registry.host(), digest(b"wanted"));
    desk.go(&["pull", &name, "-q"])?.fails(1, &["digest"])?;
    Ok(())
}

fn cut(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let fixture = Fixture::new(400_000)?;
    let (one, layer) = (fixture.clone(), digest(&fixture.layer));
    let registry = FalseRegistry::start(move |heard| {
        let mut answer = one.honest(heard);
        let most = match heard.path.ends_with(&layer) {
            true => 100_000,
            false => 50,
        };
        if heard.path != "/v2/" && heard.before < 2 {
            answer.length = Some(answer.body.len());
            answer.body.truncate(most);
        }
        answer
    })?;
    let name = format!("{}/app:1", registry.host());
    desk.go(&["pull", &name])?.ok()?;
    let layer = digest(&fixture.layer);
    let ranges: Vec<Option<String>> = registry
        .heard()
        .iter()
        .filter(|heard| heard.path.ends_with(&layer))
        .map(|heard| heard.header("range").map(str::to_owned))
        .collect();
    let wanted = [
        None,
        Some("bytes=100000-".into()),
        Some("bytes=200000-".into()),
    ];
    ensure!(ranges == wanted, "{ranges:?}");
    // One that does not know ranges sends all of it again.
    let (one, layer) = (
        Fixture::new(400_001)?,
        digest(&Fixture::new(400_001)?.layer),
    );
    let registry = FalseRegistry::start(move |heard| {
        let mut whole = heard.clone();
        whole.forget("range");
        let mut answer = one.honest(&whole);
        if heard.path.ends_with(&layer) && heard.before == 0 {
            answer.length = Some(answer.body.len());
            answer.body.truncate(100_000);
        }
        answer
    })?;
    desk.go(&["pull", "-q", &format!("{}/app", registry.host())])?
        .ok()?;
    Ok(())
}

fn cut_for_ever(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.import("busybox", Vec::new(), &[])?;
    let fixture = Fixture::new(300_000)?;
    let tries = Arc::new(AtomicUsize::new(0));
    let count = tries.clone();
    fails(
        &desk,
        move |heard| {
            let mut answer = fixture.honest(heard);
            if heard.path.ends_with(&digest(&fixture.layer)) {
                count.fetch_add(1, Ordering::SeqCst);
                answer.length = Some(answer.body.len());
                answer.body.truncate(10);
            }
            answer
        },
        &["cut again and again", "bytes of"],
    )?;
    let tries = tries.load(Ordering::SeqCst);
    ensure!((3..=20).contains(&tries), "{tries} tries");
    Ok(())
}

fn token(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let fixture = Fixture::new(1000)?;
    // Each token is good for three requests.
    let (tokens, uses) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let registry = FalseRegistry::start(move |heard| {
        let host = heard.header("host").unwrap_or_default().to_owned();
        if heard.path.starts_with("/token?") {
            let number = tokens.fetch_add(1, Ordering::SeqCst) + 1;
            uses.store(0, Ordering::SeqCst);
            return Answer::new(200, json!({"token": format!("t{number}")}).to_string());
        }
        let current = format!("Bearer t{}", tokens.load(Ordering::SeqCst));
        let known = heard.header("authorization") == Some(current.as_str());
        if known && uses.fetch_add(1, Ordering::SeqCst) < 3 {
            return fixture.honest(heard);
        }
        let challenge = format!(
            "Bearer realm=\"http://{host}/token\",service=\"a \\\"b\\\"\",scope=\"repository:x/app:pull\""
        );
        Answer::error(401, "UNAUTHORIZED", "authentication required")
            .with("WWW-Authenticate", challenge)
    })?;
    let name = format!("{}/x/app", registry.host());
    desk.go(&["pull", "-q", &name])?.ok()?;
    let asked: Vec<String> = registry
        .heard()
        .iter()
        .filter(|heard| heard.path.starts_with("/token?"))
        .map(|heard| heard.path.clone())
        .collect();
    let query = "/token?service=a%20%22b%22&scope=repository%3Ax%2Fapp%3Apull";
    ensure!(
        !asked.is_empty() && asked.iter().all(|path| path == query),
        "{asked:?}"
    );
    Ok(())
}

/// A registry that knows the user `me` with the password `right` (in base64 `bWU6cmlnaHQ=`).
pub(crate) fn with_password(fixture: Fixture) -> Result<FalseRegistry> {
    FalseRegistry::start(move |heard| match heard.header("authorization") {
        Some("Basic bWU6cmlnaHQ=") => fixture.honest(heard),
        _ => Answer::error(401, "UNAUTHORIZED", "authentication required")
            .with("WWW-Authenticate", "Basic realm=\"here\""),
    })
}

fn wrong_password(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let registry = with_password(Fixture::new(1000)?)?;
    let host = registry.host();
    let name = format!("{host}/app");
    desk.go(&["pull", "-q", &name])?
        .fails(1, &["access denied", "mydocker login"])?;
    let login = ["login", "-u", "me", "--password-stdin", &host];
    desk.go_with(&login, "wrong\n")?
        .fails(1, &["access denied"])?;
    let config = desk.path("home/.docker/config.json");
    ensure!(!config.exists(), "a wrong password was kept");
    let done = desk.go_with(&login, "right\n")?.ok()?;
    ensure!(done.line() == "Login Succeeded", "{done:?}");
    let text = std::fs::read_to_string(&config)?;
    ensure!(text.contains("bWU6cmlnaHQ="), "{text}");
    let mode = std::os::unix::fs::PermissionsExt::mode(&config.metadata()?.permissions());
    ensure!(mode & 0o777 == 0o600, "config.json has the mode {mode:o}");
    desk.go(&["pull", "-q", &name])?.ok()?;
    desk.go(&["logout", &host])?.ok()?;
    desk.go(&["rmi", &name])?.ok()?;
    desk.go(&["pull", "-q", &name])?
        .fails(1, &["access denied"])?;
    Ok(())
}

fn busy(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let fixture = Fixture::new(1000)?;
    let one = fixture.clone();
    let registry = FalseRegistry::start(move |heard| match heard.before {
        0 if heard.path != "/v2/" => {
            Answer::error(429, "TOOMANYREQUESTS", "slow down").with("Retry-After", "1")
        }
        1 if heard.blob() => Answer::new(503, ""),
        _ => one.honest(heard),
    })?;
    desk.go(&["pull", "-q", &format!("{}/app", registry.host())])?
        .ok()?;
    fails(
        &desk,
        move |heard| match heard.blob() {
            true => Answer::error(429, "TOOMANYREQUESTS", "slow\x1b[31m down")
                .with("Retry-After", "86400"),
            false => fixture.honest(heard),
        },
        &["slow[31m down", "86400 s"],
    )
}

fn redirection(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let fixture = Fixture::new(1000)?;
    let blobs = fixture.clone();
    let elsewhere = FalseRegistry::start(move |heard| blobs.honest(heard))?;
    let other = elsewhere.host();
    let (one, leads) = (fixture.clone(), other.clone());
    let registry = FalseRegistry::start(move |heard| {
        match heard.header("authorization") {
            Some("Basic bWU6cmlnaHQ=") => {}
            _ => return Answer::new(401, "").with("WWW-Authenticate", "Basic realm=\"here\""),
        }
        match heard.blob() {
            true => Answer::new(307, "").with("Location", format!("http://{leads}{}", heard.path)),
            false => one.honest(heard),
        }
    })?;
    let host = registry.host();
    desk.go(&["login", "-u", "me", "-p", "right", &host])?
        .ok()?;
    desk.go(&["pull", "-q", &format!("{host}/app")])?.ok()?;
    let heard = elsewhere.heard();
    ensure!(
        heard.len() == 2,
        "two blobs were to be fetched there: {heard:?}"
    );
    ensure!(
        heard
            .iter()
            .all(|heard| heard.header("authorization").is_none()),
        "the password went elsewhere: {heard:?}"
    );
    // In circles, and to what is no URL.
    for (location, word) in [
        ("/v2/app/blobs/again", "redirections"),
        ("ftp://x/y", "no URL"),
    ] {
        let fixture = fixture.clone();
        fails(
            &desk,
            move |heard| match heard.path.contains("/blobs/") {
                true => Answer::new(302, "").with("Location", location),
                false => fixture.honest(heard),
            },
            &[word],
        )?;
    }
    Ok(())
}

fn platforms(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let (mine, other) = (Fixture::of(machine(), 1000)?, Fixture::of("mips", 1001)?);
    let kind = "application/vnd.oci.image.index.v1+json";
    let entry = |fixture: &Fixture, os: &str, architecture: &str| {
        json!({
            "mediaType": fixture.manifest["mediaType"], "digest": fixture.digest(),
            "size": fixture.manifest.to_string().len(),
            "platform": {"os": os, "architecture": architecture},
        })
    };
    let index = |entries: Vec<serde_json::Value>| {
        json!({"schemaVersion": 2, "mediaType": kind, "manifests": entries}).to_string()
    };
    let serve = move |heard: &Heard, index: &str, fixtures: &[Fixture]| {
        if heard.path.ends_with("/manifests/latest") {
            return Answer::new(200, index)
                .with("Content-Type", kind)
                .with("Docker-Content-Digest", digest(index.as_bytes()));
        }
        let last = heard.path.rsplit('/').next().unwrap_or_default().to_owned();
        let mut all = fixtures.iter();
        let found = all.find(|fixture| {
            [
                fixture.digest(),
                digest(&fixture.layer),
                digest(&fixture.config),
            ]
            .contains(&last)
        });
        found.unwrap_or(&fixtures[0]).honest(heard)
    };
    let both = index(vec![
        entry(&other, "linux", "mips"),
        entry(&other, "unknown", "unknown"),
        entry(&mine, "linux", machine()),
    ]);
    let (all, list) = ([mine.clone(), other.clone()], both.clone());
    let registry = FalseRegistry::start(move |heard| serve(heard, &list, &all))?;
    let name = format!("{}/app", registry.host());
    let done = desk.go(&["pull", &name])?.ok()?;
    let by_digest = digest(both.as_bytes());
    ensure!(
        done.out.contains(&format!("Digest: {by_digest}\n")),
        "{done:?}"
    );
    let id = desk.inspect(&name, "{{.Id}}")?;
    ensure!(id == digest(&mine.config), "{id}");
    // Known by the digest of the index, too.
    let id = desk.inspect(&format!("{name}@{by_digest}"), "{{.Id}}")?;
    ensure!(id == digest(&mine.config), "{id}");
    desk.go(&["pull", "--platform", "linux/mips", &name])?
        .ok()?;
    let id = desk.inspect(&name, "{{.Id}}")?;
    ensure!(id == digest(&other.config), "{id}");
    // What is here for another platform is not what is asked for.
    let platform = format!("linux/{}", machine());
    let create = ["create", "--platform", &platform, "--image", &name];
    desk.go(&[&create[..], &["--pull", "never"]].concat())?
        .fails(125, &["is for linux/mips, not for linux/"])?;
    desk.go(&create)?.ok()?;
    let id = desk.inspect(&name, "{{.Id}}")?;
    ensure!(id == digest(&mine.config), "{id}");
    // A size is as binding as a digest.
    let mut other_size = entry(&mine, "linux", machine());
    other_size["size"] = 7.into();
    let (list, all) = (index(vec![other_size]), [mine.clone()]);
    fails(
        &desk,
        move |heard| serve(heard, &list, &all),
        &["not 7 as the index says"],
    )?;
    let none = index(vec![
        entry(&other, "linux", "mips"),
        entry(&other, "unknown", "unknown"),
    ]);
    fails(
        &desk,
        move |heard| serve(heard, &none, std::slice::from_ref(&other)),
        &["no image for linux/", "linux/mips", "--platform"],
    )
}

fn endless(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    for part in ["/manifests/", "/blobs/"] {
        let fixture = Fixture::new(1000)?;
        fails(
            &desk,
            move |heard| {
                let mut answer = fixture.honest(heard);
                if heard.path.contains(part) {
                    answer.body = vec![b' '; 64 << 10];
                    answer.endless = true;
                }
                answer
            },
            &["hint: "],
        )?;
    }
    // Of the layer alone.
    let fixture = Fixture::new(1000)?;
    fails(
        &desk,
        move |heard| {
            let mut answer = fixture.honest(heard);
            answer.endless = heard.path.ends_with(&digest(&fixture.layer));
            answer
        },
        &["longer than"],
    )
}

fn no_image(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let say = |text: &'static str| {
        move |heard: &Heard| match heard.path.as_str() {
            "/v2/" => Answer::new(200, ""),
            _ => Answer::new(200, text),
        }
    };
    fails(&desk, say("{}"), &["not the manifest"])?;
    fails(&desk, say("not json"), &["not the manifest"])?;
    fails(
        &desk,
        say(r#"{"schemaVersion": 1, "fsLayers": []}"#),
        &["manifest"],
    )?;
    // A chart, as other tools keep them in registries.
    let mut fixture = Fixture::new(1000)?;
    fixture.config = b"{\"name\": \"chart\"}".to_vec();
    fixture.manifest["config"]["digest"] = digest(&fixture.config).into();
    fixture.manifest["config"]["size"] = fixture.config.len().into();
    fails(
        &desk,
        move |heard| fixture.honest(heard),
        &["configuration of an image"],
    )?;
    let unknown = |heard: &Heard| match heard.path.as_str() {
        "/v2/" => Answer::new(200, ""),
        _ => Answer::error(404, "MANIFEST_UNKNOWN", "manifest unknown"),
    };
    fails(&desk, unknown, &["manifest unknown", "check the name"])
}

fn nobody(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    fails(
        &desk,
        |_| Answer::new(404, "a web server"),
        &["no registry"],
    )?;
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.local_addr()?.to_string()
    };
    desk.go(&["pull", &format!("{closed}/app"), "-q"])?
        .fails(1, &["connection refused"])?;
    desk.go(&["run", &format!("{closed}/app"), "true"])?
        .fails(125, &["connection refused"])?;
    desk.go(&["run", "--pull", "never", &format!("{closed}/app"), "true"])?
        .fails(125, &["no such image"])?;
    // .invalid is nobody's (RFC 6761).
    desk.go(&["pull", "nosuch.invalid/app", "-q"])?
        .fails(1, &["nosuch.invalid"])?;
    for bad in ["Upper", "a:b:c", "app@sha256:12", ""] {
        desk.go(&["pull", bad, "-q"])?
            .fails(1, &["invalid image name"])?;
    }
    Ok(())
}

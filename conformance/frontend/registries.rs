//! `pull`, `push`, `login` and `run --pull` with Debian's docker-registry on loopback, and with what
//! skopeo puts there and takes away.

use super::kit::{Collected, Desk, Done, Place, finish, skip, wait_for};
use super::{Row, archives, images_made::Entry};
use anyhow::{Context, Result, bail, ensure};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// The rows of this file.
pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "registry: push, rmi, pull, run: the same image, sent once",
        run: there_and_back,
    },
    Row {
        name: "registry: images of skopeo, gzip and zstd, come and go with their digests",
        run: skopeo,
    },
    Row {
        name: "registry: an image is known by its digest",
        run: digests,
    },
    Row {
        name: "registry: run --pull always, missing and never",
        run: run_pull,
    },
    Row {
        name: "registry: build pulls what FROM names",
        run: build_from,
    },
    Row {
        name: "registry: certificates are checked, unless --insecure",
        run: certificates,
    },
    Row {
        name: "registry: ctrl-c at the password leaves the terminal as it was",
        run: interrupted,
    },
    Row {
        name: "registry: login and push with a password of htpasswd",
        run: password,
    },
    Row {
        name: "registry: credential helpers are asked",
        run: helper,
    },
    Row {
        name: "registry: import of a URL",
        run: import_url,
    },
];

/// Debian's registry with an empty directory. It ends when it is dropped.
pub(crate) struct Registry {
    child: Child,
    pub(crate) host: String,
}

impl Registry {
    /// `http` is what its configuration has below `http:` besides the address, and after.
    pub(crate) fn start(desk: &Desk, name: &str, http: &str) -> Result<Registry> {
        let program = Path::new("/usr/bin/docker-registry");
        if !program.exists() {
            return skip("no docker-registry (apt-get install docker-registry)");
        }
        let config = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:0\n{http}",
            desk.text(&format!("{name}-data")),
        );
        let config = desk.write(&format!("{name}.yml"), &config)?;
        let mut child = desk
            .command(program)
            .args(["serve", &config.display().to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("start docker-registry")?;
        let log = Collected::from(child.stderr.take().context("no pipe")?);
        let mut registry = Registry {
            child,
            host: String::new(),
        };
        // It says which port the kernel has given it.
        registry.host = wait_for("docker-registry listens", || {
            let text = log.so_far();
            if log.is_over() {
                bail!("docker-registry has ended: {text}");
            }
            let port = text.split("listening on 127.0.0.1:").nth(1);
            let port: String = port
                .unwrap_or_default()
                .chars()
                .take_while(char::is_ascii_digit)
                .collect();
            Ok((!port.is_empty()).then(|| format!("127.0.0.1:{port}")))
        })?;
        Ok(registry)
    }

    /// A name there.
    pub(crate) fn name(&self, name: &str) -> String {
        format!("{}/{name}", self.host)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Another program of the row.
pub(super) fn tool(desk: &Desk, program: &str, args: &[&str]) -> Result<Done> {
    archives::run(desk, &archives::tool(program)?, args)
}

/// The digest in `TAG: digest: sha256:… size: N`, the last line of a push.
pub(super) fn pushed(done: &Done) -> Result<String> {
    let last = done.out.lines().last().unwrap_or_default();
    let mut words = last.split(' ');
    let digest = words.find(|word| word.starts_with("sha256:"));
    digest
        .map(str::to_owned)
        .with_context(|| format!("no digest at the end: {done:?}"))
}

fn there_and_back(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let registry = Registry::start(&desk, "registry", "")?;
    desk.import(
        "base",
        vec![Entry::File("etc/motd", 0o644, b"hello\n")],
        &[],
    )?;
    let name = registry.name("team/app:v1");
    desk.go(&["tag", "base", &name])?.ok()?;
    let id = desk.inspect(&name, "{{.Id}}")?;
    let done = desk.go(&["push", &name])?.ok()?;
    let digest = pushed(&done)?;
    ensure!(done.out.contains(": Pushed\n"), "{done:?}");
    ensure!(done.out.contains("v1: digest: sha256:"), "{done:?}");
    // What is there is not sent again, not even under another name.
    let again = desk.go(&["push", &name])?.ok()?;
    ensure!(pushed(&again)? == digest, "{again:?}");
    ensure!(again.out.contains(": Layer already exists\n"), "{again:?}");
    let other = registry.name("other:v2");
    desk.go(&["tag", &name, &other])?.ok()?;
    let mounted = desk.go(&["push", &other])?.ok()?;
    ensure!(
        mounted.out.contains(": Mounted from team/app\n"),
        "{mounted:?}"
    );
    ensure!(pushed(&mounted)? == digest, "{mounted:?}");
    // Up to date, then from nothing.
    let done = desk.go(&["pull", &name])?.ok()?;
    ensure!(done.out.contains("Status: Image is up to date"), "{done:?}");
    desk.go(&["rmi", "-f", &id])?.ok()?;
    ensure!(desk.go(&["images", "-q"])?.ok()?.out.is_empty());
    let done = desk.go(&["pull", &name])?.ok()?;
    ensure!(done.out.contains(": Pull complete\n"), "{done:?}");
    ensure!(
        done.out.contains(&format!("Digest: {digest}\n")),
        "{done:?}"
    );
    ensure!(
        done.out.contains("Status: Downloaded newer image"),
        "{done:?}"
    );
    ensure!(done.line().ends_with(&name), "{done:?}");
    ensure!(
        desk.inspect(&name, "{{.Id}}")? == id,
        "another image came back"
    );
    desk.go(&["run", &name, "cat", "/etc/motd"])?
        .ok()?
        .says("hello")?;
    // Quiet is the name alone; what came goes as it came.
    desk.go(&["pull", "-q", &name])?.ok()?.says(&name)?;
    let third = registry.name("third:v3");
    desk.go(&["tag", &name, &third])?.ok()?;
    desk.go(&["push", "-q", &third])?.ok()?.says(&digest)?;
    // All tags of a name.
    desk.go(&["tag", &name, &registry.name("third:v4")])?.ok()?;
    let done = desk.go(&["push", "-a", &registry.name("third")])?.ok()?;
    ensure!(
        done.out.contains("v3: digest") && done.out.contains("v4: digest"),
        "{done:?}"
    );
    desk.go(&["push", &registry.name("nosuch")])?
        .fails(1, &["no such image"])?;
    Ok(())
}

fn skopeo(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let registry = Registry::start(&desk, "registry", "")?;
    desk.import(
        "base",
        vec![Entry::File("etc/motd", 0o644, b"hello\n")],
        &[],
    )?;
    let ours = registry.name("ours:1");
    desk.go(&["tag", "base", &ours])?.ok()?;
    let digest = pushed(&desk.go(&["push", &ours])?.ok()?)?;
    let there = |name: &str| -> Result<String> {
        let url = format!("docker://{}", registry.name(name));
        let args = ["inspect", "--tls-verify=false", "-f", "{{.Digest}}", &url];
        Ok(tool(&desk, "skopeo", &args)?.ok()?.line().to_owned())
    };
    ensure!(there("ours:1")? == digest, "skopeo sees another digest");
    for (kind, format) in [("gzip", "v2s2"), ("gzip", "oci"), ("zstd", "oci")] {
        let name = format!("{kind}-{format}:1");
        tool(
            &desk,
            "skopeo",
            &[
                "copy",
                "--insecure-policy",
                "--src-tls-verify=false",
                "--dest-tls-verify=false",
                "--dest-compress",
                "--dest-compress-format",
                kind,
                "-f",
                format,
                &format!("oci:{}:base:latest", desk.root().join("images").display()),
                &format!("docker://{}", registry.name(&name)),
            ],
        )?
        .ok()?;
        let digest = there(&name)?;
        let done = desk.go(&["pull", &registry.name(&name)])?.ok()?;
        ensure!(
            done.out.contains(&format!("Digest: {digest}\n")),
            "{done:?}"
        );
        let motd = ["run", &registry.name(&name), "cat", "/etc/motd"];
        desk.go(&motd)?.ok()?.says("hello")?;
        let copy = format!("copy-{name}");
        desk.go(&["tag", &registry.name(&name), &registry.name(&copy)])?
            .ok()?;
        desk.go(&["push", &registry.name(&copy)])?.ok()?;
        ensure!(there(&copy)? == digest, "{name} came back as another");
    }
    Ok(())
}

fn digests(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let registry = Registry::start(&desk, "registry", "")?;
    desk.import("base", Vec::new(), &[])?;
    let name = registry.name("app");
    desk.go(&["save", "-o", &desk.text("plain.tar"), "base"])?
        .ok()?;
    desk.go(&["tag", "base", &name])?.ok()?;
    let digest = pushed(&desk.go(&["push", &name])?.ok()?)?;
    let id = desk.inspect(&name, "{{.Id}}")?;
    let by_digest = format!("{name}@{digest}");
    ensure!(
        desk.inspect(&by_digest, "{{.Id}}")? == id,
        "not known by what was pushed"
    );
    desk.go(&["rmi", "-f", &id])?.ok()?;
    let done = desk.go(&["pull", &by_digest])?.ok()?;
    ensure!(done.line().ends_with(&by_digest), "{done:?}");
    let done = desk.go(&["images", "--digests"])?.ok()?;
    let row = done.out.lines().find(|line| line.contains(&name));
    let row = row.with_context(|| format!("no row: {done:?}"))?;
    ensure!(row.contains("<none>") && row.contains(&digest), "{row}");
    let digests = desk.inspect(&by_digest, "{{json .RepoDigests}}")?;
    ensure!(digests.contains(&by_digest), "{digests}");
    desk.go(&["run", &by_digest, "ls"])?.ok()?;
    repo_digests(&desk, (&name, &digest))?;
    let wrong = format!("{name}@sha256:{}", "0".repeat(64));
    desk.go(&["run", "--pull", "never", &wrong, "ls"])?
        .fails(125, &["no such image"])?;
    let done = desk.go(&["rmi", &by_digest])?.ok()?;
    ensure!(
        done.out.contains(&format!("Untagged: {by_digest}")),
        "{done:?}"
    );
    ensure!(desk.go(&["images", "-q"])?.ok()?.out.is_empty());
    Ok(())
}

/// What is known of an image under several names, each with the digest of its own repository.
fn repo_digests(desk: &Desk, (name, digest): (&str, &str)) -> Result<()> {
    let by_digest = format!("{name}@{digest}");
    let list = |args: &[&str]| -> Result<Vec<String>> {
        let done = desk.go(&[&["images"], args].concat())?.ok()?;
        let words = |line: &str| {
            line.split_whitespace()
                .take(3)
                .collect::<Vec<_>>()
                .join(" ")
        };
        let mut lines: Vec<String> = done.out.lines().skip(1).map(words).collect();
        lines.sort();
        Ok(lines)
    };
    let id = desk.inspect(&by_digest, "{{.Id}}")?;
    let short = &id["sha256:".len()..][..12];
    ensure!(
        list(&[])? == [format!("{name} <none> {short}")],
        "{:?}",
        list(&[])?
    );
    for args in [
        [by_digest.as_str()],
        ["-fdangling=true"],
        ["-fdangling=false"],
    ] {
        ensure!(list(&args)?.len() == 1, "{args:?}");
    }
    // The same image, with a layer that is not compressed and so with another manifest.
    desk.go(&["load", "-i", &desk.text("plain.tar")])?.ok()?;
    let plain = desk
        .go(&["images", "--format", "{{.Digest}}", "base"])?
        .ok()?;
    ensure!(plain.line() != digest, "there is one manifest only");
    desk.go(&["tag", &by_digest, "x:1"])?.ok()?;
    desk.go(&["tag", "base", "x:2"])?.ok()?;
    let both = [digest, plain.line()];
    let mut expected: Vec<String> = vec![
        format!("{name} <none> {digest}"),
        format!("base latest {}", plain.line()),
    ];
    for tag in ["1", "2"] {
        expected.extend(both.map(|digest| format!("x {tag} {digest}")));
    }
    expected.sort();
    let found = list(&["--digests"])?;
    ensure!(found == expected, "{found:#?}, expected {expected:#?}");
    let mut expected = vec![by_digest, format!("base@{}", plain.line())];
    expected.extend(both.map(|digest| format!("x@{digest}")));
    expected.sort();
    let found = desk.inspect("x:2", "{{json .RepoDigests}}")?;
    let found: Vec<String> = serde_json::from_str(&found)?;
    ensure!(found == expected, "{found:#?}, expected {expected:#?}");
    desk.go(&["rmi", "x:1", "x:2", "base"])?.ok().map(drop)
}

/// Pushes an image whose /etc/motd is this.
fn publish(desk: &Desk, name: &str, text: &[u8]) -> Result<()> {
    desk.import("base", vec![Entry::File("etc/motd", 0o644, text)], &[])?;
    desk.go(&["tag", "base", name])?.ok()?;
    desk.go(&["push", name])?.ok().map(drop)
}

fn run_pull(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let registry = Registry::start(&desk, "registry", "")?;
    let name = registry.name("app:1");
    let publish = |text: &[u8]| -> Result<()> {
        publish(&desk, &name, text)?;
        desk.go(&["rmi", &name])?.ok().map(drop)
    };
    publish(b"one\n")?;
    let motd = |flags: &[&str]| {
        let mut args = vec!["run"];
        args.extend(flags);
        args.extend([&name, "cat", "/etc/motd"]);
        desk.go(&args)
    };
    motd(&["--pull", "never"])?.fails(125, &["no such image"])?;
    // Missing, so it is pulled, which standard output does not tell.
    let done = motd(&[])?.ok()?.says("one")?;
    ensure!(done.err.contains("pulled"), "{done:?}");
    desk.go(&["tag", &name, "kept"])?.ok()?;
    publish(b"two\n")?;
    desk.go(&["tag", "kept", &name])?.ok()?;
    motd(&["--pull", "missing"])?.ok()?.says("one")?;
    motd(&["--pull", "never"])?.ok()?.says("one")?;
    motd(&["--pull", "always"])?.ok()?.says("two")?;
    // By --image, too; and create.
    desk.go(&["rmi", &name])?.ok()?;
    desk.go(&["run", "-q", "--image", &name, "cat", "/etc/motd"])?
        .ok()?
        .says("two")?;
    desk.go(&["rmi", &name])?.ok()?;
    desk.go(&["create", &name, "true"])?.ok()?;
    Ok(())
}

fn build_from(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let registry = Registry::start(&desk, "registry", "")?;
    let name = registry.name("app:1");
    let publish = |text: &[u8]| publish(&desk, &name, text);
    desk.write(
        "context/Dockerfile",
        &format!("FROM {name}\nCOPY Dockerfile /\n"),
    )?;
    let motd = |flags: &[&str], says: &str| -> Result<()> {
        let mut args = vec!["build", "-t", "made", "context"];
        args.extend(flags);
        desk.go(&args)?.ok()?;
        desk.go(&["run", "made", "cat", "/etc/motd"])?
            .ok()?
            .says(says)?;
        Ok(())
    };
    publish(b"one\n")?;
    desk.go(&["rmi", &name])?.ok()?;
    motd(&[], "one")?;
    desk.go(&["tag", &name, "kept"])?.ok()?;
    publish(b"two\n")?;
    desk.go(&["tag", "kept", &name])?.ok()?;
    motd(&[], "one")?;
    motd(&["--pull"], "two")
}

fn certificates(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let (key, cert) = (desk.text("key.pem"), desk.text("cert.pem"));
    tool(
        &desk,
        "openssl",
        &[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=test",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-addext",
            "basicConstraints=critical,CA:false",
            "-keyout",
            &key,
            "-out",
            &cert,
        ],
    )?
    .ok()?;
    let tls = format!("  tls:\n    certificate: {cert}\n    key: {key}\n");
    let registry = Registry::start(&desk, "registry", &tls)?;
    desk.import("base", Vec::new(), &[])?;
    let name = registry.name("app");
    desk.go(&["tag", "base", &name])?.ok()?;
    // On loopback nobody asks for a certificate.
    desk.go(&["push", &name])?.ok()?;
    let strict = ["pull", "-q", "--insecure=false", &name];
    desk.go(&strict)?.fails(1, &["certificate", "--insecure"])?;
    let mut knowing = desk.command(desk.program());
    knowing.args(strict).env("SSL_CERT_FILE", &cert);
    finish(&mut knowing, "pull with the certificate", "")?.ok()?;
    desk.go(&["pull", "-q", "--insecure", &name])?.ok()?;
    Ok(())
}

fn password(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    // me:right, with the least rounds of bcrypt.
    let file = desk.write(
        "htpasswd",
        "me:$2b$04$abcdefghijklmnopqrstuuFmEfrkTQnczNzw475xE2VhDrK1uwJiC\n",
    )?;
    let auth = format!(
        "auth:\n  htpasswd:\n    realm: here\n    path: {}\n",
        file.display()
    );
    let registry = Registry::start(&desk, "registry", &auth)?;
    desk.import("base", Vec::new(), &[])?;
    let name = registry.name("app");
    desk.go(&["tag", "base", &name])?.ok()?;
    desk.go(&["push", &name])?.code(1)?;
    let login = ["login", "-u", "me", "--password-stdin", &registry.host];
    desk.go_with(&login, "wrong")?
        .fails(1, &["access denied"])?;
    desk.go_with(&login, "right")?.ok()?;
    desk.go(&["push", &name])?.ok()?;
    desk.go(&["pull", &name])?.ok()?;
    desk.go(&["logout", &registry.host])?.ok()?;
    desk.go(&["push", &name])?.code(1)?;
    Ok(())
}

fn helper(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.script(
        "bin/docker-credential-shelf",
        "#!/bin/sh\nread -r line\necho \"$1 $line\" >>\"$SHELF/asked\"\ncase $1 in\n\
         get) [ -e \"$SHELF/kept\" ] && cat \"$SHELF/kept\" || { echo credentials not found in native keychain; exit 1; };;\n\
         store) echo \"$line\" >\"$SHELF/kept\";;\nerase) rm \"$SHELF/kept\";;\nesac\n",
    )?;
    let fixture = super::false_registry::Fixture::new(1000)?;
    let registry = super::hostile_registry::with_password(fixture)?;
    let host = registry.host();
    let config = format!(r#"{{"credHelpers": {{"{host}": "shelf"}}}}"#);
    desk.write("home/.docker/config.json", &config)?;
    let go = |args: &[&str], input: &str| -> Result<Done> {
        let mut command: Command = desk.command(desk.program());
        let path = format!("{}:/usr/bin:/bin", desk.text("bin"));
        command
            .args(args)
            .env("PATH", path)
            .env("SHELF", desk.text(""));
        finish(&mut command, &args.join(" "), input)
    };
    let name = format!("{host}/app");
    go(&["pull", "-q", &name], "")?.fails(1, &["access denied"])?;
    go(&["login", "-u", "me", "--password-stdin", &host], "right")?.ok()?;
    let text = std::fs::read_to_string(desk.path("home/.docker/config.json"))?;
    ensure!(
        text == config,
        "the password is in the file as well: {text}"
    );
    go(&["pull", "-q", &name], "")?.ok()?;
    go(&["logout", &host], "")?.ok()?;
    ensure!(!desk.path("kept").exists(), "it was not erased");
    let asked = std::fs::read_to_string(desk.path("asked"))?;
    ensure!(asked.contains(&format!("get {host}\n")), "{asked}");
    Ok(())
}

fn import_url(place: &Place) -> Result<()> {
    use super::false_registry::{Answer, FalseRegistry, Fixture};
    let desk = Desk::new(place)?;
    let layer = Fixture::new(100_000)?.layer;
    let server = FalseRegistry::start(move |heard| match heard.path.as_str() {
        "/there.tar.gz" => Answer::new(302, "").with("Location", "/moved/a.tar.gz"),
        "/moved/a.tar.gz" => Answer::new(200, layer.clone()),
        "/cut.tar.gz" => {
            let mut answer = Answer::new(200, layer.clone());
            answer.length = Some(layer.len());
            answer.body.truncate(1000);
            answer
        }
        _ => Answer::new(404, "not here"),
    })?;
    let url = |path: &str| format!("http://{}/{path}", server.host());
    desk.go(&["import", "-q", &url("there.tar.gz"), "app"])?
        .ok()?;
    ensure!(desk.inspect("app", "{{.Size}}")?.parse::<u64>()? > 100_000);
    desk.go(&["import", &url("nosuch.tar"), "b"])?
        .fails(1, &["404"])?;
    desk.go(&["import", &url("cut.tar.gz"), "b"])?.code(1)?;
    desk.go(&["inspect", "b"])?.code(1)?;
    Ok(())
}

fn interrupted(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let login = ["login", "-u", "me", "127.0.0.1:1"];
    let mut terminal = desk.terminal(&login)?;
    terminal.expect("Password: ")?;
    wait_for("the terminal is silent", || {
        Ok((!terminal.echoes()?).then_some(()))
    })?;
    // The end of a line may come in two parts.
    terminal.send("half\x04\x03")?;
    wait_for("the terminal shows again what is typed", || {
        Ok(terminal.echoes()?.then_some(()))
    })?;
    let done = terminal.finish()?.code(130)?;
    ensure!(!done.out.contains("half"), "{done:?}");
    // What is typed to its end is sent.
    let mut terminal = desk.terminal(&login)?;
    terminal.expect("Password: ")?;
    terminal.send("sec\x04ret\n")?;
    let done = terminal.finish()?.code(1)?;
    ensure!(
        done.out.contains("127.0.0.1:1") && !done.out.contains("ret"),
        "{done:?}"
    );
    Ok(())
}

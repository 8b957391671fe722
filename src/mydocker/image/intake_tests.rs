use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;

use super::super::Compression;
use super::super::author;
use super::super::manifest::{digest_of, manifest};
use super::*;
use crate::error::message;
use crate::mydocker::progress::Progress;
use crate::mydocker::state_dirs::new_id;

/// A store in a directory of its own.
struct Place(PathBuf);

impl Place {
    fn new() -> Place {
        let id = new_id().unwrap();
        Place(std::env::temp_dir().join(format!("intake-{}", &id[..12])))
    }

    fn store(&self) -> Store {
        Store::open(&self.0).unwrap()
    }

    /// Every file of the store.
    fn files(&self) -> BTreeSet<PathBuf> {
        let mut files = BTreeSet::new();
        let mut todo = vec![self.0.clone()];
        while let Some(path) = todo.pop() {
            if path.is_dir() {
                let entries = std::fs::read_dir(&path).unwrap();
                todo.extend(entries.map(|entry| entry.unwrap().path()));
            }
            files.insert(path);
        }
        files
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn archive(name: &str, content: &[u8]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(content.len() as u64);
    tar.append_data(&mut header, name, content).unwrap();
    tar.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gz.write_all(bytes).unwrap();
    gz.finish().unwrap()
}

fn described(blob: &[u8]) -> Descriptor {
    Descriptor::new("any", &digest_of(blob), blob.len() as u64)
}

fn take(intake: &Intake<'_>, blob: &[u8], plain: &[u8]) -> Result<Vec<String>> {
    let bar = Progress::silent().bar("layer", "reading", None);
    intake.layer(&described(blob), &digest_of(plain), blob, &bar)
}

/// The documents of an image of these layers: the archives, and the same without compression.
fn image(layers: &[(&[u8], &[u8])], name: &str) -> NewImage {
    let mut config = author::blank();
    for (_, plain) in layers {
        let created = time::OffsetDateTime::UNIX_EPOCH;
        author::add_layer(
            &mut config,
            &digest_of(plain),
            created,
            &author::Note::default(),
        )
        .unwrap();
    }
    let config = serde_json::to_vec(&config).unwrap();
    let blobs: Vec<Descriptor> = layers.iter().map(|(blob, _)| described(blob)).collect();
    NewImage {
        manifest: manifest(&config, &blobs),
        config,
        names: vec![Reference::parse(name).unwrap()],
    }
}

#[test]
fn layers_are_stored_as_they_come_and_unpacked_once() {
    let place = Place::new();
    let store = place.store();
    let plain = [archive("a", b"1"), archive("b", b"2"), archive("c", b"3")];
    let zstd = zstd::encode_all(plain[2].as_slice(), 0).unwrap();
    let blobs = [plain[0].clone(), gzip(&plain[1]), zstd];
    let pairs: Vec<(&[u8], &[u8])> = blobs
        .iter()
        .zip(&plain)
        .map(|(b, p)| (&b[..], &p[..]))
        .collect();
    let intake = Intake::new(&store, Limits::DEFAULT).unwrap();
    std::thread::scope(|scope| {
        for (blob, plain) in &pairs {
            scope.spawn(|| take(&intake, blob, plain).unwrap());
        }
    });
    for (plain, kind) in plain.iter().zip(["tar", "tar+gzip", "tar+zstd"]) {
        let layer = intake.layer_of(&digest_of(plain)).unwrap().unwrap();
        let found = layer.media_type.rsplit('.').next();
        assert_eq!(found, Some(kind));
    }
    let new = image(&pairs, "x:1");
    let made = intake
        .publish(std::slice::from_ref(&new))
        .unwrap()
        .remove(0);
    assert_eq!(made.digest, digest_of(&new.manifest), "kept byte for byte");
    assert_eq!(made.id, digest_of(&new.config));
    assert_eq!(made.size, plain.iter().map(|p| p.len() as u64).sum::<u64>());
    for (at, name) in ["c", "b", "a"].iter().enumerate() {
        assert!(made.layers[at].join(name).is_file());
    }
    // The same layer with other compression: another archive, and the same directory.
    let intake = Intake::new(&store, Limits::DEFAULT).unwrap();
    assert!(
        intake
            .has_layer(&described(&blobs[1]), &digest_of(&plain[1]))
            .unwrap()
    );
    assert!(
        !intake
            .has_layer(&described(&blobs[1]), &digest_of(&plain[0]))
            .unwrap()
    );
    assert!(
        !intake
            .has_layer(&described(&plain[1]), &digest_of(&plain[1]))
            .unwrap()
    );
    take(&intake, &plain[1], &plain[1]).unwrap();
    let again = intake
        .publish(&[image(&[(&plain[1], &plain[1])], "y:1")])
        .unwrap();
    assert_eq!(again[0].layers[0], made.layers[1]);
    // All of it goes again.
    store.remove("x:1", false).unwrap();
    assert_eq!(store.get("y:1").unwrap().layers.len(), 1);
    store.remove("y:1", false).unwrap();
    let left = place.files();
    let left = left
        .iter()
        .filter(|path| path.starts_with(place.0.join("layers")));
    assert_eq!(left.count(), 1);
    assert_eq!(std::fs::read_dir(store.blobs()).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(store.unpacked()).unwrap().count(), 0);
}

#[test]
fn a_directory_that_a_layer_does_not_speak_of_stays_as_it_is() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let place = Place::new();
    let store = place.store();
    let mut base = tar::Builder::new(Vec::new());
    for (name, mode) in [
        ("./", 0o711),
        ("a/", 0o700),
        ("a/in/", 0o1777),
        ("gone/", 0o700),
        ("a/in2/", 0o700),
    ] {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        header.set_size(0);
        base.append_data(&mut header, name, std::io::empty())
            .unwrap();
    }
    let base = base.into_inner().unwrap();
    let mut more = archive("a/in/b", b"1");
    let more_of = |layers: &mut Vec<u8>, name: &str| {
        layers.truncate(layers.len() - 1024);
        layers.extend(archive(name, b"2"));
    };
    more_of(&mut more, "new/c");
    // It takes away what is there, and begins again.
    more_of(&mut more, ".wh.gone");
    more_of(&mut more, "gone/d");
    more_of(&mut more, "a/.wh..wh..opq");
    more_of(&mut more, "a/in2/d");
    let top = archive("a/e", b"3");
    let intake = Intake::new(&store, Limits::DEFAULT).unwrap();
    // Whichever comes first.
    for layer in [&top, &more, &base] {
        take(&intake, layer, layer).unwrap();
    }
    let pairs: Vec<(&[u8], &[u8])> = [&base, &more, &top].map(|l| (&l[..], &l[..])).to_vec();
    let made = intake.publish(&[image(&pairs, "x:1")]).unwrap().remove(0);
    let look = |at: usize, path: &str| {
        let meta = made.layers[at].join(path).metadata().unwrap();
        (meta.permissions().mode() & 0o7777, meta.mtime())
    };
    for (at, path, mode) in [
        (1, "", 0o711),
        (1, "a", 0o700),
        (0, "", 0o711),
        (0, "a", 0o700),
    ] {
        assert_eq!(look(at, path), (mode, 1_000_000_000), "{at} {path}");
    }
    for new in ["new", "gone", "a/in2", "a/in"] {
        assert_eq!(look(1, new), (0o755, 0), "{new}");
    }
}

#[test]
fn lies_are_found_out_and_leave_nothing() {
    let place = Place::new();
    let store = place.store();
    let plain = archive("a", &[7; 100_000]);
    let blob = gzip(&plain);
    let before = place.files();
    let bar = Progress::silent().bar("layer", "reading", None);
    let refused = |layer: Descriptor, diff_id: &str, bytes: &[u8]| {
        let intake = Intake::new(&store, Limits::DEFAULT).unwrap();
        let error = intake.layer(&layer, diff_id, bytes, &bar).unwrap_err();
        message(&error)
    };
    let (real, diff_id, other) = (described(&blob), digest_of(&plain), digest_of(b"other"));
    let with_size = |size| Descriptor::new("any", &real.digest, size);
    let more = with_size(real.size + 1);
    assert!(refused(more, &diff_id, &blob).contains("it is cut short"));
    let fewer = with_size(real.size - 1);
    assert!(refused(fewer, &diff_id, &blob).contains("longer than"));
    let lied = Descriptor::new("any", &other, real.size);
    assert!(refused(lied, &diff_id, &blob).contains("its digest is sha256:"));
    assert!(refused(real.clone(), &other, &blob).contains("it unpacks to sha256:"));
    let half = &blob[..blob.len() / 2];
    assert!(refused(real.clone(), &diff_id, half).contains("it is cut short"));
    assert!(refused(described(half), &diff_id, half).contains("read the archive"));
    let bad = Descriptor::new("any", "sha256:../../etc", 1);
    assert!(refused(bad, &diff_id, &blob).contains("is not a sha256 digest"));
    let text = b"no archive, but long enough for a header of tar".repeat(20);
    assert!(refused(described(&text), &digest_of(&text), &text).contains("not a tar archive"));

    let publish = |new: &NewImage| {
        let intake = Intake::new(&store, Limits::DEFAULT).unwrap();
        take(&intake, &blob, &plain).unwrap();
        message(&intake.publish(std::slice::from_ref(new)).unwrap_err())
    };
    let good = image(&[(&blob, &plain)], "x:1");
    let mut lied = good.clone();
    lied.config.push(b' ');
    assert!(publish(&lied).contains("the manifest says"));
    let mixed = image(&[(&blob, b"other")], "x:1");
    assert!(publish(&mixed).contains("is not there"));
    let mut short = good.clone();
    short.manifest = manifest(&short.config, &[]);
    assert!(publish(&short).contains("the manifest has 0 layers, the configuration 1"));
    assert_eq!(place.files(), before);
}

#[test]
fn bombs_do_not_go_off() {
    let place = Place::new();
    let store = place.store();
    let plain = archive("zeros", &vec![0; 8 << 20]);
    let before = place.files();
    for blob in [gzip(&plain), zstd::encode_all(plain.as_slice(), 0).unwrap()] {
        let (allowance, ratio) = (1 << 20, 10);
        for limits in [Limits { allowance, ratio }, Limits::of(Some(8 << 20))] {
            let intake = Intake::new(&store, limits).unwrap();
            let error = take(&intake, &blob, &plain).unwrap_err();
            assert!(
                message(&error).contains("a decompression bomb"),
                "{error:?}"
            );
        }
    }
    assert_eq!(place.files(), before);
}

#[test]
fn what_an_intake_needs_is_not_removed() {
    let place = Place::new();
    let store = place.store();
    let plain = archive("a", b"1");
    let new = image(&[(&plain, &plain)], "x:1");
    let first = Intake::new(&store, Limits::DEFAULT).unwrap();
    take(&first, &plain, &plain).unwrap();
    let second = Intake::new(&store, Limits::DEFAULT).unwrap();
    take(&second, &plain, &plain).unwrap();
    first.publish(std::slice::from_ref(&new)).unwrap();
    second.publish(std::slice::from_ref(&new)).unwrap();

    let third = Intake::new(&store, Limits::DEFAULT).unwrap();
    assert!(
        third
            .has_layer(&described(&plain), &digest_of(&plain))
            .unwrap()
    );
    store.remove("x:1", false).unwrap();
    let made = third.publish(&[new]).unwrap();
    assert!(made[0].layers[0].join("a").is_file());
}

#[test]
fn what_goes_out_compressed_may_stay_so() {
    let place = Place::new();
    let store = place.store();
    let plain = [archive("a", &[b'a'; 5000]), archive("b", b"2")];
    let packed = gzip(&plain[1]);
    let intake = Intake::new(&store, Limits::DEFAULT).unwrap();
    take(&intake, &plain[0], &plain[0]).unwrap();
    take(&intake, &packed, &plain[1]).unwrap();
    let new = image(&[(&plain[0], &plain[0]), (&packed, &plain[1])], "x:1");
    let made = intake.publish(&[new]).unwrap().remove(0);
    for with in [Compression::Zstd, Compression::Gzip] {
        let mut out = store.outgoing(&made).unwrap();
        out.compress(with, &Progress::silent()).unwrap();
        assert_eq!(out.layers()[1], described_as(&packed, &made.blobs[1]));
        let blob = &out.layers()[0];
        assert!(blob.size < 1000 && blob.digest != made.blobs[0].digest);
        let mut bytes = Vec::new();
        out.open(blob).unwrap().read_to_end(&mut bytes).unwrap();
        assert_eq!(*blob, described_as(&bytes, blob));
        let mut back = Vec::new();
        let mut reader = super::super::compression::decompressed(bytes.as_slice()).unwrap();
        reader.read_to_end(&mut back).unwrap();
        assert_eq!(back, plain[0]);
        if with == Compression::Gzip {
            let digest = out.descriptor().digest;
            let pushed = format!("reg.io/x@{digest}");
            out.keep(Reference::parse(&pushed).unwrap()).unwrap();
            let kept = store.get("x:1").unwrap();
            assert_eq!((&kept.digest, &kept.id), (&digest, &made.id));
            assert_eq!(kept.names, [pushed, "x:1".to_owned()]);
            assert_eq!(kept.layers, made.layers);
        }
    }
    let gone = store.blobs().join(made.blobs[0].hex().unwrap());
    assert!(
        !gone.exists(),
        "the uncompressed archive is not needed any more"
    );
}

fn described_as(blob: &[u8], like: &Descriptor) -> Descriptor {
    Descriptor::new(&like.media_type, &digest_of(blob), blob.len() as u64)
}

#[test]
fn an_image_that_was_removed_meanwhile_is_not_used() {
    let place = Place::new();
    let store = place.store();
    let plain = archive("a", b"1");
    let publish = |names: &[&str], extra: &[u8]| {
        let intake = Intake::new(&store, Limits::DEFAULT).unwrap();
        let mut layers = vec![(&plain[..], &plain[..])];
        if !extra.is_empty() {
            layers.push((extra, extra));
        }
        for (blob, plain) in &layers {
            if !intake
                .has_layer(&described(blob), &digest_of(plain))
                .unwrap()
            {
                take(&intake, blob, plain).unwrap();
            }
        }
        let new = names.iter().map(|name| image(&layers, name));
        intake.publish(&new.collect::<Vec<_>>()).unwrap().remove(0)
    };
    let going = publish(&["x:1"], b"");
    publish(&["other:1"], &archive("b", b"2"));
    let container = place.0.join("containers/c");
    std::fs::create_dir_all(&container).unwrap();
    store.remove("x:1", false).unwrap();
    // Its layer is there, as the other image's.
    assert!(going.layers[0].is_dir());
    let error = store.use_layers(&going, &container).unwrap_err();
    assert!(message(&error).contains("removed"), "{error:#}");
    assert!(!container.join("layers").exists());
    // `save` says so, and `load` takes it from its archive again.
    let error = store.outgoing(&going).err().unwrap();
    assert!(message(&error).contains("removed"), "{error:#}");
    assert_eq!(store.manifest_of(&going).unwrap(), None);
    // A container that has lost its manifest keeps its layers, and lets all the rest go.
    let lost = format!("{} {}\n{}\n", going.id, going.digest, going.diff_ids[0]);
    std::fs::write(container.join("layers"), lost).unwrap();
    publish(&["third:1"], &archive("c", b"3"));
    let removed = store.remove("third:1", false).unwrap();
    assert_eq!(removed.len(), 2);
    store.remove("other:1", false).unwrap();
    assert!(going.layers[0].is_dir());
}

#[test]
fn what_fails_while_it_is_published_is_swept_by_the_next_command() {
    let place = Place::new();
    let store = place.store();
    let plain = archive("a", b"1");
    let intake = Intake::new(&store, Limits::DEFAULT).unwrap();
    take(&intake, &plain, &plain).unwrap();
    // The new index cannot be written.
    let in_the_way = place.0.join("images/index.json.new");
    std::fs::create_dir(&in_the_way).unwrap();
    let before = place.files();
    intake
        .publish(&[image(&[(&plain, &plain)], "x:1")])
        .unwrap_err();
    std::fs::remove_dir(&in_the_way).unwrap();
    assert_ne!(place.files(), before, "it had begun");
    drop(place.store());
    let left = |dir: &str| place.0.join(dir).read_dir().unwrap().count();
    for dir in ["images/blobs/sha256", "layers", "drafts"] {
        assert_eq!(left(dir), 0, "{dir}");
    }
}

//! Images that are damaged or meant to do harm: each is refused in words that say what is wrong, nothing leaves
//! the store's folder, and the other images go on working.

use std::{
    fs::{self, OpenOptions},
    io::Write,
};

use flate2::{Compression, write::GzEncoder};
use kernlet_image::{Store, StoreError};
use serde_json::json;
use tar::EntryType;

use crate::forge::{Home, TAR, archive, chain, entry, files, header, names, reference};

const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

/// Unpacks an image of one layer with this archive and returns why it cannot be.
fn refused(archive: &[u8]) -> String {
    let home = Home::new();
    home.forge_archive("bad:latest", archive);
    let error = home.unpack_error("bad");
    assert!(error.contains("kernlet rmi bad:latest"), "{error}");
    assert!(names(&home.path().join("unpacked")).is_empty(), "something was left");
    error
}

#[test]
fn a_changed_blob_is_found_out() {
    let home = Home::new();
    home.import("echo", home.parts(&[b'k'; 5000], &[]));
    let largest = names(&home.blobs())
        .into_iter()
        .map(|name| home.blobs().join(name))
        .max_by_key(|path| path.metadata().unwrap().len());
    let path = largest.unwrap();
    let good = fs::read(&path).unwrap();

    let mut changed = good.clone();
    changed[2000] ^= 1;
    fs::write(&path, changed).unwrap();
    assert!(home.unpack_error("echo").contains("is corrupt: its bytes have another digest"));
    fs::write(&path, &good[..good.len() - 1]).unwrap();
    assert!(home.unpack_error("echo").contains("bytes instead of"));
    fs::remove_file(&path).unwrap();
    assert!(home.unpack_error("echo").contains("is missing from the store"));

    home.import("echo", home.parts(&[b'k'; 5000], &[]));
    home.store.unpack(&reference("echo")).expect("building it again mends it");
}

#[test]
fn a_broken_image_is_listed_as_broken_beside_the_others_and_can_be_removed() {
    let home = Home::new();
    let info = home.import("bad", home.parts(b"bad", &[]));
    home.import("good", home.parts(b"good", &[]));
    fs::write(home.blobs().join(info.digest.strip_prefix("sha256:").unwrap()), b"{}").unwrap();
    let listing = home.store.list().unwrap();
    assert_eq!(listing.images.len(), 1);
    assert!(matches!(&listing.broken[..], [StoreError::Unusable { reference, .. }] if reference.name() == "bad"));
    home.store.remove(&reference("bad")).unwrap();
    assert_eq!(names(&home.blobs()).len(), 3, "manifest, configuration and layer of the good one");
    home.store.unpack(&reference("good")).unwrap();
}

#[test]
fn an_index_that_is_none_is_reported_with_its_path() {
    let home = Home::new();
    let index = home.path().join("images/index.json");
    fs::write(&index, b"{").unwrap();
    let error = chain(&home.store.list().unwrap_err());
    assert!(error.contains("images/index.json cannot be read as part of an OCI image layout"), "{error}");
    OpenOptions::new().write(true).open(&index).unwrap().set_len(5 << 20).unwrap();
    assert!(chain(&home.store.list().unwrap_err()).contains("more than 4Mi"));
    fs::write(home.path().join("images/oci-layout"), b"{\"imageLayoutVersion\":\"9\"}").unwrap();
    assert!(chain(&Store::open(home.path()).unwrap_err()).contains("version \"9\""));
}

#[test]
fn names_that_lead_out_of_the_image_are_refused() {
    for name in ["../kernel", "resources/../../x", "a/..", "..", "resources/.."] {
        assert!(refused(&files(&[(name, b"x")])).contains("leads out of the image"), "{name}");
    }
    for name in ["/.boot/kernel", "/etc/passwd", "//x"] {
        assert!(refused(&files(&[(name, b"x")])).contains("absolute path"), "{name}");
    }
}

#[test]
fn links_and_devices_are_refused() {
    for kind in [
        EntryType::Symlink,
        EntryType::Link,
        EntryType::Char,
        EntryType::Block,
        EntryType::Fifo,
        EntryType::GNUSparse,
        EntryType::Continuous,
    ] {
        for name in [".boot/kernel", "resources/model", "elsewhere"] {
            let error = refused(&archive(&[entry(name, kind, b"")]));
            assert!(error.contains("no links and devices") && error.contains(name), "{error}");
        }
    }
}

#[test]
fn names_that_come_twice_are_refused() {
    assert!(refused(&files(&[(".boot/kernel", b"1"), (".boot/kernel", b"2")])).contains("of this name already"));
    assert!(refused(&files(&[(".boot/kernel", b"1"), ("./.boot//kernel", b"2")])).contains("of this name already"));
    assert!(refused(&files(&[("x", b"1"), ("x", b"2")])).contains("of this name already"));
    let home = Home::new();
    let layer = |content: &[u8]| home.blob(TAR, &files(&[(".boot/kernel", content)]));
    home.forge("twice", &[layer(b"1"), layer(b"2")]);
    assert!(home.unpack_error("twice").contains("of this name already"), "in two layers as well");
}

#[test]
fn resources_with_improper_names_are_refused() {
    for name in ["resources/.hidden", "resources/a/b", "resources/a b", "resources/\u{e9}"] {
        assert!(
            refused(&files(&[(".boot/kernel", b"1"), (name, b"x")])).contains("is not a resource's name"),
            "{name}"
        );
    }
    assert!(refused(&files(&[("resources/x/", b"x")])).contains("ends with '/'"));
    let mut raw = header("resources/a", EntryType::Regular, 0);
    raw.as_old_mut().name[10] = 0xff;
    raw.set_cksum();
    assert!(refused(&archive(&[raw.as_bytes().to_vec()])).contains("not UTF-8"));
}

#[test]
fn an_image_without_a_unikernel_is_refused() {
    assert!(refused(&archive(&[])).contains("no layer has a /.boot/kernel"));
    assert!(refused(&files(&[("boot/kernel", b"x")])).contains("no layer has a /.boot/kernel"));
}

#[test]
fn a_promised_resource_must_be_there() {
    for name in ["model", "../kernel", "kernel"] {
        let home = Home::new();
        let mut layer = home.blob(TAR, &files(&[(".boot/kernel", b"k"), ("resources/other", b"x")]));
        layer["annotations"] = json!({ "dev.kernlet.resource": name });
        home.forge("bad:latest", &[layer]);
        assert!(home.unpack_error("bad").contains("that the manifest promises"), "{name}");
    }
}

#[test]
fn sizes_are_bounded_before_anything_is_read() {
    let huge = header(".boot/kernel", EntryType::Regular, 300 << 20).as_bytes().to_vec();
    assert!(refused(&huge).contains("the unikernel has 314572800 bytes; at most 256Mi"));
    let huge = header("resources/model", EntryType::Regular, 5 << 30).as_bytes().to_vec();
    assert!(refused(&huge).contains("at most 4Gi"));
    for kind in [EntryType::XHeader, EntryType::GNULongName] {
        let huge = header("x", kind, 1 << 30).as_bytes().to_vec();
        assert!(refused(&huge).contains("an extended header of a layer has 1073741824 bytes; at most 16Ki"));
    }
    let half = header("one", EntryType::Directory, 3 << 30).as_bytes().to_vec();
    assert!(refused(&half).contains("not a readable tar archive"), "its content is missing");
}

#[test]
fn a_compressed_layer_is_read_and_a_bomb_is_not() {
    let home = Home::new();
    let layer = home.blob(GZIP, &gzip(&files(&[("./.boot/kernel", b"kernel"), ("resources/model", &[3; 70_000])])));
    home.forge("zipped:latest", &[layer]);
    let unpacked = home.store.unpack(&reference("zipped")).unwrap();
    assert_eq!(fs::read(unpacked.kernel).unwrap(), b"kernel");
    assert_eq!(fs::read(&unpacked.resources[0].1).unwrap(), [3; 70_000]);

    let bomb = [
        entry(".boot/kernel", EntryType::Regular, b"k"),
        header("junk", EntryType::Regular, 1 << 40).as_bytes().to_vec(),
    ];
    let layer = home.blob(GZIP, &gzip(&bomb.concat()));
    home.forge("bomb:latest", &[layer]);
    assert!(home.unpack_error("bomb").contains("the content of its layers has"));
    let whole = gzip(&files(&[(".boot/kernel", &[1; 10_000])]));
    let layer = home.blob(GZIP, &whole[..whole.len() / 2]);
    home.forge("cut:latest", &[layer]);
    assert!(home.unpack_error("cut").contains("is not a readable tar archive"));
    let layer = home.blob(GZIP, b"this is no gzip");
    home.forge("plain:latest", &[layer]);
    assert!(home.unpack_error("plain").contains("is not a readable tar archive"));
}

#[test]
fn archives_that_end_early_or_are_none_are_refused() {
    let whole = files(&[(".boot/kernel", &[1; 3000])]);
    for length in [1, 511, 512, 513, 1024, 3000] {
        assert!(refused(&whole[..length]).contains("is not a readable tar archive"), "{length}");
    }
    assert!(refused(&[0xaa; 4096]).contains("is not a readable tar archive"));
}

#[test]
fn too_many_entries_are_refused() {
    let entries: Vec<Vec<u8>> =
        (0..10_001).map(|number| entry(&format!("d{number}"), EntryType::Directory, b"")).collect();
    assert!(refused(&archive(&entries)).contains("more than 10000 entries"));
}

#[test]
fn archives_of_other_tools_are_read() {
    let record = b"29 path=resources/from-posix\n";
    let named: &[u8] = b"resources/from-gnu\0";
    let home = Home::new();
    home.forge_archive(
        "other:latest",
        &archive(&[
            entry("pax_global_header", EntryType::XGlobalHeader, b"12 comment=x"),
            entry("./", EntryType::Directory, b""),
            entry("./.boot/", EntryType::Directory, b""),
            entry("./.boot/kernel", EntryType::Regular, b"kernel"),
            entry("PaxHeaders/x", EntryType::XHeader, record),
            entry("cut-short", EntryType::Regular, b"posix"),
            entry("././@LongLink", EntryType::GNULongName, named),
            entry("cut-short", EntryType::Regular, b"gnu"),
            entry("etc/os-release", EntryType::Regular, b"ignored"),
        ]),
    );
    let unpacked = home.store.unpack(&reference("other")).unwrap();
    let found: Vec<(&str, Vec<u8>)> =
        unpacked.resources.iter().map(|(name, path)| (name.as_str(), fs::read(path).unwrap())).collect();
    assert_eq!(found, [("from-gnu", b"gnu".to_vec()), ("from-posix", b"posix".to_vec())]);

    let sized = entry("PaxHeaders/x", EntryType::XHeader, b"10 size=9\n");
    assert!(refused(&archive(&[sized, entry("x", EntryType::Regular, b"x")])).contains("sizes in extended headers"));
    let escape = entry("PaxHeaders/x", EntryType::XHeader, b"16 path=../evil\n");
    assert!(refused(&archive(&[escape, entry("x", EntryType::Regular, b"x")])).contains("leads out of the image"));
}

#[test]
fn manifests_that_cannot_be_meant_are_refused() {
    let home = Home::new();
    let config = home.image_config("amd64");
    let layer = home.blob(TAR, &files(&[(".boot/kernel", b"k")]));
    let mut huge = layer.clone();
    huge["size"] = json!(u64::MAX);
    let cases = [
        (
            "absurd",
            json!({ "schemaVersion": 2, "config": config, "layers": [huge, huge] }),
            "the image has 18446744073709551615 bytes; at most 4Gi",
        ),
        (
            "many",
            json!({ "schemaVersion": 2, "config": config, "layers": vec![layer.clone(); 65] }),
            "more than 64 layers",
        ),
        ("none", json!({ "schemaVersion": 2, "layers": [] }), "is not the manifest that it should be"),
        (
            "digest",
            json!({ "schemaVersion": 2, "config": { "mediaType": "x", "digest": "sha256:../../etc", "size": 1 }, "layers": [] }),
            "is not a digest",
        ),
        (
            "arm",
            json!({ "schemaVersion": 2, "config": home.image_config("arm64"), "layers": [layer] }),
            "it is for linux/arm64",
        ),
        (
            "zstd",
            json!({ "schemaVersion": 2, "config": config, "layers": [home.blob("application/zstd", b"x")] }),
            "a layer has media type \"application/zstd\"",
        ),
        (
            "annotated",
            json!({ "schemaVersion": 2, "config": config, "layers": [layer], "annotations": { "dev.kernlet.memory": "12Q" } }),
            "dev.kernlet.memory: \"12Q\" is not a size",
        ),
    ];
    for (name, manifest, says) in cases {
        home.forge_manifest(&format!("{name}:latest"), &manifest);
        let error = home.unpack_error(name);
        assert!(error.contains(says), "{error}");
    }
    home.forge_entry("index:latest", home.blob("application/vnd.oci.image.index.v1+json", b"{}"));
    assert!(home.unpack_error("index").contains("its manifest has media type"));
    let mut large = home.blob("application/vnd.oci.image.manifest.v1+json", b"{}");
    large["size"] = json!(5 << 20);
    home.forge_entry("large:latest", large);
    assert!(home.unpack_error("large").contains("the manifest has 5242880 bytes; at most 4Mi"));
}

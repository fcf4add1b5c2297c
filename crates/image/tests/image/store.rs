//! The store with images that nobody has tampered with: what goes in comes out, and goes away.

use std::{collections::BTreeSet, fs, io, os::unix::fs::PermissionsExt, path::Path, sync::Barrier, thread};

use kernlet_image::{ImageError, ImageParts, IoError, Store, StoreError};
use serde_json::Value;

use crate::forge::{Home, chain, names, reference};

#[test]
fn what_is_imported_is_unpacked_byte_for_byte() {
    let home = Home::new();
    let model = vec![7u8; 600_000];
    let info = home.import("echo", home.parts(b"kernel", &[("model", &model), ("labels.txt", b"cat\n")]));
    assert_eq!(info.resources, ["labels.txt", "model"]);
    assert!(info.size > 600_000);
    let unpacked = home.store.unpack(&reference("echo:latest")).unwrap();
    assert_eq!(unpacked.digest, info.digest);
    assert_eq!(fs::read(&unpacked.kernel).unwrap(), b"kernel");
    let resources: Vec<&str> = unpacked.resources.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(resources, ["labels.txt", "model"]);
    assert_eq!(fs::read(&unpacked.resources[1].1).unwrap(), model);
    assert_eq!(unpacked.config.memory.to_string(), "16Mi");
    assert_eq!(home.store.unpack(&reference("echo")).unwrap(), unpacked);
}

#[test]
fn files_of_block_devices_are_unpacked_beside_the_resources() {
    let home = Home::new();
    let disk = home.file("disk.img", &[7; 4096]);
    let blocks = vec![("storage".to_owned(), disk)];
    let info = home.import("shop", ImageParts { blocks, ..home.parts(b"kernel", &[("storage", b"a resource")]) });
    assert_eq!((info.resources, info.blocks), (vec!["storage".to_owned()], vec!["storage".to_owned()]));
    let unpacked = home.store.unpack(&reference("shop")).unwrap();
    assert_eq!(unpacked.blocks.len(), 1);
    assert_eq!((unpacked.blocks[0].0.as_str(), fs::read(&unpacked.blocks[0].1).unwrap()), ("storage", vec![7; 4096]));
    assert_eq!(fs::read(&unpacked.resources[0].1).unwrap(), b"a resource");
    let named = |name: &str| {
        let blocks = vec![(name.to_owned(), home.file("other", &[0; 512]))];
        home.store.import(&reference("bad"), ImageParts { blocks, ..home.parts(b"kernel", &[]) }, &mut |_| ())
    };
    for name in ["", "a-b", "a/b", "..", &"n".repeat(68)] {
        let refused = named(name);
        assert!(
            matches!(&refused, Err(StoreError::Refused { source: ImageError::BlockName { .. }, .. })),
            "{refused:?}"
        );
    }
    assert!(named(&"n".repeat(67)).is_ok());
}

#[test]
fn the_same_parts_make_the_same_image_wherever_they_are() {
    let digests: BTreeSet<String> = (0..2)
        .map(|_| {
            let home = Home::new();
            home.import("echo", home.parts(b"kernel", &[("b", b"2"), ("a", b"1")])).digest
        })
        .collect();
    assert_eq!(digests.len(), 1);
    let home = Home::new();
    let swapped = home.import("other:v2", home.parts(b"kernel", &[("a", b"1"), ("b", b"2")]));
    assert!(digests.contains(&swapped.digest), "neither name nor order matters");
    let other = home.import("echo", home.parts(b"kernel", &[("a", b"1"), ("b", b"3")]));
    assert!(!digests.contains(&other.digest));
}

#[test]
fn the_layout_is_what_oci_tools_expect() {
    let home = Home::new();
    let info = home.import("echo", home.parts(b"kernel", &[("model", b"m")]));
    let read = |path: &Path| serde_json::from_slice::<Value>(&fs::read(path).unwrap()).unwrap();
    let images = home.path().join("images");
    let blob =
        |descriptor: &Value| home.blobs().join(descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap());
    assert_eq!(read(&images.join("oci-layout"))["imageLayoutVersion"], "1.0.0");
    let index = read(&images.join("index.json"));
    assert_eq!(index["schemaVersion"], 2);
    let entry = &index["manifests"][0];
    assert_eq!(entry["digest"], info.digest.as_str());
    assert_eq!(entry["annotations"]["org.opencontainers.image.ref.name"], "echo:latest");
    let manifest = read(&blob(entry));
    assert_eq!(manifest["mediaType"], "application/vnd.oci.image.manifest.v1+json");
    assert_eq!(manifest["annotations"]["dev.kernlet.memory"], "16Mi");
    assert_eq!(manifest["layers"][1]["annotations"]["dev.kernlet.resource"], "model");
    let config = read(&blob(&manifest["config"]));
    assert_eq!((config["os"].as_str(), config["architecture"].as_str()), (Some("linux"), Some("amd64")));
    assert_eq!(config["rootfs"]["diff_ids"][0], manifest["layers"][0]["digest"]);
    let layer = fs::read(blob(&manifest["layers"][1])).unwrap();
    let mut archive = tar::Archive::new(layer.as_slice());
    let entry = archive.entries().unwrap().next().unwrap().unwrap();
    assert_eq!(entry.path().unwrap(), Path::new("resources/model"));
    assert_eq!((entry.header().mtime().unwrap(), entry.header().uid().unwrap()), (0, 0));
}

#[test]
fn images_are_listed_by_name_with_what_they_say() {
    let home = Home::new();
    assert!(home.store.list().unwrap().images.is_empty());
    home.import("b", home.parts(b"1", &[]));
    home.import("a:v2", home.parts(b"2", &[]));
    home.import("a:v1", home.parts(b"1", &[]));
    let listing = home.store.list().unwrap();
    let found: Vec<String> = listing.images.iter().map(|image| image.reference.to_string()).collect();
    assert_eq!(found, ["a:v1", "a:v2", "b:latest"]);
    assert!(listing.broken.is_empty());
    assert!(listing.images[0].created.is_some());
    assert_eq!(home.store.get(&reference("a:v2")).unwrap(), listing.images[1]);
    let json = serde_json::to_value(&listing.images[0]).unwrap();
    assert_eq!(json["reference"], "a:v1");
    assert!(json["created"].as_str().unwrap().ends_with('Z'));
}

#[test]
fn an_unknown_image_is_named_together_with_those_that_exist() {
    let home = Home::new();
    let error = home.store.get(&reference("echo")).unwrap_err().to_string();
    assert_eq!(error, "there is no image echo:latest; the store is empty: make one with `kernlet build FOLDER`");
    home.import("sgemm", home.parts(b"1", &[]));
    home.import("classify:v1", home.parts(b"2", &[]));
    for error in [
        home.store.get(&reference("echo")).unwrap_err(),
        home.store.remove(&reference("echo")).unwrap_err(),
        home.store.unpack(&reference("echo")).unwrap_err(),
    ] {
        assert_eq!(error.to_string(), "there is no image echo:latest; the store has classify:v1, sgemm:latest");
    }
}

#[test]
fn removing_an_image_keeps_what_others_share_with_it() {
    let home = Home::new();
    let before = names(&home.blobs()).len();
    home.import("a", home.parts(b"kernel a", &[("model", b"shared")]));
    home.import("b", home.parts(b"kernel b", &[("model", b"shared")]));
    home.import("again", home.parts(b"kernel b", &[("model", b"shared")]));
    let a = home.store.unpack(&reference("a")).unwrap();
    let b = home.store.unpack(&reference("b")).unwrap();

    let removed = home.store.remove(&reference("a")).unwrap();
    assert_eq!(removed.digest, a.digest);
    assert!(removed.freed > 0);
    assert!(!a.kernel.exists() && b.kernel.exists());
    assert_eq!(home.store.unpack(&reference("b")).unwrap(), b);

    assert_eq!(home.store.remove(&reference("again")).unwrap().freed, 0, "b is the same image");
    assert!(b.kernel.exists());
    home.store.remove(&reference("b")).unwrap();
    assert_eq!(names(&home.blobs()).len(), before);
    assert!(names(&home.path().join("unpacked")).is_empty());
}

#[test]
fn a_new_image_under_an_old_name_leaves_running_functions_their_files() {
    let home = Home::new();
    home.import("echo", home.parts(b"old", &[]));
    let old = home.store.unpack(&reference("echo")).unwrap();
    let blobs = names(&home.blobs()).len();
    home.import("echo", home.parts(b"new", &[]));
    assert_eq!(names(&home.blobs()).len(), blobs, "the old image's blobs are gone");
    let new = home.store.unpack(&reference("echo")).unwrap();
    assert_eq!(fs::read(&old.kernel).unwrap(), b"old");
    assert_eq!(fs::read(&new.kernel).unwrap(), b"new");

    home.store.prune(&BTreeSet::from([old.digest.clone()])).unwrap();
    assert!(old.kernel.exists() && new.kernel.exists());
    home.store.prune(&BTreeSet::new()).unwrap();
    assert!(!old.kernel.exists() && new.kernel.exists());
}

#[test]
fn parts_that_make_no_image_are_refused_and_leave_nothing() {
    let home = Home::new();
    let blobs = names(&home.blobs());
    let refused = |parts: ImageParts| match home.store.import(&reference("bad"), parts, &mut |_| ()) {
        Err(StoreError::Refused { source, .. }) => source,
        other => panic!("{other:?}"),
    };
    let file = home.file("file", b"content");
    let with = |resources: &[(&str, &Path)]| ImageParts {
        kernel: b"kernel".to_vec(),
        resources: resources.iter().map(|(name, path)| ((*name).to_owned(), path.to_path_buf())).collect(),
        ..ImageParts::default()
    };
    assert!(matches!(refused(ImageParts::default()), ImageError::EmptyKernel));
    for name in ["", "../x", "a/b", ".hidden", "ä", &"n".repeat(65)] {
        assert!(matches!(refused(with(&[(name, &file)])), ImageError::ResourceName { .. }), "{name}");
    }
    assert!(matches!(refused(with(&[("a", &file), ("a", &file)])), ImageError::Duplicate { what: "resources", .. }));
    assert!(matches!(refused(with(&[("a", home.path())])), ImageError::NotAFile { .. }));
    let many: Vec<String> = (0..64).map(|number| format!("r{number}")).collect();
    let many: Vec<(&str, &Path)> = many.iter().map(|name| (name.as_str(), file.as_path())).collect();
    assert!(matches!(refused(with(&many)), ImageError::TooMany { .. }));
    let mut annotated = with(&[]);
    annotated.annotations.insert("dev.kernlet.memory".to_owned(), "12Q".to_owned());
    assert!(matches!(refused(annotated), ImageError::Config(_)));

    let missing = home.store.import(&reference("bad"), with(&[("a", &home.path().join("absent"))]), &mut |_| ());
    assert!(chain(&missing.unwrap_err()).contains("absent: No such file"));
    assert_eq!(names(&home.blobs()), blobs);
    assert!(names(&home.path().join("images/tmp")).is_empty());
}

#[test]
fn progress_counts_every_byte_of_every_part() {
    let home = Home::new();
    let mut steps = Vec::new();
    let parts = home.parts(b"kernel", &[("model", &[0; 1_000_000])]);
    home.store
        .import(&reference("echo"), parts, &mut |step| steps.push((step.part.to_owned(), step.done, step.total)))
        .unwrap();
    assert_eq!(steps.first(), Some(&("kernel".to_owned(), 6, 1_000_006)));
    assert_eq!(steps.last(), Some(&("model".to_owned(), 1_000_006, 1_000_006)));
    assert!(steps.is_sorted_by_key(|(_, done, _)| *done));
}

#[test]
fn threads_that_import_remove_and_unpack_at_the_same_time_do_not_meet_half_images() {
    const THREADS: usize = 4;
    let home = Home::new();
    let barrier = Barrier::new(THREADS);
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (home, barrier) = (&home, &barrier);
            scope.spawn(move || {
                let shared = home.file(&format!("shared-{thread}"), b"the same for all");
                let parts = |kernel: String| ImageParts {
                    kernel: kernel.into_bytes(),
                    resources: vec![("shared".to_owned(), shared.clone())],
                    ..ImageParts::default()
                };
                let store = Store::open(home.path()).unwrap();
                let own = reference(&format!("own:{thread}"));
                barrier.wait();
                for round in 0..8 {
                    store.import(&own, parts(format!("{thread} {round}")), &mut |_| ()).unwrap();
                    store.import(&reference("contested"), parts("same".to_owned()), &mut |_| ()).unwrap();
                    let unpacked = store.unpack(&own).unwrap();
                    assert_eq!(fs::read_to_string(unpacked.kernel).unwrap(), format!("{thread} {round}"));
                    match store.unpack(&reference("contested")) {
                        Ok(_) | Err(StoreError::UnknownImage { .. }) => {}
                        Err(error) => panic!("{}", chain(&error)),
                    }
                    assert!(store.list().unwrap().broken.is_empty());
                    match store.remove(&reference("contested")) {
                        Ok(_) | Err(StoreError::UnknownImage { .. }) => {}
                        Err(error) => panic!("{}", chain(&error)),
                    }
                }
            });
        }
    });
    let listing = home.store.list().unwrap();
    assert_eq!(listing.images.len(), THREADS);
    for image in &listing.images {
        home.store.remove(&image.reference).unwrap();
    }
    assert!(names(&home.blobs()).is_empty());
}

#[test]
fn an_error_of_the_disk_names_the_file_and_what_was_tried() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().join("file");
    fs::write(&home, b"not a folder").unwrap();
    let error = chain(&Store::open(&home).unwrap_err());
    assert!(error.starts_with("cannot create the folder ") && error.contains("file/images/blobs/sha256"), "{error}");
}

#[test]
fn an_error_of_the_disk_says_what_to_do_when_that_is_known() {
    for (kind, says) in [
        (io::ErrorKind::StorageFull, "cannot write /home/x; free some space on that disk"),
        (io::ErrorKind::PermissionDenied, "choose another place with --home"),
        (io::ErrorKind::ReadOnlyFilesystem, "choose another place with --home"),
    ] {
        let error = IoError { action: "write", path: "/home/x".into(), source: kind.into() };
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[test]
fn a_resource_that_changes_while_it_is_read_is_refused() {
    let home = Home::new();
    // A file of the kernel's, which says that it is empty and then is not.
    let parts = ImageParts {
        kernel: b"kernel".to_vec(),
        resources: vec![("version".to_owned(), "/proc/version".into())],
        ..ImageParts::default()
    };
    let error = home.store.import(&reference("echo"), parts, &mut |_| ()).unwrap_err();
    assert!(chain(&error).contains("/proc/version changed its size while it was read"), "{error}");
}

#[test]
fn a_new_home_is_its_owners_alone() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().join("data/kernlet");
    Store::open(&home).unwrap();
    assert_eq!(fs::metadata(&home).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn a_store_that_may_not_be_written_says_so() {
    let home = Home::new();
    let temporary = home.path().join("images/tmp");
    fs::set_permissions(&temporary, fs::Permissions::from_mode(0o500)).unwrap();
    let result = home.store.import(&reference("echo"), home.parts(b"kernel", &[]), &mut |_| ());
    fs::set_permissions(&temporary, fs::Permissions::from_mode(0o700)).unwrap();
    // Permissions do not hold back root, under whom containers run tests.
    if let Err(error) = result {
        let error = chain(&error);
        assert!(
            error.contains("cannot create a file in") && error.contains("choose another place with --home"),
            "{error}"
        );
    }
}

#[test]
fn entries_that_other_tools_made_survive_our_changes() {
    let home = Home::new();
    let path = home.path().join("images/index.json");
    let mut index: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let mut foreign = home.blob("application/vnd.oci.image.index.v1+json", b"{\"manifests\":[]}");
    foreign["artifactType"] = "application/example".into();
    index["manifests"].as_array_mut().unwrap().push(foreign.clone());
    index["annotations"] = serde_json::json!({ "made": "elsewhere" });
    fs::write(&path, index.to_string()).unwrap();

    home.import("echo", home.parts(b"kernel", &[]));
    home.store.remove(&reference("echo")).unwrap();
    let index: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(index["manifests"][0], foreign);
    assert_eq!(index["annotations"]["made"], "elsewhere");
    assert_eq!(names(&home.blobs()).len(), 1, "a blob that a foreign entry needs stays");
}

//! Promises about reading resources: each file is read once and whole or not at all, from where it was said to be, and no
//! more of it than there may be.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::{
    fs::{self, File},
    os::unix::fs::symlink,
    path::Path,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
};

use kernlet_abi::hypercall::status;
use kernlet_accel::{AccelError, FILES_MAX, RESOURCE_MAX, Resource, ResourceKind};

fn write(folder: &Path, name: &str, content: &str) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

fn contents(resource: &Resource) -> Vec<(&str, &str)> {
    resource.files().iter().map(|file| (file.name.as_str(), str::from_utf8(&file.bytes).unwrap())).collect()
}

#[test]
fn several_files_are_one_resource_in_their_order() {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in [("main.so", "main"), ("helper.so", "helper"), ("a/deep.so", "deep")] {
        write(folder.path(), name, content);
    }
    let paths = ["helper.so", "a/deep.so", "main.so"].map(|name| folder.path().join(name));
    let resource = Resource::from_files(&paths, ResourceKind::Library).unwrap();
    assert_eq!(contents(&resource), [("helper.so", "helper"), ("deep.so", "deep"), ("main.so", "main")]);
    assert_eq!((resource.bytes(), resource.size(), resource.kind()), (&b"main"[..], 14, ResourceKind::Library));
    let none = Resource::from_files(Vec::<&Path>::new(), ResourceKind::Data).unwrap();
    assert_eq!((none.files().len(), none.bytes(), none.size()), (0, &b""[..], 0));
    // One that is missing leaves none.
    let missing = [paths[0].clone(), folder.path().join("missing")];
    let error = Resource::from_files(&missing, ResourceKind::Data).unwrap_err();
    assert_eq!(error.status(), status::ENOENT);
}

#[test]
fn a_folder_is_a_resource_of_all_its_files_by_their_paths() {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in [("saved_model.pb", "graph"), ("variables/variables.index", "index"), ("assets/b/c", "c")] {
        write(folder.path(), name, content);
    }
    fs::create_dir(folder.path().join("empty")).unwrap();
    let resource = Resource::from_dir(folder.path(), ResourceKind::Model).unwrap();
    let expected = [("assets/b/c", "c"), ("saved_model.pb", "graph"), ("variables/variables.index", "index")];
    assert_eq!(contents(&resource), expected);
    assert_eq!(resource.size(), 11);
    let error = Resource::from_dir(folder.path().join("saved_model.pb"), ResourceKind::Model).unwrap_err();
    assert!(matches!(error, AccelError::ReadFile { .. }), "{error}");
}

#[test]
fn links_pipes_and_devices_in_a_folder_are_left_out() {
    let outside = tempfile::tempdir().unwrap();
    write(outside.path(), "secret", "secret");
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "file", "file");
    symlink(outside.path().join("secret"), folder.path().join("link to a file")).unwrap();
    symlink(outside.path(), folder.path().join("link to a folder")).unwrap();
    symlink(folder.path(), folder.path().join("link to itself")).unwrap();
    symlink("nowhere", folder.path().join("link to nothing")).unwrap();
    let pipe = folder.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let resource = Resource::from_dir(folder.path(), ResourceKind::Data).unwrap();
    assert_eq!(contents(&resource), [("file", "file")]);
    // A link that is named is followed, a pipe that is named is no file.
    let named = Resource::from_file(folder.path().join("link to a file")).unwrap();
    assert_eq!(named.bytes(), b"secret");
    for what in [pipe.as_path(), Path::new("/dev/zero"), folder.path()] {
        let error = Resource::from_file(what).unwrap_err();
        assert!(matches!(error, AccelError::NotAFile { .. }), "{error}");
        assert_eq!(error.status(), status::EINVAL);
    }
}

#[test]
fn a_resource_of_too_many_files_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for index in 0..=FILES_MAX {
        File::create(folder.path().join(format!("{index:05}"))).unwrap();
    }
    let error = Resource::from_dir(folder.path(), ResourceKind::Data).unwrap_err();
    assert!(matches!(&error, AccelError::TooManyFiles { max: FILES_MAX, .. }), "{error}");
    assert_eq!(error.status(), status::ENOMEM);
    // The last one in their order is the one too many.
    assert!(error.to_string().contains(&format!("{FILES_MAX:05}")), "{error}");
    fs::remove_file(folder.path().join("00000")).unwrap();
    assert_eq!(Resource::from_dir(folder.path(), ResourceKind::Data).unwrap().files().len(), FILES_MAX);
    let same = vec![folder.path().join("00001"); FILES_MAX + 1];
    assert!(matches!(Resource::from_files(&same, ResourceKind::Data), Err(AccelError::TooManyFiles { .. })));
}

#[test]
fn a_file_of_ten_gigabytes_is_refused_before_it_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("huge");
    let size = 10_u64 << 30;
    File::create(&path).unwrap().set_len(size).unwrap();
    for outcome in [
        Resource::from_file(&path),
        Resource::from_files([&path], ResourceKind::Model),
        Resource::from_dir(folder.path(), ResourceKind::Model),
    ] {
        let error = outcome.unwrap_err();
        let AccelError::FileTooLarge { size: found, max, .. } = &error else { panic!("{error}") };
        assert_eq!((*found, *max, error.status()), (size, RESOURCE_MAX, status::ENOMEM));
    }
}

#[test]
fn files_are_bounded_together() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "a", "small");
    File::create(folder.path().join("b")).unwrap().set_len(RESOURCE_MAX - 4).unwrap();
    let error = Resource::from_dir(folder.path(), ResourceKind::Data).unwrap_err();
    let AccelError::FileTooLarge { max, .. } = error else { panic!("{error}") };
    assert_eq!(max, RESOURCE_MAX - 5);
}

#[test]
fn a_file_that_ends_before_it_should_is_refused() {
    // The kernel says that such a file has a page, and gives a line.
    let path = Path::new("/sys/kernel/mm/transparent_hugepage/enabled");
    if !path.exists() {
        eprintln!("SKIPPED, THERE IS NO {}", path.display());
        return;
    }
    let error = Resource::from_file(path).unwrap_err();
    assert!(matches!(error, AccelError::ReadFile { .. }), "{error}");
    assert_eq!(error.status(), status::EIO);
}

#[test]
fn a_file_that_is_replaced_while_it_is_read_is_the_one_or_the_other() {
    let folder = tempfile::tempdir().unwrap();
    let (path, next) = (folder.path().join("model"), folder.path().join("next"));
    let contents = [vec![1; 300_000], vec![2; 70_000]];
    fs::write(&path, &contents[0]).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for content in contents.iter().cycle() {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                fs::write(&next, content).unwrap();
                fs::rename(&next, &path).unwrap();
            }
        });
        for _ in 0..300 {
            let resource = Resource::from_file(&path).unwrap();
            assert!(contents.iter().any(|content| *resource.bytes() == **content), "neither of both");
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_file_that_is_truncated_while_it_is_read_is_whole_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    fs::write(&path, vec![1; 300_000]).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let file = File::options().write(true).open(&path).unwrap();
            while !done.load(Ordering::Relaxed) {
                file.set_len(100_000).unwrap();
                file.set_len(300_000).unwrap();
            }
        });
        for _ in 0..300 {
            match Resource::from_file(&path) {
                Ok(resource) => assert!([100_000, 300_000].contains(&resource.size())),
                Err(error) => assert!(matches!(error, AccelError::ReadFile { .. }), "{error}"),
            }
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_folder_whose_files_become_links_meanwhile_gives_nothing_from_outside() {
    let outside = tempfile::tempdir().unwrap();
    write(outside.path(), "secret", "secret");
    let folder = tempfile::tempdir().unwrap();
    let (path, link, file) = (folder.path().join("x"), outside.path().join("link"), outside.path().join("file"));
    fs::write(&path, "inside").unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                symlink(outside.path().join("secret"), &link).unwrap();
                fs::rename(&link, &path).unwrap();
                fs::write(&file, "inside").unwrap();
                fs::rename(&file, &path).unwrap();
            }
        });
        for _ in 0..2000 {
            match Resource::from_dir(folder.path(), ResourceKind::Data) {
                Ok(resource) => assert!(resource.files().iter().all(|file| *file.bytes == *b"inside")),
                Err(error) => assert!(matches!(error, AccelError::ReadFile { .. }), "{error}"),
            }
        }
        done.store(true, Ordering::Relaxed);
    });
}

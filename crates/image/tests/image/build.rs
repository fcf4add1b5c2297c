//! Building a function's folder: with real packages and the real cargo, without dependencies and so without a
//! network. What is built is an ordinary program; that it is no unikernel is not this crate's business.

use std::{fs, path::Path};

use kernlet_image::{
    FunctionConfig,
    build::{BuildError, build},
};
use tempfile::TempDir;

use crate::forge::{Home, chain};

const MANIFEST: &str = "[package]\nname = \"hello\"\nversion = \"1.2.3\"\nedition = \"2024\"\n[workspace]\n";

/// A package with `src/main.rs` and this much more in its manifest.
fn package(more: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "Cargo.toml", &format!("{MANIFEST}{more}"));
    write(folder.path(), "src/main.rs", "fn main() { println!(\"hello\"); }\n");
    folder
}

fn write(folder: &Path, name: &str, content: &str) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

fn error(folder: &Path) -> BuildError {
    build(folder, &mut |_| ()).unwrap_err()
}

#[test]
fn a_package_becomes_an_image_with_what_its_manifest_says() {
    let folder = package(
        "[package.metadata.kernlet]\nmemory = \"24Mi\"\nrequest = \"1Mi\"\ntimeout = 5\ninflight = 2\n\
         isolation = \"fresh\"\noperations = [\"sgemm\", \"noop\"]\n\
         [package.metadata.kernlet.resources]\nlabels = \"data/labels.txt\"\n",
    );
    write(folder.path(), "data/labels.txt", "cat\n");
    let mut messages = Vec::new();
    let built = build(folder.path(), &mut |line| messages.push(line.to_owned())).unwrap();
    assert_eq!(built.package, "hello");
    assert!(built.parts.kernel.starts_with(b"\x7fELF"));
    assert!(messages.iter().any(|line| line.contains("Compiling hello")), "{messages:?}");
    assert_eq!(fs::read(&built.parts.resources[0].1).unwrap(), b"cat\n");
    let annotations = &built.parts.annotations;
    assert_eq!(annotations["dev.kernlet.abi"], "1");
    assert_eq!(annotations["dev.kernlet.machine"], "native");
    assert_eq!(annotations["org.opencontainers.image.title"], "hello");
    assert_eq!(annotations["org.opencontainers.image.version"], "1.2.3");
    let config = FunctionConfig::from_annotations(annotations).unwrap();
    assert_eq!(
        (config.memory.to_string().as_str(), config.exec_timeout.as_secs(), config.max_inflight),
        ("24Mi", 5, 2)
    );
    assert_eq!(Vec::from_iter(&config.operations), ["noop", "sgemm"]);
    let home = Home::new();
    assert_eq!(home.import("hello", built.parts).resources, ["labels"]);
}

#[test]
fn the_same_package_in_another_folder_makes_the_same_image() {
    let digest = || {
        let built = build(package("").path(), &mut |_| ()).unwrap();
        Home::new().import("hello", built.parts).digest
    };
    assert_eq!(digest(), digest());
}

#[test]
fn a_package_that_does_not_compile_is_reported_with_the_compilers_words() {
    let folder = package("");
    write(folder.path(), "src/main.rs", "fn main() { let x: u8 = \"\"; }\n");
    let mut messages = String::new();
    let error = build(folder.path(), &mut |line| messages.push_str(line)).unwrap_err();
    assert!(matches!(error, BuildError::Failed { .. }), "{error}");
    assert!(error.to_string().contains("could not build hello"));
    assert!(messages.contains("mismatched types"), "{messages}");
}

#[test]
fn a_folder_that_is_no_package_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for path in [folder.path().to_owned(), folder.path().join("absent")] {
        assert!(error(&path).to_string().contains("has no Cargo.toml; name the folder of a function"));
    }
    write(folder.path(), "Cargo.toml", "[package");
    assert!(matches!(error(folder.path()), BuildError::Manifest { .. }));
}

#[test]
fn a_workspace_is_refused_naming_its_members() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "Cargo.toml", "[workspace]\nresolver = \"3\"\nmembers = [\"echo\"]\n");
    write(folder.path(), "echo/Cargo.toml", "[package]\nname = \"echo\"\nedition = \"2024\"\n");
    write(folder.path(), "echo/src/main.rs", "fn main() {}\n");
    let error = error(folder.path()).to_string();
    assert!(error.contains("name the folder of one of its members: echo"), "{error}");
}

#[test]
fn a_package_without_one_clear_program_is_refused() {
    let library = package("");
    fs::rename(library.path().join("src/main.rs"), library.path().join("src/lib.rs")).unwrap();
    assert!(error(library.path()).to_string().contains("package hello has 0 programs"));
    let two = package("");
    fs::create_dir(two.path().join("src/bin")).unwrap();
    fs::copy(two.path().join("src/main.rs"), two.path().join("src/bin/one.rs")).unwrap();
    fs::rename(two.path().join("src/main.rs"), two.path().join("src/bin/two.rs")).unwrap();
    assert!(error(two.path()).to_string().contains("package hello has 2 programs"));
}

#[test]
fn every_mistake_in_the_metadata_is_named() {
    let folder = package("[package.metadata.kernlet]\nmemroy = \"24Mi\"\nmemory = \"12Q\"\nisolation = \"clean\"\n");
    let text = chain(&error(folder.path()));
    assert!(text.contains("package.metadata.kernlet.memroy is unknown; known are memory, isolation, "), "{text}");
    assert!(text.contains("package.metadata.kernlet.memory: \"12Q\" is not a size; write it as 32Mi"), "{text}");
    assert!(text.contains("package.metadata.kernlet.isolation: \"clean\" is not an isolation mode"), "{text}");

    let folder = package("[package.metadata.kernlet]\nmemory = true\nresources = 7\n");
    let text = chain(&error(folder.path()));
    assert!(
        text.contains("kernlet.memory is not a text") && text.contains("kernlet.resources is not a table"),
        "{text}"
    );
    let folder = package("[package.metadata]\nkernlet = 1\n");
    assert!(chain(&error(folder.path())).contains("package.metadata.kernlet is not a table"));
}

#[test]
fn a_resource_that_is_not_there_is_named() {
    let folder = package("[package.metadata.kernlet.resources]\nmodel = \"absent.onnx\"\n");
    let text = error(folder.path()).to_string();
    assert!(text.contains("names a resource \"model\" that is not a file") && text.contains("absent.onnx"), "{text}");
}

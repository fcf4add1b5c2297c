//! Guests of Solo5 that show what the interface has at its edges, and guests in Rust: under the tender and as functions.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::fs;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use common::{Platform, kernlet, kvm_is_usable, root, stderr, stdout, succeeded};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

/// A guest of `functions/solo5-rust`, built by cargo.
fn rust_guest(name: &str) -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let folder = BUILT.get_or_init(|| {
        let functions = root().join("functions");
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--release", "--quiet", "-p", "solo5-rust"]).current_dir(&functions);
        assert!(cargo.status().unwrap().success());
        functions.join("target/release")
    });
    folder.join(format!("solo5-{name}"))
}

/// The file of the guest `manifest` of `functions/solo5`, for hvt.
fn manifest_guest() -> Vec<u8> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("solo5-guests");
    let script = root().join("functions/solo5/build.sh");
    assert!(Command::new("sh").arg(script).arg("hvt").arg(&folder).arg("manifest").status().unwrap().success());
    fs::read(folder.join("manifest.hvt")).unwrap()
}

/// Runs a guest under the tender; gives exit code, stdout and stderr.
fn run(options: &[&str], guest: &Path, words: &[&str]) -> (i32, String, String) {
    let mut command = kernlet();
    let output =
        command.args(["solo5-hvt", "--mem=16"]).args(options).arg("--").arg(guest).args(words).output().unwrap();
    (output.status.code().unwrap(), stdout(&output), stderr(&output))
}

const RINGS: [&str; 2] = ["--ring=3", "--ring=0"];

#[test]
fn guests_in_rust_run_under_the_tender() {
    if !kvm_is_usable() {
        return;
    }
    for ring in RINGS {
        let hello = |words: &[&str]| run(&[ring], &rust_guest("hello"), words);
        let (code, out, err) = hello(&["two", "words"]);
        assert_eq!((code, err.as_str()), (0, ""), "{ring}: {out}");
        assert!(out.starts_with("Solo5: a guest of Kernlet's in Rust, 16 MB\nHello from Rust\ntwo words\n"), "{out}");
        assert_eq!(hello(&["--solo5:quiet", "exit 42"]), (42, "Hello from Rust\nexit 42\n".to_owned(), String::new()));
        let (code, out, _) = hello(&["--solo5:quiet", "panic"]);
        assert!(code == 255 && out.contains("Solo5: ABORT: ") && out.ends_with(": as asked\n"), "{code} {out}");

        let folder = tempfile::tempdir().unwrap();
        let disk = folder.path().join("disk.img");
        fs::write(&disk, vec![0; 1 << 18]).unwrap();
        let block = format!("--block:storage={}", disk.display());
        for size in [512_usize, 4096] {
            let sector = format!("--block-sector-size:storage={size}");
            let (code, out, err) = run(&[ring, &block, &sector], &rust_guest("block"), &["--solo5:quiet"]);
            let said = format!("capacity={} block_size={size}\nSUCCESS\n", 1 << 18);
            assert_eq!((code, out, err), (0, said, String::new()), "{ring}");
            let tenth: Vec<u8> = (0..size).map(|index| u8::try_from((10 + index) % 256).unwrap()).collect();
            assert_eq!(fs::read(&disk).unwrap()[10 * size..11 * size], tenth);
        }
    }
    // Vector registers: at ring 3, where every host has them.
    let (code, out, err) = run(&["--ring=3"], &rust_guest("clock"), &["--solo5:quiet"]);
    assert_eq!((code, out.as_str(), err.as_str()), (0, "pi is about 3.14159\nSUCCESS\n", ""));
}

#[test]
fn a_guest_in_rust_is_a_function() {
    if !kvm_is_usable() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let platform = Platform::start(home.path());
    succeeded(platform.command().arg("build").arg(rust_guest("hello")).args(["-t", "hello"]).output().unwrap());
    succeeded(platform.run(["deploy", "hello", "--image", "hello"]));
    for body in ["", "a body", "another"] {
        assert_eq!(platform.call("hello", body).text(), format!("Hello from Rust\n{body}\n"));
    }
    let reply = platform.call("hello", "panic");
    assert!(reply.status.as_u16() == 502 && reply.text().contains("as asked"), "{}", reply.text());
    assert_eq!(platform.call("hello", "again").text(), "Hello from Rust\nagain\n");
}

/// Where the manifest of a guest has an entry with this name.
fn entry(file: &[u8], name: &str) -> usize {
    let padded: Vec<u8> = name.bytes().chain([0; 68]).take(68).collect();
    file.windows(68).position(|window| window == padded).unwrap()
}

#[test]
fn a_manifest_has_the_longest_names_and_one_name_for_two_kinds() {
    if !kvm_is_usable() {
        return;
    }
    let longest = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789abcde";
    let folder = tempfile::tempdir().unwrap();
    let guest = folder.path().join("manifest.hvt");
    let file = manifest_guest();
    fs::write(&guest, &file).unwrap();
    let blocks: Vec<String> = [(longest, 1), ("x", 2), ("both", 3)]
        .map(|(name, count)| {
            let path = folder.path().join(format!("{count}.img"));
            fs::write(&path, vec![0; 512 * count]).unwrap();
            format!("--block:{name}={}", path.display())
        })
        .into();
    let (_ours, theirs): (OwnedFd, OwnedFd) =
        socketpair(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::empty(), None).unwrap();
    let net = format!("--net:both=@{}", theirs.as_raw_fd());
    for ring in RINGS {
        let options = [ring, &blocks[0], &blocks[1], &blocks[2], &net];
        let (code, out, err) = run(&options, &guest, &["--solo5:quiet"]);
        assert_eq!((code, out.as_str(), err.as_str()), (0, "SUCCESS\n", ""), "{ring}");
        for count in 1..=3 {
            let disk = fs::read(folder.path().join(format!("{count}.img"))).unwrap();
            assert_eq!(usize::from(disk[512 * (count - 1)]), count, "{ring}: each number is its device's");
        }
    }
    // A name that is there twice is the first device's; the second can have nothing.
    let mut twice = file.clone();
    let at = entry(&twice, "x");
    twice[at..at + 5].copy_from_slice(b"both\0");
    fs::write(&guest, &twice).unwrap();
    let (code, _, err) = run(&[&blocks[0], &blocks[2], &net], &guest, &[]);
    assert_eq!(code, 1);
    assert!(err.contains("Device 'both' of type BLOCK_BASIC declared but not attached."), "{err}");
    // A type that there is not can have nothing either.
    let mut unknown = file.clone();
    unknown[entry(&file, "x") + 68] = 9;
    fs::write(&guest, &unknown).unwrap();
    let (code, _, err) = run(&[&blocks[0], &blocks[2], &net], &guest, &[]);
    assert_eq!(code, 1);
    assert!(err.contains("Device 'x' of type <undefined type> declared but not attached."), "{err}");
    let (code, _, err) = run(&[&blocks[0], &blocks[1], &blocks[2], &net], &guest, &[]);
    assert!(code == 1 && err.contains("Resource not declared in manifest: 'x'"), "{err}");
    // A name without an end.
    let mut endless = file.clone();
    endless[entry(&file, longest) + 67] = b'f';
    fs::write(&guest, &endless).unwrap();
    let (code, _, err) = run(&[], &guest, &[]);
    assert!(code == 1 && err.contains("Solo5 manifest is invalid"), "{err}");
}

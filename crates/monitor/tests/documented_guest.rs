//! The guest in C that `docs/abi.md` shows: what the document promises, without our own library.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::{fs, path::Path, process::Command};

use common::{Function, MIB, in_seconds, request};
use kernlet_monitor::{MachineConfig, Unikernel};

/// The document's first block in this language.
fn block(document: &str, language: &str) -> String {
    let lines = document.lines().skip_while(|line| *line != format!("```{language}")).skip(1);
    lines.take_while(|line| *line != "```").map(|line| format!("{line}\n")).collect()
}

/// The document's program, built by the document's command.
fn documented_unikernel() -> Unikernel {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/abi.md");
    let document = fs::read_to_string(path).expect("the document");
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("echo.c"), block(&document, "c")).expect("the program is written");
    let built = Command::new("sh").args(["-ec", &block(&document, "sh")]).current_dir(folder.path()).status();
    assert!(built.expect("a shell").success(), "the documented command builds the documented program");
    Unikernel::parse(&fs::read(folder.path().join("echo.elf")).expect("the unikernel")).expect("a unikernel")
}

#[test]
fn the_documented_guest_in_c_answers() {
    let unikernel = documented_unikernel();
    for hypervisor in common::hypervisors() {
        let config =
            MachineConfig { memory: 4 * MIB, request_limit: MIB, response_limit: MIB, environment: Vec::new() };
        let function = Function { hypervisor, unikernel: unikernel.clone(), config, log: std::sync::Arc::default() };
        let (used, first) = function.boot().unwrap().invoke(&request("/", b"from C"), in_seconds(5)).unwrap();
        assert_eq!((first.status, first.body.as_slice()), (200, &b"from C"[..]));
        let (_, second) = used.keep().invoke(&request("/", b""), in_seconds(5)).unwrap();
        assert_eq!((second.status, second.body.as_slice()), (200, &b""[..]));
    }
}

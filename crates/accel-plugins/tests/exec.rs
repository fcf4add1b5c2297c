//! Promises about calling functions of libraries: only those that the host allows, only their own functions, on
//! arguments in place.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::{fs, path::Path, process::Command, sync::Arc};

use kernlet_abi::hypercall::status;
use kernlet_accel::{
    AccelError, Dtype, ExecConfig, Report, Resource, ResourceFile, ResourceKind, Session, hex,
    operation::{TypedIn, TypedOut},
};
use kernlet_accel_plugins::{Exec, ExecError, Mbench};
use sha2::{Digest as _, Sha256};
use support::session_on;

/// What a library for vAccel's exec sees.
const HEADER: &str = "
#include <stddef.h>
#include <stdint.h>
#include <string.h>
struct vaccel_arg { void *buf; size_t size; uint32_t type; uint32_t custom_type_id; _Bool owned; };
typedef struct vaccel_arg arg;
";

/// The bytes of a library that is compiled from C.
fn library(code: &str, name: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let (source, library) = (folder.path().join("code.c"), folder.path().join(name));
    fs::write(&source, format!("{HEADER}{code}")).unwrap();
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source).arg(format!("-Wl,-soname,{name}"));
    assert!(compiler.status().unwrap().success());
    fs::read(library).unwrap()
}

fn digest(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn resource(files: &[&[u8]], kind: ResourceKind) -> Resource {
    let file = |bytes: &&[u8]| ResourceFile { name: "lib.so".to_owned(), bytes: Arc::from(*bytes) };
    Resource::new(files.iter().map(file).collect(), kind)
}

fn session(files: &[&[u8]], keep_open: bool) -> Session {
    let digests = files.iter().map(|bytes| digest(bytes)).collect();
    session_on(Exec::new(&ExecConfig { digests, keep_open, ..ExecConfig::default() }).unwrap())
}

/// Calls a function with one argument that is read and one that is written.
fn call(
    session: &Session,
    library: &Resource,
    function: &str,
    read: &[u8],
    write: &mut [u8],
) -> (Result<Report, AccelError>, u64) {
    let mut written = 0;
    let read = vec![TypedIn { dtype: Dtype::I32, custom: 0, array: true, bytes: read }];
    let write = vec![TypedOut { dtype: Dtype::Custom, custom: 9, array: false, bytes: write, written: &mut written }];
    let result = session.ops().exec_with_resource(library, function, read, write);
    (result, written)
}

const CODE: &str = "
int twice(arg *r, size_t nr, arg *w, size_t nw) {
  if (nr != 1 || nw != 1 || r->type != 6 || w->type != 29 || w->custom_type_id != 9 || r->owned) return 22;
  for (size_t i = 0; i < w->size / 4; i++) ((int32_t *)w->buf)[i] = 2 * ((int32_t *)r->buf)[i];
  return 0;
}
int count(arg *r, size_t nr, arg *w, size_t nw) { static int32_t n; n++; memcpy(w->buf, &n, 4); return 0; }
int less(arg *r, size_t nr, arg *w, size_t nw) { w->size = 3; return 0; }
int more(arg *r, size_t nr, arg *w, size_t nw) { w->size = 1 << 20; return 0; }
int own(arg *r, size_t nr, arg *w, size_t nw) { static char mine[8]; w->buf = mine; return 0; }
int fail(arg *r, size_t nr, arg *w, size_t nw) { return r->size == 4 ? 13 : -1; }
";

#[test]
fn a_function_of_an_allowed_library_works_on_the_callers_arguments_in_place() {
    let bytes = library(CODE, "libtwice.so");
    let library = resource(&[&bytes], ResourceKind::Library);
    for keep_open in [false, true] {
        let session = session(&[&bytes], keep_open);
        let mut write = [0; 8];
        let (report, written) = call(&session, &library, "twice", &[1, 0, 0, 0, 200, 0, 0, 0], &mut write);
        let report = report.unwrap();
        assert_eq!((report.plugin, report.bytes_copied, written), ("exec", 0, 8));
        assert_eq!(write, [2, 0, 0, 0, 144, 1, 0, 0]);
        // A library that is kept open keeps its state, another does not.
        let mut last = [0; 4];
        for _ in 0..3 {
            call(&session, &library, "count", &[0; 4], &mut last).0.unwrap();
        }
        assert_eq!(last[0], if keep_open { 3 } else { 1 });
    }
}

#[test]
fn a_library_that_is_not_on_the_list_is_not_opened_and_its_digest_is_said() {
    let (allowed, other) = (library(CODE, "liballowed.so"), library("int twice(void) { return 0; }", "libother.so"));
    let session = session(&[&allowed], true);
    for files in [&[&other[..]][..], &[&other, &allowed], &[&allowed, &other]] {
        let (result, _) = call(&session, &resource(files, ResourceKind::Library), "twice", &[0; 4], &mut [0; 4]);
        let error = result.unwrap_err();
        assert_eq!(error.status(), status::EACCES);
        assert!(error.message().contains(&digest(&other)), "{}", error.message());
    }
    let error = session.ops().exec("libc.so.6", "system", Vec::new(), Vec::new()).unwrap_err();
    assert_eq!(error.status(), status::EACCES);
    assert!(error.message().contains("`libc.so.6` is not on the host's list"), "{}", error.message());
}

#[test]
fn a_resource_of_another_kind_is_not_called() {
    let bytes = library(CODE, "libkind.so");
    let session = session(&[&bytes], true);
    for kind in [ResourceKind::Data, ResourceKind::Model] {
        let (result, _) = call(&session, &resource(&[&bytes], kind), "twice", &[0; 4], &mut [0; 4]);
        let error = result.unwrap_err();
        assert_eq!(error.status(), status::EACCES);
        assert!(error.message().contains("not registered as a library"), "{}", error.message());
    }
    let (result, _) = call(&session, &resource(&[], ResourceKind::Library), "twice", &[0; 4], &mut [0; 4]);
    assert!(result.unwrap_err().message().contains("no file"));
}

#[test]
fn only_the_own_functions_of_a_library_are_called() {
    let bytes = library(CODE, "libown.so");
    let (session, library) = (session(&[&bytes], true), resource(&[&bytes], ResourceKind::Library));
    // Those of C's library are found through it, and are not its own.
    for function in ["system", "abort", "exit", "memcpy", "nothing", "no such\u{1b}"] {
        let (result, _) = call(&session, &library, function, &[0; 4], &mut [0; 4]);
        let error = result.unwrap_err();
        assert_eq!(error.status(), status::EINVAL, "{}", error.message());
        assert!(error.message().contains("the library has no function"), "{}", error.message());
        assert!(!error.message().contains('\u{1b}'));
    }
}

#[test]
fn a_library_finds_the_functions_of_the_files_before_it() {
    let needed = library("int base(void) { return 40; }", "libbase.so");
    let main = library(
        "int base(void); int sum(arg *r, size_t nr, arg *w, size_t nw) { *(int32_t *)w->buf = base() + 2; return 0; }",
        "libmain.so",
    );
    let session = session(&[&needed, &main], false);
    let both = resource(&[&needed, &main], ResourceKind::Library);
    let mut write = [0; 4];
    call(&session, &both, "sum", &[0; 4], &mut write).0.unwrap();
    assert_eq!(write, [42, 0, 0, 0]);
    let (result, _) = call(&session, &both, "base", &[0; 4], &mut write);
    assert!(result.unwrap_err().message().contains("no function `base`"));
}

#[test]
fn libraries_of_one_name_are_not_taken_for_each_other() {
    let of = |number: i32| {
        library(
            &format!("int tell(arg *r, size_t nr, arg *w, size_t nw) {{ *(int32_t *)w->buf = {number}; return 0; }}"),
            "libsame.so",
        )
    };
    let (one, other) = (of(1), of(2));
    let session = session(&[&one, &other], false);
    for (bytes, number) in [(&one, 1), (&other, 2), (&one, 1)] {
        let mut write = [0; 4];
        call(&session, &resource(&[bytes], ResourceKind::Library), "tell", &[0; 4], &mut write).0.unwrap();
        assert_eq!(write[0], number);
    }
}

#[test]
fn what_a_function_says_about_its_results_is_checked() {
    let bytes = library(CODE, "liblies.so");
    let (session, library) = (session(&[&bytes], true), resource(&[&bytes], ResourceKind::Library));
    let mut write = [0; 8];
    let (result, written) = call(&session, &library, "less", &[0; 4], &mut write);
    assert!(result.is_ok());
    assert_eq!(written, 3);
    let (result, written) = call(&session, &library, "more", &[0; 4], &mut write);
    let error = result.unwrap_err();
    assert!(error.message().contains("says that it wrote 1048576 bytes"), "{}", error.message());
    assert_eq!((error.status(), written), (status::EIO, 0));
    let (result, _) = call(&session, &library, "own", &[0; 4], &mut write);
    assert!(result.unwrap_err().message().contains("memory of its own"));
    let error = call(&session, &library, "fail", &[0; 4], &mut write).0.unwrap_err();
    assert_eq!(error.status(), status::EACCES);
    assert!(error.message().contains("function `fail` returned 13"), "{}", error.message());
    let error = call(&session, &library, "fail", &[0; 8], &mut write).0.unwrap_err();
    assert_eq!(error.status(), status::EIO);
}

#[test]
fn what_is_no_library_is_refused_although_it_is_on_the_list() {
    let whole = library(CODE, "libwhole.so");
    for bytes in [&b"no library"[..], &[], &whole[..whole.len() / 2]] {
        let session = session(&[bytes], true);
        let (result, _) = call(&session, &resource(&[bytes], ResourceKind::Library), "twice", &[0; 4], &mut [0; 4]);
        let error = result.unwrap_err();
        assert_eq!(error.status(), status::EINVAL);
        assert!(error.message().contains("the library cannot be opened"), "{}", error.message());
    }
}

#[test]
fn a_library_of_the_host_is_called_by_the_name_that_the_list_gives_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("libhost.so");
    fs::write(&path, library(CODE, "libhost.so")).unwrap();
    let libraries = [("tools".to_owned(), path.clone())].into();
    let session = session_on(Exec::new(&ExecConfig { libraries, ..ExecConfig::default() }).unwrap());
    // Replaced or gone later, it is what it was.
    fs::remove_file(&path).unwrap();
    let (mut write, mut written) = ([0; 4], 0);
    let read = vec![TypedIn { dtype: Dtype::I32, custom: 0, array: true, bytes: &[21, 0, 0, 0] }];
    let out = TypedOut { dtype: Dtype::Custom, custom: 9, array: false, bytes: &mut write, written: &mut written };
    session.ops().exec("tools", "twice", read, vec![out]).unwrap();
    assert_eq!(write, [42, 0, 0, 0]);
}

#[test]
fn a_list_that_is_wrong_is_named_with_what_is_wrong() {
    let libraries = [("gone".to_owned(), Path::new("/nowhere/libgone.so").to_path_buf())].into();
    let error = Exec::new(&ExecConfig { libraries, ..ExecConfig::default() }).unwrap_err();
    assert!(matches!(&error, ExecError::Library { name, .. } if name == "gone"), "{error}");
    for digest in ["", "abc", &"g".repeat(64)] {
        let error = Exec::new(&ExecConfig { digests: vec![digest.to_owned()], ..ExecConfig::default() }).unwrap_err();
        assert!(matches!(error, ExecError::Digest { .. }), "{error}");
    }
}

#[test]
fn mbench_takes_as_long_as_it_is_told_to_and_no_longer_than_its_deadline() {
    let session = session_on(Mbench::new());
    let run = |millis: &[u8], within: Option<std::time::Duration>| {
        let ops = session.ops();
        let ops = within.map_or(ops, |time| ops.within(time));
        let read = vec![TypedIn { dtype: Dtype::Text, custom: 0, array: false, bytes: millis }];
        let begun = std::time::Instant::now();
        ops.exec("mbench", "mbench", read, Vec::new()).map(|_| begun.elapsed())
    };
    assert!(run(b"20\0", None).unwrap() >= std::time::Duration::from_millis(20));
    assert!(run(&20_u32.to_le_bytes(), None).unwrap() >= std::time::Duration::from_millis(20));
    let error = run(b"300000", Some(std::time::Duration::from_millis(10))).unwrap_err();
    assert_eq!(error.status(), status::ETIMEDOUT);
    for wrong in [&b"0"[..], b"-1", b"300001", b"", b"soon", &[0; 16]] {
        assert_eq!(run(wrong, None).unwrap_err().status(), status::EINVAL, "{wrong:?}");
    }
    let error = session.ops().exec("other", "other", Vec::new(), Vec::new()).unwrap_err();
    assert!(error.message().contains("declines"), "{}", error.message());
}

//! What a stranger, a client or an image can get wrong. Each mistake gets its status and a sentence that says
//! what to do, and the platform goes on serving. It never stops at the status.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use common::{Platform, deployment, failed, home, kernlet, kvm_is_usable, picture, stderr, stdout, succeeded};
use http::{Method, StatusCode};
use kernlet_image::{ImageParts, Store};
use serde_json::{Value, json};

/// A platform that serves echo, with its home.
fn platform_with_echo() -> (tempfile::TempDir, Platform) {
    let home = home();
    let platform = Platform::start(home.path());
    platform.deploy("echo");
    (home, platform)
}

/// Puts an image with this kernel into the home's store.
fn import(home: &Path, name: &str, kernel: Vec<u8>) {
    import_parts(home, name, ImageParts { kernel, ..ImageParts::default() });
}

fn import_parts(home: &Path, name: &str, parts: ImageParts) {
    Store::open(home).unwrap().import(&name.parse().unwrap(), parts, &mut |_| {}).unwrap();
}

/// Insists on a status, and on words that the answer's text must have.
#[track_caller]
fn answers(reply: &common::Reply, status: StatusCode, words: &[&str]) {
    let text = reply.text();
    assert_eq!(reply.status, status, "{text}");
    for word in words {
        assert!(text.contains(word), "{word:?} is not in {text:?}");
    }
}

#[test]
fn an_unknown_function_is_404_with_its_name() {
    let home = tempfile::tempdir().unwrap();
    let platform = Platform::start(home.path());
    for path in ["/function/nowhere", "/function/nowhere.openfaas-fn/a/b?c=d", "/system/function/nowhere"] {
        answers(&platform.system(Method::GET, path, None), StatusCode::NOT_FOUND, &["nowhere"]);
    }
    let said = failed(&platform.run(["invoke", "nowhere", "--method", "GET"]));
    assert!(said.contains("404") && said.contains("nowhere"), "{said}");
}

#[test]
fn an_unknown_image_is_refused_with_how_to_build_one() {
    let home = tempfile::tempdir().unwrap();
    let platform = Platform::start(home.path());
    let refused = platform.system(Method::POST, "/system/functions", Some(&deployment("echo", "nowhere:v1")));
    answers(&refused, StatusCode::BAD_REQUEST, &["nowhere:v1", "kernlet build"]);
    let said = failed(&platform.run(["deploy", "echo", "--image", "nowhere:v1"]));
    assert!(said.contains("nowhere:v1") && said.contains("kernlet build"), "{said}");
    assert_eq!(platform.system(Method::GET, "/system/functions", None).json(), json!([]));
}

#[test]
fn a_name_that_breaks_rfc_1123_is_refused_with_the_rule() {
    let home = home();
    let platform = Platform::start(home.path());
    let long = "a".repeat(64);
    for name in ["", "Echo", "-echo", "echo-", "e_cho", "e.cho", "../echo", "echo\n", &long] {
        let refused = platform.system(Method::POST, "/system/functions", Some(&deployment(name, "echo:latest")));
        answers(&refused, StatusCode::BAD_REQUEST, &["RFC 1123"]);
    }
}

#[test]
fn a_deployment_that_is_not_one_is_refused() {
    let home = home();
    let platform = Platform::start(home.path());
    let authorization = platform.authorization();
    for body in ["", "{", "[]", "null", "{\"service\": 7}"] {
        let reply = platform.send(Method::POST, "/system/functions", &[("authorization", &authorization)], body);
        answers(&reply, StatusCode::BAD_REQUEST, &[]);
        assert!(!reply.text().trim().is_empty(), "{body:?}");
    }
    let mut impossible = deployment("echo", "echo:latest");
    impossible["limits"] = json!({"memory": "lots"});
    answers(&platform.system(Method::POST, "/system/functions", Some(&impossible)), StatusCode::BAD_REQUEST, &["lots"]);
    impossible["limits"] = json!({"memory": "1Ki"});
    answers(&platform.system(Method::POST, "/system/functions", Some(&impossible)), StatusCode::BAD_REQUEST, &["1Ki"]);
}

/// A change to an ELF file's bytes.
type Damage = fn(&mut Vec<u8>);

#[test]
fn a_kernel_that_cannot_run_is_named_with_the_reason_and_harms_nobody() {
    if !kvm_is_usable() {
        return;
    }
    let (home, platform) = platform_with_echo();
    let unpacked = Store::open(home.path()).unwrap().unpack(&"echo".parse().unwrap()).unwrap();
    let good = std::fs::read(unpacked.kernel).unwrap();
    // Offsets from the ELF-64 object file format, little-endian.
    let damages: [(&str, Damage, &str); 7] = [
        ("script", |file| *file = b"#!/bin/sh\necho not a unikernel\n".to_vec(), "not an ELF"),
        ("truncated", |file| file.truncate(100), "ELF"),
        ("machine", |file| file[18..20].copy_from_slice(&183u16.to_le_bytes()), "x86-64"),
        ("outside", |file| patch_segment(file, 0, P_VADDR, 1 << 46), "lies outside"),
        ("overlap", |file| overlap_segments(file), "overlap"),
        ("writable-code", |file| make_code_writable(file), "writable and executable"),
        ("huge-bss", |file| patch_segment(file, 0, P_MEMSZ, 4 << 30), "4294967296 bytes"),
    ];
    for (name, damage, reason) in damages {
        let mut kernel = good.clone();
        damage(&mut kernel);
        import(home.path(), name, kernel);
        let deployed = platform.system(Method::POST, "/system/functions", Some(&deployment(name, name)));
        assert_eq!(deployed.status, StatusCode::ACCEPTED, "{name}: {}", deployed.text());
        let called = platform.call(name, "");
        assert_eq!(called.status, StatusCode::SERVICE_UNAVAILABLE, "{name}: {}", called.text());
        assert!(called.text().contains(reason), "{name}: {}", called.text());
        platform.still_serves_echo();
    }
}

/// Offsets in a program header: `p_vaddr`, `p_memsz`.
const P_VADDR: usize = 16;
const P_MEMSZ: usize = 40;

/// Where the header of a loadable segment begins.
fn segment_header(file: &[u8], index: usize) -> usize {
    let table = usize::try_from(u64::from_le_bytes(file[32..40].try_into().unwrap())).unwrap();
    let count = usize::from(u16::from_le_bytes(file[56..58].try_into().unwrap()));
    let headers = (0..count).map(|header| table + header * 56);
    headers.filter(|start| file[*start..start + 4] == 1u32.to_le_bytes()).nth(index).unwrap()
}

fn segment(file: &[u8], index: usize, field: usize) -> u64 {
    let start = segment_header(file, index) + field;
    u64::from_le_bytes(file[start..start + 8].try_into().unwrap())
}

fn patch_segment(file: &mut [u8], index: usize, field: usize, value: u64) {
    let start = segment_header(file, index) + field;
    file[start..start + 8].copy_from_slice(&value.to_le_bytes());
}

fn overlap_segments(file: &mut [u8]) {
    let first = segment(file, 0, P_VADDR);
    patch_segment(file, 1, P_VADDR, first);
}

fn make_code_writable(file: &mut [u8]) {
    const WRITE: u8 = 2;
    const EXECUTE: u8 = 1;
    let flags = (0..).map(|index| segment_header(file, index) + 4).find(|flags| file[*flags] & EXECUTE != 0).unwrap();
    file[flags] |= WRITE;
}

#[test]
fn a_model_that_does_not_fit_is_an_error_that_says_how() {
    if !kvm_is_usable() {
        return;
    }
    let (home, platform) = platform_with_echo();
    let classify = Store::open(home.path()).unwrap().unpack(&"classify".parse().unwrap()).unwrap();
    let labels = classify.resources.iter().find(|(name, _)| name == "labels").unwrap().1.clone();
    let cat = std::fs::read(picture("cat.jpg")).unwrap();
    let models = [
        ("no-model", b"not a model".to_vec(), "no ONNX model"),
        ("flat-model", identity_model(7), "[N,3,height,width]"),
    ];
    for (name, model, reason) in models {
        let path = home.path().join(name);
        std::fs::write(&path, model).unwrap();
        let kernel = std::fs::read(&classify.kernel).unwrap();
        let resources = vec![("model".to_owned(), path), ("labels".to_owned(), labels.clone())];
        import_parts(home.path(), name, ImageParts { kernel, resources, ..ImageParts::default() });
        let deployed = platform.system(Method::POST, "/system/functions", Some(&deployment(name, name)));
        assert_eq!(deployed.status, StatusCode::ACCEPTED, "{name}: {}", deployed.text());
        let called = platform.call(name, cat.clone());
        assert!(called.status.is_client_error() || called.status.is_server_error(), "{name}: {}", called.status);
        assert!(called.text().contains(reason), "{name}: {}", called.text());
        platform.still_serves_echo();
    }
}

/// An ONNX model that takes a vector of so many floats and gives it back.
fn identity_model(length: u8) -> Vec<u8> {
    let float_vector = |name: &str| {
        let shape = field(1, &varint(1, length));
        let tensor = [varint(1, 1), field(2, &shape)].concat();
        [field(1, name.as_bytes()), field(2, &field(1, &tensor))].concat()
    };
    let node = [field(1, b"x"), field(2, b"y"), field(4, b"Identity")].concat();
    let graph =
        [field(1, &node), field(2, b"g"), field(11, &float_vector("x")), field(12, &float_vector("y"))].concat();
    [varint(1, 8), field(7, &graph), field(8, &varint(2, 13))].concat()
}

/// A protobuf field that holds bytes.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    assert!(bytes.len() < 128, "longer lengths take more than a byte");
    [&[number << 3 | 2, u8::try_from(bytes.len()).unwrap()], bytes].concat()
}

/// A protobuf field that holds a number below 128.
fn varint(number: u8, value: u8) -> Vec<u8> {
    vec![number << 3, value]
}

#[test]
fn a_body_over_the_limit_is_413_with_the_limit() {
    if !kvm_is_usable() {
        return;
    }
    let home = home();
    let platform = Platform::start(home.path());
    succeeded(platform.run(["deploy", "echo", "--image", "echo", "--annotation", "dev.kernlet.limits.request=1Ki"]));
    assert_eq!(platform.call("echo", vec![b'x'; 1024]).status, StatusCode::OK);
    answers(
        &platform.call("echo", vec![b'x'; 1025]),
        StatusCode::PAYLOAD_TOO_LARGE,
        &["1025", "1024", "dev.kernlet.limits.request"],
    );
    platform.still_serves_echo();
}

#[test]
fn a_response_over_the_limit_is_an_error_that_names_the_limit() {
    if !kvm_is_usable() {
        return;
    }
    let home = home();
    let platform = Platform::start(home.path());
    succeeded(platform.run(["deploy", "echo", "--image", "echo", "--annotation", "dev.kernlet.limits.response=1Ki"]));
    answers(&platform.call("echo", vec![b'x'; 2048]), StatusCode::BAD_GATEWAY, &["1024"]);
    platform.still_serves_echo();
}

#[test]
fn what_is_not_a_picture_is_refused_by_classify_which_goes_on() {
    if !kvm_is_usable() {
        return;
    }
    let home = home();
    let platform = Platform::start(home.path());
    platform.deploy("classify");
    let cat = std::fs::read(picture("cat.jpg")).unwrap();
    let cases: [(&str, Vec<u8>); 5] = [
        ("zero bytes", Vec::new()),
        ("text", b"this is not a picture".to_vec()),
        ("a truncated JPEG", cat[..cat.len() / 3].to_vec()),
        ("a PNG's signature alone", b"\x89PNG\r\n\x1a\n".to_vec()),
        ("20,000 x 20,000 pixels", blank_png(20_000)),
    ];
    for (what, bytes) in cases {
        let reply = platform.call("classify", bytes);
        assert!(reply.status.is_client_error(), "{what}: {} {}", reply.status, reply.text());
        assert!(!reply.text().trim().is_empty(), "{what}");
        assert_eq!(platform.call("classify", cat.clone()).status, StatusCode::OK, "after {what}");
    }
    assert!(platform.call("classify", blank_png(20_000)).text().contains("20000"), "the size is named");
}

/// A valid black PNG with sides of so many pixels (PNG specification, 1 bit greyscale).
fn blank_png(side: u32) -> Vec<u8> {
    let mut header = [side.to_be_bytes(), side.to_be_bytes()].concat();
    header.extend([1, 0, 0, 0, 0]);
    let mut pixels = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    let row = vec![0; 1 + side as usize / 8];
    (0..side).for_each(|_| pixels.write_all(&row).unwrap());
    let chunks = [(b"IHDR", header), (b"IDAT", pixels.finish().unwrap()), (b"IEND", Vec::new())];
    let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
    for (kind, data) in chunks {
        let tagged = [&kind[..], &data].concat();
        let mut checksum = flate2::Crc::new();
        checksum.update(&tagged);
        png.extend(u32::try_from(data.len()).unwrap().to_be_bytes());
        png.extend(tagged);
        png.extend(checksum.sum().to_be_bytes());
    }
    png
}

#[test]
fn a_picture_that_is_not_there_is_named_before_anything_is_built() {
    if !kvm_is_usable() {
        return;
    }
    let said = failed(&kernlet().args(["demo", "no-such-picture.jpg"]).output().unwrap());
    assert!(said.contains("no-such-picture.jpg") && !said.contains("build"), "{said}");
}

#[test]
fn the_demo_outside_a_checkout_says_so() {
    if !kvm_is_usable() {
        return;
    }
    let elsewhere = tempfile::tempdir().unwrap();
    let copy = elsewhere.path().join("kernlet");
    std::fs::copy(env!("CARGO_BIN_EXE_kernlet"), &copy).unwrap();
    let said = failed(&Command::new(copy).arg("demo").current_dir(elsewhere.path()).output().unwrap());
    assert!(said.contains("checkout of Kernlet"), "{said}");
}

#[test]
fn a_port_in_use_is_named_with_what_to_do() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let home = tempfile::tempdir().unwrap();
    let said = failed(&kernlet().args(["up", "--listen", &address, "--home"]).arg(home.path()).output().unwrap());
    assert!(said.contains(&address) && said.contains("--listen"), "{said}");
}

#[test]
fn a_second_gateway_on_the_same_home_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let first = Platform::start(home.path());
    let said = failed(&kernlet().args(["up", "--listen", "127.0.0.1:0", "--home"]).arg(home.path()).output().unwrap());
    assert!(said.contains(&home.path().display().to_string()), "{said}");
    assert_eq!(first.send(Method::GET, "/healthz", &[], "").status, StatusCode::OK);
}

#[test]
fn a_folder_that_is_no_function_is_refused_with_an_example() {
    let home = tempfile::tempdir().unwrap();
    let said = failed(&kernlet().args(["build", "models", "--home"]).arg(home.path()).output().unwrap());
    assert!(said.contains("models") && said.contains("functions/echo"), "{said}");
}

#[test]
fn a_host_without_kvm_is_told_what_is_missing_by_every_part() {
    let home = home();
    let Some(mut command) = in_a_world_without_kvm(home.path()) else {
        return;
    };
    let doctor = command.args(["doctor", "--json", "--home"]).arg(home.path()).output().unwrap();
    let checks: Value = serde_json::from_slice(&doctor.stdout).unwrap();
    assert_eq!(doctor.status.code(), Some(0), "functions run all the same: {checks}");
    assert_eq!(checks[0]["state"], "warning", "{checks}");
    assert!(checks[0]["found"].as_str().unwrap().contains("/dev/kvm does not exist"), "{checks}");

    // Asked for, it is an error, everywhere.
    for subcommand in [&["demo"][..], &["up", "--listen", "127.0.0.1:0"], &["run", "echo"]] {
        let mut command = in_a_world_without_kvm(home.path()).unwrap();
        let output = command.args(subcommand).args(["--backend", "kvm", "--home"]).arg(home.path()).output().unwrap();
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{subcommand:?}: {said}");
        assert!(said.contains("/dev/kvm does not exist"), "{subcommand:?}: {said}");
    }
}

#[test]
fn a_host_without_kvm_runs_functions_as_processes_and_warns() {
    let home = home();
    let Some(mut command) = in_a_world_without_kvm(home.path()) else {
        return;
    };
    let said = home.path().join("said");
    command.stderr(std::fs::File::create(&said).unwrap());
    let platform = Platform::start_with(command, home.path());
    let said = std::fs::read_to_string(&said).unwrap();
    assert!(said.contains("confined processes") && said.contains("/dev/kvm does not exist"), "{said}");
    succeeded(platform.run(["deploy", "echo", "--image", "echo"]));
    let called = platform.call("echo", "hello");
    assert_eq!((called.status, called.text().as_str()), (StatusCode::OK, "hello"));
    let logged = stdout(&succeeded(platform.run(["logs", "echo"])));
    assert!(logged.contains("backend process") && logged.contains("/dev/kvm does not exist"), "{logged}");
}

#[test]
fn a_user_who_may_not_open_kvm_is_told_about_the_group() {
    let nobody = || {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", env!("CARGO_BIN_EXE_kernlet")]);
        command
    };
    let possible = nobody().arg("--version").output().is_ok_and(|output| output.status.success());
    if !possible || !Path::new("/dev/kvm").exists() {
        eprintln!("skipped: it needs /dev/kvm, and the right to become another user");
        return;
    }
    let output = nobody().args(["doctor", "--home", "/nonexistent"]).output().unwrap();
    let said = stdout(&output);
    // A device that everybody may open is no mistake of this user's.
    if said.contains("/dev/kvm opens") {
        eprintln!("skipped: everybody may open /dev/kvm here");
        return;
    }
    assert!(said.contains("/dev/kvm may not be opened") && said.contains("usermod"), "{said}");
    assert!(said.contains("a confined child process ran code"), "what takes its place: {said}");
}

/// The program in a mount namespace whose `/dev` has nothing but `null` and `urandom`; `None` where the kernel
/// does not allow one.
fn in_a_world_without_kvm(home: &Path) -> Option<Command> {
    const SCRIPT: &str = "mkdir -p \"$0\" && touch \"$0/null\" \"$0/urandom\" \
        && mount --bind /dev/null \"$0/null\" && mount --bind /dev/urandom \"$0/urandom\" \
        && mount --rbind \"$0\" /dev && exec \"$@\"";
    let unshare = |rest: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", SCRIPT]).arg(home.join("dev")).args(rest);
        command.current_dir(common::root());
        command
    };
    if unshare(&["true"]).output().is_ok_and(|output| output.status.success()) {
        return Some(unshare(&[env!("CARGO_BIN_EXE_kernlet")]));
    }
    eprintln!("skipped: it needs the right to make a mount namespace (unshare --user --mount)");
    None
}

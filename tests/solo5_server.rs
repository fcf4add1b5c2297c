//! Solo5 unikernels that serve HTTP by themselves as functions: built, deployed and called through the gateway, several at
//! once, clean for each request or shared by all; and what becomes of those that do not answer.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::thread;

use common::{Platform, Reply, failed, kernlet, kvm_is_usable, root, stdout, succeeded};
use http::Method;

/// A guest of `functions/solo5` for hvt, built.
fn guest(name: &str) -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let folder = BUILT.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("solo5-servers");
        let script = root().join("functions/solo5/build.sh");
        assert!(Command::new("sh").arg(script).arg("hvt").arg(&folder).status().unwrap().success());
        folder
    });
    folder.join(format!("{name}.hvt"))
}

/// A platform whose store has a guest's image, as a server.
fn platform(name: &str) -> (tempfile::TempDir, Platform) {
    let home = tempfile::tempdir().unwrap();
    let platform = Platform::start(home.path());
    let annotation = ["--annotation", "dev.kernlet.solo5.mode=server"];
    succeeded(platform.command().arg("build").arg(guest(name)).args(["-t", name]).args(annotation).output().unwrap());
    (home, platform)
}

fn deploy(platform: &Platform, function: &str, image: &str, annotations: &[&str]) {
    let annotations = annotations.iter().flat_map(|pair| ["--annotation", pair]);
    succeeded(platform.run(["deploy", function, "--image", image].into_iter().chain(annotations)));
}

fn get(platform: &Platform, path: &str) -> Reply {
    platform.send(Method::GET, &format!("/function/{path}"), &[], "")
}

fn post(platform: &Platform, path: &str, body: &str) -> Reply {
    platform.send(Method::POST, &format!("/function/{path}"), &[], body.to_owned())
}

/// Each byte one more: a question that is not itself what it asks for.
fn masked(text: &str) -> String {
    text.bytes().map(|byte| char::from(byte + 1)).collect()
}

#[test]
fn a_unikernel_that_serves_by_itself_is_a_function() {
    if !kvm_is_usable() {
        return;
    }
    let (_home, platform) = platform("server");
    deploy(&platform, "server", "server", &[]);
    let reply = get(&platform, "server/");
    assert_eq!((reply.status.as_u16(), reply.text().as_str()), (200, "Hello from a guest that serves by itself\n"));
    assert_eq!(reply.header("content-type"), "application/octet-stream");
    let head = platform.send(
        Method::POST,
        "/function/server/head?a=b%20c",
        &[("x-mine", "1"), ("connection", "x-gone"), ("x-gone", "1"), ("x-call-id", "one-call")],
        "body",
    );
    let text = head.text();
    assert!(text.starts_with("POST /head?a=b%20c HTTP/1.1\r\n"), "{text}");
    for line in ["x-mine: 1\r\n", "x-call-id: one-call\r\n", "content-length: 4\r\n", "connection: close\r\n"] {
        assert_eq!(text.matches(line).count(), 1, "{line} in {text}");
    }
    assert!(!text.contains("x-gone"), "{text}");
    let body = "0123456789".repeat(100_000);
    assert!(post(&platform, "server/echo", &body).text() == body);
    assert_eq!(get(&platform, "server/nowhere").status.as_u16(), 404);
    let reply = post(&platform, "server/keep", "a secret");
    assert_eq!((reply.status.as_u16(), reply.body.len()), (204, 0));
    // What it prints is in its log, what it said before its template was made as well.
    let logs = stdout(&platform.run(["logs", "server"]));
    assert!(logs.contains("serves at 10.0.0.2:8080") && logs.contains("keeps 8 bytes"), "{logs}");
    assert_eq!(get(&platform, "server/kept").text(), "");
    // An address and a port of its own.
    let elsewhere = [
        "dev.kernlet.solo5.ipv4=192.168.9.1/29",
        "dev.kernlet.solo5.port=80",
        "dev.kernlet.solo5.arguments=--hypercalls --port={port} --ipv4={ipv4}",
    ];
    deploy(&platform, "elsewhere", "server", &elsewhere);
    assert_eq!(get(&platform, "elsewhere/count").text(), "1");
    let logs = stdout(&platform.run(["logs", "elsewhere"]));
    assert!(logs.contains("serves at 192.168.9.1:80"), "{logs}");
}

#[test]
fn no_request_of_many_at_once_sees_another_ones_bytes() {
    if !kvm_is_usable() {
        return;
    }
    let (_home, platform) = platform("server");
    deploy(&platform, "server", "server", &["dev.kernlet.limits.inflight=4"]);
    thread::scope(|scope| {
        for number in 0..4 {
            let platform = &platform;
            scope.spawn(move || {
                let secret = format!("canary-of-{number}-");
                for _ in 0..6 {
                    assert_eq!(post(platform, "server/echo", &secret.repeat(2000)).text(), secret.repeat(2000));
                    assert_eq!(post(platform, "server/keep", &secret).status.as_u16(), 204);
                    assert_eq!(post(platform, "server/search", &masked("canary-of-")).text(), "0");
                    assert_eq!(get(platform, "server/count").text(), "1");
                }
            });
        }
    });
}

#[test]
fn a_server_with_reuse_isolation_serves_many_at_once_on_one_machine() {
    if !kvm_is_usable() {
        return;
    }
    let (_home, platform) = platform("server");
    deploy(&platform, "server", "server", &["dev.kernlet.isolation=reuse"]);
    // Two that are answered when both are there.
    let replies = thread::scope(|scope| {
        [(); 2].map(|()| scope.spawn(|| get(&platform, "server/meet"))).map(|thread| thread.join().unwrap())
    });
    assert_eq!(replies.map(|reply| reply.text()), ["met", "met"]);
    assert_eq!(post(&platform, "server/keep", "what stays").status.as_u16(), 204);
    assert_eq!(get(&platform, "server/kept").text(), "what stays");
    assert_eq!(get(&platform, "server/count").text(), "5");
    // One that is late is told so, and its machine serves nobody else.
    let late = platform.send(Method::GET, "/function/server/meet", &[("x-timeout", "300ms")], "");
    assert_eq!(late.status.as_u16(), 504, "{}", late.text());
    assert_eq!(get(&platform, "server/count").text(), "1");
}

/// Two square matrices as bytes, and their product.
fn matrices(side: u16, seed: u16) -> (Vec<u8>, Vec<u8>) {
    let number = |index: u16| f32::from((index * 7 + seed) % 17) - 8.0;
    let side = usize::from(side);
    let numbers: Vec<f32> = (0..).map(number).take(2 * side * side).collect();
    let (a, b) = numbers.split_at(side * side);
    // Small whole numbers: every order of adding gives the same.
    let product = (0..side * side).map(|at| (0..side).map(|k| a[at / side * side + k] * b[k * side + at % side]).sum());
    let product: Vec<f32> = product.collect();
    let bytes = |numbers: &[f32]| numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    (bytes(&numbers), bytes(&product))
}

#[test]
fn a_server_multiplies_for_each_request_and_keeps_nothing_of_it_over_a_rewind() {
    if !kvm_is_usable() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let platform = Platform::start(home.path());
    let labels = root().join("models/imagenet_classes.txt");
    let size = std::fs::metadata(&labels).unwrap().len();
    let resource = format!("labels={}", labels.display());
    let words = ["-t", "multiply", "--resource", &resource, "--annotation", "dev.kernlet.solo5.mode=server"];
    succeeded(platform.command().arg("build").arg(guest("multiply")).args(words).output().unwrap());
    deploy(&platform, "multiply", "multiply", &["dev.kernlet.limits.inflight=1"]);
    let multiply = |function: &str, body: &[u8]| {
        platform.send(Method::POST, &format!("/function/{function}/multiply"), &[], body.to_vec())
    };
    for (side, seed) in [(1, 3), (7, 1), (64, 5), (32, 9), (64, 2)] {
        let (body, product) = matrices(side, seed);
        let reply = multiply("multiply", &body);
        assert_eq!(reply.status.as_u16(), 200, "{}", reply.text());
        assert!(reply.body == product, "{side} by {side}");
        assert_eq!(get(&platform, "multiply/last").body.len(), 0);
        assert_eq!(get(&platform, "multiply/labels").text(), format!("1 1 {size}"));
    }
    assert_eq!(multiply("multiply", b"too short").status.as_u16(), 400);
    // A machine that keeps its state has it.
    deploy(&platform, "kept", "multiply", &["dev.kernlet.isolation=reuse"]);
    let (body, product) = matrices(16, 4);
    assert!(multiply("kept", &body).body == product);
    assert!(get(&platform, "kept/last").body == product);
    for asked in 1..3 {
        assert_eq!(get(&platform, "kept/labels").text(), format!("{asked} 1 {size}"));
    }
}

#[test]
fn a_server_that_does_not_answer_is_named_and_the_next_request_is_served() {
    if !kvm_is_usable() {
        return;
    }
    let (_home, platform) = platform("rogue");
    for isolation in ["rewind", "fresh", "reuse"] {
        let annotation = format!("dev.kernlet.isolation={isolation}");
        deploy(&platform, "rogue", "rogue", &[&annotation, "dev.kernlet.limits.response=64Ki"]);
        let late = "did not answer within 400ms";
        for (path, status, words) in [
            ("reset", 502, "it cut off the connection"),
            ("short", 502, "its connection ended before its body did"),
            ("garbage", 502, "it is not HTTP/1.1"),
            ("huge", 502, "raise dev.kernlet.limits.response"),
            ("head", 502, "its head has more than 65536 bytes"),
            ("null", 502, "ended with status 255"),
            ("halt", 502, "ended by itself"),
            ("silent", 504, late),
            ("spin", 504, late),
            ("flood", 504, late),
        ] {
            let reply = platform.send(Method::GET, &format!("/function/rogue/{path}"), &[("x-timeout", "400ms")], "");
            assert_eq!(reply.status.as_u16(), status, "{isolation} {path}: {}", reply.text());
            assert!(reply.text().contains(words), "{isolation} {path}: {}", reply.text());
            assert_eq!(get(&platform, "rogue/").text(), "ok", "{isolation} after {path}");
        }
    }
    let logs = stdout(&platform.run(["logs", "rogue"]));
    for part in ["crash report", "page fault", "Solo5: trap: type=#PF"] {
        assert!(logs.contains(part), "{part} is missing in {logs}");
    }
}

#[test]
fn what_cannot_serve_is_refused_with_what_to_do() {
    if !kvm_is_usable() {
        return;
    }
    let (_home, platform) = platform("server");
    let build = |annotation: &str| {
        let words = ["-t", "other", "--annotation", annotation];
        platform.command().arg("build").arg(guest("server")).args(words).output().unwrap()
    };
    for (annotation, words) in [
        ("dev.kernlet.solo5.mode=daemon", "use command or server"),
        ("dev.kernlet.solo5.port=0", "is not a port; write it as 8080"),
        ("dev.kernlet.solo5.ipv4=8.8.8.8/24", "it is not a private one"),
        ("dev.kernlet.solo5.ipv4=10.0.0.255/24", "broadcast address"),
        ("dev.kernlet.solo5.host=x", "is unknown; known are"),
    ] {
        let said = failed(&build(annotation));
        assert!(said.contains(words), "{annotation}: {said}");
    }
    // What shows each hypercall, or stops there, is for functions whose requests are.
    for option in [&["--trace"][..], &["--gdb", "0"]] {
        let said = failed(&platform.run(["run", "server"].iter().chain(option)));
        assert!(said.contains("it serves by itself") && said.contains("kernlet solo5-hvt --gdb --net:"), "{said}");
    }
    // On a port on which it does not serve.
    deploy(&platform, "server", "server", &["dev.kernlet.solo5.port=81", "dev.kernlet.limits.timeout=1s"]);
    let reply = get(&platform, "server/");
    assert_eq!(reply.status.as_u16(), 502, "{}", reply.text());
    for words in ["did not serve at 10.0.0.2:81", "it refuses connections to that port", "dev.kernlet.solo5.port"] {
        assert!(reply.text().contains(words), "{}", reply.text());
    }
    assert!(!kernlet().arg("build").arg(root().join("README.md")).output().unwrap().status.success());
}

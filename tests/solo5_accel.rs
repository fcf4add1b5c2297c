//! What Solo5's guests have here beyond Solo5's own interface: accelerators under the tender and in functions, and requests
//! as bytes. Guests are those of `functions/solo5`; answers are held against the native functions'.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use common::{Platform, home, kernlet, kvm_is_usable, picture, root, stderr, stdout, succeeded};
use serde_json::Value;

/// A guest of `functions/solo5` for a tender, built.
fn built(target: &str, name: &str) -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let folder = BUILT.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("solo5-accel");
        for target in ["hvt", "spt"] {
            let script = root().join("functions/solo5/build.sh");
            let names = ["accel", "classify", "sgemm", "mirror", "hello"];
            let status = Command::new("sh").arg(script).arg(target).arg(&folder).args(names).status().unwrap();
            assert!(status.success());
        }
        folder
    });
    folder.join(format!("{name}.{target}"))
}

/// Runs the guest `accel` at a ring; gives exit code, stdout and stderr.
fn run(ring: &str, options: &[&str], what: &str) -> (i32, String, String) {
    let mut command = kernlet();
    command.args(["solo5-hvt", "--mem=16"]).arg(format!("--ring={ring}")).args(options).arg("--");
    let output = command.arg(built("hvt", "accel")).args(["--solo5:quiet", what]).output().unwrap();
    (output.status.code().unwrap(), stdout(&output), stderr(&output))
}

const RINGS: [&str; 2] = ["3", "0"];

#[test]
fn a_guest_finds_out_that_there_are_no_accelerators_and_goes_on() {
    // Under spt with and without KVM.
    let output = kernlet().arg("solo5-spt").arg(built("spt", "accel")).arg("--solo5:quiet").output().unwrap();
    assert_eq!((stdout(&output).as_str(), stderr(&output).as_str()), ("no accelerators here\n", ""));
    let refused = kernlet().args(["solo5-spt", "--accel"]).arg(built("spt", "accel")).output().unwrap();
    assert!(stderr(&refused).starts_with("solo5-spt: Invalid option: `--accel'\n"), "{}", stderr(&refused));
    if !kvm_is_usable() {
        return;
    }
    for ring in RINGS {
        assert_eq!(run(ring, &[], ""), (0, "no accelerators here\n".to_owned(), String::new()), "ring {ring}");
        let (code, out, err) = run(ring, &[], "call anyway");
        let unknown = "solo5-hvt: Invalid guest port access: port=0x580\n";
        assert_eq!((code, out.as_str(), err.as_str()), (1, "", unknown), "ring {ring}");
        let (code, out, err) = run(ring, &["--accel"], "");
        assert_eq!((code, out.as_str()), (0, "accelerators, version 1, features 1\n"), "ring {ring}: {err}");
    }
}

#[test]
fn a_guest_under_the_tender_uses_accelerators_and_its_errors_have_texts() {
    if !kvm_is_usable() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let labels = folder.path().join("labels.txt");
    fs::write(&labels, "one\ntwo\n").unwrap();
    let resource = format!("--accel-resource:labels={}", labels.display());
    for ring in RINGS {
        let says = |what: &str| {
            let (code, out, err) = run(ring, &["--accel"], what);
            assert_eq!((code, err.as_str()), (0, ""), "{what} at ring {ring}: {out}");
            out
        };
        for what in ["noop", "sgemm", "generic"] {
            assert_eq!(says(what), format!("{what}: 0\n"), "ring {ring}");
        }
        let said = says("too-small");
        assert!(said.starts_with("too-small: 22 ") && said.contains("argument 2"), "{said}");
        let said = says("operation");
        assert!(said.starts_with("operation: 95 ") && said.contains("999"), "{said}");
        let said = says("detect");
        assert!(said.starts_with("detect: ") && said.contains("image-detect"), "{said}");
        assert_eq!(says("call"), "call: 95\n");
        assert_eq!(says("request"), "request: 0 of 0\nrespond: 95\n", "there is no request under a tender");
        let (_, out, err) = run(ring, &[&resource], "find labels");
        assert_eq!((out.as_str(), err.as_str()), ("find labels: 0, resource 1 of 8 bytes\n", ""));
        assert_eq!(run(ring, &[&resource], "find model").1, "find model: 2, resource 0 of 0 bytes\n");
    }
    let (code, _, err) = run("3", &["--accel-resource:model=/nonexistent/model"], "");
    assert!(code == 1 && err.starts_with("solo5-hvt: ") && err.contains("/nonexistent/model"), "{err}");
    for wrong in ["--accel=yes", "--accel-resource:model", "--accel-resource:=file"] {
        let (code, _, err) = run("3", &[wrong], "");
        assert!(code == 1 && err.starts_with(&format!("solo5-hvt: Invalid option: `{wrong}'\nusage: ")), "{err}");
    }
}

#[test]
fn a_wild_pointer_in_an_accelerator_call_ends_its_guest() {
    if !kvm_is_usable() {
        return;
    }
    for ring in RINGS {
        for what in ["block-top", "block-low", "block-constant", "block-zero", "wild", "wrap", "tables", "constant"] {
            let (code, out, err) = run(ring, &["--accel"], what);
            assert_eq!((code, out.as_str()), (1, ""), "{what} at ring {ring}: {err}");
            assert!(err.starts_with("solo5-hvt: Invalid guest access: gpa=0x"), "{what} at ring {ring}: {err}");
        }
        for (what, text) in [
            ("overlap", "arguments 1 and 3 of an accelerator call overlap, and one of them is written"),
            ("many", "the function made an accelerator call with 33 arguments; the most is 32"),
        ] {
            let (code, out, err) = run(ring, &["--accel"], what);
            assert_eq!((code, out.as_str(), err), (1, "", format!("solo5-hvt: {text}\n")), "ring {ring}");
        }
    }
}

/// A platform with the native functions' images and these guests as functions that take their requests by the call.
fn platform(guests: &[&str], resources: &[&str]) -> (tempfile::TempDir, Platform) {
    let home = home();
    let platform = Platform::start(home.path());
    for name in guests {
        let function = format!("solo5-{name}");
        let resources = resources.iter().flat_map(|resource| ["--resource", resource]);
        let mut build = platform.command();
        build.arg("build").arg(built("hvt", name)).args(["-t", &function]).args(resources);
        succeeded(build.output().unwrap());
        let mut deploy = platform.command();
        deploy.args(["deploy", &function, "--image", &function, "--env", "solo5_arguments=none", "--memory", "32Mi"]);
        for limit in ["request", "response"] {
            deploy.args(["--annotation", &format!("dev.kernlet.limits.{limit}=8Mi")]);
        }
        succeeded(deploy.output().unwrap());
    }
    (home, platform)
}

#[test]
fn a_solo5_function_says_of_a_picture_what_the_native_one_says() {
    if !kvm_is_usable() {
        return;
    }
    let resources = ["model=models/mobilenet_v2_fp16w.onnx", "labels=models/imagenet_classes.txt"];
    let (_home, platform) = platform(&["classify"], &resources);
    platform.deploy("classify");
    let of = |answer: &Value| -> Vec<(u64, String, f64)> {
        let predictions = answer["predictions"].as_array().unwrap().iter();
        let one = |found: &Value| {
            let label = found["label"].as_str().unwrap().to_owned();
            (found["class"].as_u64().unwrap(), label, found["probability"].as_f64().unwrap())
        };
        predictions.map(one).collect()
    };
    // The same machine, rewound, answers all of them, and one that it cannot in between.
    for name in ["cat.jpg", "coffee.jpg", "red_panda.jpg", "cat.jpg"] {
        let bytes = fs::read(picture(name)).unwrap();
        let (ours, native) = (platform.call("solo5-classify", bytes.clone()), platform.call("classify", bytes));
        assert_eq!((ours.status.as_u16(), ours.header("content-type")), (200, "application/json"), "{}", ours.text());
        let (ours, native) = (of(&ours.json()), of(&native.json()));
        assert_eq!(ours.len(), 5);
        for ((class, label, probability), (expected, text, reference)) in ours.iter().zip(&native) {
            assert_eq!((class, label), (expected, text), "{name}");
            // Six digits are what the guest writes.
            assert!((probability - reference).abs() < 1e-6, "{name}: {probability} and {reference}");
        }
        let refused = platform.call("solo5-classify", &b"\xff\xd8no picture"[..]);
        assert_eq!(refused.status.as_u16(), 400);
        assert_eq!(refused.text(), platform.call("classify", &b"\xff\xd8no picture"[..]).text().trim_end());
    }
    let few =
        platform.send(http::Method::POST, "/function/solo5-classify?top=2", &[], fs::read(picture("cat.jpg")).unwrap());
    assert_eq!(of(&few.json()).len(), 2);
    assert_eq!(platform.call("solo5-classify", "").status.as_u16(), 400);
}

#[test]
fn a_solo5_function_multiplies_as_the_native_one() {
    if !kvm_is_usable() {
        return;
    }
    let (_home, platform) = platform(&["sgemm"], &[]);
    platform.deploy("sgemm");
    for (m, n, k) in [(1, 1, 1), (3, 5, 7), (64, 64, 64), (200, 300, 400)] {
        let numbers = (0..k * (m + n)).map(|index: u32| f32::from(u16::try_from(index % 17).unwrap()) - 8.0);
        let body: Vec<u8> = numbers.flat_map(f32::to_le_bytes).collect();
        let query = format!("?m={m}&n={n}&k={k}");
        let call = |function: &str| {
            platform.send(http::Method::POST, &format!("/function/{function}{query}"), &[], body.clone())
        };
        let (ours, native) = (call("solo5-sgemm"), call("sgemm"));
        assert_eq!((ours.status.as_u16(), native.status.as_u16()), (200, 200), "{query}: {}", ours.text());
        assert_eq!(ours.body.len(), usize::try_from(4 * m * n).unwrap());
        assert!(ours.body == native.body, "{query}");
    }
    assert_eq!(platform.call("solo5-sgemm", "").status.as_u16(), 400);
}

#[test]
fn a_request_reaches_a_solo5_function_as_bytes_and_its_response_leaves_so() {
    if !kvm_is_usable() {
        return;
    }
    let (_home, platform) = platform(&["mirror"], &[]);
    let call = |query: &str, body: &[u8]| {
        let path = format!("/function/solo5-mirror/a%20path?{query}");
        platform.send(http::Method::PUT, &path, &[], body.to_vec())
    };
    let every_byte: Vec<u8> = (0..=255).cycle().take(3 << 20).collect();
    for body in [&b""[..], b"\0", b"--solo5:debug \"x", &every_byte, b"small again"] {
        let reply = call("q=1", body);
        assert_eq!(reply.status.as_u16(), if body.is_empty() { 204 } else { 200 });
        assert_eq!(reply.header("x-line"), "PUT /a%20path?q=1");
        assert!(reply.body == body, "{} bytes", body.len());
    }
    assert_eq!((call("twice", b"yes").status.as_u16(), call("twice", b"yes").text().as_str()), (200, "yes"));
    // Without a response what is printed is one, as ever.
    let printed = call("print", b"as ever");
    assert_eq!((printed.status.as_u16(), printed.text().as_str(), printed.header("x-line")), (200, "as ever", ""));
    assert_eq!((call("silent", b"x").status.as_u16(), call("silent", b"x").text().as_str()), (200, ""));
    // Limits are those of native functions.
    let reply = call("status", b"x");
    assert!(
        reply.status.as_u16() == 502 && reply.text().contains("status 199 is not from 200 to 599"),
        "{}",
        reply.text()
    );
    let reply = call("large", b"x");
    assert!(reply.text().contains("raise dev.kernlet.limits.response"), "{}", reply.text());
    assert_eq!(call("q=1", &vec![1; 9 << 20]).status.as_u16(), 413);
    // What is printed beside a response is in the log; what came before the first request came once.
    let logs = stdout(&platform.run(["logs", "solo5-mirror"]));
    assert!(logs.contains("answered by the call"), "{logs}");
    assert!(logs.contains("started 1 times") && !logs.contains("started 2 times"), "{logs}");
}

#[test]
fn a_guest_that_never_asks_for_its_request_is_no_function_that_does() {
    if !kvm_is_usable() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let platform = Platform::start(home.path());
    succeeded(platform.command().arg("build").arg(built("hvt", "hello")).args(["-t", "hello"]).output().unwrap());
    let none = ["--env", "solo5_arguments=none", "--no-wait"];
    succeeded(platform.run(["deploy", "hello", "--image", "hello"].into_iter().chain(none)));
    let reply = common::eventually("an answer that says why there is none", || {
        let reply = platform.call("hello", "x");
        reply.text().contains("it halted with status 0 before it asked for a request").then_some(reply)
    });
    assert!(!reply.status.is_success());
    let folder = ["build", "functions/echo", "--resource", "labels=models/imagenet_classes.txt"];
    let refused = platform.run(folder);
    assert!(stderr(&refused).contains("--resource goes with a file"), "{}", stderr(&refused));
}

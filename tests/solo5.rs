//! Solo5's unikernels as functions, and `kernlet` in the tenders' place, which have tests of their own in `crates/tender`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use common::{Platform, gdb, kernlet, kvm_is_usable, root, stderr, stdout, succeeded};

/// A guest of `functions/solo5` for hvt, built.
fn guest(name: &str) -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let folder = BUILT.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("solo5");
        let script = root().join("functions/solo5/build.sh");
        assert!(Command::new("sh").arg(script).arg("hvt").arg(&folder).status().unwrap().success());
        folder
    });
    folder.join(format!("{name}.hvt"))
}

#[test]
fn the_program_is_the_tender_when_it_is_called_by_its_name() {
    if !kvm_is_usable() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join("solo5-hvt");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_kernlet"), &link).unwrap();
    let output = Command::new(&link).arg(guest("hello")).arg("by name").output().unwrap();
    assert!(output.status.success() && stdout(&output).contains("'by name'"), "{}", stderr(&output));
    let output = Command::new(env!("CARGO_BIN_EXE_kernlet")).arg0("solo5-hvt").arg("--version").output().unwrap();
    assert!(stderr(&output).starts_with("solo5-hvt tender, "), "{}", stderr(&output));
    let output = kernlet().arg("solo5-hvt").arg(guest("hello")).arg("by command").output().unwrap();
    assert!(output.status.success() && stdout(&output).contains("'by command'"), "{}", stderr(&output));
    let output = kernlet().args(["solo5-spt", "--version"]).output().unwrap();
    assert!(stderr(&output).starts_with("solo5-spt tender, "), "{}", stderr(&output));
}

#[test]
fn kernlet_run_runs_and_debugs_a_solo5_function() {
    if !kvm_is_usable() || !gdb::is_there() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let body = folder.path().join("body");
    fs::write(&body, "Hello run").unwrap();
    let command = || {
        let mut command = kernlet();
        command.arg("run").arg(guest("echo")).arg("--body").arg(&body);
        command
    };
    let output = succeeded(command().args(["--repeat", "3", "--audit"]).output().unwrap());
    assert_eq!(stdout(&output), "Hello run".repeat(3));
    for (when, stops) in [("entry", " in app_main ()"), ("request", " in app_main ()")] {
        let mut debugged = command();
        debugged.args(["--gdb", "0", "--gdb-at", when, "--repeat", "2"]).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = debugged.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        let line = lines.find(|line| line.contains("target remote")).unwrap();
        let target = line.split('\'').nth(1).unwrap().to_owned();
        std::thread::spawn(move || lines.for_each(drop));
        let said = gdb::says(
            &guest("echo"),
            &[],
            &[&target, "break app_main", "continue", "x/s *(char **)$rdi", "continue", "continue"],
        );
        // Once for each request: a rewind loses no breakpoint.
        assert_eq!(said.matches(stops).count(), 2, "{when}: {said}");
        assert!(said.contains("Hello run\"") && said.contains("exited normally]"), "{when}: {said}");
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{when}: {said}");
        assert_eq!(stdout(&output), "Hello run".repeat(2), "{when}");
    }
    let output = command().arg("--trace").output().unwrap();
    assert!(!output.status.success() && stderr(&output).contains("this is a Solo5 unikernel"), "{}", stderr(&output));
}

/// A platform with these guests as functions, with environment variables `NAME=VALUE`.
fn platform(guests: &[(&str, &[&str])]) -> (tempfile::TempDir, Platform) {
    let home = tempfile::tempdir().unwrap();
    let platform = Platform::start(home.path());
    for (name, environment) in guests {
        succeeded(platform.command().arg("build").arg(guest(name)).args(["-t", name]).output().unwrap());
        let environment = environment.iter().flat_map(|pair| ["--env", pair]);
        succeeded(platform.run(["deploy", name, "--image", name].into_iter().chain(environment)));
    }
    (home, platform)
}

#[test]
fn a_body_becomes_the_command_line_and_what_is_printed_the_response() {
    if !kvm_is_usable() {
        return;
    }
    let (_home, platform) = platform(&[("echo", &[]), ("hello", &["solo5_log=info"])]);
    for body in ["hello", "", "two words\n", "ünïcode"] {
        let reply = platform.call("echo", body);
        assert_eq!((reply.status.as_u16(), reply.text().as_str()), (200, body));
    }
    // What bindings print does not get into the response, whatever they are told.
    let reply = platform.call("hello", "Hello");
    assert_eq!(reply.text(), "\n**** a guest's hello ****\n\nHello, World\nCommand line is: 'Hello'\nSUCCESS\n");
    let logs = stdout(&platform.run(["logs", "hello"]));
    assert!(logs.contains("Solo5: Memory map: 32 MB addressable:"), "{logs}");
    // Words that could be options become one argument.
    for (body, line) in [("--solo5:debug x", "\"--solo5:debug x\""), ("say \"hi\" -x", "\"say \\\"hi\\\" -x\"")] {
        assert_eq!(platform.call("echo", body).text(), line);
    }
    let reply = platform.call("echo", &b"a\0b"[..]);
    assert_eq!(reply.status.as_u16(), 400, "{}", reply.text());
    let longest = "x".repeat(8191 - "--solo5:quiet ".len());
    assert_eq!(platform.call("echo", longest.clone()).text(), longest);
    assert_eq!(platform.call("echo", longest + "x").status.as_u16(), 413);
}

#[test]
fn a_solo5_function_that_fails_is_reported_and_serves_the_next_request() {
    if !kvm_is_usable() {
        return;
    }
    let (_home, platform) = platform(&[("traps", &["solo5_log=info"]), ("hello", &[])]);
    let reply = platform.call("hello", "exit 3");
    assert_eq!(
        (reply.status.as_u16(), reply.text().as_str()),
        (502, "function hello crashed: the function ended with status 3\n")
    );
    assert!(platform.call("hello", "again").text().ends_with("SUCCESS\n"));
    for (what, text) in [
        ("null", "the function ended with status 255: Solo5: ABORT: runtime.c: Fatal trap"),
        ("abort", "the function ended with status 255: Solo5: ABORT: traps.c:"),
        ("text", "the function's Solo5 machine ended: KVM: host/guest translation fault: rip=0x10"),
        ("port", "the function's Solo5 machine ended: Invalid guest port access: port=0x80"),
    ] {
        let reply = platform.call("traps", what);
        assert_eq!(reply.status.as_u16(), 502, "{what}: {}", reply.text());
        assert!(reply.text().contains(text), "{what}: {}", reply.text());
        assert_eq!(platform.call("traps", "return").text(), "returned\n");
    }
    let logs = stdout(&platform.run(["logs", "traps"]));
    for part in ["crash report", "page fault", "Solo5: trap: type=#PF ec=0x2", "app_main+0x"] {
        assert!(logs.contains(part), "{part} is missing in {logs}");
    }
}

#[test]
fn a_solo5_function_is_held_to_its_limits() {
    if !kvm_is_usable() {
        return;
    }
    let (_home, platform) = platform(&[("endless", &[]), ("echo", &[])]);
    let call =
        |what: &'static str| platform.send(http::Method::POST, "/function/endless", &[("x-timeout", "300ms")], what);
    for what in ["spin", "poll", "sleep"] {
        let reply = call(what);
        assert_eq!(reply.status.as_u16(), 504, "{what}: {}", reply.text());
    }
    let reply = platform.call("endless", "flood");
    assert!(reply.text().contains("raise dev.kernlet.limits.response"), "{}", reply.text());
    platform.still_serves_echo();
}

/// Builds an image of the guest `block` with these options.
fn build_disk(platform: &Platform, tag: &str, options: &[&str]) -> Output {
    platform.command().arg("build").arg(guest("block")).args(["-t", tag]).args(options).output().unwrap()
}

#[test]
fn a_functions_block_device_is_a_file_of_its_image_that_nobody_writes() {
    if !kvm_is_usable() {
        return;
    }
    let (_home, platform) = platform(&[]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.img");
    fs::write(&path, "text".repeat(2048)).unwrap();
    let option = format!("storage={}", path.display());
    succeeded(build_disk(&platform, "disk", &["--block", &option, "--block-sector-size", "storage=4096"]));
    // The image has it from now on.
    fs::remove_file(&path).unwrap();
    succeeded(platform.run(["deploy", "disk", "--image", "disk"]));
    let whole = format!("capacity=8192 block_size=4096\n{}", "text".repeat(1024));
    assert_eq!(platform.call("disk", "read").text(), whole);
    let refused = "capacity=8192 block_size=4096\nreturned 3\ntext";
    assert_eq!(platform.call("disk", "put data").text(), refused);
    assert_eq!(platform.call("disk", "read").text(), whole);
    // A deployment may have its requests write over it.
    let annotation = "dev.kernlet.solo5.block.storage=copy-on-write=4Ki";
    succeeded(platform.run(["deploy", "over", "--image", "disk", "--annotation", annotation]));
    let written = "capacity=8192 block_size=512\nreturned 0\ndata";
    assert_eq!(platform.call("over", "put data").text(), written);
    assert!(platform.call("over", "read").text().ends_with(&"text".repeat(128)));
    // Eight blocks of 512 bytes are the one page that a machine may write.
    assert!(platform.call("over", "fill").text().ends_with("\nblocks: 8, then 3\n"));
    assert!(platform.call("over", "read").text().ends_with(&"text".repeat(128)));
    let images = stdout(&platform.run(["images", "--json"]));
    assert!(images.contains("\"storage\""), "{images}");
}

#[test]
fn no_byte_that_a_request_writes_to_a_disk_is_seen_by_another() {
    if !kvm_is_usable() {
        return;
    }
    let (_home, platform) = platform(&[]);
    succeeded(build_disk(&platform, "scratch", &["--scratch", "storage=256Ki"]));
    let zeroes = format!("capacity=262144 block_size=512\n{}", "\0".repeat(512));
    for isolation in ["rewind", "fresh", "reuse"] {
        let annotation = format!("dev.kernlet.isolation={isolation}");
        succeeded(platform.run(["deploy", isolation, "--image", "scratch", "--annotation", &annotation]));
        for round in 0..3 {
            let reply = platform.call(isolation, format!("put secret {round}"));
            assert!(reply.text().ends_with(&format!("returned 0\nsecret {round}")), "{}", reply.text());
            assert_eq!(platform.call(isolation, "read").text(), zeroes, "{isolation}");
            let filled = platform.call(isolation, "fill").text();
            assert!(filled.ends_with("\nblocks: 512, then 0\n"), "{filled}");
            assert_eq!(platform.call(isolation, "read").text(), zeroes, "{isolation}");
        }
    }
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (platform, zeroes) = (&platform, &zeroes);
            scope.spawn(move || {
                for _ in 0..8 {
                    let reply = platform.call("rewind", format!("put {thread}"));
                    assert!(reply.text().ends_with(&format!("returned 0\n{thread}")), "{}", reply.text());
                    assert_eq!(&platform.call("rewind", "read").text(), zeroes);
                }
            });
        }
    });
    assert!(platform.call("rewind", "").text().ends_with("SUCCESS\n"));
}

#[test]
fn block_devices_that_do_not_fit_become_no_image_and_no_function() {
    let home = tempfile::tempdir().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, size: usize| {
        let path = folder.path().join(name);
        fs::write(&path, vec![0; size]).unwrap();
        format!("storage={}", path.display())
    };
    let (good, odd, empty) = (file("good", 8192), file("odd", 1000), file("empty", 0));
    let absent = format!("storage={}", folder.path().join("absent").display());
    let refused = |name: &str, options: &[&str], text: &str| {
        let mut command = kernlet();
        command.arg("build").arg(guest(name)).args(options).arg("--home").arg(home.path());
        let output = command.output().unwrap();
        assert!(!output.status.success(), "{options:?}");
        assert!(stderr(&output).contains(text), "{options:?}: {}", stderr(&output));
    };
    refused("block", &[], "the unikernel declares the block device \"storage\", and nothing is given for it");
    refused("hello", &["--block", &good], "the unikernel declares no block device \"storage\"; it declares none");
    let other = good.replace("storage=", "other=");
    refused("block", &["--block", &other], "declares no block device \"other\"; it declares storage");
    refused(
        "block",
        &["--block", &odd],
        "dev.kernlet.solo5.block.storage: it has 1000 bytes, no whole number of blocks of 512 bytes",
    );
    refused("block", &["--block", &empty], "it has 0 bytes, less than one block of 512");
    refused("block", &["--block", &absent], "cannot be read: No such file");
    refused("block", &["--block", "storage=."], "is not a file");
    refused("block", &["--block", &good, "--block", &good], "--block storage is there twice");
    refused("block", &["--block", &good, "--scratch", "storage=1Mi"], "the block device storage is there twice");
    refused("block", &["--copy-on-write", "storage=1Mi"], "--copy-on-write storage needs --block storage=FILE");
    refused("block", &["--scratch", "storage=2Gi"], "a machine could write 2147483648 bytes in all; at most 1Gi");
    refused("block", &["--scratch", "storage=1000"], "no whole number of blocks");
    refused("block", &["--block", &good, "--copy-on-write", "storage=1Ki"], "the least is 4Ki");
    for size in ["520", "256", "65536", "x"] {
        let sector = format!("storage={size}");
        refused("block", &["--block", &good, "--block-sector-size", &sector], "is not the size of a block");
    }
    refused("block", &["--block-sector-size", "storage=512"], "is of no block device");
    refused("block", &["--scratch", "sto-rage=1Mi"], "is not the name of a block device");
    let mut command = kernlet();
    let output = command.arg("build").arg(root().join("functions/echo")).args(["--scratch", "storage=1Mi", "--home"]);
    assert!(stderr(&output.arg(home.path()).output().unwrap()).contains("is a folder: block devices go with the file"));
}

#[test]
fn a_deployment_whose_block_devices_do_not_fit_is_refused() {
    if !kvm_is_usable() {
        return;
    }
    let (_home, platform) = platform(&[]);
    succeeded(build_disk(&platform, "scratch", &["--scratch", "storage=64Ki"]));
    let deploy = |annotation: &str| {
        platform.run(["deploy", "disk", "--image", "scratch", "--no-wait", "--annotation", annotation])
    };
    for (annotation, text) in [
        ("dev.kernlet.solo5.block.storage=read-only", "read-only needs a file, and the image has none for it"),
        ("dev.kernlet.solo5.block.storage=writable", "is not a block device; use read-only"),
        ("dev.kernlet.solo5.block.storage=scratch=1000", "no whole number of blocks of 512 bytes"),
        ("dev.kernlet.solo5.block.storage=scratch=8Gi", "at most 1Gi are possible"),
        ("dev.kernlet.solo5.block.a-b=scratch=1Mi", "is not the name of a device"),
    ] {
        let output = deploy(annotation);
        assert!(!output.status.success() && stderr(&output).contains(text), "{annotation}: {}", stderr(&output));
    }
    // What only the unikernel itself can tell is in the function's log.
    succeeded(deploy("dev.kernlet.solo5.block.other=scratch=1Mi"));
    common::eventually("the watchdog says why it does not start", || {
        let logs = stdout(&platform.run(["logs", "disk"]));
        logs.contains("the unikernel declares no block device").then_some(())
    });
}

#[test]
fn the_first_machine_of_a_solo5_functions_next_process_comes_from_the_file() {
    if !kvm_is_usable() {
        return;
    }
    let (home, first) = platform(&[("echo", &["write_debug=true"])]);
    let file = home.path().join("templates/openfaas-fn/echo");
    common::eventually("the template is saved", || {
        fs::read(&file).ok().filter(|bytes| bytes.starts_with(b"KERNLETT")).map(drop)
    });
    assert_eq!(first.call("echo", "first").text(), "first");
    assert_eq!(first.stop(), Some(0));
    let second = Platform::start(home.path());
    assert_eq!(second.call("echo", "second").text(), "second");
    let logs = stdout(&second.run(["logs", "echo"]));
    assert!(logs.contains("machines are made of the template in"), "{logs}");
}

#[test]
fn a_file_that_is_no_unikernel_of_solo5s_becomes_no_image() {
    let home = tempfile::tempdir().unwrap();
    let build = |path: &Path| kernlet().arg("build").arg(path).arg("--home").arg(home.path()).output().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("damaged.hvt");
    let mut file = fs::read(guest("hello")).unwrap();
    // The manifest's version: the note is the second of the file's.
    let at = file.windows(4).position(|window| window == b"1TFM" || window == b"MFT1").unwrap() + 16;
    file[at] = 9;
    fs::write(&path, &file).unwrap();
    let output = build(&path);
    assert!(!output.status.success());
    assert!(stderr(&output).contains("Solo5 manifest is invalid"), "{}", stderr(&output));
    assert!(!build(&root().join("README.md")).status.success());
}

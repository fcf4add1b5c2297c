//! `solo5-hvt` and `solo5-spt` in the place of Solo5's tenders, as scripts know them: guests of our own written from the
//! ABI, devices, traps, wild pointers, and every message and exit code. Guests run at both rings. Runs on a standard KVM as
//! well, where ring 0 is the processor's own (`scripts/standard-kvm.sh`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::env;
use std::fs::{self, OpenOptions};
use std::io::{BufRead as _, BufReader};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, Signal, kill_process};

/// Names a folder with both tenders, for a machine that they were not built on.
const TENDERS: &str = "KERNLET_TENDERS";

/// Names a folder of guests built before, for a machine that has no compiler.
const PREBUILT: &str = "KERNLET_SOLO5_GUESTS";

/// Whether guests of hvt can run here. Where they cannot, a test that needs them says so and passes, unless
/// `KERNLET_REQUIRE_KVM=1` makes that a failure.
fn kvm_is_usable() -> bool {
    let Err(error) = OpenOptions::new().read(true).write(true).open("/dev/kvm") else { return true };
    let required = env::var_os("KERNLET_REQUIRE_KVM").is_some_and(|value| value == "1");
    assert!(!required, "KERNLET_REQUIRE_KVM=1, and /dev/kvm cannot be opened: {error}");
    eprintln!("skipped: it needs /dev/kvm, which cannot be opened: {error}");
    false
}

/// How many times as long as usual something may take: more on an emulated processor.
fn patience() -> i64 {
    env::var("KERNLET_TEST_PATIENCE").map_or(1, |times| times.parse().unwrap())
}

/// One of the tenders.
fn program(tender: &str) -> Command {
    let built = match tender {
        "solo5-hvt" => env!("CARGO_BIN_EXE_solo5-hvt"),
        _ => env!("CARGO_BIN_EXE_solo5-spt"),
    };
    let path = env::var_os(TENDERS).map_or_else(|| PathBuf::from(built), |folder| Path::new(&folder).join(tender));
    let mut command = Command::new(path);
    command.stdin(Stdio::null());
    command
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A guest of `functions/solo5` for hvt, built.
fn guest(name: &str) -> PathBuf {
    built("hvt", name)
}

/// A guest of `functions/solo5` for a tender, built.
fn built(target: &str, name: &str) -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let folder = BUILT.get_or_init(|| {
        if let Some(folder) = env::var_os(PREBUILT) {
            return folder.into();
        }
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("solo5");
        for target in ["hvt", "spt"] {
            let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../functions/solo5/build.sh");
            assert!(Command::new("sh").arg(script).arg(target).arg(&folder).status().unwrap().success());
        }
        folder
    });
    folder.join(format!("{name}.{target}"))
}

/// The tender with these options, a guest and its command line.
fn tender(options: &[&str], name: &str, words: &[&str]) -> Command {
    let mut command = program("solo5-hvt");
    command.args(options).arg("--").arg(guest(name)).args(words);
    command
}

/// Runs a guest at a ring; gives exit code, stdout and stderr.
fn run(ring: &str, options: &[&str], name: &str, words: &[&str]) -> (i32, String, String) {
    let ring = format!("--ring={ring}");
    let options: Vec<&str> = [ring.as_str(), "--mem=16"].into_iter().chain(options.iter().copied()).collect();
    said(&tender(&options, name, words).output().unwrap())
}

fn said(output: &Output) -> (i32, String, String) {
    (output.status.code().unwrap(), stdout(output), stderr(output))
}

const RINGS: [&str; 2] = ["3", "0"];

#[test]
fn a_guest_says_hello_with_its_command_line_and_exit_status() {
    if !kvm_is_usable() {
        return;
    }
    for ring in RINGS {
        let (code, out, err) = run(ring, &[], "hello", &["Hello", "two  spaces", "--mem=1"]);
        assert_eq!((code, err.as_str()), (0, ""), "{out}");
        assert!(out.contains("Solo5: Memory map: 16 MB addressable:\n"), "{out}");
        assert!(out.contains("Command line is: 'Hello two  spaces --mem=1'\nSUCCESS\n"), "{out}");
        assert!(out.ends_with("Solo5: solo5_exit(0) called\n"), "{out}");
        for (status, code) in [("1", 1), ("42", 42), ("255", 255), ("256", 0)] {
            assert_eq!(run(ring, &[], "hello", &["exit", status]).0, code);
        }
        let (_, out, _) = run(ring, &[], "hello", &["--solo5:quiet"]);
        assert!(!out.contains("Solo5:"), "{out}");
    }
}

#[test]
fn no_file_of_the_tenders_takes_the_place_of_a_standard_stream_that_is_closed() {
    if !kvm_is_usable() {
        return;
    }
    for closed in [">&-", "<&- >&-", "<&- >&- 2>&-"] {
        let tender = tender(&["--ring=3", "--mem=16"], "hello", &[]);
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(format!("exec \"$@\" {closed}")).arg("sh").arg(tender.get_program());
        let (code, _, err) = said(&shell.args(tender.get_args()).output().unwrap());
        assert_eq!((code, err.as_str()), (0, ""), "{closed}");
    }
}

#[test]
fn the_command_line_has_room_for_8191_characters() {
    if !kvm_is_usable() {
        return;
    }
    let longest = "x".repeat(8191 - "--solo5:quiet ".len());
    assert_eq!(run("3", &[], "echo", &["--solo5:quiet", &longest]), (0, longest.clone(), String::new()));
    let (code, out, err) = run("3", &[], "echo", &["--solo5:quiet", &longest, ""]);
    assert_eq!(
        (code, out.as_str(), err.as_str()),
        (1, "", "solo5-hvt: Guest command line too long (max=8191 characters)\n")
    );
}

#[test]
fn variables_floats_and_clocks_are_as_a_guest_expects_them() {
    if !kvm_is_usable() {
        return;
    }
    for (ring, name) in [("3", "tls"), ("0", "tls"), ("3", "clock"), ("3", "float")] {
        let (code, out, err) = run(ring, &[], name, &["--solo5:quiet"]);
        assert!(code == 0 && out.ends_with("SUCCESS\n"), "{name} at ring {ring}: {code} {out}{err}");
    }
}

#[test]
fn a_trap_goes_to_the_guests_own_handler() {
    if !kvm_is_usable() {
        return;
    }
    let traps = [
        ("divide", "#DE ec=0x0", ""),
        ("undefined", "#UD ec=0x0", ""),
        ("syscall", "#UD ec=0x0", ""),
        ("null", "#PF ec=0x2", "cr2=0x8\n"),
        ("low", "#PF ec=0x3", "cr2=0x10000\n"),
        ("wild", "#PF ec=0x2", "cr2=0x8000000000\n"),
        ("noncanonical", "#GP ec=0x0", ""),
        ("msr", "#GP ec=0x0", ""),
    ];
    // What KVM's emulation of ring 0 does not have on some hosts.
    let at_ring_3 = [("breakpoint", "#BP ec=0x0", ""), ("interrupt", "#UD ec=0x0", "")];
    let cases = RINGS.iter().flat_map(|ring| traps.iter().map(move |trap| (*ring, *trap)));
    for (ring, (what, kind, more)) in cases.chain(at_ring_3.map(|trap| ("3", trap))) {
        let (code, out, err) = run(ring, &[], "traps", &["--solo5:quiet", what]);
        assert_eq!((code, err.as_str()), (255, ""), "{what} at ring {ring}: {out}");
        assert!(out.starts_with(&format!("Solo5: trap: type={kind} rip=0x10")), "{what} at ring {ring}: {out}");
        assert!(out.contains(more) && out.ends_with("Fatal trap\n"), "{what} at ring {ring}: {out}");
    }
}

#[test]
fn an_abort_and_a_failed_assertion_end_with_status_255() {
    if !kvm_is_usable() {
        return;
    }
    for (what, why) in [("abort", ": as asked\n"), ("assert", ": Assertion `1 + 1 == 3' failed\n")] {
        let (code, out, _) = run("3", &[], "traps", &["--solo5:quiet", what]);
        assert!(code == 255 && out.starts_with("Solo5: ABORT: traps.c:") && out.ends_with(why), "{code} {out}");
    }
    for ring in RINGS {
        let (code, out, _) = run(ring, &[], "traps", &["--solo5:quiet", "smash"]);
        assert_eq!((code, out.as_str()), (255, "Solo5: ABORT: Stack corruption detected\n"), "ring {ring}");
    }
}

#[test]
fn a_store_to_read_only_memory_is_a_translation_fault() {
    if !kvm_is_usable() {
        return;
    }
    for (ring, what) in RINGS.iter().flat_map(|ring| [(ring, "text"), (ring, "rodata")]) {
        let (code, out, err) = run(ring, &[], "traps", &["--solo5:quiet", what]);
        assert_eq!((code, out.as_str()), (1, ""), "{what} at ring {ring}: {err}");
        assert!(
            err.starts_with("solo5-hvt: KVM: host/guest translation fault: rip=0x10"),
            "{what} at ring {ring}: {err}"
        );
    }
}

#[test]
fn privileged_instructions_do_at_ring_3_what_they_do_at_ring_0() {
    if !kvm_is_usable() {
        return;
    }
    for ring in RINGS {
        let seen = |what| run(ring, &[], "traps", &["--solo5:quiet", what]);
        assert_eq!(seen("return"), (0, "returned\n".to_owned(), String::new()), "ring {ring}");
        assert_eq!(seen("flags").1, "cr0=0x80010021 cr3=0x2000 cr4=0x620 direction=0\n", "ring {ring}");
        assert_eq!(seen("between").1, "89abcdef -16 12345678 -5 0\n", "ring {ring}");
        assert_eq!(seen("execute").1, "executed: 7\n", "ring {ring}");
        for (what, text) in [
            ("halt", "KVM: unhandled exit: exit_reason=0x5, rip=0x10"),
            ("no-tables", "KVM: unhandled exit: exit_reason=0x8, rip=0x10"),
            ("port", "Invalid guest port access: port=0x80\n"),
            ("port-in", "Invalid guest port access: port=0x501\n"),
            ("port-byte", "Invalid guest port access: port=0x502\n"),
        ] {
            let (code, out, err) = seen(what);
            assert_eq!((code, out.as_str()), (1, ""), "{what} at ring {ring}: {err}");
            assert!(err.starts_with(&format!("solo5-hvt: {text}")), "{what} at ring {ring}: {err}");
        }
    }
}

/// A folder with a disk of so many bytes; the path as an option of the tender.
fn disk(bytes: usize) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.img");
    fs::write(&path, vec![0; bytes]).unwrap();
    let option = format!("--block:storage={}", path.display());
    (folder, option)
}

#[test]
fn blocks_are_written_and_read_and_what_is_outside_is_refused() {
    if !kvm_is_usable() {
        return;
    }
    for (ring, size) in [("3", 512_usize), ("0", 512), ("3", 4096), ("3", 32768)] {
        let (folder, option) = disk(64 * 32768);
        let sector = format!("--block-sector-size:storage={size}");
        let (code, out, err) = run(ring, &[&option, &sector], "block", &["--solo5:quiet"]);
        assert_eq!((code, out.ends_with("SUCCESS\n")), (0, true), "{size} at ring {ring}: {out}{err}");
        assert!(out.starts_with(&format!("capacity={} block_size={size}\n", 64 * 32768)), "{out}");
        let written = fs::read(folder.path().join("disk.img")).unwrap();
        let tenth: Vec<u8> = (0..size).map(|index| u8::try_from((10 + index) % 256).unwrap()).collect();
        assert_eq!(written[10 * size..11 * size], tenth, "{size}");
        assert_eq!(written[9 * size..10 * size], vec![0; size], "{size}");
        fs::write(folder.path().join("disk.img"), "text".repeat(64 * 8192)).unwrap();
        let (code, out, _) = run(ring, &[&option, &sector], "block", &["--solo5:quiet", "read"]);
        assert!(code == 0 && out.ends_with(&format!("\n{}", "text".repeat(size / 4))), "{out}");
    }
}

#[test]
fn every_device_has_to_be_attached_and_to_fit() {
    if !kvm_is_usable() {
        return;
    }
    let refused = |options: &[&str], name: &str, text: &str| {
        let (code, out, err) = run("3", options, name, &[]);
        assert_eq!((code, out.as_str()), (1, ""), "{options:?}: {err}");
        assert!(err.contains(text), "{options:?}: {err}");
    };
    let (_folder, option) = disk(3 * 2048);
    refused(&[], "block", "solo5-hvt: Device 'storage' of type BLOCK_BASIC declared but not attached.\n");
    refused(&[], "block", "solo5-hvt: All declared devices must be attached. See --help for syntax.\n");
    refused(&[], "net", "solo5-hvt: Device 'service' of type NET_BASIC declared but not attached.\n");
    refused(&[&option], "hello", "solo5-hvt: Resource not declared in manifest: 'storage'\n");
    refused(&[&option], "hello", &format!("solo5-hvt: Invalid option: `{option}'\nusage: solo5-hvt "));
    refused(&["--net:storage=tap0"], "block", "Resource not declared in manifest: 'storage'");
    refused(
        &[&option, "--block-sector-size:storage=4096"],
        "block",
        "solo5-hvt: storage: Backing storage size must be block aligned (4096 bytes)\n",
    );
    for size in ["521", "256", "0", "65536"] {
        let sector = format!("--block-sector-size:storage={size}");
        refused(&[&option, &sector], "block", "Block size must be a multiple of 2 greater than or equal 512\n");
    }
    let (_empty, option) = disk(0);
    refused(&[&option], "block", "storage: Backing storage must be at least 1 block (512 bytes) in size\n");
    refused(
        &["--block:storage=/nonexistent/disk"],
        "block",
        "solo5-hvt: Could not open block device: /nonexistent/disk: No such file or directory\n",
    );
    refused(
        &["--net:service=nosuchtap"],
        "net",
        "solo5-hvt: Could not attach interface: nosuchtap: No such file or directory\n",
    );
    refused(&["--net:service=@77"], "net", "solo5-hvt: Could not attach interface: @77: Bad file descriptor\n");
    refused(&["--net:service=@x"], "net", "solo5-hvt: Could not attach interface: @x: Invalid argument\n");
    refused(&["--net-mac:service=1:2"], "net", "solo5-hvt: Invalid option: `--net-mac:service=1:2'\n");
}

#[test]
fn a_device_that_is_attached_twice_is_the_one_that_came_last() {
    if !kvm_is_usable() {
        return;
    }
    let ((_a, first), (_b, second)) = (disk(512), disk(1024));
    let (code, out, _) = run("3", &[&first, &second], "block", &["--solo5:quiet"]);
    assert!(code == 0 && out.starts_with("capacity=1024 "), "{code} {out}");
}

#[test]
fn a_guest_can_have_63_devices() {
    if !kvm_is_usable() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let options: Vec<String> = (0..63)
        .map(|number| {
            let path = folder.path().join(number.to_string());
            fs::write(&path, [0; 512]).unwrap();
            format!("--block:storage{number}={}", path.display())
        })
        .collect();
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let (code, out, err) = run("3", &options, "devices", &["--solo5:quiet"]);
    assert_eq!((code, out.as_str()), (0, "SUCCESS\n"), "{err}");
    // Each number is another device's.
    let mut first: Vec<u8> =
        (0..63).map(|number| fs::read(folder.path().join(number.to_string())).unwrap()[0]).collect();
    first.sort_unstable();
    assert_eq!(first, (1..64).collect::<Vec<u8>>());
}

/// A pair of sockets that carry frames, of which children inherit the second.
fn link() -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::empty(), None).unwrap()
}

/// Sends a frame and gives the next one that comes back.
fn exchange(link: &OwnedFd, frame: &[u8]) -> Vec<u8> {
    rustix::io::write(link, frame).unwrap();
    let patience = Timespec { tv_sec: 60 * patience(), tv_nsec: 0 };
    assert_eq!(poll(&mut [PollFd::new(link, PollFlags::IN)], Some(&patience)).unwrap(), 1, "no answer");
    let mut answer = vec![0; 4096];
    let len = rustix::io::read(link, &mut answer).unwrap();
    answer.truncate(len);
    answer
}

const OURS: [u8; 6] = [2, 0, 0, 0, 0, 1];
const THEIRS: [u8; 6] = [2, 0, 0, 0, 0, 2];

fn ip(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len()).unwrap().to_be_bytes();
    let header = [0x45, 0, length[0], length[1], 0, 0, 0, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    [&THEIRS[..], &OURS, &[8, 0], &header, payload].concat()
}

fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let sum = words.sum::<u32>();
    let sum = (sum & 0xffff) + (sum >> 16);
    u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap()
}

#[test]
fn frames_go_through_the_ring_and_through_hypercalls() {
    if !kvm_is_usable() {
        return;
    }
    for (ring, how) in [("3", ""), ("3", "hypercalls"), ("0", ""), ("0", "hypercalls")] {
        let (ours, theirs) = link();
        // The tender shuts it for itself, and the child must not have our end.
        rustix::io::fcntl_setfd(&ours, rustix::io::FdFlags::CLOEXEC).unwrap();
        let net = format!("--net:service=@{}", theirs.as_raw_fd());
        let ring = format!("--ring={ring}");
        let options = ["--mem=16", &ring, &net, "--net-mac:service=02:00:00:00:00:02"];
        let mut child =
            tender(&options, "net", &["--solo5:quiet", how, "limit 4"]).stdout(Stdio::piped()).spawn().unwrap();
        drop(theirs);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first = lines.next().unwrap().unwrap();
        let uses_ring = if how.is_empty() { "yes" } else { "no" };
        assert_eq!(first, format!("mac=2:0:0:0:0:2 mtu=1500 ring={uses_ring}"));

        // What is for somebody else, too short and too long is let be.
        rustix::io::write(&ours, b"short").unwrap();
        rustix::io::write(&ours, &vec![0; 3000]).unwrap();
        let arp =
            [&[0xff; 6][..], &OURS, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &OURS, &[10, 0, 0, 1], &[0; 6], &[10, 0, 0, 2]]
                .concat();
        let answer = exchange(&ours, &arp);
        assert_eq!(
            answer[..32],
            [&OURS[..], &THEIRS, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 2], &THEIRS, &[10, 0, 0, 2]].concat()
        );

        let mut ping = [&[8, 0, 0, 0, 1, 2, 0, 1][..], b"ping"].concat();
        let sum = !checksum(&ping);
        ping[2..4].copy_from_slice(&sum.to_be_bytes());
        let answer = exchange(&ours, &ip(1, &ping));
        assert_eq!((answer[34], &answer[42..]), (0, &b"ping"[..]));
        assert_eq!(checksum(&answer[34..]), 0xffff, "{answer:x?}");

        for datagram in [&b"one"[..], &[7; 1400]] {
            let head =
                [0, 99, 0, 7].into_iter().chain(u16::try_from(8 + datagram.len()).unwrap().to_be_bytes()).chain([0, 0]);
            let answer = exchange(&ours, &ip(17, &head.chain(datagram.iter().copied()).collect::<Vec<_>>()));
            assert_eq!((&answer[34..38], &answer[42..]), (&[0, 7, 0, 99][..], datagram));
        }
        assert_eq!(lines.map(Result::unwrap).collect::<Vec<_>>(), ["SUCCESS"]);
        assert!(child.wait().unwrap().success());
    }
}

/// Runs the guest `frames` with one end of a link, on which `incoming` waits; what became of it, and the other end.
fn frames(ring: &str, words: &str, incoming: &[&[u8]]) -> ((i32, String, String), OwnedFd) {
    let (ours, theirs) = link();
    incoming.iter().for_each(|frame| assert_eq!(rustix::io::write(&ours, frame).unwrap(), frame.len()));
    let net = format!("--net:service=@{}", theirs.as_raw_fd());
    (run(ring, &[&net], "frames", &["--solo5:quiet", words]), ours)
}

#[test]
fn a_frame_of_any_length_is_sent_or_refused_by_both_paths() {
    if !kvm_is_usable() {
        return;
    }
    for (ring, path, done) in [("3", "call", "returned 0\n"), ("3", "ring", "taken\n"), ("0", "ring", "taken\n")] {
        // Less than an Ethernet header, a usual one, the largest of all.
        for len in [1, 13, 14, 1514, 2049, 65_600] {
            let (said, ours) = frames(ring, &format!("send {path} {len}"), &[]);
            assert_eq!(said, (0, done.to_owned(), String::new()), "{len} by {path} at ring {ring}");
            let mut frame = vec![0; 1 << 17];
            assert_eq!(rustix::io::read(&ours, &mut frame).unwrap(), len, "{len} by {path} at ring {ring}");
            assert!(frame[..len].iter().all(|byte| *byte == b'x'));
        }
        for len in [65_601_u64, 131_072, 1 << 22] {
            let ((code, out, err), _) = frames(ring, &format!("send {path} {len}"), &[]);
            assert_eq!((code, out.as_str()), (1, ""), "{len} by {path} at ring {ring}: {err}");
            assert_eq!(err, "Fatal error when writing: Message too long\n", "{len} by {path} at ring {ring}");
        }
        // More than the guest has.
        let ((code, _, err), _) = frames(ring, &format!("send {path} {}", 1 << 28), &[]);
        assert_eq!(code, 1, "{err}");
        assert!(err.contains("Invalid guest access") || err.contains("Message too long"), "{err}");
    }
}

#[test]
fn a_frame_that_is_longer_than_its_buffer_is_cut_by_both_paths() {
    if !kvm_is_usable() {
        return;
    }
    for (ring, path) in [("3", "call"), ("3", "ring"), ("0", "call"), ("0", "ring")] {
        for (room, frame, got) in [(13, 3000, 13), (1, 60, 1), (2048, 60, 60), (2048, 1, 1), (70_000, 3000, 3000)] {
            let (said, _) = frames(ring, &format!("read {path} {room}"), &[&vec![7; frame]]);
            let text = format!("returned 0 with {got} bytes\n");
            assert_eq!(said, (0, text, String::new()), "{frame} into {room} by {path} at ring {ring}");
        }
    }
}

#[test]
fn a_wild_pointer_ends_its_guest_in_every_hypercall() {
    if !kvm_is_usable() {
        return;
    }
    let (_folder, storage) = disk(1 << 20);
    for ring in RINGS {
        let ring = format!("--ring={ring}");
        let call = |words: &str| {
            let (ours, theirs) = link();
            let net = format!("--net:service=@{}", theirs.as_raw_fd());
            let options = ["--mem=4", &ring, &storage, &net];
            rustix::io::write(&ours, &[1; 60]).unwrap();
            said(&tender(&options, "call", &["--solo5:quiet", words]).output().unwrap())
        };
        // The structure itself.
        for number in 1..9 {
            for at in ["top", "top-8", "0xffffffff", "0", "0x1000", "0x9000"] {
                let (code, out, err) = call(&format!("at {number} {at}"));
                assert_eq!((code, out.as_str()), (1, ""), "{number} at {at}: {err}");
                assert!(err.contains("Invalid guest access: gpa=0x"), "{number} at {at}: {err}");
            }
        }
        // What it points to.
        for words in [
            "2 top 1",
            "2 top-1 1",
            "2 here 0xffffffffffffffff",
            "2 0xffffffffffffffff 2",
            "2 0xffffffff00000000 1",
            "2 0x5000 8",
            "4 1 0 top-512 512",
            "4 1 0 0xfffffffffffffe00 512",
            "5 1 0 top-512 512",
            "5 1 0 0x5000 512",
            "6 2 top-60 60",
            "6 2 here 0xffffffffffffffff",
            "7 2 top-60 60",
            "7 2 0x2000 4096",
            "8 top-511 0",
            "8 0xffffffffffffff00 0",
        ] {
            let (code, out, err) = call(words);
            assert_eq!((code, out.as_str()), (1, ""), "{words}: {err}");
            assert!(err.contains("Invalid guest access: gpa=0x"), "{words}: {err}");
        }
        // Data that may be read and not be written.
        for words in ["5 1 0 text 512", "7 2 text 60"] {
            let (code, _, err) = call(words);
            assert_eq!((code, err.as_str()), (1, "Fatal error when reading: Bad address\n"), "{words}");
        }
        // Up to the last byte but one, all is well.
        assert_eq!(call("2 top-2 1").0, 0);
        for (words, result) in [
            ("4 1 0 top-1025 1024", 0),
            ("5 1 0xfffffffffffffe00 here 512", 2),
            ("5 1 0x100000 here 512", 2),
            ("5 1 0 here 0xffffffffffffffff", 2),
            // The last block, one byte beyond it, none at all, and none behind the end.
            ("5 1 0xffe00 here 512", 0),
            ("4 1 0xffe00 here 512", 0),
            ("4 1 0xffe01 here 512", 2),
            ("5 1 0xffe01 here 512", 2),
            ("5 1 0xfffff here 1", 0),
            ("4 1 0 here 0", 0),
            ("4 1 0x100000 here 0", 2),
            ("5 1 0x8000000000000000 here 0x8000000000000000", 2),
            ("5 2 0 here 512", 2),
            ("4 0xffffffffffffffff 0 here 512", 2),
            ("7 2 here 64", 0),
            ("7 1 here 64", 2),
            ("6 3 here 64", 2),
        ] {
            let (code, out, err) = call(words);
            assert_eq!((code, out), (0, format!("returned {result}\n")), "{words}: {err}");
        }
        let (code, _, err) = call("6 2 here 0x200000");
        assert!(code == 1 && err.starts_with("Fatal error when writing: Message too long"), "{err}");
    }
}

#[test]
fn a_hypercall_that_does_not_exist_ends_the_guest() {
    if !kvm_is_usable() {
        return;
    }
    let (_folder, storage) = disk(512);
    for (number, text) in [
        ("0", "Invalid guest hypercall: num=0\n"),
        ("9", "Invalid guest port access: port=0x509\n"),
        ("255", "Invalid guest port access: port=0x5ff\n"),
    ] {
        for ring in RINGS {
            let (_ours, theirs) = link();
            let net = format!("--net:service=@{}", theirs.as_raw_fd());
            let (code, _, err) = run(ring, &[&storage, &net], "call", &["--solo5:quiet", number]);
            assert_eq!((code, err), (1, format!("solo5-hvt: {text}")), "ring {ring}");
        }
    }
}

#[test]
fn the_tender_has_the_usage_and_the_errors_of_the_original() {
    let tender = |arguments: &[&str]| said(&program("solo5-hvt").args(arguments).output().unwrap());
    let (code, out, err) = tender(&[]);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.starts_with("solo5-hvt: Missing KERNEL operand\nusage: solo5-hvt [ CORE OPTIONS ] [ MODULE OPTIONS ] [ -- ] KERNEL [ ARGS ]\n"), "{err}");
    let (code, _, err) = tender(&["--help"]);
    assert!(
        code == 1 && err.starts_with("usage: solo5-hvt [") && err.contains("    --block:NAME=PATH (attach"),
        "{err}"
    );
    let (code, _, err) = tender(&["--mem=1", "--version", "no-matter-what"]);
    assert!(code == 0 && err.starts_with("solo5-hvt tender, version v") && err.ends_with("\nABI version 2\n"), "{err}");
    let (code, _, err) = tender(&["/nonexistent/kernel"]);
    assert_eq!(
        (code, err.as_str()),
        (1, "solo5-hvt: /nonexistent/kernel: Could not open: No such file or directory\n")
    );
    let (code, _, err) = tender(&["Cargo.toml"]);
    assert_eq!(code, 1);
    assert!(err.starts_with("solo5-hvt: Cargo.toml: invalid executable: "), "{err}");
    let hello = guest("hello");
    let hello = hello.to_str().unwrap();
    for (option, text) in [
        ("--mem=x", "solo5-hvt: Malformed argument to --mem\n"),
        ("--mem=0", "solo5-hvt: Malformed argument to --mem\n"),
        ("--frobnicate", "solo5-hvt: Invalid option: `--frobnicate'\nusage: "),
        ("--mem=4098", "solo5-hvt: guest memory size 4297064448 bytes exceeds the max size 4294967296 bytes\n"),
        ("--ring=1", "solo5-hvt: guests run at ring 0 or 3, or auto, not \"1\"\n"),
    ] {
        let (code, _, err) = tender(&[option, hello]);
        assert!(code == 1 && err.starts_with(text), "{option}: {err}");
    }
    if kvm_is_usable() {
        let (code, _, err) = tender(&["--mem=7", hello]);
        assert_eq!((code, err.as_str()), (0, "solo5-hvt: adjusting memory to 6291456 bytes\n"));
        let (code, _, err) = tender(&["--mem=1", hello]);
        assert_eq!((code, err.as_str()), (0, "solo5-hvt: adjusting memory to 2097152 bytes\n"));
        assert_eq!(tender(&["--mem=4096", hello]).0, 0);
    }
}

#[test]
fn a_guest_that_never_ends_is_ended_by_a_signal() {
    if !kvm_is_usable() {
        return;
    }
    for (what, signal, number) in
        [("spin", Signal::TERM, 15), ("sleep", Signal::INT, 2), ("poll", Signal::TERM, 15), ("flood", Signal::INT, 2)]
    {
        let mut child =
            tender(&["--mem=2"], "endless", &[what]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // Once it prints, it runs.
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        lines.find(|line| line.as_ref().unwrap().starts_with("Solo5: Memory map")).unwrap().unwrap();
        std::thread::spawn(move || lines.for_each(drop));
        kill_process(Pid::from_child(&child), signal).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(
            (output.status.code(), stderr(&output)),
            (Some(1), format!("solo5-hvt: Exiting on signal {number}\n")),
            "{what}"
        );
    }
}

/// Whether gdb is there. Where it is not, a test that needs it says so and passes, unless `KERNLET_REQUIRE_KVM=1`.
fn gdb_is_there() -> bool {
    let found = Command::new("gdb").arg("--version").output().is_ok();
    let required = std::env::var_os("KERNLET_REQUIRE_KVM").is_some_and(|value| value == "1");
    assert!(found || !required, "KERNLET_REQUIRE_KVM=1, and gdb is missing: scripts/install-deps.sh --checks");
    found
}

/// What gdb says to these commands about a guest.
fn gdb(name: &str, target: &[&str], commands: &[&str]) -> String {
    let mut gdb = Command::new("gdb");
    gdb.args(["-nx", "-batch"]).args(target).arg(guest(name));
    let commands = commands.iter().flat_map(|command| ["-ex", command]);
    let output = gdb.args(commands).stdin(Stdio::null()).output().unwrap();
    format!("{}{}", stdout(&output), stderr(&output))
}

/// What gdb says to these commands, given a guest that runs; and what became of that.
fn debugged(ring: &str, name: &str, words: &[&str], commands: &[&str]) -> (String, Output) {
    let ring = format!("--ring={ring}");
    let options = ["--mem=16", &ring, "--gdb", "--gdb-port=0"];
    let mut child = tender(&options, name, words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(lines.next().unwrap(), "solo5-hvt: Waiting for a debugger. Connect to it like this:");
    let line = lines.next().unwrap();
    let port = line.strip_prefix("solo5-hvt: \tgdb --ex=\"target remote localhost:").unwrap();
    let port = port.split('"').next().unwrap();
    let target = format!("target remote 127.0.0.1:{port}");
    let commands: Vec<&str> = [target.as_str()].into_iter().chain(commands.iter().copied()).collect();
    let said = gdb(name, &[], &commands);
    assert_eq!(lines.next().unwrap(), "solo5-hvt: Connection from debugger at 127.0.0.1", "{said}");
    let rest: String = lines.collect();
    let mut output = child.wait_with_output().unwrap();
    output.stderr = rest.into_bytes();
    (said, output)
}

#[test]
fn gdb_breaks_steps_and_changes_a_guest_at_either_ring_and_sees_it_exit() {
    if !kvm_is_usable() || !gdb_is_there() {
        return;
    }
    for ring in RINGS {
        let commands = [
            "break app_main",
            "continue",
            "x/s *(char **)$rdi",
            "set {char}(*(char **)$rdi) = 'J'",
            "info registers rip",
            "stepi",
            "info registers rip",
            "break print",
            "continue",
            "x/s $rdi",
            "delete",
            "continue",
        ];
        let (said, output) = debugged(ring, "hello", &["--solo5:quiet", "Hello gdb"], &commands);
        assert!(said.contains("Breakpoint 1, 0x") && said.contains(" in app_main ()"), "ring {ring}: {said}");
        assert!(said.contains("\"Hello gdb\""), "ring {ring}: {said}");
        let at: Vec<&str> = said.lines().filter(|line| line.starts_with("rip ")).collect();
        assert!(at.len() == 2 && at[0] != at[1], "ring {ring}: {said}");
        assert!(said.contains("Breakpoint 2, 0x") && said.contains("**** a guest's hello ****"), "ring {ring}: {said}");
        assert!(said.contains("exited normally]"), "ring {ring}: {said}");
        assert_eq!(output.status.code(), Some(0), "ring {ring}: {said}");
        let printed = stdout(&output);
        assert!(printed.ends_with("Command line is: 'Jello gdb'\nSUCCESS\n"), "ring {ring}: {printed}");
        // A status is gdb's to show, and the process's.
        let (said, output) = debugged(ring, "hello", &["--solo5:quiet", "exit 3"], &["continue"]);
        assert!(said.contains("exited with code 03]") && output.status.code() == Some(3), "ring {ring}: {said}");
    }
}

#[test]
fn a_trap_under_gdb_goes_to_the_guests_own_handler() {
    if !kvm_is_usable() || !gdb_is_there() {
        return;
    }
    for ring in RINGS {
        let commands = ["break trapped", "continue", "x/gx $rdi", "delete", "continue"];
        let (said, output) = debugged(ring, "traps", &["--solo5:quiet", "null"], &commands);
        // The first of what the handler is given is the address that was touched.
        assert!(said.contains(" in trapped ()") && said.contains("0x0000000000000008"), "ring {ring}: {said}");
        assert!(said.contains("exited with code 0377]"), "ring {ring}: {said}");
        assert_eq!(output.status.code(), Some(255), "ring {ring}: {said}");
        assert!(stdout(&output).starts_with("Solo5: trap: type=#PF ec=0x2"), "{}", stdout(&output));
        let (said, output) = debugged(ring, "hello", &[], &["kill"]);
        assert_eq!(output.status.code(), Some(1), "ring {ring}: {said}");
    }
}

#[test]
fn a_guest_that_gives_up_leaves_a_core_that_gdb_opens() {
    if !kvm_is_usable() || !gdb_is_there() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let option = format!("--dumpcore={}", folder.path().display());
    for ring in RINGS {
        let ring_option = format!("--ring={ring}");
        let dump = |words: &[&str]| {
            let mut tender = tender(&["--mem=16", &ring_option, &option], "traps", words);
            let child = tender.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            let core = folder.path().join(format!("core.solo5-hvt.{}", child.id()));
            (core, child.wait_with_output().unwrap())
        };
        for (what, place) in [("null", "app_main"), ("abort", "quit")] {
            let (core, output) = dump(&["--solo5:quiet", what]);
            assert_eq!(output.status.code(), Some(255), "{}", stderr(&output));
            let said = stderr(&output);
            let to = format!("solo5-hvt: dumpcore: dumping guest core to: {}\n", core.display());
            assert!(said.starts_with(&to) && said.ends_with(" pages of total 4096 pages\n"), "{said}");
            let file = fs::metadata(&core).unwrap();
            assert!(file.len() > 16 << 20 && std::os::unix::fs::MetadataExt::blocks(&file) * 512 < 1 << 20, "sparse");
            let seen = gdb("traps", &["-c", core.to_str().unwrap()], &["bt", "x/s 0x13000", "info registers rip rsp"]);
            assert!(seen.contains(&format!("\"--solo5:quiet {what}\"")), "ring {ring}: {seen}");
            assert!(seen.contains(place), "ring {ring}: {seen}");
            if what == "null" {
                let printed = stdout(&output);
                let rip = printed.split("rip=").nth(1).unwrap().split(' ').next().unwrap().to_owned();
                assert!(seen.contains(&rip), "ring {ring}: {rip} {seen}");
                assert!(seen.contains("SIGSEGV"), "ring {ring}: {seen}");
            } else {
                assert!(seen.contains("SIGABRT"), "ring {ring}: {seen}");
            }
        }
        // Who comes to an end by itself leaves none.
        let (core, output) = dump(&["--solo5:quiet", "return"]);
        assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""));
        assert!(!core.exists());
    }
    let (code, _, err) = run("3", &["--dumpcore=/nonexistent"], "traps", &["abort"]);
    assert_eq!((code, err.as_str()), (1, "solo5-hvt: dumpcore: cannot open dir\n"));
    for port in ["x", "-1", "65536", ""] {
        let (code, _, err) = run("3", &[&format!("--gdb-port={port}")], "traps", &[]);
        assert_eq!((code, err.as_str()), (1, "solo5-hvt: Malformed argument to --gdb-port\n"), "{port}");
    }
}

/// The spt tender with a guest.
fn spt(options: &[&str], name: &str, words: &[&str]) -> Output {
    let mut command = program("solo5-spt");
    command.arg("--mem=16").args(options).arg("--").arg(built("spt", name)).args(words);
    command.output().unwrap()
}

#[test]
fn guests_of_spt_run_as_this_process_with_and_without_kvm() {
    let output = spt(&[], "hello", &["Hello", "spt"]);
    let (code, out, err) = said(&output);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert!(out.contains("Solo5: Memory map: 16 MB addressable:\n") && out.contains("'Hello spt'\nSUCCESS\n"), "{out}");
    assert_eq!(spt(&[], "hello", &["exit", "42"]).status.code(), Some(42));
    for name in ["tls", "float", "clock"] {
        let (code, out, err) = said(&spt(&[], name, &["--solo5:quiet"]));
        assert!(code == 0 && out.ends_with("SUCCESS\n"), "{name}: {code} {out}{err}");
    }
    let (_folder, option) = disk(1 << 18);
    for sector in ["512", "4096"] {
        let sector = format!("--block-sector-size:storage={sector}");
        let (code, out, err) = said(&spt(&[&option, &sector], "block", &["--solo5:quiet"]));
        assert!(code == 0 && out.ends_with("SUCCESS\n"), "{code} {out}{err}");
    }
    let (ours, theirs) = link();
    let net = format!("--net:service=@{}", theirs.as_raw_fd());
    let arp = [&[0xff; 6][..], &OURS, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &OURS, &[10, 0, 0, 1], &[0; 6], &[10, 0, 0, 2]];
    rustix::io::write(&ours, &arp.concat()).unwrap();
    let (code, out, err) = said(&spt(&[&net], "net", &["--solo5:quiet", "limit 1"]));
    assert!(code == 0 && out.ends_with("SUCCESS\n"), "{code} {out}{err}");
    let mut answer = [0; 64];
    assert_eq!(rustix::io::read(&ours, &mut answer).unwrap(), 42);
}

#[test]
fn a_guest_of_spt_can_do_no_more_than_its_manifest_says() {
    use std::os::unix::process::ExitStatusExt as _;
    for (what, signal) in [
        ("null", libc::SIGSEGV),
        ("text", libc::SIGSEGV),
        ("rodata", libc::SIGSEGV),
        ("execute", libc::SIGSEGV),
        ("undefined", libc::SIGILL),
        ("divide", libc::SIGFPE),
        // A system call with whatever was in its registers.
        ("syscall", libc::SIGSYS),
    ] {
        let output = spt(&[], "traps", &["--solo5:quiet", what]);
        assert_eq!(output.status.signal(), Some(signal), "{what}: {}{}", stdout(&output), stderr(&output));
    }
    for what in ["abort", "smash"] {
        assert_eq!(spt(&[], "traps", &[what]).status.code(), Some(255), "{what}");
    }
    // The heap can be executed where somebody insists on it; a segment's own rights stay.
    let output = spt(&["--x-exec-heap"], "traps", &["--solo5:quiet", "execute"]);
    assert_eq!(output.status.signal(), Some(libc::SIGSEGV));
    assert!(
        stderr(&output).starts_with("solo5-spt: WARNING: The use of --x-exec-heap is dangerous"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn the_spt_tender_refuses_as_the_original_does() {
    let refused = |arguments: &[&str], text: &str| {
        let (code, out, err) = said(&program("solo5-spt").args(arguments).output().unwrap());
        assert_eq!((code, out.as_str()), (1, ""), "{arguments:?}: {err}");
        assert!(err.contains(text), "{arguments:?}: {err}");
    };
    let (hvt, net, block) = (guest("hello"), built("spt", "net"), built("spt", "block"));
    let (hvt, net, block) = (hvt.to_str().unwrap(), net.to_str().unwrap(), block.to_str().unwrap());
    refused(&[], "solo5-spt: Missing KERNEL operand\nusage: solo5-spt ");
    refused(&["--help"], "--x-exec-heap (make the heap executable)");
    refused(&[hvt], ": Executable is not for the solo5-spt target\n");
    refused(&["--ring=3", net], "solo5-spt: Invalid option: `--ring=3'\n");
    refused(&[net], "solo5-spt: Device 'service' of type NET_BASIC declared but not attached.\n");
    let (_folder, option) = disk(3 * 2048);
    refused(&[&option, "--block-sector-size:storage=4096", block], "Backing storage size must be block aligned");
    let (code, _, err) = said(&program("solo5-spt").arg("--version").output().unwrap());
    assert!(code == 0 && err.starts_with("solo5-spt tender, version v") && err.ends_with("\nABI version 2\n"), "{err}");
}

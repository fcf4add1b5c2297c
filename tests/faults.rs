//! What a platform meets in a bad hour: watchdogs killed under load, guests that waste what they get, clients that go
//! without a word, full disks. Each is brought about for real, through the real program, and each time a neighbour is
//! asked. It never asserts a time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use common::{Platform, Reply, eventually, failed, home, kernlet, kvm_is_usable, root, stdout, succeeded};
use http::{Method, StatusCode};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tempfile::TempDir;

/// A platform with a function that misbehaves, for half a second at most, and a neighbour that does not.
fn platform() -> (TempDir, Platform) {
    let home = home();
    let platform = Platform::start(home.path());
    platform.deploy("echo");
    succeeded(platform.run(["deploy", "faults", "--image", "faults", "--env", "exec_timeout=500ms"]));
    (home, platform)
}

fn get(platform: &Platform, path: &str) -> Reply {
    platform.send(Method::GET, path, &[], "")
}

/// The watchdog of a function: the one whose specification says its name.
fn watchdog_of(platform: &Platform, function: &str) -> Pid {
    let serves = |pid: &Pid| {
        let arguments = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
        let mut arguments = arguments.split(|byte| *byte == 0).map(|argument| String::from_utf8_lossy(argument));
        let spec = arguments.by_ref().skip_while(|argument| argument != "--spec").nth(1).map(|path| path.into_owned());
        let spec = spec.and_then(|path| fs::read(path).ok()).unwrap_or_default();
        serde_json::from_slice::<serde_json::Value>(&spec).is_ok_and(|spec| spec["name"] == function)
    };
    eventually("a watchdog of the function", || platform.watchdogs().into_iter().find(serves))
}

/// Ends everybody's work with this thread's, so that a failure is one.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_watchdog_killed_under_load_costs_its_own_requests_and_nothing_else() {
    if !kvm_is_usable() {
        return;
    }
    let (_home, platform) = platform();
    succeeded(platform.run(["deploy", "victim", "--image", "faults"]));
    let over = AtomicBool::new(false);
    let (neighbours, served, lost) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let reached = |counter: &AtomicUsize, count| {
        eventually("progress", || {
            assert!(!over.load(Ordering::Relaxed), "a client has failed");
            (counter.load(Ordering::Relaxed) >= count).then_some(())
        });
    };
    thread::scope(|scope| {
        let _over_with_this_thread = Ends(&over);
        for client in 0..3 {
            let (platform, over, neighbours) = (&platform, &over, &neighbours);
            scope.spawn(move || {
                let _over_with_this_thread = Ends(over);
                while !over.load(Ordering::Relaxed) {
                    let sent = format!("neighbour {client} {}", neighbours.fetch_add(1, Ordering::Relaxed));
                    let reply = platform.call("echo", sent.clone());
                    assert_eq!((reply.status, reply.text()), (StatusCode::OK, sent));
                    assert_eq!(get(platform, "/function/faults/count").status, StatusCode::OK);
                }
            });
        }
        for _ in 0..4 {
            let (platform, over, served, lost) = (&platform, &over, &served, &lost);
            scope.spawn(move || {
                let _over_with_this_thread = Ends(over);
                while !over.load(Ordering::Relaxed) {
                    let reply = get(platform, "/function/victim/spin/20");
                    match reply.status {
                        StatusCode::OK => served.fetch_add(1, Ordering::Relaxed),
                        StatusCode::BAD_GATEWAY => {
                            assert!(reply.text().contains("killed by signal 9"), "{}", reply.text());
                            assert_eq!(reply.header("x-openfaas-internal"), "gateway");
                            lost.fetch_add(1, Ordering::Relaxed)
                        }
                        status => panic!("{status}: {}", reply.text()),
                    };
                }
            });
        }
        for _ in 0..3 {
            let (before, lost_before) = (served.load(Ordering::Relaxed), lost.load(Ordering::Relaxed));
            // Longer than a watchdog lives that only dies: it works, and is replaced without a pause.
            reached(&served, before + 60);
            let killed = watchdog_of(&platform, "victim");
            kill_process(killed, Signal::KILL).unwrap();
            eventually("its death", || test_kill_process(killed).is_err().then_some(()));
            let next = get(&platform, "/function/victim/count");
            assert_eq!((next.status, next.text().as_str()), (StatusCode::OK, "1"), "a new one serves");
            reached(&lost, lost_before + 1);
            let more = neighbours.load(Ordering::Relaxed) + 10;
            reached(&neighbours, more);
        }
    });
}

#[test]
fn a_request_that_its_watchdog_took_with_it_is_not_sent_again() {
    if !kvm_is_usable() {
        return;
    }
    let (_home, platform) = platform();
    succeeded(platform.run(["deploy", "once", "--image", "faults"]));
    let killed = watchdog_of(&platform, "once");
    let reply = thread::scope(|scope| {
        let lost = scope.spawn(|| get(&platform, "/function/once/log-and-loop/seen-by-the-function"));
        eventually("the request in its machine", || log_has(&platform, "once", "seen-by-the-function"));
        kill_process(killed, Signal::KILL).unwrap();
        lost.join().unwrap()
    });
    assert_eq!(reply.status, StatusCode::BAD_GATEWAY, "{}", reply.text());
    assert!(reply.text().contains("killed by signal 9"), "{}", reply.text());
    // Whatever the new watchdog was sent before this request, it has begun.
    assert_eq!(get(&platform, "/function/once/log/afterwards").status, StatusCode::OK);
    eventually("the later line", || log_has(&platform, "once", "afterwards"));
    let log = stdout(&succeeded(platform.run(["logs", "once"])));
    assert_eq!(log.matches("seen-by-the-function").count(), 1, "{log}");
}

fn log_has(platform: &Platform, function: &str, text: &str) -> Option<()> {
    stdout(&succeeded(platform.run(["logs", function]))).contains(text).then_some(())
}

#[test]
fn a_flood_of_hypercalls_is_stopped_at_the_limit_and_holds_nobody_up() {
    if !kvm_is_usable() {
        return;
    }
    let (_home, platform) = platform();
    thread::scope(|scope| {
        let floods: Vec<_> =
            (0..4).map(|_| scope.spawn(|| get(&platform, "/function/faults/hypercall-flood"))).collect();
        for _ in 0..20 {
            platform.still_serves_echo();
        }
        for flood in floods {
            let reply = flood.join().unwrap();
            assert_eq!(reply.status, StatusCode::GATEWAY_TIMEOUT, "{}", reply.text());
            assert!(reply.text().contains("500ms"), "{}", reply.text());
        }
    });
    assert_eq!(get(&platform, "/function/faults/count").text(), "1", "a new machine");
}

#[test]
fn a_flood_of_log_lines_holds_nobody_up_and_is_counted() {
    if !kvm_is_usable() {
        return;
    }
    let (_home, platform) = platform();
    succeeded(platform.run(["deploy", "chatty", "--image", "faults"]));
    thread::scope(|scope| {
        let flood = scope.spawn(|| get(&platform, "/function/chatty/log-flood/20000"));
        for _ in 0..20 {
            platform.still_serves_echo();
        }
        assert_eq!(flood.join().unwrap().status, StatusCode::OK);
    });
    eventually("the count of what was dropped", || log_has(&platform, "chatty", "log lines dropped"));
}

#[test]
fn machines_that_use_up_their_memory_at_the_same_time_end_with_the_cause_and_give_it_back() {
    if !kvm_is_usable() {
        return;
    }
    let home = home();
    let platform = Platform::start(home.path());
    platform.deploy("echo");
    succeeded(platform.run(["deploy", "greedy", "--image", "faults", "--memory", "64Mi"]));
    thread::scope(|scope| {
        let all: Vec<_> = (0..16).map(|_| scope.spawn(|| get(&platform, "/function/greedy/oom"))).collect();
        for _ in 0..10 {
            platform.still_serves_echo();
        }
        for one in all {
            let reply = one.join().unwrap();
            assert_eq!(reply.status, StatusCode::BAD_GATEWAY, "{}", reply.text());
            assert!(reply.text().contains("memory"), "{}", reply.text());
        }
    });
    assert_eq!(get(&platform, "/function/greedy/count").text(), "1");
    let watchdog = watchdog_of(&platform, "greedy");
    eventually("memory given back", || (resident_kib(watchdog) < 48 * 1024).then_some(()));
}

fn resident_kib(pid: Pid) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// A control group (version 1) with so much memory, gone with the test; none where the host does not allow it.
struct LittleMemory(PathBuf);

impl LittleMemory {
    fn of(bytes: u64) -> Option<LittleMemory> {
        let group = LittleMemory(format!("/sys/fs/cgroup/memory/kernlet-test-{}", std::process::id()).into());
        let limited =
            fs::create_dir(&group.0).and_then(|()| fs::write(group.0.join("memory.limit_in_bytes"), bytes.to_string()));
        if let Err(error) = limited {
            eprintln!("skipped: a control group with little memory cannot be made here: {error}");
            return None;
        }
        Some(group)
    }

    /// The program, inside.
    fn kernlet(&self) -> Command {
        let program = kernlet();
        let mut inside = Command::new("sh");
        let enter = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", self.0.display());
        inside.args(["-c", &enter, "sh"]).arg(program.get_program());
        like(inside, &program)
    }
}

impl Drop for LittleMemory {
    fn drop(&mut self) {
        // The kernel may still be counting the last process out.
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            thread::park_timeout(std::time::Duration::from_millis(20));
        }
    }
}

/// Gives one command the environment and folder of another.
fn like(mut command: Command, other: &Command) -> Command {
    for (name, value) in other.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.current_dir(root()).stdin(Stdio::null());
    command
}

#[test]
fn when_the_hosts_memory_runs_out_the_function_that_took_it_goes_and_nobody_else() {
    if !kvm_is_usable() {
        return;
    }
    let home = home();
    let Some(memory) = LittleMemory::of(192 << 20) else { return };
    let platform = Platform::start_with(memory.kernlet(), home.path());
    platform.deploy("echo");
    succeeded(platform.run(["deploy", "greedy", "--image", "faults", "--memory", "1Gi"]));
    let (gateway, echo) = (platform.pid(), watchdog_of(&platform, "echo"));
    let reply = get(&platform, "/function/greedy/oom");
    assert_eq!(reply.status, StatusCode::BAD_GATEWAY, "{}", reply.text());
    assert!(reply.text().contains("killed by signal 9"), "{}", reply.text());
    platform.still_serves_echo();
    assert_eq!((platform.pid(), watchdog_of(&platform, "echo")), (gateway, echo));
    assert_eq!(get(&platform, "/function/greedy/count").text(), "1", "it is served again");
}

/// A connection that sends these bytes and nothing more, and reads nothing.
fn silent(address: SocketAddr, sent: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    // The gateway may have let go of it already.
    let _ = stream.write_all(sent);
    stream
}

#[test]
fn clients_that_connect_and_fall_silent_keep_nobody_out() {
    if !kvm_is_usable() {
        return;
    }
    let home = home();
    let mut limited = Command::new("sh");
    let program = kernlet();
    limited.args(["-c", "ulimit -n 256; exec \"$@\"", "sh"]).arg(program.get_program());
    let platform = Platform::start_with(like(limited, &program), home.path());
    platform.deploy("echo");
    let mut silent_ones = Vec::new();
    for sent in [&b""[..], b"GET /function/echo HTTP/1.1\r\nhost:", b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"] {
        // More than it has descriptors.
        silent_ones.extend((0..300).map(|_| silent(platform.address(), sent)));
        platform.still_serves_echo();
    }
}

#[test]
fn clients_that_send_half_a_request_hold_places_of_its_function_and_of_no_other() {
    if !kvm_is_usable() {
        return;
    }
    let home = home();
    let platform = Platform::start(home.path());
    platform.deploy("echo");
    succeeded(platform.run(["deploy", "patient", "--image", "echo", "--env", "max_inflight=4"]));
    let half = b"POST /function/patient HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\nthe beginning";
    let mut halves = Vec::new();
    eventually("all places taken", || {
        halves.push(silent(platform.address(), half));
        (platform.call("patient", "").status == StatusCode::TOO_MANY_REQUESTS).then_some(())
    });
    for _ in 0..20 {
        platform.still_serves_echo();
    }
    // Clients that go, and say so, leave their places to the next.
    drop(halves);
    eventually("a free place", || (platform.call("patient", "").status == StatusCode::OK).then_some(()));
}

#[test]
fn clients_that_do_not_read_their_answers_keep_nobody_out() {
    if !kvm_is_usable() {
        return;
    }
    let home = home();
    let platform = Platform::start(home.path());
    platform.deploy("echo");
    let large = ["--annotation", "dev.kernlet.limits.response=64Mi", "--memory", "256Mi"];
    succeeded(platform.run(["deploy", "large", "--image", "faults"].into_iter().chain(large)));
    let request = b"GET /function/large/size/20000000 HTTP/1.1\r\nhost: x\r\n\r\n";
    let mut unread: Vec<_> = (0..12).map(|_| silent(platform.address(), request)).collect();
    for stream in &mut unread {
        // The answer is under way.
        let mut first = [0; 15];
        stream.read_exact(&mut first).unwrap();
        assert_eq!(&first, b"HTTP/1.1 200 OK");
    }
    for _ in 0..10 {
        platform.still_serves_echo();
        assert_eq!(get(&platform, "/function/large/count").status, StatusCode::OK);
    }
    // One that reads after all gets everything.
    let mut rest = Vec::new();
    unread.pop().unwrap().take(20_000_000).read_to_end(&mut rest).unwrap();
    assert_eq!(rest.len(), 20_000_000);
}

/// A small disk of memory, in a mount namespace of its own that a sleeping process holds.
struct SmallDisk {
    holder: Child,
    folder: TempDir,
}

impl SmallDisk {
    /// One of so many KiB; none where the host does not allow it.
    fn of(kib: u32) -> Option<SmallDisk> {
        let folder = tempfile::tempdir().unwrap();
        let mut unshare = Command::new("unshare");
        if !rustix::process::geteuid().is_root() {
            unshare.args(["--user", "--map-root-user"]);
        }
        let mount = "mount -t tmpfs -o size=$1k,mode=700 none \"$2\" && echo mounted && exec sleep 3600";
        unshare.args(["--mount", "sh", "-c", mount, "sh", &kib.to_string()]).arg(folder.path());
        let mut holder = unshare.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let disk = SmallDisk { holder, folder };
        if line.trim_end() != "mounted" {
            eprintln!("skipped: a small disk cannot be mounted here");
            return None;
        }
        Some(disk)
    }

    /// Where it is, for programs inside.
    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Where it is, seen from here.
    fn seen(&self, name: &str) -> PathBuf {
        let inside = self.folder.path().strip_prefix("/").unwrap();
        Path::new("/proc").join(self.holder.id().to_string()).join("root").join(inside).join(name)
    }

    /// A program inside.
    fn run(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        if !rustix::process::geteuid().is_root() {
            command.args(["--user", "--preserve-credentials"]);
        }
        command.args(["--mount", "--target", &self.holder.id().to_string(), "--", program]);
        command
    }

    /// `kernlet` inside, with its home there.
    fn kernlet(&self) -> Command {
        let program = kernlet();
        let mut command = like(self.run(&program.get_program().to_string_lossy()), &program);
        command.env("KERNLET_HOME", self.path());
        command
    }

    /// Takes all of its room.
    fn fill(&self) {
        let mut file = File::options().create(true).append(true).open(self.seen("filler")).unwrap();
        let error = loop {
            if let Err(error) = file.write_all(&[0; 4096]) {
                break error;
            }
        };
        assert_eq!(error.kind(), ErrorKind::StorageFull);
    }

    /// Gives the room back.
    fn make_room(&self) {
        fs::remove_file(self.seen("filler")).unwrap();
    }

    fn files(&self, folder: &str) -> Vec<PathBuf> {
        let mut files: Vec<_> = fs::read_dir(self.seen(folder)).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ended_meanwhile = self.holder.kill();
        let _ended_meanwhile = self.holder.wait();
    }
}

#[test]
fn an_image_that_does_not_fit_the_disk_is_refused_and_leaves_nothing() {
    let Some(disk) = SmallDisk::of(2048) else { return };
    // Its build is cached, so that only the store's work is done here.
    drop(home());
    let build = |function: &str| {
        let folder = root().join("functions").join(function);
        disk.kernlet().arg("build").arg(folder).args(["-t", function]).output().unwrap()
    };
    succeeded(build("echo"));
    let before = disk.files("images/blobs/sha256");
    // The model alone is larger than the disk.
    let said = failed(&build("classify"));
    assert!(said.contains("cannot write") && said.contains("images/tmp"), "{said}");
    assert!(said.contains("free some space on that disk"), "{said}");
    assert_eq!(disk.files("images/blobs/sha256"), before);
    assert!(disk.files("images/tmp").is_empty());
    let listed = stdout(&succeeded(disk.kernlet().arg("images").output().unwrap()));
    assert!(listed.contains("echo") && !listed.contains("classify"), "{listed}");

    let room = "mount -o remount,size=64m \"$1\"";
    succeeded(disk.run("sh").args(["-c", room, "sh"]).arg(disk.path()).output().unwrap());
    succeeded(build("classify"));
}

#[test]
fn on_a_full_disk_nothing_acknowledged_is_lost_and_functions_go_on() {
    if !kvm_is_usable() {
        return;
    }
    let Some(disk) = SmallDisk::of(4096) else { return };
    drop(home());
    for function in ["echo", "faults"] {
        let folder = root().join("functions").join(function);
        succeeded(disk.kernlet().arg("build").arg(folder).args(["-t", function]).output().unwrap());
    }
    let platform = Platform::start_with(disk.kernlet(), disk.path());
    let authorization = {
        let read = |name: &str| fs::read_to_string(disk.seen("auth").join(name)).unwrap();
        (read("basic-auth-user").trim_end().to_owned(), read("basic-auth-password").trim_end().to_owned())
    };
    let run = |args: &[&str]| {
        let mut command = platform.command();
        command.env("OPENFAAS_USER", &authorization.0).env("OPENFAAS_PASSWORD", &authorization.1);
        command.args(args).output().unwrap()
    };
    succeeded(run(&["deploy", "echo", "--image", "echo"]));
    succeeded(run(&["deploy", "faults", "--image", "faults"]));

    disk.fill();
    for args in [&["deploy", "second", "--image", "echo"][..], &["scale", "echo", "2"]] {
        let said = failed(&run(args));
        assert!(said.contains("check the disk") && said.contains(&*disk.path().to_string_lossy()), "{said}");
    }
    let listed = stdout(&succeeded(run(&["list"])));
    assert!(listed.contains("echo") && listed.contains("1/1") && !listed.contains("second"), "{listed}");
    // Its lines cannot be written, and it goes on.
    for _ in 0..3 {
        assert_eq!(get(&platform, "/function/faults/log-flood/500").status, StatusCode::OK);
        platform.still_serves_echo();
    }

    disk.make_room();
    succeeded(run(&["deploy", "second", "--image", "echo"]));
    succeeded(run(&["remove", "faults"]));
    platform.kill();
    let platform = Platform::start_with(disk.kernlet(), disk.path());
    platform.still_serves_echo();
    assert_eq!(platform.call("second", "here").text(), "here");
    assert_eq!(platform.call("faults", "").status, StatusCode::NOT_FOUND);
}

//! Takes over watchdogs of a running platform, as an attacker who has broken out of a machine would, and tries what they
//! could try: a debugger makes their own threads carry out system calls. Every thread, as it really runs.
//! It never weakens the jail for the test's sake.
#![allow(clippy::cast_sign_loss, clippy::cast_possible_truncation, reason = "arguments of system calls are words")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::collections::BTreeSet;
use std::ffi::{CString, c_void};
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::ptr;

use common::{Platform, eventually, home, kernlet, kvm_is_usable, stdout, succeeded};
use rustix::process::Pid;

/// Whether the jail can hold whole here. Says so when not.
fn jail_is_whole() -> bool {
    kvm_is_usable() && runs_as_root()
}

/// Whether a jail without KVM can.
fn runs_as_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: it needs root, who alone can give a watchdog a user of its own");
    }
    root
}

/// A thread of a watchdog that does what the test wants.
struct TakenOver {
    thread: i32,
    /// The watchdog's memory.
    memory: File,
    /// Where the thread was.
    saved: libc::user_regs_struct,
    /// Whether the debugger still has it.
    held: bool,
}

/// What became of a system call.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// It was carried out, or answered with the negative number of an error.
    Returned(i64),
    /// The thread was sent SIGSYS for it.
    Refused,
}

/// An argument of a system call.
#[derive(Clone, Copy, Debug)]
enum Arg {
    Number(u64),
    Text(&'static str),
    /// Zeroes, and the address of them.
    Zeroes,
}

use Arg::{Number, Text, Zeroes};

/// A call that every thread may make.
const GETPID: u64 = libc::SYS_getpid.cast_unsigned();

fn ptrace(request: libc::c_uint, thread: i32, data: *mut c_void) -> libc::c_long {
    // SAFETY: `data` is what the request wants: nothing, a number, or registers of ours that live.
    let result = unsafe { libc::ptrace(request, thread, ptr::null_mut::<c_void>(), data) };
    assert!(result >= 0, "ptrace {request}: {}", std::io::Error::last_os_error());
    result
}

impl TakenOver {
    /// Stops a thread inside the system call in which it waits.
    fn new(process: Pid, thread: i32) -> Self {
        ptrace(libc::PTRACE_SEIZE, thread, ptr::null_mut());
        ptrace(libc::PTRACE_INTERRUPT, thread, ptr::null_mut());
        let path = format!("/proc/{}/mem", process.as_raw_nonzero());
        let memory = File::options().read(true).write(true).open(path).unwrap();
        // SAFETY: registers are plain numbers.
        let mut taken = Self { thread, memory, saved: unsafe { std::mem::zeroed() }, held: true };
        taken.wait();
        taken.saved = taken.registers();
        let mut instruction = [0; 2];
        taken.memory.read_exact_at(&mut instruction, taken.saved.rip - 2).unwrap();
        assert_eq!(instruction, [0x0f, 0x05], "a thread that waits stands behind a syscall instruction");
        taken
    }

    /// The signal with which the thread has stopped.
    fn wait(&self) -> i32 {
        let mut status = 0;
        // SAFETY: the status is written to a variable of ours.
        assert_eq!(unsafe { libc::waitpid(self.thread, &raw mut status, libc::__WALL) }, self.thread);
        assert!(libc::WIFSTOPPED(status), "{status:#x}");
        libc::WSTOPSIG(status)
    }

    fn registers(&self) -> libc::user_regs_struct {
        // SAFETY: registers are plain numbers.
        let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
        ptrace(libc::PTRACE_GETREGS, self.thread, (&raw mut registers).cast());
        registers
    }

    fn set(&self, mut registers: libc::user_regs_struct) {
        ptrace(libc::PTRACE_SETREGS, self.thread, (&raw mut registers).cast());
    }

    /// Makes the thread carry out a system call; gives the signal that it stopped with.
    fn begin(&self, number: libc::c_long, args: &[Arg]) -> i32 {
        // Below the red zone.
        let mut free = self.saved.rsp - 4096;
        let mut values = [0; 6];
        for (value, arg) in values.iter_mut().zip(args) {
            let bytes = match arg {
                Number(number) => {
                    *value = *number;
                    continue;
                }
                Text(text) => CString::new(*text).unwrap().into_bytes_with_nul(),
                Zeroes => vec![0; 128],
            };
            self.memory.write_all_at(&bytes, free).unwrap();
            *value = free;
            free += 256;
        }
        let [rdi, rsi, rdx, r10, r8, r9] = values;
        let rax = number.cast_unsigned();
        let (rip, orig_rax) = (self.saved.rip - 2, u64::MAX);
        self.set(libc::user_regs_struct { rdi, rsi, rdx, r10, r8, r9, rax, rip, orig_rax, ..self.saved });
        ptrace(libc::PTRACE_SINGLESTEP, self.thread, ptr::null_mut());
        self.wait()
    }

    fn call(&self, number: libc::c_long, args: &[Arg]) -> Outcome {
        let outcome = match self.begin(number, args) {
            libc::SIGTRAP => Outcome::Returned(self.registers().rax.cast_signed()),
            libc::SIGSYS => {
                // The end of the step is still to be told.
                self.set(libc::user_regs_struct {
                    rip: self.saved.rip - 2,
                    rax: GETPID,
                    orig_rax: u64::MAX,
                    ..self.saved
                });
                ptrace(libc::PTRACE_SINGLESTEP, self.thread, ptr::null_mut());
                assert_eq!(self.wait(), libc::SIGTRAP);
                Outcome::Refused
            }
            signal => panic!("stopped by signal {signal}"),
        };
        self.set(self.saved);
        outcome
    }

    /// Makes the call and lets the thread have what comes of it.
    fn call_and_let_go(mut self, number: libc::c_long, args: &[Arg]) {
        let signal = self.begin(number, args);
        ptrace(libc::PTRACE_DETACH, self.thread, ptr::without_provenance_mut(signal.unsigned_abs() as usize));
        self.held = false;
    }
}

impl Drop for TakenOver {
    fn drop(&mut self) {
        if !self.held {
            return;
        }
        // SAFETY: no data; a thread that is gone gives an error, which is as good.
        unsafe { libc::ptrace(libc::PTRACE_DETACH, self.thread, ptr::null_mut::<c_void>(), ptr::null_mut::<c_void>()) };
    }
}

/// The threads of a process, with their names.
fn threads(process: Pid) -> Vec<(i32, String)> {
    let tasks = fs::read_dir(format!("/proc/{}/task", process.as_raw_nonzero())).unwrap();
    let named = tasks.map(|task| {
        let path = task.unwrap().path();
        let name = fs::read_to_string(path.join("comm")).unwrap().trim_end().to_owned();
        (path.file_name().unwrap().to_str().unwrap().parse().unwrap(), name)
    });
    // Threads of the kernel's own that serve this process's machines run none of its code.
    named.filter(|(_, name)| !name.starts_with("kvm-")).collect()
}

const FORK: &str = "fork by clone";

/// What an attacker wants, and the system calls for it.
fn attacks(other: Pid, port: u16) -> Vec<(&'static str, libc::c_long, Vec<Arg>)> {
    let (other, at) = (other.as_raw_nonzero().get().unsigned_abs().into(), libc::AT_FDCWD as u64);
    let inet = libc::AF_INET as u64;
    let stream = libc::SOCK_STREAM as u64;
    vec![
        ("read a file", libc::SYS_openat, vec![Number(at), Text("/etc/passwd"), Number(0)]),
        ("read a file, the old way", libc::SYS_open, vec![Text("/etc/passwd"), Number(0)]),
        ("read a file, the new way", libc::SYS_openat2, vec![Number(at), Text("/etc/passwd"), Zeroes, Number(24)]),
        ("list the root folder", libc::SYS_openat, vec![Number(at), Text("/"), Number(0)]),
        ("open /dev/kvm", libc::SYS_openat, vec![Number(at), Text("/dev/kvm"), Number(2)]),
        ("make a socket", libc::SYS_socket, vec![Number(inet), Number(stream), Number(0)]),
        ("make a local socket", libc::SYS_socket, vec![Number(1), Number(stream), Number(0)]),
        ("connect the socket that it listens on", libc::SYS_connect, vec![Number(0), Zeroes, Number(port.into())]),
        ("execute a program", libc::SYS_execve, vec![Text("/bin/true"), Number(0), Number(0)]),
        (
            "execute what is open",
            libc::SYS_execveat,
            vec![Number(0), Text(""), Number(0), Number(0), Number(libc::AT_EMPTY_PATH as u64)],
        ),
        ("fork", libc::SYS_fork, vec![]),
        (FORK, libc::SYS_clone, vec![Number(libc::SIGCHLD as u64)]),
        (
            "fork into namespaces of its own",
            libc::SYS_clone,
            vec![Number((libc::CLONE_NEWUSER | libc::CLONE_NEWPID | libc::SIGCHLD) as u64)],
        ),
        (
            "trace another watchdog, the old way",
            libc::SYS_ptrace,
            vec![Number(libc::PTRACE_ATTACH.into()), Number(other)],
        ),
        (
            "map code over the program",
            libc::SYS_mmap,
            vec![Number(1 << 46), Number(4096), Number(5), Number(0x4011), Number(0), Number(0)],
        ),
        ("trace another watchdog", libc::SYS_ptrace, vec![Number(libc::PTRACE_SEIZE.into()), Number(other)]),
        ("kill another watchdog", libc::SYS_kill, vec![Number(other), Number(9)]),
        ("kill everything", libc::SYS_kill, vec![Number(u64::MAX), Number(9)]),
        ("kill a thread", libc::SYS_tgkill, vec![Number(other), Number(other), Number(9)]),
        (
            "read another watchdog's memory",
            libc::SYS_process_vm_readv,
            vec![Number(other), Zeroes, Number(1), Zeroes, Number(1)],
        ),
        ("mount", libc::SYS_mount, vec![Text("none"), Text("/"), Text("tmpfs"), Number(0), Number(0)]),
        ("leave the namespaces", libc::SYS_setns, vec![Number(0), Number(0)]),
        ("make namespaces", libc::SYS_unshare, vec![Number(libc::CLONE_NEWUSER as u64)]),
        ("become root", libc::SYS_setresuid, vec![Number(0), Number(0), Number(0)]),
        ("use the kernel's keys", libc::SYS_keyctl, vec![Number(0), Number(0xffff_fffd), Number(1)]),
        ("load BPF", libc::SYS_bpf, vec![Number(0), Zeroes, Number(72)]),
        ("use perf", libc::SYS_perf_event_open, vec![Zeroes, Number(0), Number(u64::MAX), Number(u64::MAX), Number(0)]),
        ("use io_uring", libc::SYS_io_uring_setup, vec![Number(1), Zeroes]),
        ("use userfaultfd", libc::SYS_userfaultfd, vec![Number(1)]),
        (
            "map code",
            libc::SYS_mmap,
            vec![Number(0), Number(4096), Number(7), Number(0x22), Number(u64::MAX), Number(0)],
        ),
        ("make its stack executable", libc::SYS_mprotect, vec![Zeroes, Number(1), Number(7)]),
        ("type into the terminal", libc::SYS_ioctl, vec![Number(0), Number(libc::TIOCSTI), Text("x")]),
        ("be traced", libc::SYS_prctl, vec![Number(libc::PR_SET_DUMPABLE as u64), Number(1)]),
    ]
}

#[test]
fn no_thread_of_a_watchdog_that_was_taken_over_gets_anything() {
    if jail_is_whole() {
        let home = home();
        let roles = ["kernlet", "connection", "shells", "keeper", "deadlines", "log"];
        take_over_every_thread(&Platform::start(home.path()), &roles, &[]);
    }
}

#[test]
fn no_thread_of_a_watchdog_whose_machines_are_processes_gets_anything_either() {
    if !runs_as_root() {
        return;
    }
    let home = home();
    let mut program = kernlet();
    program.env("KERNLET_BACKEND", "process").env("KERNLET_JAIL", "required");
    let platform = Platform::start_with(program, home.path());
    let roles = ["kernlet", "connection", "processes", "guest", "keeper", "deadlines", "log"];
    // The first thread makes the others, so it may do what they may.
    take_over_every_thread(&platform, &roles, &["kernlet", "processes", "guest"]);
    let logged = stdout(&succeeded(platform.run(["logs", "echo"])));
    assert!(logged.contains("backend process") && logged.contains("jailed by: "), "{logged}");
    assert!(logged.contains("seccomp (8 roles)") && !logged.contains("jailed, but"), "{logged}");
}

/// Tries every attack on every thread of a watchdog, which has to have threads of these names. `makers` may make processes.
fn take_over_every_thread(platform: &Platform, roles: &[&str], makers: &[&str]) {
    platform.deploy("echo");
    let first: BTreeSet<i32> = platform.watchdogs().into_iter().map(|pid| pid.as_raw_nonzero().get()).collect();
    platform.deploy("tour");
    platform.still_serves_echo();
    let (ours, other): (Vec<Pid>, Vec<Pid>) =
        platform.watchdogs().into_iter().partition(|pid| first.contains(&pid.as_raw_nonzero().get()));
    let (ours, other) = (ours[0], other[0]);
    // Threads that only started the function are gone after a while.
    let names = eventually("the threads that stay", || {
        let threads = threads(ours);
        let passing = threads.iter().any(|(_, name)| name == "preload" || name == "template");
        (!passing).then_some(threads)
    });
    for role in roles {
        assert!(names.iter().any(|(_, name)| name == role), "{role}: {names:?}");
    }
    for (thread, name) in names {
        let makes_processes = makers.contains(&name.as_str());
        let taken = TakenOver::new(ours, thread);
        assert!(matches!(taken.call(libc::SYS_getpid, &[]), Outcome::Returned(1)), "the first process that it can see");
        for (what, number, args) in attacks(other, platform.address().port()) {
            if makes_processes && what == FORK {
                // It may, and its child is no more than it is itself; but this one would run away from the debugger.
                continue;
            }
            match taken.call(number, &args) {
                Outcome::Refused => {}
                // There are no files for it, whatever it asks for, and no processes but its own.
                Outcome::Returned(error) => {
                    let answered = match number {
                        libc::SYS_kill if makes_processes => libc::ESRCH,
                        libc::SYS_openat => libc::ENOSYS,
                        _ => panic!("{name}: {what}: {error}"),
                    };
                    assert_eq!(error, -i64::from(answered), "{name}: {what}");
                }
            }
        }
    }
    platform.still_serves_echo();
}

#[test]
fn a_call_that_is_not_allowed_ends_the_watchdog_and_is_named_in_its_log() {
    if !jail_is_whole() {
        return;
    }
    let home = home();
    let platform = Platform::start(home.path());
    platform.deploy("echo");
    platform.still_serves_echo();
    let watchdog = platform.watchdogs()[0];
    let (log, _) = threads(watchdog).into_iter().find(|(_, name)| name == "log").unwrap();
    TakenOver::new(watchdog, log).call_and_let_go(libc::SYS_execve, &[Text("/bin/true")]);
    let wanted = format!("system call {} (execve) is not allowed on thread log", libc::SYS_execve);
    eventually("the line in the log", || {
        let logged = stdout(&succeeded(platform.run(["logs", "echo"])));
        logged.contains(&wanted).then_some(())
    });
    // What is under way at that moment goes down with it.
    eventually("the watchdog's end", || (!platform.watchdogs().contains(&watchdog)).then_some(()));
    platform.still_serves_echo();
}

#[test]
fn every_layer_holds_for_the_watchdogs_of_a_platform_that_runs_as_root() {
    if !jail_is_whole() {
        return;
    }
    let home = home();
    let platform = Platform::start(home.path());
    platform.deploy("echo");
    platform.deploy("tour");
    let mut users = BTreeSet::new();
    for watchdog in platform.watchdogs() {
        let proc = |file: &str| format!("/proc/{}/{file}", watchdog.as_raw_nonzero());
        let status = fs::read_to_string(proc("status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t")).unwrap();
            line.split_ascii_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        let uids: BTreeSet<String> = field("Uid").into_iter().collect();
        assert_eq!(uids.len(), 1, "{uids:?}");
        users.extend(uids);
        assert_eq!(field("NSpid").last().unwrap(), "1");
        assert_eq!((field("NoNewPrivs"), field("Seccomp")), (vec!["1".to_owned()], vec!["2".to_owned()]));
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(field(set), ["0000000000000000"], "{set}");
        }
        assert_eq!(fs::read_dir(proc("root")).unwrap().count(), 0, "its root folder is empty");
        assert!(fs::read_to_string(proc("mounts")).unwrap().lines().all(|mount| mount.starts_with("none / tmpfs ro,")));
        let network = fs::read_to_string(proc("net/dev")).unwrap();
        assert!(network.lines().skip(2).all(|line| line.trim_start().starts_with("lo:")), "{network}");
        for namespace in ["mnt", "net", "ipc", "uts", "pid", "cgroup"] {
            let of = |who: &str| fs::read_link(format!("/proc/{who}/ns/{namespace}")).unwrap();
            assert_ne!(of(&watchdog.as_raw_nonzero().to_string()), of("self"), "{namespace}");
        }
    }
    assert_eq!(users.len(), 2, "{users:?}");
    assert!(!users.contains("0"));
    let logged = stdout(&succeeded(platform.run(["logs", "echo"])));
    assert!(logged.contains("jailed by: ") && !logged.contains("jailed, but"), "{logged}");
}

#[test]
fn a_replicas_control_group_is_there_with_it_and_goes_with_it() {
    if !jail_is_whole() || kernlet_jail::cgroup::Cgroups::open("kernlet-test").is_err() {
        eprintln!("skipped: it needs control groups");
        return;
    }
    let home = home();
    let platform = Platform::start(home.path());
    platform.deploy("echo");
    let groups = fs::read_to_string(format!("/proc/{}/cgroup", platform.watchdogs()[0].as_raw_nonzero())).unwrap();
    let group = groups.lines().find_map(|line| line.split_once("memory:").map(|(_, path)| path.to_owned()));
    let unified = groups.lines().find_map(|line| line.strip_prefix("0::").map(str::to_owned));
    let path = group.or(unified).unwrap();
    assert!(path.contains("/kernlet-"), "{groups}");
    let replica = path.rsplit('/').next().unwrap().to_owned();
    let there = || {
        let found = std::process::Command::new("find").args(["/sys/fs/cgroup", "-name", &replica]).output().unwrap();
        !found.stdout.is_empty()
    };
    assert!(there());
    // Nor is one taken away while others start and end.
    drop(kernlet_jail::cgroup::Cgroups::open("kernlet-test"));
    assert!(there());
    succeeded(platform.run(["remove", "echo"]));
    eventually("the group's end", || (!there()).then_some(()));
}

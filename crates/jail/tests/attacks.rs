//! A process that was taken over, in the jail: what it tries, and what becomes of that. First with every layer, then with
//! each layer alone, so that none is only thought to hold because another one does.
//! Each attempt is really made, by a child of the test, against files, sockets and processes that are really there.
#![allow(clippy::cast_sign_loss, clippy::cast_possible_truncation, reason = "arguments of system calls are words")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::{
    ffi::CString,
    fs::{self, File},
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        linux::net::SocketAddrExt as _,
        unix::{
            fs::{OpenOptionsExt as _, PermissionsExt as _},
            net::{SocketAddr as UnixAddress, UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    ptr,
};

use kernlet_jail::{Jail, Layer, Limits, Machines, Mode, Report, Role, confine, in_new_pid_namespace};
use rustix::{
    pipe::{PipeFlags, pipe_with},
    process::{Signal, set_parent_process_death_signal},
};
use tempfile::TempDir;

/// The status of a process that made a system call which is not allowed.
const REFUSED: i32 = 159;

/// What there is to attack: the files of a platform, its port, and another function's watchdog.
struct Target {
    home: TempDir,
    port: SocketAddr,
    _gateway: TcpListener,
    hidden: UnixAddress,
    _listener: UnixListener,
    victim: Child,
    /// Something of the victim's memory.
    secret: Box<[u8; 16]>,
    program: File,
}

impl Target {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        // Where anybody may read; only the layer in question protects it.
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(home.path().join("public"), "an image of another function").unwrap();
        let mut private = File::options();
        private.write(true).create_new(true).mode(0o600);
        private.open(home.path().join("private")).unwrap().write_all(b"the admin's password").unwrap();
        let hidden = UnixAddress::from_abstract_name(format!("kernlet-jail-test-{}", home.path().display())).unwrap();
        let listener = UnixListener::bind_addr(&hidden).unwrap();
        let secret = Box::new(*b"another's secret");
        let victim = Child::fork(false, || {
            set_parent_process_death_signal(Some(Signal::KILL)).unwrap();
            loop {
                std::thread::park();
            }
        });
        let gateway = TcpListener::bind("127.0.0.1:0").unwrap();
        Self {
            home,
            port: gateway.local_addr().unwrap(),
            _gateway: gateway,
            hidden,
            _listener: listener,
            victim,
            secret,
            program: File::open("/bin/true").unwrap(),
        }
    }

    fn public(&self) -> PathBuf {
        self.home.path().join("public")
    }

    fn private(&self) -> PathBuf {
        self.home.path().join("private")
    }
}

fn pipe() -> (OwnedFd, OwnedFd) {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    (write, read)
}

/// A process that the test has started, killed with it.
struct Child {
    pid: libc::pid_t,
    output: Option<File>,
}

impl Child {
    /// Runs `body` in a child, whose standard error is what the test reads together with what `body` returns.
    fn fork(in_namespace: bool, body: impl FnOnce() -> String) -> Self {
        let (write, read) = pipe();
        let start = || {
            // SAFETY: the child runs `body` and ends; it takes no lock that another thread may hold but the allocator's,
            // which the C library keeps usable.
            let forked = unsafe { libc::fork() };
            if forked == 0 {
                rustix::stdio::dup2_stderr(&write).unwrap();
                let said = body();
                let _ = File::from(write).write_all(said.as_bytes());
                // SAFETY: ends the child at once.
                unsafe { libc::_exit(0) }
            }
            drop(write);
            forked
        };
        let pid = if in_namespace { in_new_pid_namespace(start).0 } else { start() };
        assert!(pid > 0);
        Self { pid, output: Some(File::from(read)) }
    }

    /// What it wrote, and its exit status or the negative number of the signal that killed it.
    fn finish(mut self) -> (String, i32) {
        let mut said = String::new();
        self.output.take().unwrap().read_to_string(&mut said).unwrap();
        let mut status = 0;
        // SAFETY: the status is written to a variable of ours.
        assert_eq!(unsafe { libc::waitpid(self.pid, &raw mut status, 0) }, self.pid);
        let ended = if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { -libc::WTERMSIG(status) };
        self.pid = 0;
        (said, ended)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.pid > 0 {
            // SAFETY: a child of ours that has not been waited for.
            unsafe { libc::kill(self.pid, libc::SIGKILL) };
            // SAFETY: as above; no status is asked for.
            unsafe { libc::waitpid(self.pid, ptr::null_mut(), 0) };
        }
    }
}

/// Makes a system call as an attacker would.
fn call(number: libc::c_long, args: [usize; 6]) -> io::Result<usize> {
    let [a, b, c, d, e, f] = args;
    // SAFETY: only made in a child that is thrown away; the pointers among the arguments are to live objects.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

fn text(text: &str) -> CString {
    CString::new(text).unwrap()
}

/// One thing that an attacker tries. `Ok` says that it worked.
type Attempt = (&'static str, fn(&Target) -> io::Result<()>);

fn read(path: &Path) -> io::Result<()> {
    File::open(path)?.read_exact(&mut [0])
}

const READ_PUBLIC: Attempt = ("read another function's image", |target| read(&target.public()));
const READ_PRIVATE: Attempt = ("read the password", |target| read(&target.private()));
const WRITE_FILE: Attempt = ("write a file", |target| fs::write(target.home.path().join("public"), "changed"));
const MAKE_FILE: Attempt = ("make a file", |_| fs::write("/tmp/kernlet-jail-test", ""));
const LIST_ROOT: Attempt = ("list the root folder", |_| match fs::read_dir("/")?.next() {
    Some(_) => Ok(()),
    None => Err(io::ErrorKind::NotFound.into()),
});
const OPEN_KVM: Attempt =
    ("open /dev/kvm again", |_| File::options().read(true).write(true).open("/dev/kvm").map(drop));
const OLD_OPEN: Attempt = ("open with the oldest call", |target| {
    let path = text(target.public().to_str().unwrap());
    call(libc::SYS_open, [path.as_ptr() as usize, 0, 0, 0, 0, 0]).map(drop)
});
const OPEN2: Attempt = ("open with openat2", |target| {
    let (path, how) = (text(target.public().to_str().unwrap()), [0_u64; 3]);
    let at = libc::AT_FDCWD as usize;
    call(libc::SYS_openat2, [at, path.as_ptr() as usize, how.as_ptr() as usize, 24, 0, 0]).map(drop)
});
const CONNECT: Attempt = ("connect to the gateway", |target| TcpStream::connect(target.port).map(drop));
const BIND: Attempt = ("listen on TCP", |_| TcpListener::bind("127.0.0.1:0").map(drop));
const SEND_UDP: Attempt = ("send over UDP", |_| UdpSocket::bind("0.0.0.0:0")?.send_to(&[0], "192.0.2.1:9").map(drop));
const ABSTRACT: Attempt =
    ("connect to an abstract socket", |target| UnixStream::connect_addr(&target.hidden).map(drop));
const EXEC: Attempt = ("execute a program", |_| {
    let (path, arguments) = (text("/bin/true"), [ptr::null::<u8>()]);
    let arguments = arguments.as_ptr() as usize;
    call(libc::SYS_execve, [path.as_ptr() as usize, arguments, arguments, 0, 0, 0]).map(drop)
});
const EXEC_OPEN: Attempt = ("execute a program that is open", |target| {
    let (path, arguments) = (text(""), [ptr::null::<u8>()]);
    let (fd, arguments) = (target.program.as_raw_fd() as usize, arguments.as_ptr() as usize);
    let flags = libc::AT_EMPTY_PATH as usize;
    call(libc::SYS_execveat, [fd, path.as_ptr() as usize, arguments, arguments, flags, 0]).map(drop)
});
const FORK: Attempt = ("fork", |_| match call(libc::SYS_clone, [libc::SIGCHLD as usize, 0, 0, 0, 0, 0])? {
    // SAFETY: the child of the child has nothing to do.
    0 => unsafe { libc::_exit(0) },
    _ => Ok(()),
});
const TRACE: Attempt = ("trace another watchdog", |target| {
    call(libc::SYS_ptrace, [libc::PTRACE_SEIZE as usize, target.victim.pid as usize, 0, 0, 0, 0]).map(drop)
});
const KILL: Attempt =
    ("signal another watchdog", |target| call(libc::SYS_kill, [target.victim.pid as usize, 0, 0, 0, 0, 0]).map(drop));
const KILL_THREAD: Attempt = ("signal another watchdog's thread", |target| {
    let pid = target.victim.pid as usize;
    call(libc::SYS_tgkill, [pid, pid, 0, 0, 0, 0]).map(drop)
});
const READ_MEMORY: Attempt = ("read another watchdog's memory", |target| {
    let mut stolen = [0_u8; 16];
    let to = libc::iovec { iov_base: stolen.as_mut_ptr().cast(), iov_len: stolen.len() };
    // The victim is a fork of the test, so the same address holds the same.
    let from = libc::iovec { iov_base: target.secret.as_ptr().cast_mut().cast(), iov_len: 16 };
    let (to, from) = (&raw const to as usize, &raw const from as usize);
    call(libc::SYS_process_vm_readv, [target.victim.pid as usize, to, 1, from, 1, 0]).map(drop)
});
const OPEN_MEMORY: Attempt =
    ("open another watchdog's memory", |target| File::open(format!("/proc/{}/mem", target.victim.pid)).map(drop));
const MOUNT: Attempt = ("mount", |_| {
    let (none, at) = (text("tmpfs"), text("/"));
    let none = none.as_ptr() as usize;
    call(libc::SYS_mount, [none, at.as_ptr() as usize, none, 0, 0, 0]).map(drop)
});
const NEW_USER: Attempt =
    ("make a user namespace", |_| call(libc::SYS_unshare, [libc::CLONE_NEWUSER as usize, 0, 0, 0, 0, 0]).map(drop));
const BECOME_ROOT: Attempt = ("become root", |_| call(libc::SYS_setuid, [0; 6]).map(drop));
const KEYS: Attempt = ("use the kernel's keys", |_| call(libc::SYS_keyctl, [0, 0xffff_fffd, 1, 0, 0, 0]).map(drop));
const BPF: Attempt = ("load a BPF program", |_| {
    let map = [1_u32, 4, 4, 1, 0];
    call(libc::SYS_bpf, [0, map.as_ptr() as usize, 20, 0, 0, 0]).map(drop)
});
const PERF: Attempt = ("watch with perf", |_| {
    let mut event = [0_u64; 16];
    event[0] = 1 | 128 << 32;
    let event = event.as_ptr() as usize;
    call(libc::SYS_perf_event_open, [event, 0, usize::MAX, usize::MAX, 0, 0]).map(drop)
});
const IO_URING: Attempt = ("use io_uring", |_| {
    let parameters = [0_u64; 15];
    call(libc::SYS_io_uring_setup, [1, parameters.as_ptr() as usize, 0, 0, 0, 0]).map(drop)
});
const USERFAULTFD: Attempt = ("use userfaultfd", |_| call(libc::SYS_userfaultfd, [1, 0, 0, 0, 0, 0]).map(drop));
const MAP_CODE: Attempt = ("map memory to write code to", |_| {
    let (access, flags) = (libc::PROT_WRITE | libc::PROT_EXEC, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    call(libc::SYS_mmap, [0, 4096, access as usize, flags as usize, usize::MAX, 0]).map(drop)
});
const PROTECT_CODE: Attempt = ("make written memory executable", |_| {
    let (access, flags) = (libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    let at = call(libc::SYS_mmap, [0, 4096, access as usize, flags as usize, usize::MAX, 0])?;
    call(libc::SYS_mprotect, [at, 4096, (libc::PROT_READ | libc::PROT_EXEC) as usize, 0, 0, 0]).map(drop)
});
const BE_TRACED: Attempt =
    ("let itself be traced", |_| call(libc::SYS_prctl, [libc::PR_SET_DUMPABLE as usize, 1, 0, 0, 0, 0]).map(drop));
const SILENCE: Attempt = ("keep refused calls from being reported", |_| {
    let ignore = [1_u64, 0, 0, 0];
    let ignore = ignore.as_ptr() as usize;
    call(libc::SYS_rt_sigaction, [libc::SIGSYS as usize, ignore, 0, 8, 0, 0]).map(drop)
});
const TYPE: Attempt = ("type into the operator's terminal", |_| {
    let letter = [b'x'];
    call(libc::SYS_ioctl, [0, libc::TIOCSTI as usize, letter.as_ptr() as usize, 0, 0, 0]).map(drop)
});

/// What a thread that makes processes could try beside the rest.
const FORK_AND_EXECUTE: Attempt = ("let a child execute a program", |target| {
    let child = call(libc::SYS_clone, [libc::SIGCHLD as usize, 0, 0, 0, 0, 0])?;
    if child == 0 {
        let _ = EXEC.1(target);
        // SAFETY: the child of the child has nothing more to do.
        unsafe { libc::_exit(1) };
    }
    let mut status = 0;
    call(libc::SYS_wait4, [child, &raw mut status as usize, 0, 0, 0, 0])?;
    if libc::WEXITSTATUS(status) == REFUSED { Err(io::Error::from_raw_os_error(libc::ENOSYS)) } else { Ok(()) }
});
const FORK_OUT: Attempt = ("have a child in namespaces of its own", |_| {
    let flags = libc::CLONE_NEWUSER | libc::CLONE_NEWNET | libc::SIGCHLD;
    match call(libc::SYS_clone, [flags as usize, 0, 0, 0, 0, 0])? {
        // SAFETY: as above.
        0 => unsafe { libc::_exit(0) },
        _ => Ok(()),
    }
});
const KILL_ALL: Attempt = ("kill all processes", |_| call(libc::SYS_kill, [usize::MAX, 9, 0, 0, 0, 0]).map(drop));
const ATTACH: Attempt = ("trace another watchdog, the old way", |target| {
    call(libc::SYS_ptrace, [libc::PTRACE_ATTACH as usize, target.victim.pid as usize, 0, 0, 0, 0]).map(drop)
});
const MAP_OVER_PROGRAM: Attempt = ("map code where programs are", |_| {
    let file = call(libc::SYS_memfd_create, [text("code").as_ptr() as usize, 0, 0, 0, 0, 0])?;
    let (access, flags) = (libc::PROT_READ | libc::PROT_EXEC, libc::MAP_SHARED | libc::MAP_FIXED | libc::MAP_NORESERVE);
    call(libc::SYS_mmap, [1 << 33, 4096, access as usize, flags as usize, file, 0]).map(drop)
});

const OF_TRACERS: &[Attempt] = &[FORK_AND_EXECUTE, FORK_OUT, KILL_ALL, ATTACH, MAP_OVER_PROGRAM];

const ALL: &[Attempt] = &[
    READ_PUBLIC,
    READ_PRIVATE,
    WRITE_FILE,
    MAKE_FILE,
    LIST_ROOT,
    OPEN_KVM,
    OLD_OPEN,
    OPEN2,
    CONNECT,
    BIND,
    SEND_UDP,
    ABSTRACT,
    EXEC,
    EXEC_OPEN,
    FORK,
    TRACE,
    KILL,
    KILL_THREAD,
    READ_MEMORY,
    OPEN_MEMORY,
    MOUNT,
    NEW_USER,
    BECOME_ROOT,
    KEYS,
    BPF,
    PERF,
    IO_URING,
    USERFAULTFD,
    MAP_CODE,
    PROTECT_CODE,
    BE_TRACED,
    SILENCE,
    TYPE,
];

/// Opening by name is answered by the filter, since libraries try it and have another way.
const ANSWERED: &[&str] = &[
    "read another function's image",
    "read the password",
    "write a file",
    "make a file",
    "list the root folder",
    "open /dev/kvm again",
    "open another watchdog's memory",
];

/// What became of an attempt.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// The attacker got what it wanted.
    Worked,
    /// It got this error instead.
    Failed(i32),
    /// The process was ended for it, with a line that names the call.
    Refused,
}

/// Lets a child enter the jail with these layers and try.
fn attempt(target: &Target, layers: &[Layer], tried: Attempt) -> Outcome {
    attempt_as(target, layers, (Machines::Kvm, None), tried)
}

/// Lets a thread of this role, or a watchdog's first one, in the jail for these machines, with these layers, try.
fn attempt_as(
    target: &Target,
    layers: &[Layer],
    (machines, role): (Machines, Option<Role>),
    (name, run): Attempt,
) -> Outcome {
    let child = Child::fork(layers.contains(&Layer::Processes), || {
        let report = Jail::plan(Mode::Required).machines(machines).only(layers).enter();
        if let Some(role) = role {
            confine(role);
        }
        match report.map(|_| run(target)) {
            Ok(Ok(())) => "worked".to_owned(),
            Ok(Err(error)) => format!("failed {}", error.raw_os_error().unwrap_or(0)),
            Err(error) => format!("no jail: {error}"),
        }
    });
    let (said, status) = child.finish();
    match (said.as_str(), status) {
        ("worked", 0) => Outcome::Worked,
        (said, REFUSED) if said.starts_with("jail: system call ") => Outcome::Refused,
        // A child of its own may have said something before.
        (said, 0) => match said.lines().last().and_then(|last| last.strip_prefix("failed ")).map(str::parse) {
            Some(Ok(error)) => Outcome::Failed(error),
            _ => panic!("{name}: {said}"),
        },
        // A program that was executed leaves nothing to say, and /bin/true ends well; anything else is not foreseen.
        (said, status) => panic!("{name}: {status}: {said}"),
    }
}

/// An executed program says nothing and ends well.
fn executed(target: &Target, layers: &[Layer], attempt_: Attempt) -> bool {
    let child = Child::fork(layers.contains(&Layer::Processes), || {
        let _ = Jail::plan(Mode::Required).only(layers).enter();
        let _ = attempt_.1(target);
        "not executed".to_owned()
    });
    child.finish() == (String::new(), 0)
}

/// Whether this user may make all that these tests need. Says so when not.
fn root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: only root can give a process a user and namespaces of its own");
    }
    root
}

/// Everything below is about something that works without the jail.
#[test]
fn without_the_jail_what_is_attacked_is_within_reach() {
    if !root() {
        return;
    }
    let target = Target::new();
    for tried in [
        READ_PUBLIC,
        READ_PRIVATE,
        WRITE_FILE,
        LIST_ROOT,
        OLD_OPEN,
        OPEN2,
        CONNECT,
        BIND,
        ABSTRACT,
        FORK,
        TRACE,
        KILL,
        KILL_THREAD,
        READ_MEMORY,
        OPEN_MEMORY,
        NEW_USER,
        BECOME_ROOT,
        MAP_CODE,
        PROTECT_CODE,
        BE_TRACED,
        SILENCE,
    ] {
        assert_eq!(attempt(&target, &[], tried), Outcome::Worked, "{}", tried.0);
    }
    assert!(executed(&target, &[], EXEC));
    assert!(executed(&target, &[], EXEC_OPEN));
}

#[test]
fn a_watchdog_that_was_taken_over_gets_nothing() {
    if !root() {
        return;
    }
    let target = Target::new();
    for tried in ALL {
        assert_ne!(attempt(&target, &Layer::ALL, *tried), Outcome::Worked, "{}", tried.0);
    }
}

/// A watchdog of processes needs to make and trace them, which its threads have to do without.
#[test]
fn a_watchdog_of_processes_that_was_taken_over_gets_nothing_either() {
    if !root() {
        return;
    }
    let target = Target::new();
    for role in [None, Some(Role::Connection), Some(Role::Machine), Some(Role::Tracer), Some(Role::Deadlines)] {
        let makes_processes = matches!(role, None | Some(Role::Tracer));
        for tried in ALL.iter().chain(OF_TRACERS) {
            let outcome = attempt_as(&target, &Layer::ALL, (Machines::Processes, role), *tried);
            // A child is no more than its parent.
            if makes_processes && tried.0 == FORK.0 {
                assert_eq!(outcome, Outcome::Worked);
            } else {
                assert_ne!(outcome, Outcome::Worked, "{role:?}: {}", tried.0);
            }
        }
    }
}

#[test]
fn seccomp_alone_ends_a_thread_that_traces_processes_when_it_calls_what_it_may_not() {
    let target = Target::new();
    for tried in ALL.iter().chain(OF_TRACERS).filter(|tried| tried.0 != FORK.0 && tried.0 != KILL_ALL.0) {
        let outcome = attempt_as(&target, &[Layer::SystemCalls], (Machines::Processes, Some(Role::Tracer)), *tried);
        // What its child tried ended the child.
        let answered = ANSWERED.contains(&tried.0) || tried.0 == FORK_AND_EXECUTE.0;
        let expected = if answered { Outcome::Failed(libc::ENOSYS) } else { Outcome::Refused };
        assert_eq!(outcome, expected, "{}", tried.0);
    }
}

#[test]
fn seccomp_alone_ends_a_process_that_calls_what_it_may_not() {
    let target = Target::new();
    for tried in ALL {
        let outcome = attempt(&target, &[Layer::SystemCalls], *tried);
        let expected = if ANSWERED.contains(&tried.0) { Outcome::Failed(libc::ENOSYS) } else { Outcome::Refused };
        assert_eq!(outcome, expected, "{}", tried.0);
    }
}

#[test]
fn a_refused_call_is_reported_with_its_number_and_thread() {
    let target = Target::new();
    let child = Child::fork(false, || {
        let _ = Jail::plan(Mode::Required).only(&[Layer::SystemCalls]).enter();
        let _ = CONNECT.1(&target);
        String::new()
    });
    let (said, status) = child.finish();
    assert_eq!(status, REFUSED);
    let expected = format!("jail: system call {} (socket) is not allowed on thread ", libc::SYS_socket);
    assert!(said.starts_with(&expected) && said.ends_with(", so the process ends\n"), "{said}");
}

#[test]
fn landlock_alone_keeps_from_files_tcp_abstract_sockets_and_other_processes() {
    let target = Target::new();
    for (tried, error) in [
        (READ_PUBLIC, libc::EACCES),
        (READ_PRIVATE, libc::EACCES),
        (WRITE_FILE, libc::EACCES),
        (MAKE_FILE, libc::EACCES),
        (LIST_ROOT, libc::EACCES),
        (OPEN_KVM, libc::EACCES),
        (OLD_OPEN, libc::EACCES),
        (OPEN2, libc::EACCES),
        (EXEC, libc::EACCES),
        (CONNECT, libc::EACCES),
        (BIND, libc::EACCES),
        (ABSTRACT, libc::EPERM),
        (KILL, libc::EPERM),
        (KILL_THREAD, libc::EPERM),
        (TRACE, libc::EPERM),
        (READ_MEMORY, libc::EPERM),
        (OPEN_MEMORY, libc::EACCES),
    ] {
        assert_eq!(attempt(&target, &[Layer::Landlock], tried), Outcome::Failed(error), "{}", tried.0);
    }
}

#[test]
fn a_user_of_its_own_alone_keeps_from_what_belongs_to_others() {
    if !root() {
        return;
    }
    let target = Target::new();
    for (tried, error) in [
        (READ_PRIVATE, libc::EACCES),
        (WRITE_FILE, libc::EACCES),
        (KILL, libc::EPERM),
        (KILL_THREAD, libc::EPERM),
        (TRACE, libc::EPERM),
        (READ_MEMORY, libc::EPERM),
        (OPEN_MEMORY, libc::EACCES),
        (MOUNT, libc::EPERM),
        (BECOME_ROOT, libc::EPERM),
    ] {
        assert_eq!(attempt(&target, &[Layer::User], tried), Outcome::Failed(error), "{}", tried.0);
    }
    let others = fs::metadata("/dev/kvm").map_or(0, |device| device.permissions().mode() & 0o006);
    if others == 0 {
        assert_ne!(attempt(&target, &[Layer::User], OPEN_KVM), Outcome::Worked);
    }
}

#[test]
fn watchdogs_have_different_users() {
    if !root() {
        return;
    }
    let who = || {
        Child::fork(true, || {
            let _ = Jail::plan(Mode::Required).only(&[Layer::User]).enter();
            rustix::process::getuid().as_raw().to_string()
        })
    };
    // Both run at the same time; one that has ended could leave its id to the next.
    let (first, second) = (who(), who());
    let (first, second) = (first.finish().0, second.finish().0);
    assert_ne!(first, second);
    assert!([first, second].iter().all(|id| id.parse::<u32>().unwrap() > 60_000));
}

#[test]
fn a_mount_namespace_alone_leaves_no_files() {
    if !root() {
        return;
    }
    let target = Target::new();
    for tried in
        [READ_PUBLIC, READ_PRIVATE, WRITE_FILE, MAKE_FILE, LIST_ROOT, OPEN_KVM, OLD_OPEN, OPEN2, EXEC, OPEN_MEMORY]
    {
        let outcome = attempt(&target, &[Layer::Files], tried);
        assert!(matches!(outcome, Outcome::Failed(libc::ENOENT | 0)), "{}: {outcome:?}", tried.0);
    }
    // Nor can one be made.
    let make: Attempt = ("make a file in the root", |_| fs::write("/file", ""));
    assert_eq!(attempt(&target, &[Layer::Files], make), Outcome::Failed(libc::EROFS));
}

#[test]
fn a_network_namespace_alone_leaves_no_network() {
    if !root() {
        return;
    }
    let target = Target::new();
    for (tried, error) in [(CONNECT, libc::ENETUNREACH), (SEND_UDP, libc::ENETUNREACH), (ABSTRACT, libc::ECONNREFUSED)]
    {
        assert_eq!(attempt(&target, &[Layer::Network], tried), Outcome::Failed(error), "{}", tried.0);
    }
}

#[test]
fn a_pid_namespace_alone_leaves_no_other_process() {
    if !root() {
        return;
    }
    let target = Target::new();
    for tried in [KILL, KILL_THREAD, TRACE, READ_MEMORY] {
        assert_eq!(attempt(&target, &[Layer::Processes], tried), Outcome::Failed(libc::ESRCH), "{}", tried.0);
    }
}

#[test]
fn no_capabilities_alone_leave_root_without_its_powers() {
    if !root() {
        return;
    }
    let target = Target::new();
    assert_eq!(attempt(&target, &[Layer::Capabilities], MOUNT), Outcome::Failed(libc::EPERM));
    let lowest: Attempt = ("change the host's name", |_| {
        let name = text("taken-over");
        call(libc::SYS_sethostname, [name.as_ptr() as usize, 10, 0, 0, 0, 0]).map(drop)
    });
    assert_eq!(attempt(&target, &[Layer::Capabilities], lowest), Outcome::Failed(libc::EPERM));
    // A program that root executes would get them back, were there any left to get.
    let regained: Attempt = ("have a program with capabilities", |_| {
        let status = fs::read_to_string("/proc/self/status")?;
        let none = |set: &str| status.lines().any(|line| line == format!("{set}:\t0000000000000000"));
        let all_empty = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"].into_iter().all(none);
        if all_empty { Err(io::ErrorKind::PermissionDenied.into()) } else { Ok(()) }
    });
    assert_eq!(attempt(&target, &[Layer::Capabilities], regained), Outcome::Failed(0));
}

#[test]
fn no_new_privileges_alone_makes_set_uid_programs_ordinary_and_the_process_untraceable() {
    let target = Target::new();
    let gain: Attempt = ("gain rights by a set-uid program", |_| {
        let status = fs::read_to_string("/proc/thread-self/status")?;
        if status.contains("NoNewPrivs:\t1") { Err(io::ErrorKind::PermissionDenied.into()) } else { Ok(()) }
    });
    assert_eq!(attempt(&target, &[Layer::NoNewPrivileges], gain), Outcome::Failed(0));
    let dumpable: Attempt =
        ("be dumped", |_| match call(libc::SYS_prctl, [libc::PR_GET_DUMPABLE as usize, 0, 0, 0, 0, 0])? {
            0 => Err(io::ErrorKind::PermissionDenied.into()),
            _ => Ok(()),
        });
    assert_eq!(attempt(&target, &[Layer::NoNewPrivileges], dumpable), Outcome::Failed(0));
}

#[test]
fn written_memory_never_becomes_executable() {
    let target = Target::new();
    for tried in [MAP_CODE, PROTECT_CODE] {
        assert_eq!(attempt(&target, &[Layer::NoNewCode], tried), Outcome::Failed(libc::EACCES), "{}", tried.0);
    }
}

#[test]
fn rlimits_alone_bound_descriptors_threads_and_files() {
    if !root() {
        return;
    }
    let limits = Limits { descriptors: 40, threads: 3, file_size: 10 };
    let child = Child::fork(false, || {
        let _ = Jail::plan(Mode::Required).only(&[Layer::ResourceLimits, Layer::User]).limits(limits).enter().unwrap();
        let files: Vec<_> = std::iter::from_fn(|| rustix::io::dup(rustix::stdio::stderr()).ok()).take(100).collect();
        let descriptors = files.len() < 40;
        drop(files);
        let waiting = || std::thread::Builder::new().spawn(std::thread::park);
        let threads = std::iter::repeat_with(waiting).take(10).filter(Result::is_ok).count() < 4;
        // SAFETY: a constant of the system's.
        unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
        let file = rustix::fs::memfd_create(c"file", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let long = rustix::fs::ftruncate(&file, 11).is_err() && rustix::fs::ftruncate(&file, 10).is_ok();
        let core = rustix::process::getrlimit(rustix::process::Resource::Core).maximum == Some(0);
        format!("{descriptors} {threads} {long} {core}")
    });
    assert_eq!(child.finish(), ("true true true true".to_owned(), 0));
}

/// What an ordinary user gets, who runs the platform without being root.
#[test]
fn an_ordinary_users_watchdog_is_jailed_as_far_as_it_can_be_and_says_what_it_lacks() {
    if !root() {
        return;
    }
    let target = Target::new();
    let ordinary = |then: &dyn Fn(Report) -> String| {
        Child::fork(false, || {
            let nobody = 65_534;
            let (gid, uid) = (rustix::process::Gid::from_raw(nobody), rustix::process::Uid::from_raw(nobody));
            rustix::thread::set_thread_groups(&[]).unwrap();
            rustix::thread::set_thread_res_gid(gid, gid, gid).unwrap();
            rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
            // As after the start of a program, which can be traced by its user.
            rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::Dumpable).unwrap();
            then(Jail::plan(Mode::BestEffort).enter().unwrap())
        })
        .finish()
    };
    let (warning, _) = ordinary(&|report| report.warning().unwrap());
    assert!(
        warning.starts_with("jailed, but without: pid namespace (") && warning.contains("uid of its own ("),
        "{warning}"
    );
    let (held, _) = ordinary(&|report| report.held().iter().map(|(layer, _)| format!("{layer};")).collect());
    assert_eq!(
        held,
        "network namespace;ipc namespaces;mount namespace;no capabilities;no_new_privs;rlimits;no new code;landlock;seccomp;"
    );
    for tried in ALL {
        let (said, _) = ordinary(&|_| match tried.1(&target) {
            Ok(()) => "worked".to_owned(),
            Err(_) => String::new(),
        });
        assert_ne!(said, "worked", "{}", tried.0);
    }
}

#[test]
fn a_jail_that_is_required_and_does_not_hold_keeps_the_process_from_going_on() {
    // No pid namespace.
    let child = Child::fork(false, || match Jail::plan(Mode::Required).enter() {
        Ok(report) => report.to_string(),
        Err(error) => error.to_string(),
    });
    let (said, _) = child.finish();
    assert!(said.starts_with("the jail is required") && said.contains("pid namespace ("), "{said}");
}

#[test]
fn a_jail_that_is_off_changes_nothing_and_is_warned_of() {
    let target = Target::new();
    let child = Child::fork(false, || {
        let report = Jail::plan(Mode::Off).enter().unwrap();
        assert!(report.is_off());
        CONNECT.1(&target).unwrap();
        report.warning().unwrap()
    });
    let (said, _) = child.finish();
    assert!(said.starts_with("the jail is off"), "{said}");
}

#[test]
fn a_thread_that_ran_before_is_named_as_outside() {
    let child = Child::fork(false, || {
        let (ready, is_ready) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            ready.send(()).unwrap();
            std::thread::park();
        });
        is_ready.recv().unwrap();
        Jail::plan(Mode::BestEffort).only(&[Layer::NoNewPrivileges]).enter().unwrap().warning().unwrap_or_default()
    });
    assert_eq!(child.finish().0, "jailed, but without: 1 threads that ran already");
}

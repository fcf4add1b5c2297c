//! One child process under ptrace: made by fork, stopped before it does anything, driven from the thread that made it.
//! Used by the driver. It lets the child run guest code only with every system call intercepted.

use std::{
    io,
    marker::PhantomData,
    mem::{MaybeUninit, offset_of},
    os::fd::{FromRawFd, OwnedFd},
    ptr,
};

use libc::{c_int, c_long, pid_t};

use crate::{
    crash::Cause,
    memory,
    process::{
        stop::{Stop, StopKind},
        x86_64::Registers,
    },
};

/// A child, stopped whenever no method of this runs.
#[derive(Debug)]
pub(crate) struct Tracee {
    pid: pid_t,
    state: State,
    /// The kernel takes a tracer for a thread.
    stays_on_its_thread: PhantomData<*const ()>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Alive,
    /// Gone by this signal, if by any, and its status collected.
    Gone(Option<c_int>),
}

/// Why something could not be done with a child.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It ended by this signal, if by any.
    Gone(Option<c_int>),
    /// The host refused.
    Host(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Host(error)
    }
}

impl Failure {
    /// What it means to the machine.
    pub(crate) fn cause(self, action: &'static str) -> Cause {
        match self {
            Self::Gone(signal) => Cause::ProcessEnded { signal },
            Self::Host(source) => Cause::Process { action, source },
        }
    }
}

/// What a child that was waited for did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Signal(c_int),
    Call,
}

/// Most bytes of an XSAVE area (SDM volume 1, section 13.5); AMX has the largest states, of 8 KiB.
const VECTORS_MAX: usize = 64 * 1024;
/// `NT_X86_XSTATE` of `linux/elf.h`.
const XSTATE: c_long = 0x202;
/// `PTRACE_GET_RSEQ_CONFIGURATION` of `linux/ptrace.h`.
const GET_RSEQ: u32 = 0x420f;

/// `struct ptrace_rseq_configuration` of `linux/ptrace.h`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct RseqConfiguration {
    pointer: u64,
    size: u32,
    signature: u32,
    flags: u32,
    pad: u32,
}

impl Tracee {
    /// A child that is a copy of this process, traced by this thread and stopped; it dies with this thread.
    pub(crate) fn fork() -> Result<Self, Failure> {
        let pid = fork_with_signals_blocked()?;
        let mut child = Self { pid, state: State::Alive, stays_on_its_thread: PhantomData };
        // It offers itself and stops, or ends because the kernel refused.
        child.wait().map_err(|_| io::Error::from(io::ErrorKind::PermissionDenied))?;
        let options = libc::PTRACE_O_EXITKILL | libc::PTRACE_O_TRACESYSGOOD;
        child.ptrace(libc::PTRACE_SETOPTIONS, 0, c_long::from(options))?;
        child.unblock_signals()?;
        Ok(child)
    }

    /// The clock of the child's processor time, as `MAKE_PROCESS_CPUCLOCK` of `linux/posix-timers.h` names it.
    pub(crate) fn clock(&self) -> libc::clockid_t {
        const SCHEDULED: libc::clockid_t = 2;
        !self.pid << 3 | SCHEDULED
    }

    /// A descriptor by which any thread can send the child a signal, whatever becomes of its id.
    pub(crate) fn handle(&self) -> io::Result<OwnedFd> {
        // SAFETY: a plain system call without pointers.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, self.pid, 0) };
        let fd = c_int::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)?;
        // SAFETY: the kernel has just given the descriptor to nobody else.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// Lets the guest run until it stops; no system call that it makes is carried out.
    pub(crate) fn resume(&mut self) -> Result<Stop, Failure> {
        self.ptrace(libc::PTRACE_SYSEMU, 0, 0)?;
        let kind = match self.wait()? {
            Event::Signal(signal) => {
                // SAFETY: all zero is a siginfo.
                let mut info: libc::siginfo_t = unsafe { MaybeUninit::zeroed().assume_init() };
                self.ptrace(libc::PTRACE_GETSIGINFO, 0, address_of(&raw mut info))?;
                // SAFETY: the kernel filled all of it in; what it means depends on the code, for `meaning` to judge.
                let address = unsafe { info.si_addr() };
                StopKind::Signal { signal, code: info.si_code, address: address.addr() as u64 }
            }
            Event::Call => StopKind::Call,
        };
        Ok(Stop { kind, registers: self.registers()? })
    }

    /// Lets the kernel enter the handler of a signal that the child is stopped by; the registers in there.
    pub(crate) fn enter_handler(&mut self, signal: c_int) -> Result<Registers, Failure> {
        self.ptrace(libc::PTRACE_SINGLESTEP, 0, c_long::from(signal))?;
        self.wait()?;
        self.registers()
    }

    /// Carries out the one instruction at which the registers stand.
    pub(crate) fn step(&mut self, registers: &Registers) -> Result<(), Failure> {
        self.set_registers(registers)?;
        loop {
            self.ptrace(libc::PTRACE_SINGLESTEP, 0, 0)?;
            // Anything else is somebody's signal, which came before.
            if self.wait()? == Event::Signal(libc::SIGTRAP) {
                return Ok(());
            }
        }
    }

    /// Makes a system call in the child's place, by the `syscall` instruction at `at` in its memory.
    pub(crate) fn call(&mut self, at: u64, number: c_long, arguments: [u64; 6]) -> Result<u64, Failure> {
        self.set_registers(&Registers::of_call(at, number, arguments))?;
        // Once before the call, once behind it.
        for _ in 0..2 {
            self.ptrace(libc::PTRACE_SYSCALL, 0, 0)?;
            loop {
                match self.wait()? {
                    Event::Call => break,
                    // A filter that this process has itself does not let it through.
                    Event::Signal(libc::SIGSYS) => return Err(io::Error::from_raw_os_error(libc::EPERM).into()),
                    Event::Signal(libc::SIGSEGV) => return Err(io::Error::from_raw_os_error(libc::EFAULT).into()),
                    // Somebody's signal, which does not matter here.
                    Event::Signal(_) => self.ptrace(libc::PTRACE_SYSCALL, 0, 0)?,
                }
            }
        }
        let result = self.registers()?.rax.cast_signed();
        match c_int::try_from(-result) {
            Ok(error @ 1..4096) => Err(io::Error::from_raw_os_error(error).into()),
            _ => Ok(result.cast_unsigned()),
        }
    }

    /// Tells the kernel that the C library's restartable sequences, whose memory the child will lose, are over.
    pub(crate) fn end_restartable_sequences(&mut self, at: u64) -> Result<(), Failure> {
        let mut rseq = RseqConfiguration::default();
        let size = size_of::<RseqConfiguration>();
        // A kernel without them has nothing to say.
        let told = self.ptrace(GET_RSEQ, size.cast_signed() as c_long, address_of(&raw mut rseq));
        if told.is_err() || rseq.pointer == 0 {
            return Ok(());
        }
        const UNREGISTER: u64 = 1;
        let arguments = [rseq.pointer, u64::from(rseq.size), UNREGISTER, u64::from(rseq.signature), 0, 0];
        self.call(at, libc::SYS_rseq, arguments).map(drop)
    }

    /// General and segment registers.
    pub(crate) fn registers(&mut self) -> Result<Registers, Failure> {
        let mut registers = Registers::default();
        self.ptrace(libc::PTRACE_GETREGS, 0, address_of(&raw mut registers))?;
        Ok(registers)
    }

    pub(crate) fn set_registers(&mut self, registers: &Registers) -> Result<(), Failure> {
        self.ptrace(libc::PTRACE_SETREGS, 0, address_of(ptr::from_ref(registers).cast_mut()))
    }

    /// Sets only where the child goes on.
    pub(crate) fn set_instruction(&mut self, at: u64) -> Result<(), Failure> {
        let offset = offset_of!(libc::user, regs) + offset_of!(libc::user_regs_struct, rip);
        self.ptrace(libc::PTRACE_POKEUSER, offset.cast_signed() as c_long, at.cast_signed())
    }

    /// The XSAVE area.
    pub(crate) fn vectors(&mut self) -> Result<Vec<u8>, Failure> {
        let mut area = vec![0; VECTORS_MAX];
        let mut whole = libc::iovec { iov_base: area.as_mut_ptr().cast(), iov_len: area.len() };
        self.ptrace(libc::PTRACE_GETREGSET, XSTATE, address_of(&raw mut whole))?;
        area.truncate(whole.iov_len);
        Ok(area)
    }

    pub(crate) fn set_vectors(&mut self, area: &[u8]) -> Result<(), Failure> {
        let mut whole = libc::iovec { iov_base: area.as_ptr().cast_mut().cast(), iov_len: area.len() };
        self.ptrace(libc::PTRACE_SETREGSET, XSTATE, address_of(&raw mut whole))
    }

    fn unblock_signals(&mut self) -> Result<(), Failure> {
        let mut none = 0_u64;
        self.ptrace(libc::PTRACE_SETSIGMASK, size_of_val(&none).cast_signed() as c_long, address_of(&raw mut none))
    }

    fn ptrace(&mut self, request: u32, address: c_long, data: c_long) -> Result<(), Failure> {
        if let State::Gone(signal) = self.state {
            return Err(Failure::Gone(signal));
        }
        // SAFETY: the child is this thread's tracee; every request that takes a pointer in `data` gets one, above, to
        // a value of its kind that lives until the call returns.
        let result = unsafe { libc::syscall(libc::SYS_ptrace, c_long::from(request), self.pid, address, data) };
        if result >= 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() == Some(libc::ESRCH) {
            // It was stopped, so it was killed.
            self.wait()?;
        }
        Err(Failure::Host(error))
    }

    /// Waits until the child stops.
    fn wait(&mut self) -> Result<Event, Failure> {
        let mut status = 0;
        loop {
            // SAFETY: `status` is an integer that the kernel may write.
            let waited = unsafe { libc::waitpid(self.pid, &raw mut status, libc::__WALL) };
            if waited >= 0 {
                break;
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error.into());
            }
        }
        if libc::WIFSTOPPED(status) {
            return Ok(match libc::WSTOPSIG(status) {
                signal if signal == libc::SIGTRAP | 0x80 => Event::Call,
                signal => Event::Signal(signal),
            });
        }
        let signal = libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status));
        self.state = State::Gone(signal);
        Err(Failure::Gone(signal))
    }
}

impl Drop for Tracee {
    fn drop(&mut self) {
        if self.state == State::Alive {
            // SAFETY: a plain system call; the id is the child's until it has been waited for.
            unsafe { libc::kill(self.pid, libc::SIGKILL) };
            while self.wait().is_ok() {}
        }
    }
}

/// The address of a value, as an argument of `ptrace`.
fn address_of<T>(value: *mut T) -> c_long {
    value.expose_provenance().cast_signed() as c_long
}

/// Forks with every signal blocked, so that no handler of this process ever runs in the child.
fn fork_with_signals_blocked() -> io::Result<pid_t> {
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the set is ours to write.
    unsafe { libc::sigfillset(all.as_mut_ptr()) };
    // SAFETY: the one set is filled, the other ours to write.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr()) };
    let forked = memory::while_none_is_inheritable(|| {
        // SAFETY: without CLONE_VM the child has a copy of this process, and it makes nothing but plain system calls:
        // no allocation, no lock, no destructor.
        let pid = unsafe { libc::syscall(libc::SYS_clone, c_long::from(libc::SIGCHLD), 0_i64, 0_i64, 0_i64, 0_i64) };
        match pid {
            0 => offer_oneself(),
            1.. => Ok(pid),
            _ => Err(io::Error::last_os_error()),
        }
    });
    // SAFETY: the call before last filled the set.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), ptr::null_mut()) };
    pid_t::try_from(forked?).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// All that the child does by itself: it lets its parent trace it, and stops for ever.
fn offer_oneself() -> ! {
    // SAFETY: a plain system call without pointers.
    let refused = unsafe { libc::syscall(libc::SYS_ptrace, c_long::from(libc::PTRACE_TRACEME), 0_i64, 0_i64, 0_i64) };
    if refused == 0 {
        // SAFETY: as above.
        let oneself = unsafe { libc::syscall(libc::SYS_getpid) };
        // SAFETY: as above.
        unsafe { libc::syscall(libc::SYS_kill, oneself, c_long::from(libc::SIGSTOP)) };
    }
    loop {
        // SAFETY: as above.
        unsafe { libc::syscall(libc::SYS_exit_group, 1_i64) };
    }
}

//! Says which system call was refused, on which thread, before the process ends: a refused call is an attack, or a call
//! that the data lacks, and an operator has to see which. Runs in a signal handler.
//! It never returns to the code that made the call.

use std::{io, ptr};

/// The shell's status for an end by SIGSYS.
const STATUS: libc::c_int = 128 + libc::SIGSYS;

/// Lets refused calls be reported on standard error.
pub(super) fn report_refused_calls() -> io::Result<()> {
    // SAFETY: all-zero is a valid sigaction: no flags, an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_refused;
    action.sa_sigaction = handler as libc::sighandler_t;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: the handler does nothing but async-signal-safe calls.
    let set = unsafe { libc::sigaction(libc::SIGSYS, &raw const action, ptr::null_mut()) };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The part of `siginfo_t` that SIGSYS fills in (`sigaction(2)`); the libc crate has no accessor for it.
#[repr(C)]
struct Refused {
    signo: libc::c_int,
    errno: libc::c_int,
    code: libc::c_int,
    _padding: libc::c_int,
    call_address: *mut libc::c_void,
    syscall: libc::c_int,
    arch: libc::c_uint,
}

const _: () = assert!(size_of::<Refused>() <= size_of::<libc::siginfo_t>());

extern "C" fn on_refused(_signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel passes a whole siginfo_t, whose layout for SIGSYS is that of `Refused`.
    let number = unsafe { (*info.cast::<Refused>()).syscall };
    let mut name = [0_u8; 16];
    // SAFETY: the kernel writes at most 16 bytes, the size of the buffer (prctl(2), PR_GET_NAME).
    unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    let mut line = Line::new();
    line.push(b"jail: system call ");
    line.push_number(number.unsigned_abs());
    if let Some(name) = call_name(number) {
        line.push(b" (");
        line.push(name.as_bytes());
        line.push(b")");
    }
    line.push(b" is not allowed on thread ");
    line.push(name.split(|byte| *byte == 0).next().unwrap_or_default());
    line.push(b", so the process ends\n");
    // SAFETY: the buffer is as long as is said; write and _exit are async-signal-safe.
    unsafe { libc::write(libc::STDERR_FILENO, line.bytes.as_ptr().cast(), line.len) };
    // SAFETY: as above.
    unsafe { libc::_exit(STATUS) }
}

/// A line of text without an allocation.
struct Line {
    bytes: [u8; 160],
    len: usize,
}

impl Line {
    fn new() -> Self {
        Self { bytes: [0; 160], len: 0 }
    }

    /// Appends what fits.
    fn push(&mut self, text: &[u8]) {
        for (to, from) in self.bytes.iter_mut().skip(self.len).zip(text) {
            *to = *from;
            self.len += 1;
        }
    }

    fn push_number(&mut self, number: u32) {
        let mut digits = [b'0'; 10];
        let (mut rest, mut first) = (number, digits.len());
        for (index, digit) in digits.iter_mut().enumerate().rev() {
            *digit = b'0' + u8::try_from(rest % 10).unwrap_or_default();
            rest /= 10;
            first = index;
            if rest == 0 {
                break;
            }
        }
        self.push(digits.get(first..).unwrap_or_default());
    }
}

/// The name of a call that an attacker, or a library, is likely to try. The number says the rest.
fn call_name(number: libc::c_int) -> Option<&'static str> {
    const NAMES: &[(libc::c_long, &str)] = &[
        (libc::SYS_socket, "socket"),
        (libc::SYS_connect, "connect"),
        (libc::SYS_bind, "bind"),
        (libc::SYS_execve, "execve"),
        (libc::SYS_execveat, "execveat"),
        (libc::SYS_clone, "clone"),
        (libc::SYS_ioctl, "ioctl"),
        (libc::SYS_mmap, "mmap"),
        (libc::SYS_mprotect, "mprotect"),
        (libc::SYS_prctl, "prctl"),
        (libc::SYS_fcntl, "fcntl"),
        (libc::SYS_rt_sigaction, "rt_sigaction"),
        (libc::SYS_tgkill, "tgkill"),
        (libc::SYS_kill, "kill"),
        (libc::SYS_ptrace, "ptrace"),
        (libc::SYS_wait4, "wait4"),
        (libc::SYS_pidfd_open, "pidfd_open"),
        (libc::SYS_pidfd_send_signal, "pidfd_send_signal"),
        (libc::SYS_close_range, "close_range"),
        (libc::SYS_fallocate, "fallocate"),
        (libc::SYS_openat2, "openat2"),
        (libc::SYS_statx, "statx"),
        (libc::SYS_newfstatat, "newfstatat"),
        (libc::SYS_fstat, "fstat"),
        (libc::SYS_pread64, "pread64"),
        (libc::SYS_pwrite64, "pwrite64"),
        (libc::SYS_lseek, "lseek"),
        (libc::SYS_poll, "poll"),
        (libc::SYS_ppoll, "ppoll"),
        (libc::SYS_pipe2, "pipe2"),
        (libc::SYS_eventfd2, "eventfd2"),
        (libc::SYS_epoll_create1, "epoll_create1"),
        (libc::SYS_timerfd_create, "timerfd_create"),
        (libc::SYS_prlimit64, "prlimit64"),
        (libc::SYS_sendmsg, "sendmsg"),
        (libc::SYS_recvmsg, "recvmsg"),
        (libc::SYS_getsockopt, "getsockopt"),
        (libc::SYS_setsockopt, "setsockopt"),
        (libc::SYS_mincore, "mincore"),
        (libc::SYS_membarrier, "membarrier"),
        (libc::SYS_io_uring_setup, "io_uring_setup"),
        (libc::SYS_bpf, "bpf"),
        (libc::SYS_mount, "mount"),
        (libc::SYS_unshare, "unshare"),
        (libc::SYS_setresuid, "setresuid"),
    ];
    NAMES.iter().find(|(known, _)| *known == libc::c_long::from(number)).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_written_without_an_allocation_and_never_overflows() {
        let mut line = Line::new();
        for number in [0, 7, 41, u32::MAX] {
            line.push_number(number);
            line.push(b" ");
        }
        assert_eq!(line.bytes.get(..line.len), Some(&b"0 7 41 4294967295 "[..]));
        for _ in 0..20 {
            line.push(b"0123456789");
        }
        assert_eq!(line.len, line.bytes.len());
    }
}

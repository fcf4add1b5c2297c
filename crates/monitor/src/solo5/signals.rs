//! Ends a tender's process as Solo5's end at a signal. Called by the command line, before its guest runs.

use std::sync::OnceLock;

/// What is written before the signal's number.
static MESSAGE: OnceLock<String> = OnceLock::new();

/// From now on an interrupt or a termination ends the process with status 1 and a message that begins with its name.
pub fn exit_on_signals(program: &str) {
    // A second call has no effect: the process has one name.
    let _ = MESSAGE.set(format!("{program}: Exiting on signal "));
    // SAFETY: all-zero is a valid sigaction: no flags, an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_signal as extern "C" fn(libc::c_int) as libc::sighandler_t;
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: the handler makes two system calls, both async-signal-safe.
        unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
    }
}

/// From now on writing to a pipe that nobody reads is an error and not the end, as in every program of Rust's.
pub fn ignore_broken_pipes() {
    // SAFETY: no handler is installed, the signal is ignored.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

extern "C" fn on_signal(signal: libc::c_int) {
    let text = MESSAGE.get().map_or("", String::as_str);
    let number = [
        b'0' + u8::try_from(signal / 10 % 10).unwrap_or_default(),
        b'0' + u8::try_from(signal % 10).unwrap_or_default(),
        b'\n',
    ];
    let digits = if signal < 10 { &number[1..] } else { &number[..] };
    for part in [text.as_bytes(), digits] {
        // SAFETY: a plain system call with a buffer that is alive; what it does not write is lost.
        let _ = unsafe { libc::write(libc::STDERR_FILENO, part.as_ptr().cast(), part.len()) };
    }
    // SAFETY: ends the process at once, without anything that a handler may not do.
    unsafe { libc::_exit(1) };
}

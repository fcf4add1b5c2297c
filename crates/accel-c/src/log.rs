//! The library's log lines, and those of programs and plugins that log through it.
//! Written to standard error, or to the file that VACCEL_LOG_FILE names. Never fails, and never writes to a program's
//! standard output unless that is what the file is.

use std::{
    ffi::{CStr, OsStr},
    fmt,
    fs::{File, OpenOptions},
    io::Write as _,
    os::unix::ffi::OsStrExt as _,
    sync::{
        PoisonError, RwLock,
        atomic::{AtomicU16, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

/// What a line is about, as VACCEL_LOG_LEVEL counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Level {
    Error = 1,
    Warn = 2,
    Info = 3,
    Debug = 4,
}

impl Level {
    /// The bit that slog has for it.
    const fn bit(self) -> u16 {
        match self {
            Self::Info => 4,
            Self::Warn => 8,
            Self::Debug => 16,
            Self::Error => 64,
        }
    }
}

/// The kinds of lines that are written, as slog's bits.
static KINDS: AtomicU16 = AtomicU16::new(Level::Error.bit());
static TARGET: RwLock<Option<File>> = RwLock::new(None);

macro_rules! error {
    ($($format:tt)*) => { $crate::log::write($crate::log::Level::Error, format_args!($($format)*)) };
}
macro_rules! warn {
    ($($format:tt)*) => { $crate::log::write($crate::log::Level::Warn, format_args!($($format)*)) };
}
macro_rules! info {
    ($($format:tt)*) => { $crate::log::write($crate::log::Level::Info, format_args!($($format)*)) };
}
macro_rules! debug {
    ($($format:tt)*) => { $crate::log::write($crate::log::Level::Debug, format_args!($($format)*)) };
}

/// Whether lines of a level are written.
pub(crate) fn is_written(level: Level) -> bool {
    kinds() & level.bit() != 0
}

/// Writes a line, if its level is written.
pub(crate) fn write(level: Level, text: fmt::Arguments<'_>) {
    if is_written(level) {
        write_line(level.bit(), &text.to_string(), true);
    }
}

/// The kinds of lines that are written.
pub(crate) fn kinds() -> u16 {
    KINDS.load(Ordering::Relaxed)
}

/// Chooses the kinds of lines that are written.
pub(crate) fn set_kinds(kinds: u16) {
    KINDS.store(kinds, Ordering::Relaxed);
}

/// Writes from now on what VACCEL_LOG_LEVEL and VACCEL_LOG_FILE, in words of theirs, say.
pub(crate) fn configure(level: u32, file: Option<&CStr>) {
    let levels = [Level::Error, Level::Warn, Level::Info, Level::Debug];
    let bits = levels.into_iter().filter(|&one| one as u32 <= level).map(Level::bit);
    set_kinds(bits.fold(0, |kinds, bit| kinds | bit));
    let path = file.map(|file| OsStr::from_bytes(file.to_bytes())).filter(|path| !path.is_empty());
    let opened = path.map(|path| (path, OpenOptions::new().append(true).create(true).open(path)));
    let target = match opened {
        None => None,
        Some((_, Ok(file))) => Some(file),
        Some((path, Err(failure))) => {
            set_target(None);
            error!("cannot write the log to {}: {failure}", path.display());
            None
        }
    };
    set_target(target);
}

fn set_target(target: Option<File>) {
    *TARGET.write().unwrap_or_else(PoisonError::into_inner) = target;
}

/// Writes a line of one of slog's kinds.
pub(crate) fn write_line(kind: u16, text: &str, newline: bool) {
    let tag = match kind {
        2 => "<note> ",
        4 => "<info> ",
        8 => "<warn> ",
        16 => "<debug> ",
        32 => "<trace> ",
        64 => "<error> ",
        128 => "<fatal> ",
        _ => "",
    };
    let end = if newline { "\n" } else { "" };
    let line = format!("{} - {tag}{text}{end}", Timestamp::now());
    let target = TARGET.read().unwrap_or_else(PoisonError::into_inner);
    // One call a line, so that lines of several threads do not mix. A log that cannot be written is nobody's fault.
    let _ = match &*target {
        Some(file) => { file }.write_all(line.as_bytes()),
        None => std::io::stderr().write_all(line.as_bytes()),
    };
}

/// The time of a line, in UTC.
struct Timestamp {
    seconds: libc::time_t,
    hundredths: u32,
}

impl Timestamp {
    fn now() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { seconds: now.as_secs().try_into().unwrap_or(libc::time_t::MAX), hundredths: now.subsec_millis() / 10 }
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = std::mem::MaybeUninit::<libc::tm>::zeroed();
        // SAFETY: both point to what the call takes; it writes nothing else.
        if unsafe { libc::gmtime_r(&raw const self.seconds, parts.as_mut_ptr()) }.is_null() {
            return write!(f, "{}", self.seconds);
        }
        // SAFETY: all bytes were zero, which is valid, before the call wrote some.
        let tm = unsafe { parts.assume_init() };
        let date = (tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday);
        write!(f, "{:04}.{:02}.{:02}-", date.0, date.1, date.2)?;
        write!(f, "{:02}:{:02}:{:02}.{:02}", tm.tm_hour, tm.tm_min, tm.tm_sec, self.hundredths)
    }
}

//! The function's log: one JSON object a line, from machines and the watchdog to standard output.
//! Called on machine threads and by the server; whoever adds a line never waits for the reader of the log.
//! It never grows: beyond [`BACKLOG_MAX`] and beyond the function's rate lines are dropped and counted.

use std::{
    fmt,
    io::Write,
    mem,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant, SystemTime},
};

use kernlet_image::FunctionConfig;
use kernlet_jail::{Role, confine};
use kernlet_meter::UsageRecord;
use kernlet_monitor::{Level, LogSink};
use serde::Serialize;

use crate::report::CrashReport;

/// How many times its lines of a second a function may write at once.
const BURST: u32 = 4;

/// Most bytes of lines that wait for the reader of the log.
pub const BACKLOG_MAX: usize = 1024 * 1024;

/// How often dropped lines are reported.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// A function's log. Cheap to clone; every clone writes to the same place.
#[derive(Clone)]
pub struct Log {
    inner: Arc<Inner>,
}

struct Inner {
    backlog: Mutex<Backlog>,
    added: Condvar,
    written: Condvar,
    debug: bool,
}

/// What waits to be written, and what was not let in.
struct Backlog {
    bytes: Vec<u8>,
    writing: bool,
    closed: bool,
    bucket: Bucket,
    over_rate: u64,
    over_backlog: u64,
    reported: Option<Instant>,
}

/// One line as it is written.
#[derive(Serialize)]
struct Line<'a> {
    timestamp: String,
    level: &'static str,
    source: &'static str,
    call_id: &'a str,
    text: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    report: Option<&'a CrashReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<&'a UsageRecord>,
}

impl Log {
    /// Starts a log that takes the usual number of lines: [`Self::start_at`] says the rest.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn start(to: impl Write + Send + 'static, debug: bool) -> Result<Self, std::io::Error> {
        Self::start_at(to, debug, FunctionConfig::default().log_rate)
    }

    /// Starts a log that writes to `to`, on a thread of its own. With `debug`, the watchdog's own debug
    /// lines are written as well. The function's machines may write `rate` lines a second, zero for any number, and
    /// four times as many at once.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn start_at(to: impl Write + Send + 'static, debug: bool, rate: u32) -> Result<Self, std::io::Error> {
        let log = Self::new(debug, rate);
        log.write_to(to)?;
        Ok(log)
    }

    /// A log that keeps its lines until it is told where to write them.
    pub(crate) fn new(debug: bool, rate: u32) -> Self {
        let inner =
            Inner { backlog: Mutex::new(Backlog::new(rate)), added: Condvar::new(), written: Condvar::new(), debug };
        Self { inner: Arc::new(inner) }
    }

    /// Begins to write, on a thread of its own.
    pub(crate) fn write_to(&self, to: impl Write + Send + 'static) -> Result<(), std::io::Error> {
        let writer = Arc::clone(&self.inner);
        thread::Builder::new().name("log".to_owned()).spawn(move || writer.write_all_to(to)).map(drop)
    }

    /// Adds a line of the watchdog's own.
    pub(crate) fn watchdog(&self, call_id: &str, level: Level, text: &str) {
        if level <= Level::Info || self.inner.debug {
            self.inner.add("watchdog", call_id, level, text);
        }
    }

    /// Adds a line of the watchdog's own about an invocation, with what it used.
    pub(crate) fn invocation(&self, call_id: &str, level: Level, text: &str, used: &UsageRecord) {
        if level <= Level::Info || self.inner.debug {
            self.inner.add_encoded(&encode_line("watchdog", call_id, level, text, None, Some(used)));
        }
    }

    /// Adds a crash report, on a line of its own: whoever cuts it has the crash's cause whole on the line before.
    pub(crate) fn report(&self, call_id: &str, report: &CrashReport) {
        let line = encode_line("watchdog", call_id, Level::Error, &report.summary(), Some(report), None);
        self.inner.add_encoded(&line);
    }

    /// Whether debug lines are written, for callers whose text costs something.
    pub(crate) fn debugs(&self) -> bool {
        self.inner.debug
    }

    /// Waits until everything added so far is written, but no longer than `patience`.
    pub fn flush(&self, patience: Duration) {
        let mut backlog = self.inner.lock();
        backlog.closed = true;
        self.inner.added.notify_one();
        drop(self.inner.written.wait_timeout_while(backlog, patience, |backlog| backlog.is_unwritten()));
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").field("debug", &self.inner.debug).finish_non_exhaustive()
    }
}

impl LogSink for Log {
    fn line(&self, call_id: &str, level: Level, text: &str) {
        {
            let mut backlog = self.inner.lock();
            if !backlog.bucket.take(Instant::now()) {
                backlog.over_rate += 1;
                self.inner.added.notify_one();
                return;
            }
        }
        self.inner.add("function", call_id, level, text);
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Backlog> {
        self.backlog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, source: &'static str, call_id: &str, level: Level, text: &str) {
        self.add_encoded(&encode(source, call_id, level, text));
    }

    fn add_encoded(&self, line: &[u8]) {
        let mut backlog = self.lock();
        if backlog.bytes.len() + line.len() > BACKLOG_MAX {
            backlog.over_backlog += 1;
        } else {
            backlog.bytes.extend_from_slice(line);
        }
        self.added.notify_one();
    }

    /// The log's thread. A reader that is gone does not stop it: the lines then go nowhere.
    fn write_all_to(&self, mut to: impl Write) {
        confine(Role::Log);
        let mut batch = Vec::new();
        while self.next_batch(&mut batch) {
            let _reader_gone = to.write_all(&batch).and_then(|()| to.flush());
            batch.clear();
            self.lock().writing = false;
            self.written.notify_all();
        }
    }

    /// Waits for lines and takes them all; `false` when the log is closed and empty.
    fn next_batch(&self, batch: &mut Vec<u8>) -> bool {
        let mut backlog = self.lock();
        loop {
            let now = Instant::now();
            if let Some(report) = backlog.report(now) {
                backlog.bytes.extend_from_slice(&report);
            }
            if !backlog.bytes.is_empty() {
                mem::swap(&mut backlog.bytes, batch);
                backlog.writing = true;
                return true;
            }
            if backlog.closed {
                self.written.notify_all();
                return false;
            }
            backlog = match backlog.report_due(now) {
                Some(wait) => self.added.wait_timeout(backlog, wait).unwrap_or_else(PoisonError::into_inner).0,
                None => self.added.wait(backlog).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

impl Backlog {
    fn new(rate: u32) -> Self {
        Self {
            bytes: Vec::new(),
            writing: false,
            closed: false,
            bucket: Bucket::full(rate),
            over_rate: 0,
            over_backlog: 0,
            reported: None,
        }
    }

    fn is_unwritten(&self) -> bool {
        self.writing || !self.bytes.is_empty() || self.has_dropped()
    }

    fn has_dropped(&self) -> bool {
        self.over_rate > 0 || self.over_backlog > 0
    }

    /// How long until dropped lines are to be reported; `None` when there are none.
    fn report_due(&self, now: Instant) -> Option<Duration> {
        if !self.has_dropped() {
            return None;
        }
        let due = self.reported.map_or(now, |reported| reported + REPORT_EVERY);
        Some(if self.closed { Duration::ZERO } else { due.saturating_duration_since(now) })
    }

    /// The line that reports what was dropped, when it is due.
    fn report(&mut self, now: Instant) -> Option<Vec<u8>> {
        if self.report_due(now)? > Duration::ZERO {
            return None;
        }
        self.reported = Some(now);
        let (rate, backlog) = (mem::take(&mut self.over_rate), mem::take(&mut self.over_backlog));
        let text = match (rate, backlog) {
            (rate, 0) => format!("{rate} log lines dropped: {}", self.bucket.over()),
            (0, backlog) => format!("{backlog} log lines dropped: {}", over_backlog()),
            (rate, backlog) => format!(
                "{} log lines dropped: {rate} because {}; {backlog} because {}",
                rate + backlog,
                self.bucket.over(),
                over_backlog()
            ),
        };
        Some(encode("watchdog", "", Level::Warn, &text))
    }
}

fn over_backlog() -> String {
    format!("{BACKLOG_MAX} bytes of them wait for the log's reader (is it stopped?)")
}

fn encode(source: &'static str, call_id: &str, level: Level, text: &str) -> Vec<u8> {
    encode_line(source, call_id, level, text, None, None)
}

fn encode_line(
    source: &'static str,
    call_id: &str,
    level: Level,
    text: &str,
    report: Option<&CrashReport>,
    usage: Option<&UsageRecord>,
) -> Vec<u8> {
    let timestamp = humantime::format_rfc3339_micros(SystemTime::now()).to_string();
    let line = Line { timestamp, level: level.name(), source, call_id, text, report, usage };
    // Strings always encode; an empty line would be skipped by every reader.
    let mut bytes = serde_json::to_vec(&line).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

/// A token bucket of lines, refilled with so many a second.
struct Bucket {
    rate: u32,
    lines: f64,
    refilled: Option<Instant>,
}

impl Bucket {
    fn full(rate: u32) -> Self {
        Self { rate, lines: f64::from(rate) * f64::from(BURST), refilled: None }
    }

    /// What a report of dropped lines says of the rate.
    fn over(&self) -> String {
        let rate = self.rate;
        format!("the function writes more than {rate} a second (log less, or raise dev.kernlet.limits.log-rate)")
    }

    fn take(&mut self, now: Instant) -> bool {
        if self.rate == 0 {
            return true;
        }
        let rate = f64::from(self.rate);
        let since = self.refilled.map_or(Duration::ZERO, |refilled| now.saturating_duration_since(refilled));
        self.refilled = Some(now);
        self.lines = (self.lines + since.as_secs_f64() * rate).min(rate * f64::from(BURST));
        if self.lines < 1.0 {
            return false;
        }
        self.lines -= 1.0;
        true
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use std::{
        io,
        sync::mpsc::{Receiver, Sender, channel},
    };

    use super::*;

    /// A reader that takes nothing before it is told to.
    struct Blocked {
        started: Sender<()>,
        go: Receiver<()>,
        taken: Sender<Vec<u8>>,
    }

    impl Write for Blocked {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.started.send(());
            let _ = self.go.recv();
            let _ = self.taken.send(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn lines(bytes: &[u8]) -> Vec<serde_json::Value> {
        std::str::from_utf8(bytes).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn a_blocked_reader_neither_stops_the_function_nor_grows_the_log() {
        let ((started, is_started), (go, may_go), (taken, all_taken)) = (channel(), channel(), channel());
        let log = Log::start(Blocked { started, go: may_go, taken }, false).unwrap();
        log.watchdog("", Level::Info, "first");
        is_started.recv().unwrap();

        let long = "x".repeat(16 * 1024);
        for _ in 0..200 {
            log.watchdog("", Level::Info, &long);
        }
        assert!(log.inner.lock().bytes.len() <= BACKLOG_MAX);
        assert!(log.inner.lock().over_backlog > 100);

        drop(go);
        log.flush(Duration::from_secs(60));
        let written: Vec<u8> = all_taken.try_iter().flatten().collect();
        let reports: Vec<_> = lines(&written)
            .into_iter()
            .filter(|line| line["text"].as_str().unwrap().contains("wait for the log's reader"))
            .collect();
        assert_eq!(reports.len(), 1, "{reports:?}");
        assert_eq!(reports[0]["level"], "warn");
    }

    #[test]
    fn a_function_that_floods_its_log_is_cut_to_its_rate_and_the_rest_counted() {
        let (taken, all_taken) = channel();
        let (started, _unused) = channel();
        let (_, go) = channel();
        const WRITTEN: u32 = 1200;
        let log = Log::start_at(Blocked { started, go, taken }, false, 100).unwrap();
        for _ in 0..WRITTEN {
            LogSink::line(&log, "id", Level::Info, "again");
        }
        log.flush(Duration::from_secs(60));
        let written = lines(&all_taken.try_iter().flatten().collect::<Vec<u8>>());
        let kept = written.iter().filter(|line| line["source"] == "function").count();
        assert!((400..1200).contains(&kept), "{kept}");
        assert!(written.iter().any(|line| line["text"].as_str().unwrap().contains("limits.log-rate")), "{written:?}");
        let dropped: u64 = written
            .iter()
            .filter(|line| line["source"] == "watchdog")
            .map(|line| line["text"].as_str().unwrap().split(' ').next().unwrap().parse::<u64>().unwrap())
            .sum();
        assert_eq!(dropped + kept as u64, u64::from(WRITTEN));
    }

    #[test]
    fn the_bucket_refills_at_its_rate_and_never_above_its_burst() {
        let start = Instant::now();
        let mut bucket = Bucket::full(500);
        assert_eq!((0..4000).filter(|_| bucket.take(start)).count(), 2000);
        let later = start + Duration::from_secs(1);
        assert_eq!((0..2000).filter(|_| bucket.take(later)).count(), 500);
        let much_later = later + Duration::from_secs(3600);
        assert_eq!((0..4000).filter(|_| bucket.take(much_later)).count(), 2000);
    }

    #[test]
    fn a_function_without_a_rate_may_write_any_number_of_lines() {
        let (now, mut bucket) = (Instant::now(), Bucket::full(0));
        assert!((0..100_000).all(|_| bucket.take(now)));
    }

    #[test]
    fn a_line_about_an_invocation_says_what_it_used() {
        let used = UsageRecord { cpu: 7, exits: 1, ..UsageRecord::default() };
        let line = &lines(&encode_line("watchdog", "c", Level::Debug, "200", None, Some(&used)))[0];
        assert_eq!((&line["usage"]["cpu"], &line["usage"]["exits"]), (&7.into(), &1.into()));
        assert!(lines(&encode("watchdog", "c", Level::Info, "x"))[0].get("usage").is_none());
    }

    #[test]
    fn a_line_is_one_json_object_whatever_the_text_holds() {
        let bytes = encode("function", "c-1", Level::Error, "a\nb\"\u{0}\u{2028}");
        assert_eq!(bytes.iter().filter(|byte| **byte == b'\n').count(), 1);
        let line = &lines(&bytes)[0];
        assert_eq!(line["text"], "a\nb\"\u{0}\u{2028}");
        assert_eq!(
            (&line["level"], &line["source"], &line["call_id"]),
            (&"error".into(), &"function".into(), &"c-1".into())
        );
        assert!(humantime::parse_rfc3339(line["timestamp"].as_str().unwrap()).is_ok());
    }

    #[test]
    fn debug_lines_of_the_watchdog_are_written_only_on_demand() {
        for debug in [false, true] {
            let (taken, all_taken) = channel();
            let (started, _unused) = channel();
            let (_, go) = channel();
            let log = Log::start(Blocked { started, go, taken }, debug).unwrap();
            log.watchdog("", Level::Debug, "detail");
            log.flush(Duration::from_secs(60));
            assert_eq!(all_taken.try_iter().flatten().count() > 0, debug);
        }
    }
}

//! Cuts what a watchdog process writes into lines of bounded length, and words each as a log text.
//! The replica's supervisor feeds it from the process's standard output and error.
//! It never holds more than one line, however long the line that the process writes.

use crate::time;
use serde::Deserialize;
use serde_json::Value;
use std::borrow::Cow;

/// Longest line that is kept, in bytes; the rest of a longer one is cut off and its end says so.
pub(crate) const LINE_MAX: usize = 16 * 1024;

/// What stands at the end of a line that was cut.
const CUT: &str = " … (cut: longer than 16 KiB)";

/// Collects bytes until a line is whole.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    line: Vec<u8>,
    cut: bool,
}

impl Lines {
    /// Takes the next bytes and gives out each line that they end, without its newline.
    pub(crate) fn feed(&mut self, mut bytes: &[u8], mut line: impl FnMut(&str)) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.take(&bytes[..end]);
            self.give(&mut line);
            bytes = &bytes[end + 1..];
        }
        self.take(bytes);
    }

    /// Gives out what is left when the process has closed its end.
    pub(crate) fn finish(mut self, mut line: impl FnMut(&str)) {
        if !self.line.is_empty() {
            self.give(&mut line);
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        let room = LINE_MAX - self.line.len();
        let taken = bytes.len().min(room);
        self.line.extend_from_slice(&bytes[..taken]);
        self.cut |= taken < bytes.len();
    }

    fn give(&mut self, line: &mut impl FnMut(&str)) {
        let mut text = String::from_utf8_lossy(&self.line);
        if self.cut {
            text = Cow::Owned(format!("{text}{CUT}"));
        }
        line(text.trim_end_matches('\r'));
        self.line.clear();
        self.cut = false;
    }
}

/// A line's moment and wording.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// RFC 3339.
    pub(crate) timestamp: String,
    /// `[level] [call id] text`, the call id only where there is one.
    pub(crate) text: String,
    /// What it is worth when a failure has to be explained.
    pub(crate) weight: Weight,
    /// A crash report, as the watchdog wrote it.
    pub(crate) report: Option<Value>,
}

/// What a line is worth when a failure has to be explained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weight {
    /// It says that all is well: info and below.
    Routine,
    /// It may be the reason.
    Plain,
    /// The watchdog itself calls it an error.
    Fault,
}

/// A line as the watchdog writes it.
#[derive(Deserialize)]
struct WatchdogLine<'a> {
    #[serde(borrow)]
    timestamp: Cow<'a, str>,
    #[serde(borrow)]
    level: Cow<'a, str>,
    #[serde(borrow, default)]
    source: Cow<'a, str>,
    #[serde(borrow, default)]
    call_id: Cow<'a, str>,
    #[serde(borrow)]
    text: Cow<'a, str>,
    #[serde(default)]
    report: Option<Value>,
    /// What an invocation used, name by name.
    #[serde(default)]
    usage: Option<serde_json::Map<String, serde_json::Value>>,
}

impl Entry {
    /// Words a line of the watchdog's standard output. One that is not the watchdog's JSON is kept as it is.
    pub(crate) fn from_stdout(line: &str) -> Entry {
        match serde_json::from_str::<WatchdogLine<'_>>(line) {
            Ok(line) => {
                let level = &line.level;
                let mut text = if line.call_id.is_empty() {
                    format!("[{level}] {}", line.text)
                } else {
                    format!("[{level}] [{}] {}", line.call_id, line.text)
                };
                if let Some(usage) = line.usage {
                    let fields: Vec<String> = usage.iter().map(|(name, value)| format!("{name}={value}")).collect();
                    text = format!("{text} ({})", fields.join(", "));
                }
                let weight = match (level.as_ref(), line.source.as_ref()) {
                    // The line before it says why.
                    _ if line.report.is_some() => Weight::Routine,
                    ("info" | "debug" | "trace", _) => Weight::Routine,
                    ("error", "watchdog") => Weight::Fault,
                    _ => Weight::Plain,
                };
                let timestamp = match time::parse(&line.timestamp) {
                    Some(_) => line.timestamp.into_owned(),
                    None => time::now(),
                };
                Entry { timestamp, text, weight, report: line.report }
            }
            Err(_) => Entry { timestamp: time::now(), text: line.to_owned(), weight: Weight::Plain, report: None },
        }
    }

    /// Words a line of the watchdog's standard error, or the gateway's own.
    pub(crate) fn now(level: &str, text: &str) -> Entry {
        Entry { timestamp: time::now(), text: format!("[{level}] {text}"), weight: Weight::Plain, report: None }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
    use super::*;
    use proptest::prelude::*;

    fn split(chunks: &[&[u8]]) -> Vec<String> {
        let mut found = Vec::new();
        let mut lines = Lines::default();
        for chunk in chunks {
            lines.feed(chunk, |line| found.push(line.to_owned()));
        }
        lines.finish(|line| found.push(line.to_owned()));
        found
    }

    #[test]
    fn lines_are_whole_however_the_pipe_cuts_them() {
        assert_eq!(split(&[b"one\ntw", b"o\r\n", b"", b"\nrest"]), ["one", "two", "", "rest"]);
    }

    #[test]
    fn an_endless_line_is_cut_and_the_next_one_is_whole() {
        let long = vec![b'x'; LINE_MAX + 1];
        let found = split(&[&long, &long, b"\nnext\n"]);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].len(), LINE_MAX + CUT.len());
        assert!(found[0].ends_with(CUT));
        assert_eq!(found[1], "next");
    }

    #[test]
    fn a_watchdogs_line_is_worded_with_its_level_and_call_id() {
        let line = r#"{"timestamp":"2026-01-02T03:04:05.678Z","level":"warn","source":"function","call_id":"c-1","text":"a \"b\""}"#;
        let entry = Entry::from_stdout(line);
        assert_eq!(entry.timestamp, "2026-01-02T03:04:05.678Z");
        assert_eq!(entry.text, r#"[warn] [c-1] a "b""#);
        assert_eq!(entry.weight, Weight::Plain);
        let line =
            r#"{"timestamp":"2026-01-02T03:04:05Z","level":"info","source":"watchdog","call_id":"","text":"up"}"#;
        let entry = Entry::from_stdout(line);
        assert_eq!(entry.text, "[info] up");
        assert_eq!(entry.weight, Weight::Routine);
        let line = r#"{"timestamp":"","level":"debug","call_id":"c","text":"200","usage":{"cpu":7,"exits":1}}"#;
        assert_eq!(Entry::from_stdout(line).text, "[debug] [c] 200 (cpu=7, exits=1)");
    }

    #[test]
    fn only_the_watchdogs_own_errors_are_faults() {
        let weight = |source| {
            Entry::from_stdout(&format!(r#"{{"timestamp":"","level":"error","source":"{source}","text":"x"}}"#)).weight
        };
        assert_eq!(weight("watchdog"), Weight::Fault);
        assert_eq!(weight("function"), Weight::Plain);
    }

    #[test]
    fn any_other_line_is_kept_as_it_is() {
        for line in ["plain", "{", "{}", "[1]", r#"{"text":1}"#] {
            assert_eq!(Entry::from_stdout(line).text, line);
        }
        let untimed = Entry::from_stdout(r#"{"timestamp":"soon","level":"info","text":"x"}"#);
        assert!(time::parse(&untimed.timestamp).is_some());
    }

    proptest! {
        #[test]
        fn nothing_that_was_written_is_lost_below_the_limit(text in "([a-zé ]{0,12}\n){0,8}", at in 0_usize..64) {
            let bytes = text.as_bytes();
            let (first, second) = bytes.split_at(at.min(bytes.len()));
            prop_assert_eq!(split(&[first, second]), text.lines().map(str::to_owned).collect::<Vec<_>>());
        }

        #[test]
        fn any_bytes_are_worded_without_a_panic(bytes: Vec<u8>) {
            for line in split(&[&bytes]) {
                let _ = Entry::from_stdout(&line);
            }
        }
    }
}

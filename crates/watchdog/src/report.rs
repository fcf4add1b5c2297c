//! A crash report as it is logged and shown: one JSON object of bounded size, or lines for people. Made when a machine
//! has crashed, written to the function's log, read back by `kernlet logs`. It never goes to a caller: registers may
//! hold pieces of a request.

use std::fmt;

use kernlet_monitor::{Crash, Frame, Report};
use serde::{Deserialize, Serialize};

/// Most bytes of a report as JSON; the gateway keeps lines of 16 KiB.
pub(crate) const REPORT_MAX: usize = 12 * 1024;

/// Most bytes of a function's name in a report.
const SYMBOL_MAX: usize = 200;

/// What is known of a machine that has crashed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CrashReport {
    /// What was to be answered; nothing when the function was initialising.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Request>,
    /// Time, exits and so on until the crash.
    pub usage: Usage,
    /// The exception that ended the machine, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
    /// Names and values (hexadecimal, since JSON's numbers are too short) of the general registers.
    pub registers: Vec<(String, String)>,
    /// Innermost first.
    pub backtrace: Vec<Call>,
    /// The last lines that the function logged.
    #[serde(default)]
    pub log: Vec<LoggedLine>,
}

/// A request, without what is in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Request {
    pub method: String,
    pub path: String,
    pub call_id: String,
    pub query_bytes: usize,
    pub headers: usize,
    pub body_bytes: usize,
}

/// What the machine took.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Usage {
    pub wall_us: u64,
    pub accel_us: u64,
    pub exits: u32,
}

/// A processor exception.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Fault {
    pub vector: u8,
    pub name: String,
    pub error_code: String,
    /// Of a page fault: CR2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
}

/// One frame of the backtrace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// Where in the code, hexadecimal.
    pub address: String,
    /// The function, where the unikernel has symbols.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function: Option<String>,
    /// Bytes from the function's start.
    #[serde(default)]
    pub offset: u64,
    /// `processor`, `chain`, or `search` for one that is only likely.
    pub found: String,
}

/// A line of the function's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct LoggedLine {
    pub level: String,
    pub text: String,
}

impl CrashReport {
    /// The report of a crash; `None` when the machine never ran. What makes it longer than 12 KiB is left out:
    /// first the oldest log lines, then the outermost frames.
    #[must_use]
    pub fn of(crash: &Crash) -> Option<Self> {
        let Report { registers, fault, backtrace, last_lines, request } = crash.report()?;
        let hexadecimal = |value: u64| format!("{value:#x}");
        let usage = crash.usage();
        let micros = |time: std::time::Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let mut report = Self {
            request: request.as_ref().map(|request| Request {
                method: request.method.clone(),
                path: request.path.clone(),
                call_id: request.call_id.clone(),
                query_bytes: request.query_bytes,
                headers: request.headers,
                body_bytes: request.body_bytes,
            }),
            usage: Usage { wall_us: micros(usage.wall), accel_us: micros(usage.accel), exits: usage.exits },
            fault: fault.map(|fault| Fault {
                vector: fault.vector,
                name: fault.name.to_owned(),
                error_code: hexadecimal(fault.error_code),
                address: fault.address.map(hexadecimal),
            }),
            registers: registers.named().map(|(name, value)| (name.to_owned(), hexadecimal(value))).into(),
            backtrace: backtrace.iter().map(Call::of).collect(),
            log: last_lines
                .iter()
                .map(|(level, text)| LoggedLine { level: level.name().to_owned(), text: text.clone() })
                .collect(),
        };
        report.shorten();
        Some(report)
    }

    fn shorten(&mut self) {
        while serde_json::to_vec(self).map_or(0, |json| json.len()) > REPORT_MAX {
            if !self.log.is_empty() {
                self.log.remove(0);
            } else if self.backtrace.pop().is_none() {
                return;
            }
        }
    }

    /// The functions of the backtrace in one line, innermost first.
    #[must_use]
    pub fn summary(&self) -> String {
        const SHOWN: usize = 6;
        let names = self.backtrace.iter().take(SHOWN).map(|call| call.function.as_deref().unwrap_or(&call.address));
        let more = if self.backtrace.len() > SHOWN { " < ..." } else { "" };
        format!("crash report: {}{more}", names.collect::<Vec<_>>().join(" < "))
    }
}

impl Call {
    fn of(frame: &Frame) -> Self {
        let (function, offset) = match &frame.at.symbol {
            Some((name, offset)) => (Some(name[..name.floor_char_boundary(SYMBOL_MAX)].to_owned()), *offset),
            None => (None, 0),
        };
        Self { address: format!("{:#x}", frame.at.address), function, offset, found: frame.found.name().to_owned() }
    }
}

/// Text of a guest or a caller, with its control characters written out.
struct Printable<'a>(&'a str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|character| {
            if character.is_control() { write!(f, "{}", character.escape_default()) } else { write!(f, "{character}") }
        })
    }
}

/// For people: several lines, none of which steers a terminal.
impl fmt::Display for CrashReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.request {
            Some(request) => writeln!(
                f,
                "request:   {} {}, {} bytes of query, {} headers, {} bytes of body, call id {}",
                Printable(&request.method),
                Printable(&request.path),
                request.query_bytes,
                request.headers,
                request.body_bytes,
                Printable(&request.call_id)
            )?,
            None => writeln!(f, "request:   none, the function was initialising")?,
        }
        let Usage { wall_us, accel_us, exits } = self.usage;
        writeln!(f, "took:      {wall_us} µs, {accel_us} µs of it in accelerators; {exits} exits")?;
        if let Some(fault) = &self.fault {
            write!(f, "fault:     {} (vector {}), error code ", Printable(&fault.name), fault.vector)?;
            write!(f, "{}", Printable(&fault.error_code))?;
            match &fault.address {
                Some(address) => writeln!(f, ", address {}", Printable(address))?,
                None => writeln!(f)?,
            }
        }
        for (index, row) in self.registers.chunks(3).enumerate() {
            let row: Vec<_> = row.iter().map(|(name, value)| format!("{name:>6} {value:<18}")).collect();
            let title = if index == 0 { "registers:" } else { "" };
            writeln!(f, "{title:10}{}", Printable(row.join(" ").trim_end()))?;
        }
        writeln!(f, "backtrace:")?;
        for (index, call) in self.backtrace.iter().enumerate() {
            write!(f, "  #{index:<2} {}", Printable(&call.address))?;
            if let Some(function) = &call.function {
                write!(f, " {}+{:#x}", Printable(function), call.offset)?;
            }
            writeln!(f, "{}", if call.found == "search" { " (found on the stack: likely, not certain)" } else { "" })?;
        }
        if !self.log.is_empty() {
            writeln!(f, "last lines of its log:")?;
        }
        self.log.iter().try_for_each(|line| writeln!(f, "  [{}] {}", Printable(&line.level), Printable(&line.text)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
mod tests {
    use super::*;

    fn report(lines: usize, text: &str) -> CrashReport {
        CrashReport {
            request: Some(Request {
                method: "POST".into(),
                path: text.into(),
                call_id: "c".into(),
                query_bytes: 0,
                headers: 0,
                body_bytes: 5,
            }),
            usage: Usage { wall_us: 1, accel_us: 0, exits: 1 },
            fault: None,
            registers: vec![("rip".into(), "0x200000".into())],
            backtrace: (0..32)
                .map(|index| Call {
                    address: format!("{index:#x}"),
                    function: Some(text.into()),
                    offset: 1,
                    found: if index == 31 { "search" } else { "chain" }.into(),
                })
                .collect(),
            log: (0..lines).map(|_| LoggedLine { level: "info".into(), text: text.into() }).collect(),
        }
    }

    #[test]
    fn a_report_is_never_longer_than_a_line_of_the_log_may_be() {
        let mut long = report(16, &"\u{1}".repeat(256));
        long.shorten();
        assert!(serde_json::to_vec(&long).unwrap().len() <= REPORT_MAX);
        assert!(long.log.is_empty() && !long.backtrace.is_empty(), "log lines go before frames");
        let mut short = report(2, "short");
        short.shorten();
        assert_eq!(short, report(2, "short"));
    }

    #[test]
    fn a_report_survives_json_and_does_not_drive_the_terminal() {
        let report = report(1, "\u{1b}]0;title\u{7}");
        let read: CrashReport = serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();
        assert_eq!(read, report);
        let shown = read.to_string();
        assert!(shown.lines().all(|line| !line.contains(char::is_control)), "{shown}");
        assert!(shown.contains("#31 0x1f") && shown.contains("likely, not certain"), "{shown}");
    }
}

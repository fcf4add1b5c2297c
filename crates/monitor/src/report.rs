//! In what state a guest ended: registers, fault, callers, last log lines, and which request it had. Made by the machine
//! with the crash; goes to the function's own log. It never holds a request's body or headers, nor the environment.

use std::collections::VecDeque;

use crate::{
    backtrace::Frame,
    message::{Level, Request},
    processor::{Fault, Registers},
};

/// Log lines that are kept for a report.
pub(crate) const LAST_LINES_MAX: usize = 16;

/// Bytes of each of them that are kept.
pub(crate) const LAST_LINE_MAX: usize = 256;

/// Bytes of a request's path, method and call id that a report has.
const SUMMARY_TEXT_MAX: usize = 256;

/// The state of a guest that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// General registers, the guest's own also when it ended by a fault.
    pub registers: Registers,
    /// The fault that ended it, if one did.
    pub fault: Option<FaultDetail>,
    /// Where it was and who called that, innermost first.
    pub backtrace: Vec<Frame>,
    /// The last lines that it logged, in their order, each cut to 256 bytes.
    pub last_lines: Vec<(Level, String)>,
    /// The request it was to answer; nothing when it was initialising.
    pub request: Option<RequestSummary>,
}

/// A processor exception as the processor reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultDetail {
    /// Its vector, 0 to 31.
    pub vector: u8,
    /// Its name, with the article.
    pub name: &'static str,
    /// Its error code, zero for those that have none.
    pub error_code: u64,
    /// Of a page fault: the address that was touched (CR2).
    pub address: Option<u64>,
}

impl From<Fault> for FaultDetail {
    fn from(fault: Fault) -> Self {
        let is_page_fault = fault.vector == Fault::PAGE_FAULT;
        let name = if is_page_fault { "a page fault" } else { fault.name() };
        let Fault { vector, error_code, .. } = fault;
        Self { vector, name, error_code, address: is_page_fault.then_some(fault.address) }
    }
}

/// What may be said of a request without showing what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestSummary {
    /// Its call id.
    pub call_id: String,
    /// Its method.
    pub method: String,
    /// Its path, cut where it is long.
    pub path: String,
    /// Size of its query, in bytes.
    pub query_bytes: usize,
    /// How many headers it has.
    pub headers: usize,
    /// Size of its body, in bytes.
    pub body_bytes: usize,
}

impl RequestSummary {
    pub(crate) fn of(request: &Request<'_>) -> Self {
        let cut = |text: &str| text[..text.floor_char_boundary(SUMMARY_TEXT_MAX)].to_owned();
        Self {
            call_id: cut(request.call_id),
            method: cut(request.method),
            path: cut(request.path),
            query_bytes: request.query.len(),
            headers: request.headers.len(),
            body_bytes: request.body.len(),
        }
    }
}

/// The last lines of a log.
#[derive(Debug, Default)]
pub(crate) struct LastLines(VecDeque<(Level, String)>);

impl LastLines {
    pub(crate) fn push(&mut self, level: Level, text: &str) {
        // The text that falls out gives its room to the one that comes in.
        let mut kept =
            if self.0.len() < LAST_LINES_MAX { None } else { self.0.pop_front() }.unwrap_or((level, String::new()));
        kept.0 = level;
        kept.1.clear();
        kept.1.push_str(&text[..text.floor_char_boundary(LAST_LINE_MAX)]);
        self.0.push_back(kept);
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &(Level, String)> {
        self.0.iter()
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_keeps_the_last_lines_and_of_each_its_beginning() {
        let mut lines = LastLines::default();
        for number in 0..LAST_LINES_MAX + 4 {
            lines.push(Level::Info, &format!("{number}: {}", "ä".repeat(LAST_LINE_MAX)));
        }
        let kept: Vec<_> = lines.iter().collect();
        assert_eq!(kept.len(), LAST_LINES_MAX);
        assert!(kept[0].1.starts_with("4: ä") && kept[LAST_LINES_MAX - 1].1.starts_with("19: ä"));
        assert!(kept.iter().all(|(_, text)| text.len() <= LAST_LINE_MAX), "{kept:?}");
        lines.clear();
        assert_eq!(lines.iter().count(), 0);
    }
}

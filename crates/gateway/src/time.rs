//! RFC 3339 times: how log lines, deployments and the `since` of a log query carry them.
//! The log reader and the function manager call it.
//! It never knows a calendar other than UTC: an offset is folded away when a time is read.

use std::time::{Duration, SystemTime};

/// Now, in UTC with microseconds: `2026-01-02T03:04:05.678901Z`.
pub(crate) fn now() -> String {
    humantime::format_rfc3339_micros(SystemTime::now()).to_string()
}

/// Reads an RFC 3339 time with any offset (`faas-cli` sends the local one). `None` where the text is not one.
pub(crate) fn parse(text: &str) -> Option<SystemTime> {
    if let Some(utc) = text.strip_suffix(['Z', 'z']) {
        return humantime::parse_rfc3339(&format!("{utc}Z")).ok();
    }
    // The offset is the last six bytes: a sign, two digits, a colon, two digits. A `+` that arrived unescaped in a
    // query is a space by now.
    let at = text.len().checked_sub(6)?;
    let (local, offset) = (text.get(..at)?, text.get(at..)?);
    let offset = offset.as_bytes();
    if offset[3] != b':' {
        return None;
    }
    let (hours, minutes) = (two_digits(&offset[1..3])?, two_digits(&offset[4..6])?);
    if hours > 23 || minutes > 59 {
        return None;
    }
    let offset_length = Duration::from_secs(u64::from(hours) * 3600 + u64::from(minutes) * 60);
    let local = humantime::parse_rfc3339(&format!("{local}Z")).ok()?;
    match offset[0] {
        b'+' | b' ' => local.checked_sub(offset_length),
        b'-' => local.checked_add(offset_length),
        _ => None,
    }
}

fn two_digits(text: &[u8]) -> Option<u8> {
    match text {
        [tens @ b'0'..=b'9', ones @ b'0'..=b'9'] => Some((tens - b'0') * 10 + (ones - b'0')),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_offset_is_folded_into_utc() {
        let utc = parse("2026-03-04T05:06:07Z").unwrap();
        assert_eq!(parse("2026-03-04T07:06:07+02:00"), Some(utc));
        assert_eq!(parse("2026-03-04T07:06:07 02:00"), Some(utc));
        assert_eq!(parse("2026-03-03T23:36:07-05:30"), Some(utc));
        assert_eq!(parse("2026-03-04T05:06:07.000Z"), Some(utc));
    }

    #[test]
    fn what_is_not_a_time_is_refused() {
        for text in
            ["", "yesterday", "2026-03-04", "2026-03-04T05:06:07", "2026-03-04T05:06:07+2:00", "+02:00", "éééééé"]
        {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_written_can_be_read() {
        assert!(parse(&now()).is_some());
    }

    proptest! {
        #[test]
        fn any_text_is_answered_without_a_panic(text in "\\PC*") {
            let _ = parse(&text);
        }
    }
}

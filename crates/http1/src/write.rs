//! What stands in the heads of messages, as bytes. The watchdog writes answers with it, the gateway requests and answers.
//! It never checks what it is given: names and values come from heads that were read, or have been checked.

use std::time::{SystemTime, UNIX_EPOCH};

use http::StatusCode;

/// The first line of a response.
pub fn status_line(text: &mut Vec<u8>, status: StatusCode) {
    text.extend_from_slice(b"HTTP/1.1 ");
    text.extend_from_slice(status.as_str().as_bytes());
    text.push(b' ');
    text.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    text.extend_from_slice(b"\r\n");
}

/// A field.
pub fn field(text: &mut Vec<u8>, name: &str, value: &[u8]) {
    text.reserve(name.len() + value.len() + 4);
    text.extend_from_slice(name.as_bytes());
    text.extend_from_slice(b": ");
    text.extend_from_slice(value);
    text.extend_from_slice(b"\r\n");
}

/// A field whose value is a number.
pub fn number_field(text: &mut Vec<u8>, name: &str, number: u64) {
    field(text, name, itoa::Buffer::new().format(number).as_bytes());
}

/// Whether these bytes can be a field's name, or a method (RFC 9110, section 5.6.2).
#[must_use]
pub fn is_token(name: &[u8]) -> bool {
    let is_mark = |byte: &u8| b"!#$%&'*+-.^_`|~".contains(byte);
    !name.is_empty() && name.iter().all(|byte| byte.is_ascii_alphanumeric() || is_mark(byte))
}

/// Whether these bytes can be a field's value: no control characters but the tab.
#[must_use]
pub fn is_field_value(value: &[u8]) -> bool {
    value.iter().all(|byte| *byte == b'\t' || (*byte >= b' ' && *byte != 127))
}

/// The time of the day as the `Date` field has it, worded once a second.
#[derive(Clone, Debug, Default)]
pub struct Date {
    /// The second that `text` is of, after 1970.
    second: u64,
    text: String,
}

impl Date {
    /// Now.
    pub fn now(&mut self) -> &str {
        let now = SystemTime::now();
        let second = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        if second != self.second || self.text.is_empty() {
            (self.second, self.text) = (second, httpdate::fmt_http_date(now));
        }
        &self.text
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_head_is_written_as_it_is_read() {
        let mut text = Vec::new();
        status_line(&mut text, StatusCode::NOT_FOUND);
        field(&mut text, "a", b"b");
        number_field(&mut text, "content-length", u64::MAX);
        assert_eq!(text, b"HTTP/1.1 404 Not Found\r\na: b\r\ncontent-length: 18446744073709551615\r\n");
        assert!(httpdate::parse_http_date(Date::default().now()).is_ok());
    }

    proptest! {
        #[test]
        fn what_can_be_a_field_is_what_everybody_takes_for_one(bytes in proptest::collection::vec(any::<u8>(), 0..6)) {
            prop_assert_eq!(is_token(&bytes), HeaderName::from_bytes(&bytes).is_ok());
            prop_assert_eq!(is_field_value(&bytes), HeaderValue::from_bytes(&bytes).is_ok());
        }
    }
}

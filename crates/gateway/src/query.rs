//! The query string of a `/system/*` call, percent-decoded, and what a log query says in it.
//! The system handlers call it; a function's own query is never parsed, it passes through byte for byte.
//! It never guesses: a value that does not parse is refused with the parameter's name.

use crate::time;
use std::borrow::Cow;
use std::time::SystemTime;
use thiserror::Error;

/// Why a query string was refused.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum QueryError {
    /// An escape is not `%` and two hexadecimal digits, or the decoded bytes are not UTF-8.
    #[error("The query parameter {0:?} is not percent-encoded UTF-8: write \"%\" as \"%25\"")]
    Encoding(String),
    /// A parameter's value does not have the form that the call takes.
    #[error("The query parameter {name} is {value:?}: it has to be {form}")]
    Value {
        /// The parameter.
        name: &'static str,
        /// What was sent.
        value: String,
        /// What it has to be.
        form: &'static str,
    },
    /// A parameter that the call cannot do without is missing.
    #[error("The query parameter {0} is missing: add \"?{0}=...\"")]
    Missing(&'static str),
}

/// The parameters of a query string, in their order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// Decodes `a=1&b=%20x` (form encoding: `+` is a space).
    pub(crate) fn parse(text: &str) -> Result<Query, QueryError> {
        text.split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| {
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                Ok((decode(name)?, decode(value)?))
            })
            .collect::<Result<_, _>>()
            .map(Query)
    }

    /// The first value of a parameter that is not empty.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, value)| key == name && !value.is_empty()).map(|(_, value)| value.as_str())
    }
}

/// What `/system/logs` was asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct LogQuery {
    /// The function.
    pub(crate) name: String,
    /// Its namespace, where one was named.
    pub(crate) namespace: Option<String>,
    /// Only lines of this replica.
    pub(crate) instance: Option<String>,
    /// Only lines from this moment on.
    pub(crate) since: Option<SystemTime>,
    /// Only so many of the latest lines; `None` is all.
    pub(crate) tail: Option<usize>,
    /// Whether the answer goes on with new lines as they come.
    pub(crate) follow: bool,
}

impl LogQuery {
    /// Reads the parameters name, namespace, instance, since, tail (-1 is all) and follow (1, 0, true, false).
    pub(crate) fn parse(text: &str) -> Result<LogQuery, QueryError> {
        let query = Query::parse(text)?;
        let owned = |name| query.get(name).map(str::to_owned);
        let value = |name, form| move |value: &str| QueryError::Value { name, value: value.to_owned(), form };
        let since = match query.get("since") {
            None => None,
            Some(text) => Some(
                time::parse(text)
                    .ok_or_else(|| value("since", "a time of RFC 3339, like 2026-01-31T12:00:00Z")(text))?,
            ),
        };
        let tail = match query.get("tail") {
            None | Some("-1") => None,
            Some(text) => {
                Some(text.parse().map_err(|_| value("tail", "a number of lines, or -1 for all of them")(text))?)
            }
        };
        let follow = match query.get("follow") {
            None | Some("0" | "f" | "F" | "false" | "False" | "FALSE") => false,
            Some("1" | "t" | "T" | "true" | "True" | "TRUE") => true,
            Some(text) => return Err(value("follow", "1, 0, true or false")(text)),
        };
        Ok(LogQuery {
            name: owned("name").ok_or(QueryError::Missing("name"))?,
            namespace: owned("namespace"),
            instance: owned("instance"),
            since,
            tail,
            follow,
        })
    }
}

fn decode(text: &str) -> Result<String, QueryError> {
    let refused = || QueryError::Encoding(text.to_owned());
    let text = if text.contains('+') { Cow::Owned(text.replace('+', " ")) } else { Cow::Borrowed(text) };
    if !text.contains('%') {
        return Ok(text.into_owned());
    }
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let high = bytes.next().and_then(hexadecimal).ok_or_else(refused)?;
        let low = bytes.next().and_then(hexadecimal).ok_or_else(refused)?;
        decoded.push(high << 4 | low);
    }
    String::from_utf8(decoded).map_err(|_| refused())
}

fn hexadecimal(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parameters_are_decoded_and_empty_ones_count_as_absent() {
        let query = Query::parse("namespace=&namespace=team%2Da&x=1+2%26&flag").unwrap();
        assert_eq!(query.get("namespace"), Some("team-a"));
        assert_eq!(query.get("x"), Some("1 2&"));
        assert_eq!(query.get("flag"), None);
    }

    #[test]
    fn a_broken_escape_is_refused() {
        for text in ["a=%", "a=%4", "a=%zz", "a=%ff"] {
            assert!(matches!(Query::parse(text), Err(QueryError::Encoding(_))), "{text}");
        }
    }

    #[test]
    fn the_log_query_of_faas_cli_is_read() {
        let sent = "follow=1&instance=&name=echo&namespace=openfaas-fn&since=2026-01-02T03%3A04%3A05%2B01%3A00&tail=-1";
        let query = LogQuery::parse(sent).unwrap();
        assert_eq!(query.name, "echo");
        assert_eq!(query.namespace.as_deref(), Some("openfaas-fn"));
        assert_eq!(query.instance, None);
        assert_eq!(query.since, time::parse("2026-01-02T02:04:05Z"));
        assert_eq!(query.tail, None);
        assert!(query.follow);
    }

    #[test]
    fn follow_takes_every_spelling_of_go() {
        for (text, follow) in [("1", true), ("true", true), ("0", false), ("false", false)] {
            assert_eq!(LogQuery::parse(&format!("name=a&follow={text}")).unwrap().follow, follow);
        }
    }

    #[test]
    fn a_wrong_value_is_refused_with_its_name() {
        for (text, name) in [
            ("name=a&tail=-2", "tail"),
            ("name=a&since=now", "since"),
            ("name=a&follow=yes", "follow"),
            ("tail=1", "name"),
        ] {
            let message = LogQuery::parse(text).unwrap_err().to_string();
            assert!(message.contains(name), "{message}");
        }
    }

    proptest! {
        #[test]
        fn any_query_is_answered_without_a_panic(text in "\\PC*") {
            let _ = LogQuery::parse(&text);
        }

        #[test]
        fn what_was_encoded_decodes_to_itself(value in "\\PC*") {
            let encoded: String = value.bytes().map(|byte| format!("%{byte:02x}")).collect();
            prop_assert_eq!(decode(&encoded).unwrap(), value);
        }
    }
}

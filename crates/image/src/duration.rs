//! Durations as Go and so OpenFaaS write them: `30s`, `1m30s`, `500ms`; a plain integer counts seconds.
//! Read wherever a timeout is stated. They are never negative.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

const NANOSECONDS_A_SECOND: u128 = 1_000_000_000;

/// Go's units with their nanoseconds; longer names come before names that they begin with.
const UNITS: [(&str, u128); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", NANOSECONDS_A_SECOND),
    ("m", 60 * NANOSECONDS_A_SECOND),
    ("h", 3600 * NANOSECONDS_A_SECOND),
];

/// Go's largest duration: it counts nanoseconds in a signed 64-bit integer.
const NANOSECONDS_MAX: u128 = i64::MAX as u128;

/// Digits that a number may have behind its point; an hour's billionth is 3.6 µs.
const FRACTION_DIGITS_MAX: usize = 9;

/// A duration in Go's notation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct GoDuration(pub Duration);

/// Why a text is not a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// It is not a sequence of numbers with units.
    #[error("{0:?} is not a duration; write it as 30s or 1m30s (units: ns, us, ms, s, m, h, or none for seconds)")]
    Syntax(String),
    /// It is negative.
    #[error("{0:?} is negative; write a duration such as 30s")]
    Negative(String),
    /// It is longer than Go can count.
    #[error("{0:?} is longer than 292 years; write a duration such as 30s")]
    TooLong(String),
}

impl FromStr for GoDuration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, DurationError> {
        let syntax = || DurationError::Syntax(text.to_owned());
        if text.starts_with('-') {
            return Err(DurationError::Negative(text.to_owned()));
        }
        let nanoseconds = if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            number(text, NANOSECONDS_A_SECOND)
        } else {
            sum(text.strip_prefix('+').unwrap_or(text))
        };
        let nanoseconds = nanoseconds.ok_or_else(syntax)?;
        if nanoseconds > NANOSECONDS_MAX {
            return Err(DurationError::TooLong(text.to_owned()));
        }
        u64::try_from(nanoseconds).map(|count| Self(Duration::from_nanos(count))).map_err(|_| syntax())
    }
}

/// Nanoseconds of `1m30s` and the like; beyond [`NANOSECONDS_MAX`] the exact number does not matter.
fn sum(text: &str) -> Option<u128> {
    let mut rest = text;
    let mut total = 0u128;
    loop {
        let unit_at = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (digits, tail) = rest.split_at(unit_at);
        let (name, unit) =
            UNITS.iter().filter(|(name, _)| tail.starts_with(name)).max_by_key(|(name, _)| name.len())?;
        total = total.saturating_add(number(digits, *unit)?);
        rest = &tail[name.len()..];
        if rest.is_empty() {
            return Some(total);
        }
    }
}

/// Nanoseconds of a decimal number of units.
fn number(digits: &str, unit: u128) -> Option<u128> {
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.len() > FRACTION_DIGITS_MAX || fraction.contains('.') {
        return None;
    }
    let count = |digits: &str| {
        digits.bytes().fold(0u128, |sum, digit| sum.saturating_mul(10).saturating_add(u128::from(digit - b'0')))
    };
    let scale = fraction.bytes().fold(1u128, |scale, _| scale * 10);
    Some(count(whole).saturating_mul(unit).saturating_add(count(fraction) * unit / scale))
}

impl fmt::Display for GoDuration {
    /// As Go's `Duration.String` writes it: `1h0m0s`, `1m30s`, `1.5s`, `500ms`, `0s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanoseconds = self.0.as_nanos();
        if nanoseconds < NANOSECONDS_A_SECOND {
            let text = match nanoseconds {
                0 => "0s".to_owned(),
                1..1_000 => format!("{nanoseconds}ns"),
                1_000..1_000_000 => format!("{}µs", decimal(nanoseconds, 1_000)),
                _ => format!("{}ms", decimal(nanoseconds, 1_000_000)),
            };
            return f.pad(&text);
        }
        let (minutes, rest) = (nanoseconds / (60 * NANOSECONDS_A_SECOND), nanoseconds % (60 * NANOSECONDS_A_SECOND));
        let seconds = decimal(rest, NANOSECONDS_A_SECOND);
        match (minutes / 60, minutes % 60) {
            (0, 0) => f.pad(&format!("{seconds}s")),
            (0, minutes) => f.pad(&format!("{minutes}m{seconds}s")),
            (hours, minutes) => f.pad(&format!("{hours}h{minutes}m{seconds}s")),
        }
    }
}

/// `value / unit` as a decimal number without trailing zeros; `unit` is a power of ten.
fn decimal(value: u128, unit: u128) -> String {
    let digits = unit.ilog10() as usize;
    let text = format!("{}.{:0digits$}", value / unit, value % unit);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

impl From<GoDuration> for String {
    fn from(duration: GoDuration) -> Self {
        duration.to_string()
    }
}

impl TryFrom<String> for GoDuration {
    type Error = DurationError;

    fn try_from(text: String) -> Result<Self, DurationError> {
        text.parse()
    }
}

/// For `#[serde(with = "...")]` on a [`Duration`]: Go's notation instead of serde's seconds and nanoseconds.
pub(crate) mod as_go {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::GoDuration;

    pub(crate) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        GoDuration(*duration).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        GoDuration::deserialize(deserializer).map(|GoDuration(duration)| duration)
    }
}

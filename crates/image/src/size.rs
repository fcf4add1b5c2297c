//! Sizes in bytes as Kubernetes writes them: `32Mi`, `1.5Gi`, `500k`. Read wherever an image, a deployment
//! or a user states a limit. It never rounds down: a fraction of a byte counts as one.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Unit suffixes of a quantity with their bytes, largest first, binary before decimal. From the
/// Kubernetes API's `resource.Quantity`, without those that mean no size a machine could have.
const UNITS: [(&str, u64); 8] = [
    ("Ti", 1 << 40),
    ("Gi", 1 << 30),
    ("Mi", 1 << 20),
    ("Ki", 1 << 10),
    ("T", 1_000_000_000_000),
    ("G", 1_000_000_000),
    ("M", 1_000_000),
    ("k", 1_000),
];

/// Digits that a quantity may have behind its point.
const FRACTION_DIGITS_MAX: usize = 9;

/// A number of bytes, written as a Kubernetes quantity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct ByteSize(u64);

impl ByteSize {
    /// This many bytes.
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// This many mebibytes.
    pub const fn mebibytes(count: u32) -> Self {
        Self((count as u64) << 20)
    }

    /// The number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

/// Why a text is not a size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// It is not a number with a known unit.
    #[error("{0:?} is not a size; write it as 32Mi (units: k, M, G, T, Ki, Mi, Gi, Ti, or none for bytes)")]
    Syntax(String),
    /// It is in thousandths, which Kubernetes allows and which no number of bytes needs.
    #[error("{0:?} is in thousandths of a byte; write it as 32Mi")]
    Thousandths(String),
    /// It does not fit 64 bits.
    #[error("{0:?} is more bytes than 64 bits can count; write it as 32Mi")]
    TooLarge(String),
}

impl FromStr for ByteSize {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        let syntax = || SizeError::Syntax(text.to_owned());
        let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, suffix) = text.split_at(unit_at);
        let unit = match suffix {
            "" => 1,
            "m" => return Err(SizeError::Thousandths(text.to_owned())),
            _ => UNITS.iter().find(|(name, _)| *name == suffix).ok_or_else(syntax)?.1,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        if whole.is_empty() || fraction.is_empty() || fraction.len() > FRACTION_DIGITS_MAX {
            return Err(syntax());
        }
        // `parse` would also take a sign, but only digits come this far; what it refuses is too large.
        let whole: u64 = whole.parse().map_err(|_| SizeError::TooLarge(text.to_owned()))?;
        let scale = (0..fraction.len()).fold(1u128, |scale, _| scale * 10);
        let fraction: u64 = fraction.parse().map_err(|_| syntax())?;
        let bytes = u128::from(whole) * u128::from(unit) + (u128::from(fraction) * u128::from(unit)).div_ceil(scale);
        u64::try_from(bytes).map(Self).map_err(|_| SizeError::TooLarge(text.to_owned()))
    }
}

impl fmt::Display for ByteSize {
    /// The exact size, in the largest unit that divides it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |(_, unit): &&(&str, u64)| self.0 != 0 && self.0.is_multiple_of(*unit);
        match UNITS.iter().find(fits) {
            Some((name, unit)) => f.pad(&format!("{}{name}", self.0 / unit)),
            None => f.pad(&self.0.to_string()),
        }
    }
}

impl From<ByteSize> for String {
    fn from(size: ByteSize) -> Self {
        size.to_string()
    }
}

impl TryFrom<String> for ByteSize {
    type Error = SizeError;

    fn try_from(text: String) -> Result<Self, SizeError> {
        text.parse()
    }
}

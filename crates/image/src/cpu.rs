//! Shares of processors as Kubernetes writes them: `2`, `1.5`, `500m`. Read wherever an image or a deployment
//! states one. It never rounds: a share finer than a thousandth of a processor is refused.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Thousandths of a processor in one.
const MILLIS: u32 = 1000;

/// Most processors that a share may name: more than any machine has, and far from what 32 bits count.
const PROCESSORS_MAX: u32 = 100_000;

/// A share of the processors: time that may be used in a second, in thousandths of a second. Zero is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct CpuShare(u32);

impl CpuShare {
    /// This many thousandths of a processor.
    pub const fn millis(millis: u32) -> Self {
        Self(millis)
    }

    /// Thousandths of a processor; `None` when there is no limit.
    pub const fn limit(self) -> Option<u32> {
        if self.0 == 0 { None } else { Some(self.0) }
    }
}

/// Why a text is not a share of processors.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CpuShareError {
    /// It is not a number, whole, decimal or in thousandths.
    #[error("{0:?} is not a share of processors; write it as 500m (thousandths), 1.5 or 2, or 0 for no limit")]
    Syntax(String),
    /// It is finer than Kubernetes allows.
    #[error("{0:?} is finer than a thousandth of a processor; write it as 1m or more")]
    TooFine(String),
    /// No machine has so many.
    #[error("{0:?} is more than {PROCESSORS_MAX} processors; write it as 2")]
    TooMany(String),
}

impl FromStr for CpuShare {
    type Err = CpuShareError;

    fn from_str(text: &str) -> Result<Self, CpuShareError> {
        let syntax = || CpuShareError::Syntax(text.to_owned());
        let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        // Only digits come this far, so what `parse` refuses is too much.
        let count = |digits: &str| digits.parse::<u32>().unwrap_or(u32::MAX);
        let millis = if let Some(millis) = text.strip_suffix('m') {
            if !is_number(millis) {
                return Err(syntax());
            }
            count(millis)
        } else {
            let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
            if !is_number(whole) || !is_number(fraction) {
                return Err(syntax());
            }
            let thousandths = fraction.trim_end_matches('0');
            if thousandths.len() > 3 {
                return Err(CpuShareError::TooFine(text.to_owned()));
            }
            count(whole).saturating_mul(MILLIS).saturating_add(count(&format!("{thousandths:0<3}")))
        };
        if millis > PROCESSORS_MAX * MILLIS {
            return Err(CpuShareError::TooMany(text.to_owned()));
        }
        Ok(Self(millis))
    }
}

impl fmt::Display for CpuShare {
    /// As Kubernetes writes it: whole processors as a number, everything else in thousandths.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_multiple_of(MILLIS) {
            f.pad(&(self.0 / MILLIS).to_string())
        } else {
            f.pad(&format!("{}m", self.0))
        }
    }
}

impl From<CpuShare> for String {
    fn from(share: CpuShare) -> Self {
        share.to_string()
    }
}

impl TryFrom<String> for CpuShare {
    type Error = CpuShareError;

    fn try_from(text: String) -> Result<Self, CpuShareError> {
        text.parse()
    }
}

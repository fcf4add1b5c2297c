//! Names of functions and of their namespaces: RFC 1123 labels, as Kubernetes and OpenFaaS want them.
//! Parsed where a user or a client names one. They hold nothing that a path or a URL would have to escape.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Longest RFC 1123 label, in bytes.
const LABEL_MAX: usize = 63;

/// Why a text is not a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a {kind} name: use 1 to {LABEL_MAX} lower-case letters, digits and '-', \
     with a letter or digit first and last (RFC 1123), for example \"resize-image\""
)]
pub struct NameError {
    kind: &'static str,
    text: String,
}

fn check(kind: &'static str, text: String) -> Result<String, NameError> {
    let alphanumeric = |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = text.as_bytes();
    let fits = bytes.len() <= LABEL_MAX
        && alphanumeric(bytes.first())
        && alphanumeric(bytes.last())
        && bytes.iter().all(|byte| *byte == b'-' || alphanumeric(Some(byte)));
    if fits { Ok(text) } else { Err(NameError { kind, text }) }
}

/// Defines a type for one kind of name; both kinds follow the same rule and must not be mixed up.
macro_rules! label_type {
    ($(#[$doc:meta])* $type:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(into = "String", try_from = "String")]
        pub struct $type(String);

        impl $type {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                check($kind, text.to_owned()).map(Self)
            }
        }

        impl TryFrom<String> for $type {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                check($kind, text).map(Self)
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> Self {
                name.0
            }
        }

        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

label_type!(
    /// Name of a function: an RFC 1123 label.
    FunctionName,
    "function"
);

label_type!(
    /// Name of a namespace: an RFC 1123 label. The default is OpenFaaS's own, `openfaas-fn`.
    Namespace,
    "namespace"
);

impl Default for Namespace {
    fn default() -> Self {
        Self("openfaas-fn".to_owned())
    }
}

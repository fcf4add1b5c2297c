//! Names of images: `echo:latest`, `registry.example:5000/team/echo:v1`. Parsed where a user or a deployment
//! names an image; the store knows images by nothing else. It never resolves a name to a registry.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

const DEFAULT_TAG: &str = "latest";

/// Longest name, from the OCI distribution specification's advice for clients.
const NAME_MAX: usize = 255;

/// Longest tag, from the OCI distribution specification.
const TAG_MAX: usize = 128;

/// Name and tag of an image; an absent tag means `latest`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Reference {
    name: String,
    tag: String,
}

/// Why a text does not name an image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// The part before the tag breaks the rules.
    #[error(
        "{0:?} does not name an image: a name is lower-case letters and digits, joined by '.', '_', '-' or '/', \
         at most 255 characters; write it as echo:latest or registry.example/team/echo:v1"
    )]
    Name(String),
    /// The part behind the last ':' breaks the rules.
    #[error(
        "{0:?} does not name an image: its tag must be 1 to 128 letters, digits, '_', '.' and '-', \
         not beginning with '.' or '-'; write it as echo:latest"
    )]
    Tag(String),
    /// It names a digest.
    #[error("{0:?} names an image by its digest; name it by its tag, as echo:latest")]
    Digest(String),
}

impl Reference {
    /// Everything before the tag, with the registry if there is one.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The tag.
    pub fn tag(&self) -> &str {
        &self.tag
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        if text.contains('@') {
            return Err(ReferenceError::Digest(text.to_owned()));
        }
        // A ':' before the last '/' belongs to the registry's port.
        let (name, tag) = match text.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, tag),
            _ => (text, DEFAULT_TAG),
        };
        if !is_name(name) {
            return Err(ReferenceError::Name(text.to_owned()));
        }
        if !is_tag(tag) {
            return Err(ReferenceError::Tag(text.to_owned()));
        }
        Ok(Self { name: name.to_owned(), tag: tag.to_owned() })
    }
}

fn is_name(name: &str) -> bool {
    let path = match name.split_once('/') {
        Some((first, rest)) if is_registry(first) => rest,
        _ => name,
    };
    name.len() <= NAME_MAX && path.split('/').all(is_component)
}

/// A first component with a dot or a port, or `localhost`, is a host; it may have upper-case letters.
fn is_registry(first: &str) -> bool {
    let (host, port) = first.split_once(':').map_or((first, None), |(host, port)| (host, Some(port)));
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let port_fits = port.is_none_or(|port| port.parse::<u16>().is_ok() && !port.starts_with('+'));
    (host.contains('.') || port.is_some() || host == "localhost") && host.split('.').all(label) && port_fits
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`, from the OCI distribution specification.
fn is_component(component: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let separator = |text: &str| matches!(text, "" | "." | "_" | "__") || text.bytes().all(|byte| byte == b'-');
    component.starts_with(alphanumeric)
        && component.ends_with(alphanumeric)
        && component.split(alphanumeric).all(separator)
}

fn is_tag(tag: &str) -> bool {
    let first = |c: char| c.is_ascii_alphanumeric() || c == '_';
    tag.len() <= TAG_MAX && tag.starts_with(first) && tag.chars().all(|c| first(c) || c == '.' || c == '-')
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}:{}", self.name, self.tag))
    }
}

impl From<Reference> for String {
    fn from(reference: Reference) -> Self {
        reference.to_string()
    }
}

impl TryFrom<String> for Reference {
    type Error = ReferenceError;

    fn try_from(text: String) -> Result<Self, ReferenceError> {
        text.parse()
    }
}

//! Addresses of resources, and which of them the operator allows.
//! Called for what a program gives and for what a server leads on to. Refuses what two readers could read in two ways.

use std::fmt;

use http::Uri;

use crate::FetchError;

/// Longest address, in bytes.
const LENGTH_MAX: usize = 8 * 1024;

/// An http or https address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Url {
    pub(crate) is_secure: bool,
    /// In lower case; an address of version 6 without its brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Path and query; begins with a slash.
    pub(crate) target: String,
}

impl Url {
    /// Reads an address.
    pub(crate) fn parse(text: &str) -> Result<Self, FetchError> {
        read(text).map_err(|why| FetchError::Address { url: text.chars().take(LENGTH_MAX).collect(), why })
    }

    /// Where a `Location` leads: to an address, or to a path of this server.
    pub(crate) fn join(&self, location: &str) -> Result<Self, FetchError> {
        let is_path = location.starts_with('/') && !location.starts_with("//");
        let next = Self::parse(&if is_path { format!("{}{location}", self.origin()) } else { location.to_owned() })?;
        if self.is_secure && !next.is_secure {
            return Err(FetchError::Answer { url: self.to_string(), why: "it leads from https to http" });
        }
        Ok(next)
    }

    /// Whether it begins with one of these addresses: the same server, and the same path or one below it.
    pub(crate) fn is_allowed(&self, allowed: &[String]) -> bool {
        allowed.iter().filter_map(|prefix| read(prefix).ok()).any(|prefix| {
            let below = self.target.strip_prefix(prefix.target.as_str());
            let is_below = |rest: &str| rest.is_empty() || prefix.target.ends_with('/') || rest.starts_with(['/', '?']);
            (self.is_secure, &self.host, self.port) == (prefix.is_secure, &prefix.host, prefix.port)
                && below.is_some_and(is_below)
        })
    }

    /// The last part of its path, in characters that a file's name may have anywhere.
    pub(crate) fn file_name(&self) -> String {
        let path = self.target.split('?').next().unwrap_or_default();
        let name = path.rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or("resource");
        let is_plain = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '_' | '-');
        name.chars().take(128).map(|letter| if is_plain(letter) { letter } else { '_' }).collect()
    }

    /// As a `Host` field has it.
    pub(crate) fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == usual_port(self.is_secure) { host } else { format!("{host}:{}", self.port) }
    }

    fn origin(&self) -> String {
        let scheme = if self.is_secure { "https" } else { "http" };
        format!("{scheme}://{}", self.authority())
    }
}

const fn usual_port(is_secure: bool) -> u16 {
    if is_secure { 443 } else { 80 }
}

fn read(text: &str) -> Result<Url, &'static str> {
    if text.len() > LENGTH_MAX {
        return Err("it is too long");
    }
    if text.contains(['\\', '#']) || text.bytes().any(|byte| byte.is_ascii_control() || byte == b' ') {
        return Err("it has letters that an address has not");
    }
    let uri: Uri = text.parse().map_err(|_| "it cannot be read")?;
    let is_secure = match uri.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        _ => return Err("it begins neither with http:// nor with https://"),
    };
    let authority = uri.authority().ok_or("it has no server")?;
    if authority.as_str().contains('@') {
        return Err("it has a user's name; none is sent");
    }
    let host = authority.host().to_ascii_lowercase();
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(&host).to_owned();
    if host.is_empty() {
        return Err("it has no server");
    }
    let port = match authority.port() {
        Some(port) => port.as_str().parse().map_err(|_| "its port is none")?,
        None if authority.as_str().ends_with(':') => return Err("its port is none"),
        None => usual_port(is_secure),
    };
    let target = uri.path_and_query().map_or("/", |target| target.as_str()).to_owned();
    let is_dots = |part: &str| matches!(part.to_ascii_lowercase().replace("%2e", ".").as_str(), "." | "..");
    // A server may take an encoded slash for one.
    let path = uri.path().to_ascii_lowercase().replace("%2f", "/").replace("%5c", "/");
    if path.split('/').any(is_dots) {
        return Err("its path has . or .. in it");
    }
    Ok(Url { is_secure, host, port, target })
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin(), self.target)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_address_is_allowed_that_begins_with_an_allowed_one_and_no_other() {
        let allowed =
            ["https://Models.example/public", "http://127.0.0.1:8000/", "https://a.example/x/?y"].map(str::to_owned);
        let is_allowed = |text: &str| Url::parse(text).unwrap().is_allowed(&allowed);
        for text in [
            "https://models.example/public",
            "https://models.example:443/public/a/b.onnx?v=2",
            "https://MODELS.example/public?v=2",
            "http://127.0.0.1:8000/anything",
        ] {
            assert!(is_allowed(text), "{text}");
        }
        for text in [
            "http://models.example/public",
            "https://models.example/publicity",
            "https://models.example/private",
            "https://models.example:8443/public/a",
            "https://models.example.evil.example/public/a",
            "https://evil.example/public/a",
            "http://127.0.0.1/anything",
            "http://localhost:8000/anything",
            "http://2130706433:8000/",
        ] {
            assert!(!is_allowed(text), "{text}");
        }
        assert!(!Url::parse("https://models.example/public").unwrap().is_allowed(&[]));
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_no_address() {
        for text in [
            "",
            "models.example/a",
            "ftp://models.example/a",
            "file:///etc/passwd",
            "https://",
            "https:///a",
            "https://user@models.example/a",
            "https://models.example@evil.example/a",
            "https://models.example:/a",
            "https://models.example:99999/a",
            "https://models.example/public/../private",
            "https://models.example/public/%2e%2E/private",
            "https://models.example/public/..%2fprivate",
            "https://models.example/public/%2e%2e%5cprivate",
            "https://models.example\\@evil.example/a",
            "https://models.example/a b",
            "https://models.example/a\r\nX: y",
            "https://models.example/a#b",
        ] {
            assert!(Url::parse(text).is_err(), "{text}");
        }
        assert!(Url::parse(&format!("https://a/{}", "b".repeat(LENGTH_MAX))).is_err());
    }

    #[test]
    fn a_location_is_an_address_or_a_path_and_never_leads_to_an_unprotected_one() {
        let at = Url::parse("https://[::1]:8443/a/b?c").unwrap();
        assert_eq!(at.join("/d").unwrap().to_string(), "https://[::1]:8443/d");
        assert_eq!(at.join("https://x.example/").unwrap().to_string(), "https://x.example/");
        for location in ["http://x.example/", "//x.example/", "d", "", "/../d"] {
            assert!(at.join(location).is_err(), "{location}");
        }
    }

    #[test]
    fn a_files_name_is_the_last_part_of_the_path_in_plain_letters() {
        for (text, name) in [
            ("http://a/models/m.onnx?x=/y", "m.onnx"),
            ("http://a/", "resource"),
            ("http://a", "resource"),
            ("http://a/b/%2Fetc", "_2Fetc"),
        ] {
            assert_eq!(Url::parse(text).unwrap().file_name(), name);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_an_address_that_reads_the_same_again_or_none(text in "(https?://)?[a-z.:/@%?#\\[\\]0-9\\\\-]{0,40}") {
            if let Ok(url) = Url::parse(&text) {
                prop_assert_eq!(Url::parse(&url.to_string()).unwrap(), url);
            }
        }
    }
}

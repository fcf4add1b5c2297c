//! A request's head, as its server reads it. The watchdog keeps one for each connection.
//! It never keeps a part of the buffer that it was read from.

use std::mem::MaybeUninit;

use crate::{BadHead, BodyLength, FIELDS_MAX, Fields, Framing, may_be_whole};

/// A request's head. Made once for a connection, and used again for each request: its memory is kept.
#[derive(Clone, Debug, Default)]
pub struct RequestHead {
    /// Method and target, one behind the other.
    line: String,
    method_end: usize,
    /// Where the path of a plain target ends; `None` for a target that is not plain.
    path_end: Option<usize>,
    fields: Fields,
    framing: Framing,
    version: u8,
    body: BodyLength,
    expects_continue: bool,
}

impl RequestHead {
    /// Reads a head from the beginning of `bytes`, of which the first `seen` were there at the last try. Says how many bytes
    /// it takes; `None` where it is not whole yet, and then this holds anything.
    ///
    /// # Errors
    /// These bytes are not the beginning of a head, or it states its body's length in a way that has two readings.
    pub fn read(&mut self, bytes: &[u8], seen: usize) -> Result<Option<usize>, BadHead> {
        if !may_be_whole(bytes, seen) {
            return Ok(None);
        }
        let mut room = [const { MaybeUninit::uninit() }; FIELDS_MAX];
        let mut request = httparse::Request::new(&mut []);
        let parsed = request.parse_with_uninit_headers(bytes, &mut room)?;
        let httparse::Status::Complete(length) = parsed else { return Ok(None) };
        let (method, target) = (request.method.unwrap_or_default(), request.path.unwrap_or_default());
        self.line.clear();
        self.line.push_str(method);
        self.line.push_str(target);
        self.method_end = method.len();
        self.path_end = plain_path_end(target.as_bytes()).map(|end| method.len() + end);
        self.version = request.version.unwrap_or_default();
        self.framing = Framing::default();
        self.expects_continue = false;
        self.fields.clear();
        for field in request.headers.iter() {
            self.framing.note(field.name, field.value)?;
            self.expects_continue |= field.name.eq_ignore_ascii_case("expect")
                && field.value.eq_ignore_ascii_case(b"100-continue")
                && self.version == 1;
            self.fields.push(field.name, field.value);
        }
        self.body = self.framing.stated(self.version)?.unwrap_or(BodyLength::Known(0));
        Ok(Some(length))
    }

    /// Method, as it was sent.
    #[must_use]
    pub fn method(&self) -> &str {
        &self.line[..self.method_end]
    }

    /// Target, as it was sent.
    #[must_use]
    pub fn target(&self) -> &str {
        &self.line[self.method_end..]
    }

    /// Path and query of a plain target: it begins with a slash and has only characters that every URI may have, so that
    /// nobody reads it otherwise. `None` for all others, of which some are URIs as well.
    #[must_use]
    pub fn plain_target(&self) -> Option<(&str, Option<&str>)> {
        let end = self.path_end?;
        Some((&self.line[self.method_end..end], self.line.get(end + 1..)))
    }

    /// Header fields.
    #[must_use]
    pub fn fields(&self) -> &Fields {
        &self.fields
    }

    /// The first field of a name, which is given in lower case.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        self.fields.get(name)
    }

    /// How long the body is.
    #[must_use]
    pub fn body(&self) -> BodyLength {
        self.body
    }

    /// Whether the client waits for `100 Continue` before it sends the body.
    #[must_use]
    pub fn expects_continue(&self) -> bool {
        self.expects_continue
    }

    /// Whether the client means to send another request on the connection.
    #[must_use]
    pub fn persists(&self) -> bool {
        self.framing.persists(self.version)
    }

    /// Whether the client only knows HTTP/1.0, where a connection that goes on has to be named.
    #[must_use]
    pub fn is_old(&self) -> bool {
        self.version == 0
    }
}

/// Unreserved characters, sub-delimiters and the others that paths and queries have (RFC 3986, section 3.3 and 3.4).
static PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        plain[byte as usize] = byte.is_ascii_alphanumeric();
        byte += 1;
    }
    let others = b"-._~!$&'()*+,;=:@%/?";
    let mut index = 0;
    while index < others.len() {
        plain[others[index] as usize] = true;
        index += 1;
    }
    plain
};

/// Where the path of a plain target ends.
fn plain_path_end(target: &[u8]) -> Option<usize> {
    if target.first() != Some(&b'/') || !target.iter().all(|byte| PLAIN[usize::from(*byte)]) {
        return None;
    }
    Some(target.iter().position(|byte| *byte == b'?').unwrap_or(target.len()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(bytes: &[u8]) -> Result<RequestHead, BadHead> {
        let mut head = RequestHead::default();
        match head.read(bytes, 0)? {
            Some(_) => Ok(head),
            None => panic!("it is not whole: {}", bytes.escape_ascii()),
        }
    }

    #[test]
    fn a_head_is_read_as_it_was_sent_but_for_the_case_of_names() {
        let head = read(b"POST /a%20b?x HTTP/1.1\r\nX-One: A b\r\nhost:f\r\nContent-Length: 12\r\nX-One:\xff\r\n\r\n")
            .unwrap();
        assert_eq!((head.method(), head.target(), head.body()), ("POST", "/a%20b?x", BodyLength::Known(12)));
        let fields: Vec<_> = head.fields().iter().collect();
        assert_eq!(fields, [("x-one", &b"A b"[..]), ("host", b"f"), ("content-length", b"12"), ("x-one", b"\xff")]);
        assert_eq!(head.field("x-one"), Some(&b"A b"[..]));
        assert!(head.persists() && !head.is_old() && !head.expects_continue());
    }

    #[test]
    fn a_target_of_plain_characters_is_cut_at_its_query_and_no_other_is() {
        type Cut = Option<(&'static str, Option<&'static str>)>;
        let cases: [(&str, Cut); 9] = [
            ("/", Some(("/", None))),
            ("/a%20b/?", Some(("/a%20b/", Some("")))),
            ("/a?b?c=/d", Some(("/a", Some("b?c=/d")))),
            ("//a;b=c,@:", Some(("//a;b=c,@:", None))),
            ("*", None),
            ("http://a/b", None),
            ("/a#b", None),
            ("/a\"b<", None),
            ("/a[b]", None),
        ];
        for (target, cut) in cases {
            assert_eq!(
                read(format!("GET {target} HTTP/1.1\r\n\r\n").as_bytes()).unwrap().plain_target(),
                cut,
                "{target}"
            );
        }
    }

    #[test]
    fn what_says_two_things_about_the_body_is_refused() {
        for (fields, error) in [
            ("Content-Length: 1\r\nContent-Length: 1", BadHead::Length),
            ("Content-Length: 1\r\ncontent-length: 2", BadHead::Length),
            ("Content-Length: +1", BadHead::Length),
            ("Content-Length: 1, 1", BadHead::Length),
            ("Content-Length:", BadHead::Length),
            ("Content-Length: 99999999999999999999", BadHead::Length),
            ("Content-Length: 1\r\nTransfer-Encoding: chunked", BadHead::TwoLengths),
            ("Transfer-Encoding: gzip, chunked", BadHead::Encoding),
            ("Transfer-Encoding: identity", BadHead::Encoding),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", BadHead::Encoding),
            ("Transfer-Encoding: \x0bchunked", BadHead::Syntax(httparse::Error::HeaderValue)),
            ("Transfer-Encoding : chunked", BadHead::Syntax(httparse::Error::HeaderName)),
            ("A: b\r\n c", BadHead::Syntax(httparse::Error::HeaderName)),
        ] {
            let sent = format!("POST / HTTP/1.1\r\n{fields}\r\n\r\n");
            assert_eq!(read(sent.as_bytes()).unwrap_err(), error, "{fields}");
        }
        let old = b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(read(old).unwrap_err(), BadHead::Encoding);
    }

    #[test]
    fn a_connection_goes_on_where_both_versions_say_so() {
        for (version, connection, goes_on) in [
            ("1.1", "x", true),
            ("1.1", "Keep-Alive, Close", false),
            ("1.0", "x", false),
            ("1.0", "x, Keep-Alive", true),
        ] {
            let head = read(format!("GET / HTTP/{version}\r\nConnection: {connection}\r\n\r\n").as_bytes()).unwrap();
            assert_eq!(head.persists(), goes_on, "{version} {connection}");
        }
    }

    #[test]
    fn more_fields_than_there_may_be_are_refused() {
        let with = |count| [b"GET / HTTP/1.1\r\n".to_vec(), b"a: b\r\n".repeat(count), b"\r\n".to_vec()].concat();
        assert_eq!(read(&with(FIELDS_MAX)).unwrap().fields().iter().count(), FIELDS_MAX);
        assert_eq!(read(&with(FIELDS_MAX + 1)).unwrap_err(), BadHead::TooManyFields);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_head_is_the_same_in_whatever_pieces_it_comes(
            value in "[ -~]{0,12000}",
            method in "[A-Z]{1,8}",
            pieces in proptest::collection::vec(1_usize..9000, 1..20),
        ) {
            let sent = format!("{method} / HTTP/1.1\r\nX-Long: {value}\r\nContent-Length: 3\r\n\r\nabc");
            let whole = sent.len() - 3;
            let (mut head, mut seen) = (RequestHead::default(), 0);
            for piece in pieces.into_iter().cycle() {
                let length = (seen + piece).min(sent.len());
                match head.read(&sent.as_bytes()[..length], seen).unwrap() {
                    Some(taken) => {
                        prop_assert_eq!(taken, whole);
                        break;
                    }
                    None => prop_assert!(length < whole),
                }
                seen = length;
            }
            prop_assert_eq!(head.method(), method);
            prop_assert_eq!(head.field("x-long"), Some(value.trim_matches([' ', '\t']).as_bytes()));
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes: Vec<u8>, seen: usize) {
            let _ = RequestHead::default().read(&bytes, seen);
        }
    }
}

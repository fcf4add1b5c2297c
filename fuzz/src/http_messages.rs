//! HTTP/1.1 as it comes from a client or a watchdog: heads and bodies in chunks. What is read does not depend on the pieces
//! in which it came, since a message that two readers cut differently is two messages.

use http::Uri;
use kernlet_http1::write::{field, is_field_value, is_token};
use kernlet_http1::{AnswerHead, BodyLength, Chunks, Fields, RequestHead, ResponseHead};

/// The first byte chooses: a request, a response, or a body in chunks. The second one is the pieces' length.
pub fn http_messages(data: &[u8]) {
    let [choice, piece, bytes @ ..] = data else { return };
    let piece = usize::from(*piece).max(1);
    match choice % 3 {
        0 => request(bytes, piece),
        1 => response(bytes, piece),
        _ => chunks(bytes, piece),
    }
}

fn request(bytes: &[u8], piece: usize) {
    let mut whole = RequestHead::default();
    let Ok(Some(length)) = whole.read(bytes, 0) else { return };
    assert!(whole.fields().iter().all(|(name, value)| !name.is_empty()
        && !name.bytes().any(|byte| byte.is_ascii_uppercase() || byte.is_ascii_whitespace())
        && !value.contains(&b'\n')));
    let (mut head, mut seen) = (RequestHead::default(), 0);
    loop {
        let come = (seen + piece).min(length);
        match head.read(&bytes[..come], seen).expect("what is a head is the beginning of one") {
            Some(again) => {
                assert_eq!(again, length);
                break;
            }
            None => assert!(come < length),
        }
        seen = come;
    }
    assert_eq!((head.method(), head.target(), head.body()), (whole.method(), whole.target(), whole.body()));
    assert!(head.fields().iter().eq(whole.fields().iter()));
    assert_eq!(head.plain_target(), whole.plain_target());
    plain(&head);
    passed_on(head.fields());
    body(&bytes[length..], head.body(), piece);
}

/// A target that is read without a parser of URIs is read as one reads it.
fn plain(head: &RequestHead) {
    let Some((path, query)) = head.plain_target() else { return };
    // Longer ones are no URIs to everybody.
    let Ok(uri) = head.target().parse::<Uri>() else { return assert!(head.target().len() > usize::from(u16::MAX) - 2) };
    assert_eq!((uri.path(), uri.query()), (path, query));
}

/// What a proxy writes of a head's fields is read as the same fields, and none of them belongs to the connection.
fn passed_on(fields: &Fields) {
    let connected = fields.has("connection");
    let own: Vec<_> = fields.iter().filter(|(name, _)| !fields.is_of_connection(name, connected)).collect();
    let mut text = b"HTTP/1.1 200 OK\r\n".to_vec();
    for (name, value) in &own {
        assert!(is_token(name.as_bytes()) && is_field_value(value));
        field(&mut text, name, value);
    }
    text.extend_from_slice(b"\r\n");
    let mut again = AnswerHead::default();
    assert_eq!(again.read(&text, 0, false).expect("it was a head before"), Some(text.len()));
    assert!(again.fields().iter().eq(own) && !again.fields().has("connection"));
}

fn response(bytes: &[u8], piece: usize) {
    for to_head in [false, true] {
        let mut whole = AnswerHead::default();
        let Ok(Some(length)) = whole.read(bytes, 0, to_head) else { continue };
        assert!(length <= bytes.len());
        assert!(!(whole.persists() && whole.body() == BodyLength::UntilClose));
        assert!(!to_head || whole.body() == BodyLength::Known(0));
        let (mut head, mut seen) = (AnswerHead::default(), 0);
        loop {
            let come = (seen + piece).min(length);
            match head.read(&bytes[..come], seen, to_head).expect("what is a head is the beginning of one") {
                Some(again) => break assert_eq!(again, length),
                None => assert!(come < length),
            }
            seen = come;
        }
        assert_eq!((head.status(), head.body(), head.persists()), (whole.status(), whole.body(), whole.persists()));
        assert!(head.fields().iter().eq(whole.fields().iter()));
        passed_on(head.fields());
        let mapped = ResponseHead::read(bytes, 0, to_head).expect("the same head").expect("the same head");
        assert_eq!((mapped.status, mapped.headers.len()), (head.status(), head.fields().len()));
    }
}

fn body(bytes: &[u8], length: BodyLength, piece: usize) {
    if length == BodyLength::Chunked {
        chunks(bytes, piece);
    }
}

fn chunks(bytes: &[u8], piece: usize) {
    assert_eq!(decode(bytes, piece), decode(bytes, bytes.len().max(1)));
}

/// A body and the length of what it took; `None` for one that is not whole or none.
fn decode(bytes: &[u8], piece: usize) -> Option<(Vec<u8>, usize)> {
    let (mut chunks, mut body, mut done, mut come) = (Chunks::new(), Vec::new(), 0, 0);
    while !chunks.is_over() {
        let step = chunks.step(&bytes[done..come]).ok()?;
        body.extend_from_slice(&bytes[done..come][step.data]);
        done += step.taken;
        if step.taken == 0 && !chunks.is_over() {
            if come == bytes.len() {
                return None;
            }
            come = (come + piece).min(bytes.len());
        }
    }
    Some((body, done))
}

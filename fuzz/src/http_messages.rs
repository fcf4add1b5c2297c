//! HTTP/1.1 as it comes from a client or a watchdog: heads and bodies in chunks. What is read does not depend on the pieces
//! in which it came, since a message that two readers cut differently is two messages.

use kernlet_http1::{BodyLength, Chunks, RequestHead, ResponseHead};

/// The first byte chooses: a request, a response, or a body in chunks. The second one is the pieces' length.
pub fn http_messages(data: &[u8]) {
    let [choice, piece, bytes @ ..] = data else { return };
    let piece = usize::from(*piece).max(1);
    match choice % 3 {
        0 => request(bytes, piece),
        1 => response(bytes),
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
    body(&bytes[length..], head.body(), piece);
}

fn response(bytes: &[u8]) {
    for to_head in [false, true] {
        let Ok(Some(head)) = ResponseHead::read(bytes, 0, to_head) else { continue };
        assert!(head.length <= bytes.len());
        assert!(!(head.persists && head.body == BodyLength::UntilClose));
        assert!(!to_head || head.body == BodyLength::Known(0));
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

//! Requests into guest memory, and responses out of it: header fields, request heads, response heads.

use kernlet_abi::{
    Span,
    fields::{Fields, encode_lengths},
    message::{RequestHead, ResponseHead},
};
use kernlet_monitor::Request;
use zerocopy::{FromBytes, IntoBytes};

use crate::{cursor::Cursor, hypercall_arguments::sandbox, image::DATA};

/// The first byte chooses: header fields alone, a response, or a request.
pub fn request_encoding(data: &[u8]) {
    let mut cursor = Cursor::new(data);
    match cursor.u8() % 3 {
        0 => fields(cursor.rest()),
        1 => response(cursor),
        _ => request(cursor),
    }
}

/// Fields that can be read encode to what they were read from.
fn fields(bytes: &[u8]) {
    let mut again = Vec::new();
    for field in Fields::new(bytes) {
        match field {
            Ok((name, value)) => {
                again.extend_from_slice(&encode_lengths(name.len(), value.len()).expect("lengths of 16 bits"));
                again.extend_from_slice(name);
                again.extend_from_slice(value);
            }
            Err(truncated) => {
                assert_eq!(truncated.at, again.len());
                assert!(truncated.at < bytes.len());
                return assert_eq!(again, bytes[..truncated.at]);
            }
        }
    }
    assert_eq!(again, bytes);
}

/// A response as a guest may have written it is refused, or is exactly what lies where its head says.
fn response(mut cursor: Cursor<'_>) {
    let sandbox = sandbox();
    let head = cursor.bytes(size_of::<ResponseHead>());
    let bytes = cursor.rest();
    sandbox.place(DATA, head);
    sandbox.place(DATA + 64, bytes);
    let Ok(response) = sandbox.response(DATA) else { return };
    let mut whole = ResponseHead::default();
    whole.as_mut_bytes()[..head.len()].copy_from_slice(head);
    assert_eq!(u32::from(response.status), whole.status);
    assert_eq!(response.body.len() as u64, whole.body.len);
    let encoded: usize = response.headers.iter().map(|(name, value)| 4 + name.len() + value.len()).sum();
    assert_eq!(encoded as u64, whole.headers.len);
    for span in [whole.headers, whole.body] {
        assert!(sandbox.allows(span, false), "{span:?}");
    }
}

/// What a client sent is what a guest finds in the window, and nowhere else.
fn request(mut cursor: Cursor<'_>) {
    let [method, path, query, call_id] = [(); 4].map(|()| String::from_utf8_lossy(cursor.short()).into_owned());
    let count = cursor.u8() % 8;
    let headers: Vec<(String, &[u8])> =
        (0..count).map(|_| (String::from_utf8_lossy(cursor.short()).into_owned(), cursor.short())).collect();
    let headers: Vec<(&str, &[u8])> = headers.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    let body = cursor.rest();
    let sandbox = sandbox();
    let asked = Request { method: &method, path: &path, query: &query, headers: &headers, body, call_id: &call_id };
    let Ok((offset, window)) = sandbox.request(&asked) else { return };
    let (head, _) = RequestHead::read_from_prefix(&window).expect("a head");
    let part = |span: Span| {
        let start = usize::try_from(span.offset - offset).expect("a span in the window");
        &window[start..][..usize::try_from(span.len).expect("a span in the window")]
    };
    assert_eq!(part(head.method), method.as_bytes());
    assert_eq!(part(head.path), path.as_bytes());
    assert_eq!(part(head.query), query.as_bytes());
    assert_eq!(part(head.call_id), call_id.as_bytes());
    assert_eq!(part(head.body), body);
    let found: Vec<_> = Fields::new(part(head.headers)).map(|field| field.expect("our own encoding")).collect();
    let sent: Vec<_> = headers.iter().map(|(name, value)| (name.as_bytes(), *value)).collect();
    assert_eq!(found, sent);
    sandbox.assert_sealed();
}

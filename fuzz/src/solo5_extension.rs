//! A Solo5 guest's memory and the calls beyond Solo5's that it makes there.

use std::sync::{Arc, OnceLock};

use kernlet_accel::Session;
use kernlet_monitor::{Request, fuzzing::Solo5Sandbox};

use crate::{cursor::Cursor, image::DATA, touch::session};

/// Calls that one run makes at most.
const CALLS_MAX: usize = 8;

/// A request that has something of everything.
const REQUEST: Request<'_> = Request {
    method: "POST",
    path: "/a%20path",
    query: "q=1",
    headers: &[("Content-Type", b"text/plain"), ("X", b"\xff")],
    body: b"a body\0of some bytes",
    call_id: "call",
};

/// Where a block may be put: the edges of the guest's memory, and what is not the guest's.
fn place(choice: u8, cursor: &mut Cursor<'_>) -> u64 {
    const TOP: u64 = Solo5Sandbox::MEMORY;
    const PLACES: [u64; 12] = [
        DATA,
        DATA + 0x1000,
        DATA + 0x3ff8,
        0x10_0000,
        0x10_0ff8,
        0x10_1000,
        TOP - 57,
        TOP - 8,
        TOP,
        0,
        0x1000,
        0x1_0000,
    ];
    PLACES.get(usize::from(choice)).copied().unwrap_or_else(|| u64::from(cursor.u32()))
}

/// Each round: bytes for the page behind `DATA`, a place, a block for it, the call. Whatever they are, what the guest
/// cannot write stays as it is, and a call either is answered or ends the guest.
pub fn solo5_extension(data: &[u8]) {
    static SESSION: OnceLock<Arc<Session>> = OnceLock::new();
    let mut sandbox = Solo5Sandbox::new(Arc::clone(SESSION.get_or_init(session)));
    let mut cursor = Cursor::new(data);
    for _ in 0..CALLS_MAX {
        if cursor.is_empty() {
            break;
        }
        let choice = cursor.u8();
        let block = place(choice, &mut cursor);
        let arguments = cursor.short();
        sandbox.place(DATA + 0x1000, cursor.short());
        sandbox.place(block, arguments);
        match sandbox.call(u32::try_from(block).unwrap_or(u32::MAX), &REQUEST) {
            Ok(None) => {}
            Ok(Some(response)) => {
                assert!((200..=599).contains(&response.status));
                assert!(response.body.len() as u64 <= Solo5Sandbox::RESPONSE_LIMIT);
            }
            Err(end) => {
                assert!(!end.to_string().is_empty());
                break;
            }
        }
    }
    sandbox.assert_sealed();
}

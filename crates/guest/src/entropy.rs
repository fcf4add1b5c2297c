//! Random bytes from the host's generator. Used by functions; fit for keys.

use kernlet_abi::hypercall::{CallHead, ENTROPY_MAX, Entropy, number, status};

use crate::hypercall;

/// Fills `bytes` with random bytes.
///
/// # Panics
/// When the host's generator fails: bytes that are not random must not be used.
pub fn fill(bytes: &mut [u8]) {
    for part in bytes.chunks_mut(ENTROPY_MAX as usize) {
        let head = CallHead { number: number::ENTROPY, status: 0 };
        let mut call = Entropy { head, buffer: hypercall::span_mut(part) };
        hypercall::call(&mut call);
        assert!(call.head.status == status::OK, "the host gave no random bytes (status {})", call.head.status);
    }
}

//! What a resource is recognised by, so that it is not sent a second time.
//! Made by the client, and made again by the agent from what it got. Never trusted before that.

use sha2::{Digest as _, Sha256};

/// SHA-256 over each file's name and bytes, each behind its length.
pub fn digest<'a>(files: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> [u8; 32] {
    let mut hash = Sha256::new();
    for (name, bytes) in files {
        hash.update((name.len() as u64).to_le_bytes());
        hash.update(name.as_bytes());
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    }
    hash.finalize().into()
}

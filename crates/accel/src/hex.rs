//! Digests as people read and write them.
//! Called by whoever compares one with what a configuration says, or shows one.

/// Two hexadecimal digits, in lower case, for each byte.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

//! HTTP header fields in one run of bytes: for each field `name_len: u16`, `value_len: u16` (little-endian),
//! then name and value. Written by one side, read by the other, who trusts nothing of it.

/// Longest name or value, in bytes.
pub const FIELD_MAX: usize = u16::MAX as usize;

/// Bytes that a field of these lengths takes.
#[must_use]
pub const fn encoded_len(name: usize, value: usize) -> usize {
    4 + name + value
}

/// Lengths of one field as they are encoded; `None` if either is longer than [`FIELD_MAX`].
#[must_use]
pub fn encode_lengths(name: usize, value: usize) -> Option<[u8; 4]> {
    let name = u16::try_from(name).ok()?.to_le_bytes();
    let value = u16::try_from(value).ok()?.to_le_bytes();
    Some([name[0], name[1], value[0], value[1]])
}

/// Why a run of fields cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Truncated {
    /// Where the field that does not fit begins, in bytes.
    pub at: usize,
}

impl core::fmt::Display for Truncated {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "the header field at byte {} runs past the end of the headers", self.at)
    }
}

impl core::error::Error for Truncated {}

/// Reads fields one after another; ends after the first that is cut short.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    /// Reads the fields in `bytes`.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(len)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn field(&mut self) -> Option<(&'a [u8], &'a [u8])> {
        let lengths = self.take(4)?;
        let name = usize::from(u16::from_le_bytes([lengths[0], lengths[1]]));
        let value = usize::from(u16::from_le_bytes([lengths[2], lengths[3]]));
        Some((self.take(name)?, self.take(value)?))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(&'a [u8], &'a [u8]), Truncated>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.bytes.len() {
            return None;
        }
        let start = self.at;
        let field = self.field().ok_or(Truncated { at: start });
        if field.is_err() {
            self.at = self.bytes.len();
        }
        Some(field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_read_back_in_order() {
        let bytes = b"\x01\0\x02\0abc\x00\0\x00\0\x01\0\x00\0z";
        let mut fields = Fields::new(bytes);
        assert_eq!(fields.next(), Some(Ok((&b"a"[..], &b"bc"[..]))));
        assert_eq!(fields.next(), Some(Ok((&b""[..], &b""[..]))));
        assert_eq!(fields.next(), Some(Ok((&b"z"[..], &b""[..]))));
        assert_eq!(fields.next(), None);
    }

    #[test]
    fn a_field_that_runs_past_the_end_is_an_error_and_the_last() {
        let mut fields = Fields::new(b"\x01\0\x00\0a\x05\0\x05\0abc");
        assert!(fields.next().is_some_and(|field| field.is_ok()));
        assert_eq!(fields.next(), Some(Err(Truncated { at: 5 })));
        assert_eq!(fields.next(), None);
    }

    #[test]
    fn lengths_beyond_the_limit_are_refused() {
        assert!(encode_lengths(FIELD_MAX, FIELD_MAX).is_some());
        assert!(encode_lengths(FIELD_MAX + 1, 0).is_none());
    }
}

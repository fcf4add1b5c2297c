//! Where a message's body ends, and bodies in chunks (RFC 9112, sections 6 and 7).
//! Used by whoever reads a body. It never holds any of it.

use std::ops::Range;

use thiserror::Error;

/// Most bytes of a body's chunk extensions, or of its trailers, which nobody reads: hyper's limit.
const UNREAD_MAX: usize = 16 * 1024;

/// Longest number of a chunk's size: what 64 bits take.
const DIGITS_MAX: usize = 16;

/// How long a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyLength {
    /// So many bytes.
    Known(u64),
    /// In chunks, the last of which says so.
    Chunked,
    /// Until the connection ends.
    UntilClose,
}

impl Default for BodyLength {
    fn default() -> Self {
        Self::Known(0)
    }
}

/// Why bytes are not a body in chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BadChunk {
    /// No size where one should be.
    #[error("a chunk's size is not a hexadecimal number and a line's end")]
    Size,
    /// More bytes than the size said.
    #[error("a chunk does not end where its size says")]
    End,
    /// Extensions or trailers without an end.
    #[error("its chunk extensions and trailers take more than {UNREAD_MAX} bytes")]
    TooMuch,
}

/// How far a body in chunks is.
#[derive(Clone, Debug)]
pub struct Chunks {
    at: At,
    /// Bytes of extensions and trailers so far.
    unread: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Size,
    /// So many bytes of the chunk are left.
    Data(u64),
    DataEnd,
    Trailers,
    End,
}

/// What the next bytes of a body in chunks are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Where in the bytes given the body's own are.
    pub data: Range<usize>,
    /// How many bytes are done with; where none are, more have to come first.
    pub taken: usize,
}

impl Default for Chunks {
    fn default() -> Self {
        Self::new()
    }
}

impl Chunks {
    /// Before the first chunk.
    #[must_use]
    pub fn new() -> Self {
        Self { at: At::Size, unread: 0 }
    }

    /// Whether the body is over.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.at == At::End
    }

    /// Takes the next bytes: as many as belong together.
    ///
    /// # Errors
    /// They are no body in chunks.
    pub fn step(&mut self, bytes: &[u8]) -> Result<Step, BadChunk> {
        let (data, taken) = match self.at {
            At::Size => (0..0, self.size(bytes)?),
            At::Data(left) => {
                let length = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                let left = left - length as u64;
                self.at = if left == 0 { At::DataEnd } else { At::Data(left) };
                (0..length, length)
            }
            At::DataEnd => match bytes {
                [] | [b'\r'] => (0..0, 0),
                [b'\r', b'\n', ..] => {
                    self.at = At::Size;
                    (0..0, 2)
                }
                _ => return Err(BadChunk::End),
            },
            At::Trailers => (0..0, self.trailer(bytes)?),
            At::End => (0..0, 0),
        };
        Ok(Step { data, taken })
    }

    fn size(&mut self, bytes: &[u8]) -> Result<usize, BadChunk> {
        let digits = bytes.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        if digits > DIGITS_MAX || (digits == 0 && !bytes.is_empty()) {
            return Err(BadChunk::Size);
        }
        let rest = &bytes[digits..];
        if !matches!(rest.first(), None | Some(b'\r' | b';' | b' ' | b'\t')) {
            return Err(BadChunk::Size);
        }
        let Some(line) = self.line(rest, BadChunk::Size)? else { return Ok(0) };
        let size = str::from_utf8(&bytes[..digits]).ok().and_then(|digits| u64::from_str_radix(digits, 16).ok());
        self.at = match size.ok_or(BadChunk::Size)? {
            0 => At::Trailers,
            size => At::Data(size),
        };
        self.unread += line - 2;
        Ok(digits + line)
    }

    fn trailer(&mut self, bytes: &[u8]) -> Result<usize, BadChunk> {
        let Some(line) = self.line(bytes, BadChunk::End)? else { return Ok(0) };
        if line == 2 {
            self.at = At::End;
        }
        self.unread += line - 2;
        Ok(line)
    }

    /// The length of a line with its end, if that is there. A line feed alone ends none: some readers would go on.
    fn line(&self, bytes: &[u8], bad: BadChunk) -> Result<Option<usize>, BadChunk> {
        let end = bytes.iter().position(|byte| *byte == b'\n');
        if self.unread + end.unwrap_or(bytes.len()) > UNREAD_MAX {
            return Err(BadChunk::TooMuch);
        }
        match end {
            None => Ok(None),
            Some(end) if end > 0 && bytes[end - 1] == b'\r' => Ok(Some(end + 1)),
            Some(_) => Err(bad),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Decoded = Option<(Vec<u8>, Vec<u8>)>;

    /// The body, and what came after it; `None` where it is not over.
    fn decode(sent: &[u8], pieces: &[usize]) -> Result<Decoded, BadChunk> {
        let (mut chunks, mut body, mut done, mut come) = (Chunks::new(), Vec::new(), 0, 0);
        let mut pieces = pieces.iter().cycle();
        while !chunks.is_over() {
            let step = chunks.step(&sent[done..come])?;
            body.extend_from_slice(&sent[done..come][step.data]);
            done += step.taken;
            if step.taken == 0 && !chunks.is_over() {
                if come == sent.len() {
                    return Ok(None);
                }
                come = (come + pieces.next().unwrap()).min(sent.len());
            }
        }
        Ok(Some((body, sent[done..].to_vec())))
    }

    #[test]
    fn chunks_are_read_with_their_extensions_and_trailers() {
        let sent = b"3;a=\"b\"\r\nabc\r\n0a \r\n0123456789\r\n0\r\nX: y\r\n\r\nnext";
        let (body, rest) = decode(sent, &[1]).unwrap().unwrap();
        assert_eq!((&body[..], &rest[..]), (&b"abc0123456789"[..], &b"next"[..]));
        assert_eq!(decode(&sent[..sent.len() - 6], &[4]).unwrap(), None);
    }

    #[test]
    fn what_others_might_read_otherwise_is_no_chunk() {
        for (sent, error) in [
            (&b"x\r\n"[..], BadChunk::Size),
            (b"\r\n", BadChunk::Size),
            (b"-1\r\n", BadChunk::Size),
            (b"0x3\r\nabc", BadChunk::Size),
            (b"3\nabc", BadChunk::Size),
            (b"3;a\nabc", BadChunk::Size),
            (b"00000000000000003\r\n", BadChunk::Size),
            (b"3\r\nabcd", BadChunk::End),
            (b"3\r\nabc\n", BadChunk::End),
            (b"0\r\n\n", BadChunk::End),
        ] {
            assert_eq!(decode(sent, &[100]).unwrap_err(), error, "{}", sent.escape_ascii());
        }
        let endless = [b"1;".to_vec(), vec![b'a'; UNREAD_MAX]].concat();
        assert_eq!(decode(&endless, &[1000]).unwrap_err(), BadChunk::TooMuch);
        let many = b"1;aaaaaaa\r\nx\r\n".repeat(UNREAD_MAX / 8 + 1);
        assert_eq!(decode(&many, &[1000]).unwrap_err(), BadChunk::TooMuch);
    }

    proptest! {
        #[test]
        fn what_was_cut_into_chunks_is_put_together_again(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..80), 0..10),
            pieces in proptest::collection::vec(1_usize..50, 1..20),
        ) {
            let mut sent = Vec::new();
            for chunk in &chunks {
                sent.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                sent.extend_from_slice(chunk);
                sent.extend_from_slice(b"\r\n");
            }
            sent.extend_from_slice(b"0\r\n\r\nrest");
            prop_assert_eq!(decode(&sent, &pieces).unwrap(), Some((chunks.concat(), b"rest".to_vec())));
        }

        #[test]
        fn any_bytes_mean_the_same_in_whatever_pieces_they_come(
            sent in "[0-3a;\r\nx ]{0,40}",
            pieces in proptest::collection::vec(1_usize..5, 1..20),
        ) {
            prop_assert_eq!(decode(sent.as_bytes(), &pieces), decode(sent.as_bytes(), &[1]));
        }
    }
}

//! Frames that a guest which serves sends to its host: whatever they are, the host holds no more than it may, no answer is
//! longer than it may be, and a guest that does it right is answered.

use kernlet_monitor::solo5::server::fuzzing::{ADDRESSES, Host, MACS, PORT};

use crate::cursor::Cursor;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: 10.0.0.2\r\nconnection: close\r\n\r\n";

/// Steps of a guest at most.
const STEPS: usize = 200;

/// What the guest knows of the connection that it was asked for last.
#[derive(Default)]
struct Connection {
    port: u16,
    /// What it sends next, and what it has seen.
    sequence: u32,
    seen: u32,
}

/// The first byte chooses whether the host probes or calls, and how often at once; then come steps.
pub fn server_frames(data: &[u8]) {
    let mut cursor = Cursor::new(data);
    let host = match cursor.u8() % 4 {
        0 => Host::probing(),
        count => Host::calling(REQUEST, count.into()),
    };
    let mut connection = Connection { sequence: 1000, ..Connection::default() };
    for _ in 0..STEPS {
        if cursor.is_empty() {
            break;
        }
        match cursor.u8() % 6 {
            0 => host.take(cursor.short()),
            1 => {
                if let Some(frame) = host.give() {
                    connection.notice(&frame);
                }
            }
            2 => _ = host.wait(),
            // As it has to be, but for the flags and what is in it.
            3 => {
                let (flags, payload) = (cursor.u8(), cursor.short());
                host.take(&connection.segment(flags, payload));
            }
            // With numbers and a window of its own.
            4 => {
                let (flags, sequence, seen) = (cursor.u8(), cursor.u32(), cursor.u32());
                let wild = Connection {
                    port: connection.port,
                    sequence: connection.sequence.wrapping_add(sequence),
                    seen: connection.seen.wrapping_add(seen),
                };
                let mut frame = wild.segment(flags, cursor.short());
                frame[48..50].copy_from_slice(&cursor.u32().to_le_bytes()[..2]);
                repair(&mut frame);
                host.take(&frame);
            }
            _ => host.take(&arp(cursor.u8().into())),
        }
    }
    let _answers = host.answers();
}

impl Connection {
    /// Learns of a frame from the host.
    fn notice(&mut self, frame: &[u8]) {
        if frame.len() < 54 || frame[12..14] != [8, 0] || frame[23] != 6 {
            return;
        }
        let word = |at: usize| u32::from_be_bytes([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]]);
        self.port = u16::from_be_bytes([frame[34], frame[35]]);
        let header = usize::from(frame[46] >> 4) * 4;
        let payload = u32::try_from(frame.len().saturating_sub(34 + header)).unwrap_or_default();
        let flags = frame[47];
        self.seen = word(38).wrapping_add(payload).wrapping_add(u32::from(flags & 3 != 0));
    }

    fn segment(&self, flags: u8, payload: &[u8]) -> Vec<u8> {
        let [guest, host] = ADDRESSES;
        let len = u16::try_from(40 + payload.len()).unwrap_or(u16::MAX).to_be_bytes();
        let ip = [&[0x45, 0, len[0], len[1], 0, 0, 0x40, 0, 64, 6, 0, 0][..], &guest, &host].concat();
        let mut tcp = [PORT.to_be_bytes(), self.port.to_be_bytes()].concat();
        tcp.extend(self.sequence.to_be_bytes());
        tcp.extend(self.seen.to_be_bytes());
        tcp.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
        let mut frame = [&MACS[1][..], &MACS[0], &[8, 0], &ip, &tcp, payload].concat();
        repair(&mut frame);
        frame
    }
}

/// Makes the checksums right.
fn repair(frame: &mut [u8]) {
    frame[24..26].fill(0);
    let sum = checksum(0, &frame[14..34]);
    frame[24..26].copy_from_slice(&sum);
    frame[50..52].fill(0);
    let len = u32::try_from(frame.len() - 34).unwrap_or_default();
    let pseudo =
        frame[26..34].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum::<u32>() + 6 + len;
    let sum = checksum(pseudo, &frame[34..]);
    frame[50..52].copy_from_slice(&sum);
}

fn checksum(begin: u32, bytes: &[u8]) -> [u8; 2] {
    let mut sum = begin;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!u16::try_from(sum).unwrap_or_default()).to_be_bytes()
}

/// Who has what, or has it: from the guest.
fn arp(operation: u16) -> Vec<u8> {
    let [guest, host] = ADDRESSES;
    let operation = operation.to_be_bytes();
    [&MACS[1][..], &MACS[0], &[8, 6, 0, 1, 8, 0, 6, 4], &operation, &MACS[0], &guest, &MACS[1], &host].concat()
}

/// A guest that does all as it should, as steps of [`server_frames`]: what fuzzing begins with.
pub(crate) fn right() -> Vec<Vec<u8>> {
    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let (fin, syn, ack) = (1, 2, 16);
    let answered = |choice: u8| {
        let mut steps = vec![choice, 2, 1, 5, 2, 2, 1, 3, syn | ack, 0];
        // The sequence number behind the SYN: by a segment with a number of its own.
        steps.extend([2, 1, 2, 1, 4, ack]);
        steps.extend(1_u32.to_le_bytes());
        steps.extend(0_u32.to_le_bytes());
        steps.push(u8::try_from(ANSWER.len()).unwrap_or_default());
        steps.extend(ANSWER);
        steps.extend([0xff, 0xff, 0, 0, 2, 1, 3, fin | ack, 0, 2]);
        steps
    };
    let mut raw = vec![1, 0, 60];
    raw.extend([0xff; 60]);
    vec![answered(0), answered(1), answered(3), raw]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_does_all_as_it_should_is_seen_to_serve_and_answers() {
        let host = Host::calling(REQUEST, 1);
        assert!(!host.wait());
        let mut connection = Connection { sequence: 1000, ..Connection::default() };
        connection.notice(&host.give().expect("a SYN"));
        host.take(&connection.segment(0x12, b""));
        connection.sequence += 1;
        let request = host.give().expect("the request");
        assert!(request.ends_with(REQUEST), "{}", request.escape_ascii());
        connection.notice(&request);
        host.take(&connection.segment(0x10, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"));
        let answers = host.answers();
        assert_eq!((answers.len(), answers[0].body.as_slice()), (1, &b"ok"[..]));
    }
}

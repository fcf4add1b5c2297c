//! The host's end of a server's link without a machine: whoever has it is the guest. Used by property tests and fuzz targets
//! only; it is not built otherwise. Panics where a promise is broken.
#![allow(clippy::panic, clippy::unwrap_used, missing_docs, reason = "it is for tests")]

use std::{sync::Arc, time::Instant};

use super::{
    Outcome, Waited,
    link::{Addresses, GUEST_MAC, HOST_MAC, Link, WAITING_MAX},
    message::Answer,
};
use crate::message::Response;

/// Most bytes of an answer's body.
pub const LIMIT: u64 = 10_000;

/// The addresses of the two: guest, host.
pub const MACS: [[u8; 6]; 2] = [GUEST_MAC, HOST_MAC];
pub const ADDRESSES: [[u8; 4]; 2] = [[10, 0, 0, 2], [10, 0, 0, 1]];
pub const PORT: u16 = 8080;

/// A host that asks whether its guest serves, or has sent it a request.
#[derive(Debug)]
pub struct Host {
    link: Arc<Link>,
    calls: Vec<u64>,
}

impl Host {
    #[must_use]
    pub fn probing() -> Self {
        let link = Self::link();
        link.probe();
        Self { link, calls: Vec::new() }
    }

    #[must_use]
    pub fn calling(request: &[u8], count: usize) -> Self {
        let link = Self::link();
        let calls = (0..count).map(|_| link.call(request.to_vec(), Answer::new("GET", LIMIT))).collect();
        Self { link, calls }
    }

    fn link() -> Arc<Link> {
        let [guest, host] = ADDRESSES.map(Into::into);
        Link::new(Addresses { guest, host, prefix: 24, port: PORT })
    }

    /// The guest sends a frame.
    pub fn take(&self, frame: &[u8]) {
        self.link.send(frame);
        assert!(self.link.waiting() <= WAITING_MAX, "frames pile up");
    }

    /// The guest takes a frame.
    #[must_use]
    pub fn give(&self) -> Option<Vec<u8>> {
        let mut frame = vec![0; 1514];
        let len = self.link.receive(&mut frame)?;
        frame.truncate(len);
        Some(frame)
    }

    /// The guest waits for no time. Whether the host has seen that it serves, as far as it asks.
    pub fn wait(&self) -> bool {
        let waited = self.link.wait(Some(Instant::now()));
        assert!(self.link.waiting() <= WAITING_MAX, "frames pile up");
        waited == Waited::Stop
    }

    /// The whole answers that came; the others are given up.
    #[must_use]
    pub fn answers(self) -> Vec<Response> {
        let mut answers = Vec::new();
        for call in &self.calls {
            match self.link.outcome(*call) {
                Some((Outcome::Answered(answer), _)) => {
                    let mut response = Response::default();
                    if answer.finish(&mut response).is_ok() {
                        assert!((200..600).contains(&response.status) && response.body.len() as u64 <= LIMIT);
                        answers.push(response);
                    }
                }
                Some((Outcome::Bad(_), _)) => {}
                None => drop(self.link.give_up(*call)),
            }
        }
        self.link.reset(GUEST_MAC);
        assert!(self.link.is_clean(GUEST_MAC));
        answers
    }
}

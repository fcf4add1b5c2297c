//! What the calls of the extension reach of a machine, without its processor: for property tests and fuzz targets only; it is
//! not built otherwise. Panics where a promise is broken.
#![allow(clippy::panic, clippy::unwrap_used, missing_docs, reason = "it is for tests")]

use std::{
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use kernlet_abi::Span;
use kernlet_accel::Session;

use super::{
    Console, ConsoleError, End, Exchange, Extension, GUEST_MIN, Image, Target,
    extension::{self, Call},
    image,
    layout::Layout,
};
use crate::{
    limits::Limits,
    memory::GuestMemory,
    message::{Request, Response, Usage},
};

/// A guest's memory with an image in it.
#[derive(Debug)]
pub struct Sandbox {
    memory: GuestMemory,
    layout: Layout,
    extension: Extension,
    usage: Usage,
    /// What no guest can write, as it was at first.
    sealed: Vec<(Range<u64>, Vec<u8>)>,
}

/// One request and what becomes of it.
struct Answering<'a> {
    request: &'a Request<'a>,
    response: Response,
    answered: bool,
}

impl Console for Answering<'_> {
    fn write(&mut self, _: &[u8]) -> Result<(), ConsoleError> {
        panic!("a call of the extension prints nothing");
    }

    fn exchange(&mut self) -> Option<Exchange<'_>> {
        let Self { request, response, answered } = self;
        Some(Exchange { request, response, limit: Sandbox::RESPONSE_LIMIT, answered })
    }
}

impl Sandbox {
    /// Bytes of its memory.
    pub const MEMORY: u64 = 4 << 20;

    /// Largest body of a response, in bytes.
    pub const RESPONSE_LIMIT: u64 = 0x1_0000;

    /// A page of code that cannot be written, and memory above it.
    #[must_use]
    pub fn new(session: Arc<Session>) -> Self {
        let image = Image::parse(image::unikernel(&[0xc3; 4096], &[]).into(), Target::Hvt).unwrap();
        let extension = Extension { session, requests: true };
        let mut layout = Layout::new(Self::MEMORY, false, image.load(Self::MEMORY).unwrap());
        layout.extension = Some(extension::told(extension.requests));
        let memory = GuestMemory::new(layout.tables().end).unwrap();
        layout.write_image(&memory, &image).unwrap();
        layout.write_boot_info(&memory, &[], 1).unwrap();
        let constant = layout.restricted().filter(|(_, access)| !access.write).map(|(pages, _)| pages);
        let outside = [0..GUEST_MIN, layout.tables()].into_iter().chain(constant).collect::<Vec<_>>();
        let mut sandbox = Self { memory, layout, extension, usage: Usage::default(), sealed: Vec::new() };
        sandbox.sealed = outside.into_iter().map(|range| (range.clone(), sandbox.read(&range))).collect();
        sandbox
    }

    fn read(&self, range: &Range<u64>) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.memory.read_span(Span { offset: range.start, len: range.end - range.start }, &mut bytes).unwrap();
        bytes
    }

    /// Writes as the guest does: all or nothing, where it may.
    pub fn place(&self, offset: u64, bytes: &[u8]) {
        if self.layout.allows(Span { offset, len: bytes.len() as u64 }, true) {
            self.memory.write(offset, bytes).unwrap();
        }
    }

    /// Makes the call whose block is at `block`; gives the response, where it hands one over.
    ///
    /// # Errors
    /// How the call ended the guest.
    pub fn call(&mut self, block: u32, request: &Request<'_>) -> Result<Option<Response>, End> {
        let Self { memory, layout, extension, usage, .. } = self;
        let mut console = Answering { request, response: Response::default(), answered: false };
        let deadline = Some(Instant::now() + Duration::from_secs(3600));
        let limits = &Limits::default();
        Call { memory, layout, extension, limits, usage, console: &mut console, deadline }.serve(block)?;
        Ok(console.answered.then_some(console.response))
    }

    /// What the guest cannot write is as it was.
    ///
    /// # Panics
    /// When it is not.
    pub fn assert_sealed(&self) {
        for (range, before) in &self.sealed {
            assert!(self.read(range) == *before, "memory of {range:x?} that the guest cannot write has changed");
        }
    }
}

//! How a guest ends: by a panic, by exhausting its heap, or because the monitor is of another version.
//! Needs no heap.

use core::{
    fmt::{self, Write},
    panic::PanicInfo,
};

use kernlet_abi::{
    Span,
    hypercall::{CallHead, Exit, exit_reason, number},
};

use crate::{heap, hypercall};

/// Where a panic was raised.
pub(crate) struct Place<'a> {
    file: &'a str,
    line: u32,
    column: u32,
}

/// Ends the machine.
pub(crate) fn exit(reason: u32, message: &str, place: Option<Place<'_>>) -> ! {
    let head = CallHead { number: number::EXIT, status: 0 };
    let file = place.as_ref().map_or(Span::default(), |place| hypercall::span(place.file.as_bytes()));
    let (line, column) = place.map_or((0, 0), |place| (place.line, place.column));
    let message = hypercall::span(message.as_bytes());
    hypercall::call(&mut Exit { head, reason, line, column, reserved: 0, message, file });
    loop {
        core::hint::spin_loop();
    }
}

/// Text in a fixed buffer, cut where it is full.
struct Text {
    bytes: [u8; 1024],
    len: usize,
}

impl Text {
    const fn new() -> Self {
        Self { bytes: [0; 1024], len: 0 }
    }

    fn as_str(&self) -> &str {
        str::from_utf8(&self.bytes[..self.len]).unwrap_or_default()
    }
}

impl Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = &mut self.bytes[self.len..];
        let taken = text.floor_char_boundary(room.len());
        room[..taken].copy_from_slice(&text.as_bytes()[..taken]);
        self.len += taken;
        Ok(())
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let mut message = Text::new();
    let _ = write!(message, "{}", info.message());
    // What the `alloc` crate panics with when an allocation that cannot fail has failed.
    let mut exhausted = Text::new();
    let _ = write!(exhausted, "memory allocation of {} bytes failed", heap::failed_allocation());
    if message.as_str() == exhausted.as_str() {
        exit(exit_reason::OUT_OF_MEMORY, message.as_str(), None);
    }
    let place = info.location().map(|at| Place { file: at.file(), line: at.line(), column: at.column() });
    exit(exit_reason::PANIC, message.as_str(), place)
}

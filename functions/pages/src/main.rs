//! Writes to as many pages of its memory as the body says, and answers whether it was the first to do so. Called by the
//! benchmarks of rewinding, for which the number of pages that a request wrote is what counts.
#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU64, Ordering};

use kernlet_guest::{Request, Response, function};

function!(write);

/// A word to write to, and the rest of its page.
#[repr(C, align(4096))]
struct Page(AtomicU64);

static PAGES: [Page; 2560] = [const { Page(AtomicU64::new(0)) }; 2560];

fn write(request: &Request) -> Response<'_> {
    let asked = core::str::from_utf8(request.body()).ok().and_then(|text| text.parse().ok());
    let Some(pages) = asked.and_then(|count: usize| PAGES.get(..count)) else {
        return Response::new(400).body("the body is a number of pages, at most 2560");
    };
    let mut clean = true;
    for Page(word) in pages {
        let before = word.load(Ordering::Relaxed);
        clean &= before == 0;
        word.store(before + 1, Ordering::Relaxed);
    }
    Response::new(200).body(if clean { "clean" } else { "used" })
}

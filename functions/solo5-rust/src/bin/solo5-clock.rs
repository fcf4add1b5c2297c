//! Time goes on at the speed that it should, waiting takes as long as it was asked to, and floating point is right.
#![no_std]
#![no_main]

use solo5_rust::{Guest, guest, say};

guest!(clock);

const MS: u64 = 1_000_000;

fn clock(guest: &Guest) -> i32 {
    let (monotonic, wall) = (guest.monotonic(), guest.wall());
    assert!(wall > 1_600_000_000 * 1000 * MS, "it is later than 2020");
    guest.wait(50 * MS);
    let (waited, passed) = (guest.monotonic() - monotonic, guest.wall() - wall);
    assert!(waited >= 50 * MS, "waited for {waited} ns");
    assert!(waited.abs_diff(passed) < waited / 10 + 10 * MS, "{waited} ns and {passed} ns");

    let sum: f64 = (0..1_000_000).map(|term| if term % 2 == 0 { 1.0 } else { -1.0 } / f64::from(2 * term + 1)).sum();
    say!("pi is about {:.5}", 4.0 * sum);
    say!("SUCCESS");
    0
}

//! Time goes on at the speed that it should, waiting takes as long as it was asked to, and floating point is right.
#![no_std]
#![no_main]

use solo5_rust::{Guest, guest, say};

guest!(clock);

const MS: u64 = 1_000_000;

fn clock(guest: &Guest) -> i32 {
    // The wall clock is read between two looks at the other: what happens to the processor meanwhile is no matter.
    let (before, wall, asleep) = (guest.monotonic(), guest.wall(), guest.monotonic());
    assert!(wall > 1_600_000_000 * 1000 * MS, "it is later than 2020");
    guest.wait(50 * MS);
    let (awake, passed, after) = (guest.monotonic(), guest.wall() - wall, guest.monotonic());
    let (least, most) = (awake - asleep, after - before);
    assert!(least >= 50 * MS, "waited for {least} ns");
    assert!(passed + passed / 10 + 10 * MS > least, "{passed} ns and {least} ns");
    assert!(passed < most + most / 10 + 10 * MS, "{passed} ns and {most} ns");

    let sum: f64 = (0..1_000_000).map(|term| if term % 2 == 0 { 1.0 } else { -1.0 } / f64::from(2 * term + 1)).sum();
    say!("pi is about {:.5}", 4.0 * sum);
    say!("SUCCESS");
    0
}

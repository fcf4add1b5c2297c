//! Says hello and gives its command line back; `exit N` ends it with that status, and `panic` as a mistake would.
#![no_std]
#![no_main]

use solo5_rust::{Guest, guest, say};

guest!(hello);

fn hello(guest: &Guest) -> i32 {
    let line = guest.command_line();
    say!("Hello from Rust");
    say!("{line}");
    assert!(line != "panic", "as asked");
    line.strip_prefix("exit ").and_then(|status| status.parse().ok()).unwrap_or(0)
}

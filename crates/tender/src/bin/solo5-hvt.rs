//! `solo5-hvt`, as a program of its own: what `kernlet solo5-hvt` is, without the platform, which takes longer to load than
//! a short guest to run. Called by people, scripts and container runtimes.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    kernlet_tender::main(kernlet_tender::Target::Hvt)
}

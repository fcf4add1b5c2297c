//! gdb in tests of Solo5's guests: of `kernlet`, and of the tenders in `crates/tender`.

use std::env;
use std::path::Path;
use std::process::{Command, Stdio};

/// Whether gdb is there. Where it is not, a test that needs it says so and passes, unless `KERNLET_REQUIRE_KVM=1`, with
/// which nothing may be missing.
pub(crate) fn is_there() -> bool {
    let found = Command::new("gdb").arg("--version").output().is_ok_and(|output| output.status.success());
    let required = env::var_os("KERNLET_REQUIRE_KVM").is_some_and(|value| value == "1");
    assert!(found || !required, "KERNLET_REQUIRE_KVM=1, and gdb is missing: scripts/install-deps.sh --checks");
    if !found {
        eprintln!("skipped: it needs gdb");
    }
    found
}

/// What gdb says to these commands about a guest, with these arguments before its file.
pub(crate) fn says(guest: &Path, arguments: &[&str], commands: &[&str]) -> String {
    let mut gdb = Command::new("gdb");
    gdb.args(["-nx", "-batch"]).args(arguments).arg(guest);
    let commands = commands.iter().flat_map(|command| ["-ex", command]);
    let output = gdb.args(commands).stdin(Stdio::null()).output().unwrap();
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

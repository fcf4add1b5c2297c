//! Links a crate as a unikernel. Called from the build script of every function, whose whole `main` is
//! `kernlet_guest_build::link();`, and from that of a guest of Solo5's hvt, where it is `link_solo5()`.
//! It only prints instructions for cargo and writes the linker script into the build's own folder.
#![forbid(unsafe_code)]

use std::{env, fs, path::PathBuf, process};

/// The linker script: one segment a permission, from the address where the monitor expects an image.
const SCRIPT: &str = include_str!("../unikernel.ld");

/// The same as Solo5's tenders expect it, with the notes that they look for.
const SOLO5: &str = include_str!("../solo5.ld");

/// Makes cargo link the package's binaries as static unikernels for the guest's memory map. Does nothing
/// outside a build script.
pub fn link() {
    link_by("unikernel.ld", SCRIPT);
}

/// The same for Solo5's hvt tender.
pub fn link_solo5() {
    link_by("solo5.ld", SOLO5);
}

fn link_by(name: &str, text: &str) {
    let Some(folder) = env::var_os("OUT_DIR").map(PathBuf::from) else {
        return;
    };
    let script = folder.join(name);
    if let Err(error) = fs::write(&script, text) {
        eprintln!("the linker script {} could not be written: {error}", script.display());
        process::exit(1);
    }
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-link-arg-bins=-T{}", script.display());
    for argument in [
        "-nostartfiles",
        "-nostdlib",
        "-static",
        "-no-pie",
        "-Wl,--gc-sections",
        "-Wl,--build-id=none",
        "-Wl,-z,norelro",
        "-Wl,-z,noexecstack",
        "-Wl,-z,max-page-size=4096",
    ] {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
}

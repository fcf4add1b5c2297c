//! Links a crate as a unikernel. Called from the build script of every function, whose whole `main` is
//! `kernlet_guest_build::link();`.
//! It only prints instructions for cargo and writes the linker script into the build's own folder.
#![forbid(unsafe_code)]

use std::{env, fs, path::PathBuf, process};

/// The linker script: one segment a permission, from the address where the monitor expects an image.
const SCRIPT: &str = include_str!("../unikernel.ld");

/// Makes cargo link the package's binaries as static unikernels for the guest's memory map. Does nothing
/// outside a build script.
pub fn link() {
    let Some(folder) = env::var_os("OUT_DIR").map(PathBuf::from) else {
        return;
    };
    let script = folder.join("unikernel.ld");
    if let Err(error) = fs::write(&script, SCRIPT) {
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
    ] {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
}

//! Gives libvaccel.so the name that programs linked with vAccel look for.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libvaccel.so.0");
}

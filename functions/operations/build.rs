fn main() {
    kernlet_guest_build::link();
}

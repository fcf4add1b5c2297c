fn main() {
    kernlet_guest_build::link_solo5();
}

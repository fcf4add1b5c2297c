//! What the numbers were measured on: processor, cores, kernel, kind of KVM, load.
//! Printed above the table. Reads `/proc` and `/sys`, and says `?` where they do not say.

use std::{fmt, fs, num::NonZero, path::Path, thread};

/// This machine.
#[derive(Clone, Debug)]
pub(crate) struct MachineLine {
    processor: String,
    cores: usize,
    kernel: String,
    kvm: String,
    load: String,
}

impl MachineLine {
    /// Looks at this machine.
    pub(crate) fn read() -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let first = |text: &str| text.split_whitespace().next().unwrap_or("?").to_owned();
        Self {
            processor: field(&text("/proc/cpuinfo"), "model name"),
            cores: thread::available_parallelism().map_or(1, NonZero::get),
            kernel: first(&text("/proc/sys/kernel/osrelease")),
            kvm: kvm_kind(),
            load: first(&text("/proc/loadavg")),
        }
    }
}

impl fmt::Display for MachineLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { processor, cores, kernel, kvm, load } = self;
        write!(f, "{processor}, {cores} cores, Linux {kernel}, {kvm}, load {load} before the first measurement")
    }
}

/// The value of a line `name : value`, the first of them.
fn field(text: &str, name: &str) -> String {
    let values = text.lines().filter_map(|line| line.split_once(':'));
    let mut values = values.filter(|(key, _)| key.trim() == name).map(|(_, value)| value.trim().to_owned());
    values.next().unwrap_or_else(|| "?".to_owned())
}

/// The module that does KVM's work here: on hardware Intel's or AMD's, nested in a virtual machine perhaps PVM.
fn kvm_kind() -> String {
    let kinds = ["kvm_intel", "kvm_amd", "kvm_pvm"];
    let kind = kinds.into_iter().find(|module| Path::new("/sys/module").join(module).exists());
    let inside = if field(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default(), "flags").contains(" hypervisor ") {
        " inside a virtual machine"
    } else {
        ""
    };
    format!("{}{inside}", kind.unwrap_or("KVM of an unknown kind"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_among_others() {
        let text = "processor\t: 0\nmodel name\t: A B: C\nmodel name\t: D\n";
        assert_eq!(field(text, "model name"), "A B: C");
        assert_eq!(field(text, "flags"), "?");
    }
}

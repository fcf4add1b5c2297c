//! Which layers hold, and for those that do not: why, and what follows. Made by [`crate::Jail::enter`] and by the probe;
//! shown in the watchdog's log and by `kernlet doctor`. It never decides whether that is enough.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A layer of the jail. Each holds without the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Layer {
    /// Resource limits of the process.
    ResourceLimits,
    /// A network namespace without interfaces.
    Network,
    /// IPC, host name and cgroup namespaces.
    Ipc,
    /// A mount namespace with an empty, read-only root.
    Files,
    /// A pid namespace.
    Processes,
    /// A user id that no other process has.
    User,
    /// No capabilities, and none to be had.
    Capabilities,
    /// `no_new_privs`, and closed to other processes of its user.
    NoNewPrivileges,
    /// Memory that was writable never becomes executable.
    NoNewCode,
    /// Landlock.
    Landlock,
    /// Seccomp.
    SystemCalls,
}

impl Layer {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::ResourceLimits,
        Self::Network,
        Self::Ipc,
        Self::Files,
        Self::Processes,
        Self::User,
        Self::Capabilities,
        Self::NoNewPrivileges,
        Self::NoNewCode,
        Self::Landlock,
        Self::SystemCalls,
    ];

    /// The layer's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.texts().0
    }

    /// What is known while the layer holds, for a watchdog that was taken over.
    #[must_use]
    pub fn keeps_from(self) -> &'static str {
        self.texts().1
    }

    /// What follows where it does not hold.
    #[must_use]
    pub fn lost_means(self) -> &'static str {
        self.texts().2
    }

    fn texts(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::ResourceLimits => (
                "rlimits",
                "no core dumps, and no more threads and descriptors than a watchdog needs",
                "a watchdog that was taken over may use up the host's threads and descriptors",
            ),
            Self::Network => (
                "network namespace",
                "no interfaces: the network, the gateway's port included, is out of reach",
                "only seccomp and landlock keep a watchdog that was taken over off the network",
            ),
            Self::Ipc => (
                "ipc namespaces",
                "shared memory and semaphores of other processes, and the host's name, are out of reach",
                "only seccomp keeps a watchdog that was taken over from shared memory of other processes",
            ),
            Self::Files => (
                "mount namespace",
                "an empty root: there are no files, so no images, secrets, state or password",
                "only seccomp, landlock and the watchdog's user keep it from files once it was taken over",
            ),
            Self::Processes => (
                "pid namespace",
                "no other process can be named, so none can be signalled or traced",
                "only seccomp, landlock and the watchdog's user keep it from other processes once it was taken over",
            ),
            Self::User => (
                "uid of its own",
                "nothing of root's, of the operator's or of another watchdog's may be touched",
                "watchdogs run as you: only the other layers protect your files and other functions; start the gateway as \
                 root to have this one",
            ),
            Self::Capabilities => (
                "no capabilities",
                "nothing that only an administrator may do",
                "a watchdog that was taken over may do what an administrator may",
            ),
            Self::NoNewPrivileges => (
                "no_new_privs",
                "no set-uid program gives rights, and no process of its user may trace a watchdog",
                "a watchdog that was taken over may gain rights by a set-uid program",
            ),
            Self::NoNewCode => (
                "no new code",
                "memory that was writable never becomes executable",
                "only seccomp keeps a watchdog that was taken over from running code that it has written",
            ),
            Self::Landlock => (
                "landlock",
                "no file by its name, no TCP, no signals to others, whatever else gives way",
                "one layer less between a watchdog that was taken over and files, TCP and other processes",
            ),
            Self::SystemCalls => (
                "seccomp",
                "only the system calls that its threads need: no exec, no sockets, no open",
                "a watchdog that was taken over has every system call of the kernel to attack",
            ),
        }
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A layer that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// Which.
    pub layer: Layer,
    /// Why.
    pub why: String,
}

/// What came of entering a jail.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    off: bool,
    held: Vec<(Layer, String)>,
    lost: Vec<Lost>,
    /// Threads that ran before, and so are outside.
    outside: usize,
}

impl Report {
    pub(crate) fn off() -> Self {
        Self { off: true, ..Self::default() }
    }

    /// Notes a layer: a detail where it holds, the reason where it does not. A layer of several steps holds when all do.
    pub(crate) fn add(&mut self, layer: Layer, entered: Result<String, String>) {
        match entered {
            Err(why) => {
                self.held.retain(|(held, _)| *held != layer);
                if !self.lost.iter().any(|lost| lost.layer == layer) {
                    self.lost.push(Lost { layer, why });
                }
            }
            Ok(detail) => {
                let known = self.held.iter().any(|(held, _)| *held == layer);
                if !known && !self.lost.iter().any(|lost| lost.layer == layer) {
                    self.held.push((layer, detail));
                }
            }
        }
    }

    /// Notes that other threads ran when the jail was entered: most layers are ones of threads.
    pub(crate) fn add_threads(&mut self, threads: Option<usize>) {
        self.outside = threads.unwrap_or(1).saturating_sub(1);
    }

    /// Whether every layer holds, for the whole process.
    pub(crate) fn is_complete(&self) -> bool {
        self.lost.is_empty() && self.outside == 0
    }

    /// Whether the jail was switched off.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.off
    }

    pub(crate) fn holds(&self, layer: Layer) -> bool {
        self.held.iter().any(|(held, _)| *held == layer)
    }

    /// The layers that hold, each with a detail that may be empty.
    #[must_use]
    pub fn held(&self) -> &[(Layer, String)] {
        &self.held
    }

    /// The layers that do not hold.
    #[must_use]
    pub fn lost(&self) -> &[Lost] {
        &self.lost
    }

    pub(crate) fn lost_text(&self) -> String {
        let layers = self.lost.iter().map(|Lost { layer, why }| format!("{layer} ({why})"));
        let threads = (self.outside > 0).then(|| format!("{} threads that ran already", self.outside));
        layers.chain(threads).collect::<Vec<_>>().join(", ")
    }

    /// What an operator should know, as one line; `None` when every layer holds.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        if self.off {
            return Some(
                "the jail is off: whoever takes over this process has all rights of the user that started it"
                    .to_owned(),
            );
        }
        (!self.is_complete()).then(|| format!("jailed, but without: {}", self.lost_text()))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held: Vec<String> = self
            .held
            .iter()
            .map(|(layer, detail)| if detail.is_empty() { layer.to_string() } else { format!("{layer} ({detail})") })
            .collect();
        write!(f, "jailed by: {}", held.join(", "))
    }
}

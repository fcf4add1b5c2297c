//! The jail of a watchdog's process: takes from it every right that it does not need, in layers of which each holds
//! without the others. Entered by the watchdog once, when it has opened all that it needs and before it has a second
//! thread; threads call [`confine`] at their start. The gateway uses the parts that belong to whoever starts a process.
//! It never opens anything for the process, and never loses a layer without saying so.
//!
//! | module | layers |
//! |---|---|
//! | `user` | a uid of its own, no capabilities, `no_new_privs` |
//! | `namespaces` | no files, no network, no processes but its own |
//! | `limits` | rlimits |
//! | `files` | landlock |
//! | `calls` | seccomp by thread role, and no memory that becomes executable |
//! | [`cgroup`] | memory, processes and processors of a whole watchdog; made by the gateway |
//! | [`memory`] | gives back what a process is done with |
//! | `report` | what holds and what does not |
//! | `probe` | the same, tried in a throw-away process |

mod calls;
pub mod cgroup;
mod files;
mod limits;
pub mod memory;
mod namespaces;
mod probe;
mod report;
mod user;

use std::{fmt, io, str::FromStr};

use rustix::process::{Signal, set_parent_process_death_signal};

pub use calls::{FilterError, Machines, Role, confine, filters};
pub use limits::Limits;
pub use namespaces::in_new_pid_namespace;
pub use probe::{ProbeError, probe};
pub use report::{Layer, Lost, Report};

/// How much an operator insists on the jail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Every layer has to hold, or the process does not go on.
    Required,
    /// Every layer that the host permits holds; the others are named.
    #[default]
    BestEffort,
    /// No jail.
    Off,
}

/// Why a text is no mode.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no mode of the jail: write required, best-effort or off")]
pub struct ModeError(String);

impl FromStr for Mode {
    type Err = ModeError;

    fn from_str(text: &str) -> Result<Self, ModeError> {
        match text {
            "required" => Ok(Self::Required),
            "best-effort" => Ok(Self::BestEffort),
            "off" => Ok(Self::Off),
            _ => Err(ModeError(text.to_owned())),
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Required => "required",
            Self::BestEffort => "best-effort",
            Self::Off => "off",
        })
    }
}

/// Why a process is not in its jail. It may be half in, and has to end.
#[derive(Debug, thiserror::Error)]
pub enum JailError {
    /// A layer does not hold although every one is required.
    #[error(
        "the jail is required, and this host does not permit all of it: {lost}; `kernlet doctor` says more, and \
         --jail best-effort goes on without"
    )]
    Lost {
        /// The layers and the reasons.
        lost: String,
    },
    /// The filters of system calls cannot be made or installed.
    #[error("the jail's filters of system calls cannot be used")]
    Filters(#[from] FilterError),
    /// Whoever started the process ended meanwhile.
    #[error("the process that started this one has ended")]
    Orphaned,
    /// The process could not be tied to its parent again, which a change of user undoes.
    #[error("the process could not be tied to the end of the one that started it")]
    Parent(#[source] io::Error),
}

/// A jail, planned and not yet entered.
#[derive(Clone, Debug)]
pub struct Jail {
    mode: Mode,
    layers: Vec<Layer>,
    limits: Limits,
    ends_with_parent: bool,
    machines: Machines,
}

impl Jail {
    /// All layers, in this mode.
    #[must_use]
    pub fn plan(mode: Mode) -> Self {
        Self {
            mode,
            layers: Layer::ALL.to_vec(),
            limits: Limits::default(),
            ends_with_parent: false,
            machines: Machines::default(),
        }
    }

    /// The same jail with these layers alone, so that each can be shown to hold by itself.
    #[must_use]
    pub fn only(self, layers: &[Layer]) -> Self {
        Self { layers: layers.to_vec(), ..self }
    }

    /// The same jail for a process whose machines are of this kind; of KVM's, unless it is told.
    #[must_use]
    pub fn machines(self, machines: Machines) -> Self {
        Self { machines, ..self }
    }

    /// The same jail with other limits.
    #[must_use]
    pub fn limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// The same jail for a process that is killed when the thread that started it ends. (Linux forgets that wish when a
    /// process changes its user.)
    #[must_use]
    pub fn ends_with_parent(self) -> Self {
        Self { ends_with_parent: true, ..self }
    }

    /// Enters the jail, for good. To be called by the only thread of a process: those that exist already stay outside,
    /// which the report then says.
    ///
    /// # Errors
    /// A layer does not hold although it has to. The process is then neither in nor out, and has to end.
    pub fn enter(self) -> Result<Report, JailError> {
        if self.mode == Mode::Off {
            return Ok(Report::off());
        }
        let mut report = Report::default();
        let wants = |layer: Layer| self.layers.contains(&layer);
        let filters = if wants(Layer::SystemCalls) { Some(filters(self.machines)?) } else { None };
        let threads = user::threads();

        // Each step may need what a later one takes.
        let outer_pid = wants(Layer::User).then(user::outer_pid);
        let is_root = user::is_root();
        let needs_namespace = [Layer::Files, Layer::Network, Layer::Ipc].into_iter().any(wants);
        let may_unshare = if needs_namespace && !is_root { user::enter_namespace() } else { Ok(is_root) };
        for (layer, enter) in [
            (Layer::Network, namespaces::without_network as fn() -> io::Result<()>),
            (Layer::Ipc, namespaces::without_ipc),
            (Layer::Files, namespaces::without_files),
        ] {
            if wants(layer) {
                let entered = may_unshare
                    .as_ref()
                    .map_err(Clone::clone)
                    .and_then(|_| enter().map_err(|error| namespaces::explain(&error)));
                report.add(layer, entered.map(|()| String::new()));
            }
        }
        if wants(Layer::Processes) {
            report.add(Layer::Processes, namespaces::is_first_process());
        }
        if wants(Layer::Capabilities) {
            report.add(Layer::Capabilities, user::drop_bounding_set().map(|()| String::new()));
        }
        if let Some(outer_pid) = outer_pid {
            report.add(Layer::User, user::become_own_user(is_root, outer_pid));
        }
        if wants(Layer::Capabilities) {
            report.add(Layer::Capabilities, user::drop_capabilities().map(|()| String::new()));
        }
        if wants(Layer::NoNewPrivileges) {
            report.add(Layer::NoNewPrivileges, user::no_new_privileges().map(|()| String::new()));
        }
        if wants(Layer::ResourceLimits) {
            // The limit of threads is one of all processes of a user; only one of our own has no others.
            let alone = report.holds(Layer::User) || (!is_root && may_unshare.is_ok());
            report.add(Layer::ResourceLimits, self.limits.apply(alone));
        }
        if self.ends_with_parent {
            set_parent_process_death_signal(Some(Signal::KILL)).map_err(|error| JailError::Parent(error.into()))?;
            if user::nobody_reads_our_output() {
                return Err(JailError::Orphaned);
            }
        }
        if wants(Layer::NoNewCode) {
            report.add(Layer::NoNewCode, calls::no_new_code().map(|()| String::new()));
        }
        if wants(Layer::Landlock) {
            report.add(Layer::Landlock, files::none());
        }
        if let Some(filters) = filters {
            report.add(Layer::SystemCalls, calls::enter(filters)?);
        }
        report.add_threads(threads);
        if self.mode == Mode::Required && !report.is_complete() {
            return Err(JailError::Lost { lost: report.lost_text() });
        }
        Ok(report)
    }
}

//! Which system calls the threads of a watchdog may make: an allow-list for each role, kept as data in `x86_64.json`.
//! The process takes the list of all roles together when it enters its jail; a thread takes its own at its start.
//! It never widens a list: the kernel applies all that a thread and its makers took.
//!
//! The data is in [`seccompiler`]'s format, and each list is there once:
//!
//! - `absent`: calls that are answered with ENOSYS on every thread, because libraries try them and have another way;
//! - `common`: what every thread may do;
//! - `server`, the first thread's, and one list for each [`Role`]: what its threads may do beside that;
//! - `ROLE-kvm` and `ROLE-process`: what a role's threads may do beside that where [`Machines`] are of that kind.
//!
//! The process's filter is all lists together (of its kind of machines), since a thread inherits the filters of the one that
//! makes it, and the first one makes the others. So the threads that a plugin makes for itself may do what the thread may
//! that first used it, and a machine that is a process what its tracer may, until it takes a filter that lets nothing through.
//! A thread that does anything else ends the process, with a line that says which call it was.
//!
//! Threads share their memory: one that was taken over can make another one run its code. What holds against that
//! is the process's filter; the roles make it harder.

mod trap;

use std::{collections::BTreeMap, io, process, sync::OnceLock};

use seccompiler::{BpfMap, BpfProgram, TargetArch, compile_from_json};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

#[cfg(target_arch = "x86_64")]
const FILTERS: &str = include_str!("x86_64.json");

#[cfg(target_arch = "x86_64")]
const ARCH: TargetArch = TargetArch::x86_64;

/// What a watchdog's machines are, which decides what its threads have to do for them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Machines {
    /// Virtual machines under KVM.
    #[default]
    Kvm,
    /// Traced child processes.
    Processes,
}

impl Machines {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Kvm, Self::Processes];

    /// What lists of this kind alone have behind their role's name.
    fn suffix(self) -> &'static str {
        match self {
            Self::Kvm => "-kvm",
            Self::Processes => "-process",
        }
    }
}

/// What a thread of a watchdog is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Serves a connection, machine included.
    Connection,
    /// Boots a template, or makes and ends machines for others.
    Machine,
    /// Makes processes that are machines, and traces them. There is none under KVM.
    Tracer,
    /// Loads models.
    Loader,
    /// Answers clients whose answers are overdue, and ends machines that are idle.
    Keeper,
    /// Watches deadlines.
    Deadlines,
    /// Writes the log.
    Log,
    /// Hears an accelerator agent.
    Agent,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Connection,
        Self::Machine,
        Self::Tracer,
        Self::Loader,
        Self::Keeper,
        Self::Deadlines,
        Self::Log,
        Self::Agent,
    ];

    /// The role's name, and that of its list in the data.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Machine => "machine",
            Self::Tracer => "tracer",
            Self::Loader => "loader",
            Self::Keeper => "keeper",
            Self::Deadlines => "deadlines",
            Self::Log => "log",
            Self::Agent => "agent",
        }
    }

    /// Another role whose lists this one has as well.
    fn includes(self) -> Option<Self> {
        matches!(self, Self::Connection).then_some(Self::Machine)
    }

    /// Whether a watchdog of such machines has threads of the role.
    fn is_needed(self, machines: Machines) -> bool {
        self != Self::Tracer || machines == Machines::Processes
    }
}

/// Why the filters of system calls cannot be used. The data is part of the program, so this is a mistake in it, or a
/// kernel without seccomp.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// The data is no JSON of the kind that it should be.
    #[error("the data of the filters cannot be read")]
    Json(#[source] serde_json::Error),
    /// The data cannot be compiled.
    #[error("the data of the filters is wrong")]
    Data(#[source] seccompiler::Error),
    /// The data lacks a filter.
    #[error("the data of the filters has none for {0}")]
    Lacks(&'static str),
    /// The kernel did not take it.
    #[error("the kernel did not take the filter {0}; it needs CONFIG_SECCOMP_FILTER")]
    Install(&'static str, #[source] seccompiler::Error),
    /// The report of refused calls cannot be set up.
    #[error("refused system calls could not be reported")]
    Handler(#[source] io::Error),
}

/// The compiled filters.
#[derive(Debug)]
pub struct Filters {
    programs: BpfMap,
}

/// Set once this process is behind its filters.
static ENTERED: OnceLock<Filters> = OnceLock::new();

/// One list of the data, as seccompiler reads it.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct List {
    mismatch_action: Value,
    match_action: Value,
    filter: Vec<Value>,
}

impl List {
    /// Adds what it does not have.
    fn add(&mut self, more: &[Value]) {
        for rule in more {
            if !self.filter.iter().any(|known| is_same(known, rule)) {
                self.filter.push(rule.clone());
            }
        }
    }
}

/// Whether two rules say the same, whatever their comments.
fn is_same(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Object(left), Value::Object(right)) => {
            let said = |rule: &Map<String, Value>| rule.keys().filter(|key| *key != "comment").count();
            let same = |(key, value): (&String, &Value)| {
                key == "comment" || right.get(key).is_some_and(|other| is_same(value, other))
            };
            said(left) == said(right) && left.iter().all(same)
        }
        (Value::Array(left), Value::Array(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(left, right)| is_same(left, right))
        }
        (left, right) => left == right,
    }
}

/// Compiles the data, for a watchdog of such machines.
///
/// # Errors
/// The data is wrong.
pub fn filters(machines: Machines) -> Result<Filters, FilterError> {
    let mut data: BTreeMap<String, List> = serde_json::from_str(FILTERS).map_err(FilterError::Json)?;
    let mut take = |name| data.remove(name).ok_or(FilterError::Lacks(name));
    let (absent, mut common, mut process) = (take("absent")?, take("common")?, take("server")?);
    // The second filter has to let through what the first one answers.
    common.add(&absent.filter);
    let mut lists = BTreeMap::new();
    for role in Role::ALL.into_iter().filter(|role| role.is_needed(machines)) {
        let mut list = data.get(role.name()).ok_or(FilterError::Lacks(role.name()))?.clone();
        for role in [Some(role), role.includes()].into_iter().flatten() {
            for name in [role.name().to_owned(), format!("{}{}", role.name(), machines.suffix())] {
                list.add(data.get(&name).map(|list| list.filter.as_slice()).unwrap_or_default());
            }
        }
        process.add(&list.filter);
        list.add(&common.filter);
        lists.insert(role.name(), list);
    }
    process.add(&common.filter);
    // Compared in this order, and KVM's calls are those that come often.
    process.filter.sort_by_key(|rule| rule["args"][0]["comment"] != "KVM_RUN");
    lists.insert("absent", absent);
    lists.insert("process", process);
    let text = serde_json::to_vec(&lists).map_err(FilterError::Json)?;
    Ok(Filters { programs: compile_from_json(text.as_slice(), ARCH).map_err(FilterError::Data)? })
}

impl Filters {
    fn get(&self, name: &'static str) -> Result<&BpfProgram, FilterError> {
        self.programs.get(name).ok_or(FilterError::Lacks(name))
    }

    fn install(&self, name: &'static str) -> Result<(), FilterError> {
        seccompiler::apply_filter(self.get(name)?).map_err(|error| FilterError::Install(name, error))
    }
}

/// Puts this thread, and all that it will make, behind the filters of the process.
pub(crate) fn enter(filters: Filters) -> Result<Result<String, String>, FilterError> {
    trap::report_refused_calls().map_err(FilterError::Handler)?;
    filters.install("absent")?;
    filters.install("process")?;
    let roles = Role::ALL.iter().filter(|role| filters.programs.contains_key(role.name())).count();
    // Nobody else enters a jail in this process.
    let _ = ENTERED.set(filters);
    Ok(Ok(format!("{roles} roles")))
}

/// Narrows what the calling thread may do to what its role needs, for good. To be called first thing on each thread.
/// Does nothing in a process that is not jailed. A thread that cannot be confined ends the process.
#[allow(clippy::disallowed_methods, reason = "a thread outside of its list must not go on")]
pub fn confine(role: Role) {
    let Some(filters) = ENTERED.get() else { return };
    if let Err(error) = filters.install(role.name()) {
        eprintln!("a thread of role {} cannot be confined, so the process ends: {error}", role.name());
        process::abort();
    }
}

/// `PR_SET_MDWE` and `PR_MDWE_REFUSE_EXEC_GAIN` of `linux/prctl.h`.
const SET_MDWE: libc::c_int = 65;
const REFUSE_EXEC_GAIN: libc::c_ulong = 1;

/// Lets the kernel refuse memory that is, or was, writable and is to be executed.
pub(crate) fn no_new_code() -> Result<(), String> {
    let none: libc::c_ulong = 0;
    // SAFETY: the call takes numbers only, and changes nothing of the memory that is there.
    let set = unsafe { libc::prctl(SET_MDWE, REFUSE_EXEC_GAIN, none, none, none) };
    if set == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EINVAL) => Err("this kernel does not have it (Linux 6.3 and newer do)".to_owned()),
        // It was set before.
        Some(libc::EPERM) => Ok(()),
        _ => Err(error.to_string()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;

    fn lists() -> BTreeMap<String, List> {
        serde_json::from_str(FILTERS).unwrap()
    }

    /// Every rule of every list that allows something, with its list.
    fn allowed() -> Vec<(String, Value)> {
        let lists = lists().into_iter().filter(|(name, _)| name != "absent");
        lists.flat_map(|(name, list)| list.filter.into_iter().map(move |rule| (name.clone(), rule))).collect()
    }

    #[test]
    fn the_filters_compile_and_every_role_has_one() {
        for machines in Machines::ALL {
            let compiled = filters(machines).unwrap();
            let needed = Role::ALL.into_iter().filter(|role| role.is_needed(machines)).map(Role::name);
            let names: Vec<_> = ["absent", "process"].into_iter().chain(needed).collect();
            assert_eq!(compiled.programs.len(), names.len(), "{machines:?}");
            for name in names {
                assert!(!compiled.get(name).unwrap().is_empty(), "{machines:?}: {name}");
            }
        }
    }

    #[test]
    fn every_list_is_a_roles() {
        let of = |role: Role| {
            [String::new(), "-kvm".to_owned(), "-process".to_owned()].map(|end| role.name().to_owned() + &end)
        };
        let known: Vec<String> = Role::ALL.into_iter().flat_map(of).collect();
        for name in lists().into_keys() {
            assert!(["absent", "common", "server"].contains(&name.as_str()) || known.contains(&name), "{name}");
        }
    }

    #[test]
    fn what_a_process_needs_is_allowed_to_tracers_alone_and_by_argument() {
        for call in ["ptrace", "wait4", "pidfd_open", "kill", "close_range"] {
            for (list, rule) in allowed().into_iter().filter(|(_, rule)| rule["syscall"] == call) {
                assert_eq!(list, "tracer", "{rule}");
                assert!(rule["args"].is_array() || matches!(call, "wait4" | "pidfd_open"), "{rule}");
            }
        }
        let executable =
            |rule: &Value| rule["syscall"] == "mmap" && rule["args"].to_string().contains("PROT_READ and PROT_EXEC");
        let lists: Vec<_> = allowed().into_iter().filter(|(_, rule)| executable(rule)).map(|(list, _)| list).collect();
        assert_eq!(lists, ["tracer"]);
    }

    #[test]
    fn no_list_repeats_what_all_threads_may() {
        let common = lists().remove("common").unwrap();
        for (name, rule) in allowed() {
            let repeated = name != "common" && common.filter.iter().any(|known| is_same(known, &rule));
            assert!(!repeated, "{name}: {rule}");
        }
    }

    #[test]
    fn a_call_has_checked_arguments_everywhere_or_nowhere() {
        let rules = allowed();
        for (name, rule) in &rules {
            for (other, same) in rules.iter().filter(|(_, other)| other["syscall"] == rule["syscall"]) {
                // Together they would mean less than each alone.
                assert_eq!(rule["args"].is_null(), same["args"].is_null(), "{name}, {other}: {}", rule["syscall"]);
            }
        }
    }

    /// Calls that no thread needs but to do harm.
    const NEVER: &[&str] = &[
        "execve",
        "execveat",
        "fork",
        "vfork",
        "socket",
        "socketpair",
        "connect",
        "bind",
        "listen",
        "open",
        "creat",
        "openat",
        "openat2",
        "open_by_handle_at",
        "ptrace",
        "process_vm_readv",
        "process_vm_writev",
        "kill",
        "tkill",
        "mount",
        "umount2",
        "pivot_root",
        "chroot",
        "unshare",
        "setns",
        "setuid",
        "setresuid",
        "capset",
        "bpf",
        "keyctl",
        "add_key",
        "request_key",
        "perf_event_open",
        "io_uring_setup",
        "userfaultfd",
        "init_module",
        "finit_module",
        "kexec_load",
        "reboot",
        "pidfd_open",
        "pidfd_getfd",
        "pkey_mprotect",
        "remap_file_pages",
        "modify_ldt",
        "arch_prctl",
        "personality",
        "unlink",
        "rename",
        "chmod",
        "landlock_restrict_self",
    ];

    #[test]
    fn the_data_allows_nothing_that_a_watchdog_must_never_do() {
        let rules: Vec<_> = allowed().into_iter().filter(|(list, _)| list != "tracer").collect();
        let of = |call: &str| rules.iter().filter(|(_, rule)| rule["syscall"] == call).collect::<Vec<_>>();
        for call in NEVER {
            assert!(of(call).is_empty(), "{call}");
        }
        // Tracers may do some of it, to their children.
        let tracers = ["ptrace", "kill", "pidfd_open"];
        for (_, rule) in allowed().iter().filter(|(list, _)| list == "tracer") {
            let call = rule["syscall"].as_str().unwrap();
            assert!(tracers.contains(&call) || !NEVER.contains(&call), "{call}");
        }
        // What can do anything is allowed with checked arguments only.
        let rules = allowed();
        for call in [
            "ioctl",
            "mmap",
            "mprotect",
            "clone",
            "tgkill",
            "prctl",
            "fcntl",
            "setsockopt",
            "rt_sigaction",
            "ptrace",
            "kill",
            "pidfd_send_signal",
            "close_range",
        ] {
            let mut of = rules.iter().filter(|(_, rule)| rule["syscall"] == call);
            assert!(of.all(|(_, rule)| rule["args"].is_array()), "{call}");
        }
    }
}

//! What runs machines on this host: opens `/dev/kvm` and says clearly why it cannot, or tries out the other backend.
//! Called once per process, before rights are dropped.

use std::{
    fmt, io,
    path::Path,
    str::FromStr,
    sync::{Arc, OnceLock},
};

use kvm_bindings::{CpuId, KVM_API_VERSION, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::{Cap, Kvm, VmFd};

use crate::{
    crash::{Cause, kvm},
    kvm::{Purpose, Shell, Stock},
    probe::{self, TrialError},
    process::ProcessHost,
};

/// What runs machines on this host. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Hypervisor {
    host: Host,
    /// Why it is not KVM, where nobody asked for anything.
    passed_over: Option<Arc<HypervisorError>>,
}

/// What machines are made of.
#[derive(Clone, Debug)]
pub(crate) enum Host {
    Kvm(KvmHost),
    Processes(ProcessHost),
}

/// The host's KVM.
#[derive(Clone, Debug)]
pub(crate) struct KvmHost {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    kvm: Kvm,
    /// What it supports of the processor's features, once that was asked for.
    cpuid: OnceLock<CpuId>,
    stock: OnceLock<Stock>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(stock) = self.stock.get() {
            stock.close();
        }
    }
}

/// What an operator wants machines to be made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// KVM where it can be opened, else processes, with a warning.
    #[default]
    Auto,
    /// Virtual machines under KVM.
    Kvm,
    /// Confined child processes.
    Process,
}

impl Backend {
    const NAMES: [(&str, Self); 3] = [("auto", Self::Auto), ("kvm", Self::Kvm), ("process", Self::Process)];
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = Self::NAMES.into_iter().find(|(_, backend)| backend == self);
        f.write_str(named.map_or("auto", |(name, _)| name))
    }
}

impl FromStr for Backend {
    type Err = UnknownBackend;

    fn from_str(text: &str) -> Result<Self, UnknownBackend> {
        let named = Self::NAMES.into_iter().find(|(name, _)| *name == text);
        named.map(|(_, backend)| backend).ok_or_else(|| UnknownBackend { name: text.to_owned() })
    }
}

/// There is no such backend.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no backend {name:?}; it is auto, kvm or process")]
pub struct UnknownBackend {
    name: String,
}

/// Why there is no hypervisor.
#[derive(Debug, thiserror::Error)]
pub enum HypervisorError {
    /// The device does not exist.
    #[error(
        "/dev/kvm does not exist: the processor's virtualization is off, its module is not loaded (modprobe kvm_intel \
         or kvm_amd), or this is a virtual machine without nested virtualization"
    )]
    Missing,
    /// The device may not be opened.
    #[error(
        "/dev/kvm may not be opened by this user: add the user to the device's group (usually `usermod -aG kvm USER`, \
         then log in again)"
    )]
    NotPermitted,
    /// Opening failed otherwise.
    #[error("/dev/kvm could not be opened")]
    Open(#[source] io::Error),
    /// The kernel's KVM is of another API version.
    #[error("/dev/kvm has API version {found}, this program needs {KVM_API_VERSION}")]
    WrongVersion {
        /// The version found.
        found: i32,
    },
    /// A capability is missing.
    #[error("this host's KVM lacks {name}, which Kernlet needs; a newer kernel has it")]
    Lacks {
        /// The capability.
        name: &'static str,
    },
    /// The processor's features could not be read.
    #[error("KVM does not say which processor features it supports")]
    CpuId(#[source] io::Error),
    /// The host does not let a process run guest code as it must.
    #[error(
        "functions cannot run as processes here: a process must be able to trace its children \
         (kernel.yama.ptrace_scope below 2; in a container, a seccomp profile that allows ptrace, and no \
         vdso that is sealed)"
    )]
    NoProcesses(#[source] TrialError),
    /// No backend works.
    #[error("{kvm}; and processes cannot take its place")]
    Neither {
        /// Why not KVM.
        kvm: Box<Self>,
        /// Why not processes.
        #[source]
        processes: Box<Self>,
    },
}

impl Hypervisor {
    /// Opens `/dev/kvm` and checks that it has what a machine needs.
    ///
    /// # Errors
    /// Why there is no usable KVM, and what to do about it.
    pub fn open() -> Result<Self, HypervisorError> {
        let host = KvmHost::open()?;
        // Now, since it may not be asked any more when rights are dropped.
        host.features().map_err(HypervisorError::CpuId)?;
        Ok(Self { host: Host::Kvm(host), passed_over: None })
    }

    /// The same for a process that makes one machine and ends with it: KVM is asked for nothing that this machine does not
    /// need, since some answers take longer than all of a short guest's run.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_once() -> Result<Self, HypervisorError> {
        Ok(Self { host: Host::Kvm(KvmHost::open()?), passed_over: None })
    }

    /// Machines as confined child processes, which need no KVM. Makes one that does not run, and leaves no thread behind.
    ///
    /// # Errors
    /// What the host does not allow, and what to do about it.
    pub fn processes() -> Result<Self, HypervisorError> {
        let hypervisor = Self { host: Host::Processes(ProcessHost::default()), passed_over: None };
        probe::make_one(&hypervisor).map_err(HypervisorError::NoProcesses)?;
        Ok(hypervisor)
    }

    /// What the operator chose. [`Self::warning`] has what there is to say about it.
    ///
    /// # Errors
    /// The chosen one cannot be had; none can.
    pub fn choose(backend: Backend) -> Result<Self, HypervisorError> {
        match backend {
            Backend::Kvm => Self::open(),
            Backend::Process => Self::processes(),
            Backend::Auto => Self::open().or_else(|no_kvm| match Self::processes() {
                Ok(processes) => Ok(Self { passed_over: Some(Arc::new(no_kvm)), ..processes }),
                Err(no_processes) => {
                    Err(HypervisorError::Neither { kvm: Box::new(no_kvm), processes: Box::new(no_processes) })
                }
            }),
        }
    }

    /// What its machines are made of: never [`Backend::Auto`].
    #[must_use]
    pub fn backend(&self) -> Backend {
        match self.host {
            Host::Kvm(_) => Backend::Kvm,
            Host::Processes(_) => Backend::Process,
        }
    }

    /// Why this is not KVM, although nobody asked for anything else.
    #[must_use]
    pub fn warning(&self) -> Option<&HypervisorError> {
        self.passed_over.as_deref()
    }

    /// From now on, keeps what new machines need ready, and takes machines that are gone apart in the background, on a
    /// thread of its own. Processes are made when they are needed, but by a thread that is there from here on: no other one
    /// needs the right to.
    ///
    /// # Errors
    /// The host gives no thread.
    pub fn keep_shells(&self) -> Result<(), io::Error> {
        match &self.host {
            Host::Kvm(host) => host.keep_shells(),
            Host::Processes(host) => host.start_maker(),
        }
    }

    /// The features of the processor that machines have; of processes, the host's own, `None` here.
    pub(crate) fn cpuid(&self) -> Option<&CpuId> {
        match &self.host {
            Host::Kvm(host) => host.features().ok(),
            Host::Processes(_) => None,
        }
    }

    pub(crate) fn host(&self) -> &Host {
        &self.host
    }
}

impl KvmHost {
    pub(crate) fn open() -> Result<Self, HypervisorError> {
        let kvm = Kvm::new().map_err(|error| open_error(io::Error::from_raw_os_error(error.errno())))?;
        let found = kvm.get_api_version();
        if u32::try_from(found) != Ok(KVM_API_VERSION) {
            return Err(HypervisorError::WrongVersion { found });
        }
        for (cap, name) in [
            (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
            (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
            (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
            (Cap::SyncRegs, "KVM_CAP_SYNC_REGS"),
            (Cap::DirtyLogRing, "KVM_CAP_DIRTY_LOG_RING"),
        ] {
            if !kvm.check_extension(cap) {
                return Err(HypervisorError::Lacks { name });
            }
        }
        Ok(Self { inner: Arc::new(Inner { kvm, cpuid: OnceLock::new(), stock: OnceLock::new() }) })
    }

    /// What KVM supports of the processor's features.
    fn features(&self) -> Result<&CpuId, io::Error> {
        let Inner { kvm, cpuid, .. } = &*self.inner;
        if let Some(known) = cpuid.get() {
            return Ok(known);
        }
        let asked = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES);
        let asked = asked.map_err(|error| io::Error::from_raw_os_error(error.errno()))?;
        Ok(cpuid.get_or_init(|| asked))
    }

    /// Whether this KVM is one that is nested by page-table virtualization: it emulates guest ring 0, and guests at CPL 3
    /// see the host's processor, whatever they were given.
    pub(crate) fn is_nested_by_page_tables() -> bool {
        Path::new("/sys/module/kvm_pvm").exists()
    }

    fn keep_shells(&self) -> Result<(), io::Error> {
        if self.inner.stock.get().is_none() {
            // The thread must not keep alive what it ends with.
            let inner = Arc::downgrade(&self.inner);
            let make =
                move || inner.upgrade().and_then(|inner| Shell::make(&Self { inner }, Purpose::Function, 0).ok());
            if let Err(second) = self.inner.stock.set(Stock::start(make)?) {
                second.close();
            }
        }
        Ok(())
    }

    /// A VM with its vCPU, and where to have it closed.
    pub(crate) fn shell(&self, purpose: Purpose, memory: u64) -> Result<(Shell, Option<Stock>), Cause> {
        let stock = self.inner.stock.get();
        let kept = stock.filter(|_| purpose == Purpose::Function && Shell::fits(memory)).and_then(Stock::take);
        let shell = kept.map_or_else(|| Shell::make(self, purpose, memory), Ok)?;
        Ok((shell, stock.cloned()))
    }

    pub(crate) fn create_vm(&self) -> Result<VmFd, Cause> {
        self.inner.kvm.create_vm().map_err(kvm("create a machine"))
    }

    pub(crate) fn cpuid(&self) -> Result<&CpuId, Cause> {
        self.features().map_err(|error| {
            let errno = kvm_ioctls::Error::new(error.raw_os_error().unwrap_or(libc::EIO));
            kvm("tell which processor features it supports")(errno)
        })
    }
}

fn open_error(error: io::Error) -> HypervisorError {
    match error.kind() {
        io::ErrorKind::NotFound => HypervisorError::Missing,
        io::ErrorKind::PermissionDenied => HypervisorError::NotPermitted,
        _ => HypervisorError::Open(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_or_forbidden_device_is_named_with_what_to_do() {
        let missing = open_error(io::Error::from_raw_os_error(libc::ENOENT)).to_string();
        assert!(missing.contains("/dev/kvm does not exist") && missing.contains("modprobe"), "{missing}");
        let forbidden = open_error(io::Error::from_raw_os_error(libc::EACCES)).to_string();
        assert!(forbidden.contains("usermod -aG kvm"), "{forbidden}");
        let other = open_error(io::Error::from_raw_os_error(libc::EMFILE));
        assert!(matches!(other, HypervisorError::Open(_)));
    }
}

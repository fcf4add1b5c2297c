//! Opens `/dev/kvm` and says clearly why it cannot. Called once per process, before rights are dropped.
//! Never creates a machine by itself.

use std::{
    io,
    sync::{Arc, OnceLock},
};

use kvm_bindings::{CpuId, KVM_API_VERSION, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::{Cap, Kvm, VmFd};

use crate::{
    crash::{Cause, kvm},
    kvm::{Shell, Stock},
};

/// The host's KVM. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Hypervisor {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    kvm: Kvm,
    cpuid: CpuId,
    stock: OnceLock<Stock>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(stock) = self.stock.get() {
            stock.close();
        }
    }
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
}

impl Hypervisor {
    /// Opens `/dev/kvm` and checks that it has what a machine needs.
    ///
    /// # Errors
    /// Why there is no usable KVM, and what to do about it.
    pub fn open() -> Result<Self, HypervisorError> {
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
        let cpuid = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(|error| HypervisorError::CpuId(io::Error::from_raw_os_error(error.errno())))?;
        Ok(Self { inner: Arc::new(Inner { kvm, cpuid, stock: OnceLock::new() }) })
    }

    /// From now on, keeps what new machines need ready, and takes machines that are gone apart in the background, on a
    /// thread of its own.
    ///
    /// # Errors
    /// The host gives no thread.
    pub fn keep_shells(&self) -> Result<(), io::Error> {
        if self.inner.stock.get().is_none() {
            // The thread must not keep alive what it ends with.
            let inner = Arc::downgrade(&self.inner);
            let make = move || inner.upgrade().and_then(|inner| Shell::make(&Self { inner }).ok());
            if let Err(second) = self.inner.stock.set(Stock::start(make)?) {
                second.close();
            }
        }
        Ok(())
    }

    /// A VM with its vCPU, and where to have it closed.
    pub(crate) fn shell(&self) -> Result<(Shell, Option<Stock>), Cause> {
        let stock = self.inner.stock.get();
        let shell = stock.and_then(Stock::take).map_or_else(|| Shell::make(self), Ok)?;
        Ok((shell, stock.cloned()))
    }

    pub(crate) fn create_vm(&self) -> Result<VmFd, Cause> {
        self.inner.kvm.create_vm().map_err(kvm("create a machine"))
    }

    pub(crate) fn cpuid(&self) -> &CpuId {
        &self.inner.cpuid
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

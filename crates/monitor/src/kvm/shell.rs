//! Shells: VMs with their vCPU and no memory, made before a machine needs one, and taken apart after it has gone.
//! Kept by the hypervisor, taken by the processor. A shell has never run: no guest leaves anything in one, and KVM
//! takes the thread that first runs it for its own.
//!
//! Making a VM with a vCPU takes KVM most of the time that a new machine needs, and closing one as much again. Both
//! happen here, on a thread of their own: VMs are closed at once, and made when no machine is being made, since KVM does one
//! such thing after the other. A VM belongs to the address space that made it, so each process has its
//! own shells; they go when none was wanted for [`IDLE_MAX`].

use std::{
    io, mem,
    os::fd::OwnedFd,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use kvm_bindings::{KVM_CAP_SPLIT_IRQCHIP, kvm_enable_cap};
use kvm_ioctls::{VcpuFd, VmFd};

use super::dirty_ring::DirtyRing;
use crate::{
    crash::{Cause, kvm},
    hypervisor::KvmHost,
};

/// Shells kept while machines are being made: as many as can be asked for while the thread makes one.
const READY_MAX: usize = 2;

/// How long after a shell was taken the next one is made. Who took it is giving it memory meanwhile, for which KVM makes
/// it wait until a VM that is being made is there: six times as long as otherwise, which is all that the shell saved.
const PAUSE: Duration = Duration::from_micros(500);

/// VMs that wait to be closed; beyond this, who drops a machine closes it.
const ENDED_MAX: usize = 8;

/// How long shells are kept without a machine being made.
const IDLE_MAX: Duration = Duration::from_secs(30);

/// What a machine is for, which decides what its VM has to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Requests: it is frozen, rewound, and can be made again.
    Function,
    /// One run of a guest at CPL 3.
    Once,
    /// One run of a guest at ring 0, whose processor stops as a whole when it halts.
    RingZero,
}

/// Where an interrupt controller has its registers; memory that a VM has there is in its way on some processors.
const CONTROLLER: u64 = 0xfee0_0000;

/// A VM with its vCPU, which has the host's features, and no memory.
#[derive(Debug)]
pub(crate) struct Shell {
    pub(super) vcpu: VcpuFd,
    pub(super) vm: VmFd,
    /// None where nobody will ask what was written.
    pub(super) ring: Option<DirtyRing>,
}

impl Shell {
    /// Makes one, here and now, for this much memory.
    pub(crate) fn make(host: &KvmHost, purpose: Purpose, memory: u64) -> Result<Self, Cause> {
        let vm = host.create_vm()?;
        if purpose != Purpose::RingZero && Self::fits(memory) {
            keep_controller(&vm);
        }
        if purpose == Purpose::Function {
            DirtyRing::enable(&vm)?;
        }
        let vcpu = vm.create_vcpu(0).map_err(kvm("create a processor"))?;
        let ring = match purpose {
            Purpose::Function => Some(DirtyRing::map(&vcpu)),
            Purpose::Once | Purpose::RingZero => None,
        };
        let ring = ring.transpose().map_err(|source| Cause::Memory { size: DirtyRing::SIZE, source })?;
        // Reading them takes KVM 90 instructions each of which leaves a virtual machine, if this is one.
        if purpose != Purpose::Once || !KvmHost::is_nested_by_page_tables() {
            vcpu.set_cpuid2(host.cpuid()?).map_err(kvm("set the processor's features"))?;
        }
        Ok(Self { vcpu, vm, ring })
    }

    /// Whether this much memory lies below an interrupt controller's registers.
    pub(crate) fn fits(memory: u64) -> bool {
        memory <= CONTROLLER
    }
}

/// Gives a VM's processor, which must not exist yet, an interrupt controller in the kernel. No guest at CPL 3 reaches it:
/// its registers are not mapped, and the instructions that would need no mapping are for ring 0. But for processors without
/// one KVM rewrites its own code, on all of the host's processors, whenever it makes the first and ends the last of them:
/// that takes a third of the time to make and end a machine here. Where it cannot be had, machines work without.
fn keep_controller(vm: &VmFd) {
    let cap = kvm_enable_cap { cap: KVM_CAP_SPLIT_IRQCHIP, ..Default::default() };
    let _without = vm.enable_cap(&cap);
}

/// A VM that will not run again: its vCPU, then itself.
type Ended = (OwnedFd, OwnedFd);

/// The shells of a process. Cheap to clone; the thread that looks after them ends with [`Stock::close`].
#[derive(Clone, Debug)]
pub(crate) struct Stock {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    ready: Vec<Shell>,
    wanted: usize,
    /// When none was taken for a [`PAUSE`].
    calm_at: Instant,
    ended: Vec<Ended>,
    closed: bool,
}

/// What the thread does next.
enum Work {
    Make,
    Drop(Vec<Shell>),
    End(Ended),
}

impl Stock {
    /// Starts to make the first one. `make` gives a shell, or nothing once nobody can want one any more.
    pub(crate) fn start(make: impl Fn() -> Option<Shell> + Send + 'static) -> Result<Self, io::Error> {
        let calm_at = Instant::now();
        let state = State { ready: Vec::new(), wanted: 1, calm_at, ended: Vec::new(), closed: false };
        let stock = Self { inner: Arc::new(Inner { state: Mutex::new(state), changed: Condvar::new() }) };
        let kept = stock.clone();
        thread::Builder::new().name("shells".into()).stack_size(128 * 1024).spawn(move || kept.look_after(&make))?;
        Ok(stock)
    }

    /// A shell, if one is ready.
    pub(crate) fn take(&self) -> Option<Shell> {
        let mut state = self.state();
        state.wanted = READY_MAX;
        state.calm_at = Instant::now() + PAUSE;
        self.inner.changed.notify_one();
        state.ready.pop()
    }

    /// Closes a VM that is given up, soon; at once if there are too many of them.
    pub(crate) fn end(&self, vcpu: OwnedFd, vm: OwnedFd) {
        let mut state = self.state();
        if !state.closed && state.ended.len() < ENDED_MAX {
            state.ended.push((vcpu, vm));
            self.inner.changed.notify_one();
        }
    }

    /// Ends the thread and drops what is there.
    pub(crate) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        let (ready, ended) = (mem::take(&mut state.ready), mem::take(&mut state.ended));
        self.inner.changed.notify_one();
        drop(state);
        drop((ready, ended));
    }

    fn look_after(&self, make: &dyn Fn() -> Option<Shell>) {
        kernlet_jail::confine(kernlet_jail::Role::Machine);
        while let Some(work) = self.next() {
            match work {
                Work::Make => match make() {
                    Some(shell) => self.put(shell),
                    // Who needs a machine hears why.
                    None => self.state().wanted = 0,
                },
                Work::Drop(shells) => drop(shells),
                Work::End(ended) => drop(ended),
            }
        }
    }

    /// Waits for something to do; nothing, once the stock is closed.
    fn next(&self) -> Option<Work> {
        let mut state = self.state();
        loop {
            if state.closed {
                return None;
            }
            if let Some(ended) = state.ended.pop() {
                return Some(Work::End(ended));
            }
            if state.ready.len() < state.wanted {
                let pause = state.calm_at.saturating_duration_since(Instant::now());
                if pause.is_zero() {
                    return Some(Work::Make);
                }
                let waited = self.inner.changed.wait_timeout(state, pause);
                (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            if state.wanted == 0 {
                state = self.inner.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let waited = self.inner.changed.wait_timeout(state, IDLE_MAX);
            let (woken, result) = waited.unwrap_or_else(PoisonError::into_inner);
            state = woken;
            if result.timed_out() {
                state.wanted = 0;
                return Some(Work::Drop(mem::take(&mut state.ready)));
            }
        }
    }

    fn put(&self, shell: Shell) {
        let mut state = self.state();
        if !state.closed {
            state.ready.push(shell);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! Stops guests that run too long. One thread for all machines looks at their deadlines every few
//! milliseconds while guests run, and sleeps otherwise; a guest past its deadline is kicked out by a signal to
//! its thread, or to its process where it is one. Costs a running machine some atomic stores. Never stops a plugin in
//! the middle.

use std::{
    cell::Cell,
    os::fd::RawFd,
    ptr,
    sync::{
        Arc, Mutex, OnceLock, PoisonError, Weak,
        atomic::{
            AtomicBool, AtomicI32, AtomicU64,
            Ordering::{Relaxed, Release, SeqCst},
        },
    },
    thread::{self, Thread},
    time::{Duration, Instant},
};

use kvm_bindings::kvm_run;

/// How often deadlines are looked at; a guest may run this much longer than its limit.
pub(crate) const TICK: Duration = Duration::from_millis(5);

/// Ticks without any run after which the supervisor sleeps: waking it takes a system call, which a process that has
/// requests ten times a second is spared.
const IDLE_TICKS: u32 = 20;

/// What ends a guest's run from outside.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kick {
    /// `immediate_exit` in this `kvm_run` page, set by a signal to the thread that runs the guest.
    Kvm(*mut kvm_run),
    /// A signal to the child process that this descriptor names; it comes to its tracer and not to the guest.
    Process(RawFd),
}

thread_local! {
    /// The `kvm_run` page of the machine that runs on this thread, for the signal handler.
    static RUNNING: Cell<*mut kvm_run> = const { Cell::new(ptr::null_mut()) };

    /// This thread's id, asked for once: a system call for every run is what a run has no time for.
    static THREAD: libc::pid_t = rustix::thread::gettid().as_raw_nonzero().get();
}

/// A machine's entry with the supervisor.
#[derive(Debug)]
pub(crate) struct Timer {
    slot: Arc<Slot>,
}

#[derive(Debug)]
struct Slot {
    /// Thread that runs the machine.
    thread: AtomicI32,
    /// Descriptor of the process that is the machine; [`NO_PROCESS`] under KVM.
    process: AtomicI32,
    /// Nanoseconds after the supervisor's start at which the guest is to be stopped, [`JUST_RAN`] or [`IDLE`].
    deadline: AtomicU64,
}

/// In place of a deadline: the machine has not run since the supervisor looked last.
const IDLE: u64 = 0;

/// In place of a deadline: the machine does not run, and did since the supervisor looked last. A machine that is busy keeps
/// the supervisor awake by it, also when it is looked at between two runs: waking it takes a system call.
const JUST_RAN: u64 = 1;

const NO_PROCESS: RawFd = -1;

impl Timer {
    pub(crate) fn new() -> Self {
        let slot = Arc::new(Slot {
            thread: AtomicI32::new(0),
            process: AtomicI32::new(NO_PROCESS),
            deadline: AtomicU64::new(0),
        });
        supervisor().slots.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&slot));
        Self { slot }
    }

    /// Runs `body` on this thread with the machine exposed to the kick, which comes once `deadline` has passed.
    pub(crate) fn guard<T>(&self, deadline: Instant, kick: Kick, body: impl FnOnce() -> T) -> T {
        let supervisor = supervisor();
        let process = match kick {
            Kick::Kvm(run) => {
                RUNNING.set(run);
                NO_PROCESS
            }
            Kick::Process(handle) => handle,
        };
        // Seen by whoever sees the deadline.
        self.slot.process.store(process, Relaxed);
        self.slot.thread.store(THREAD.with(|thread| *thread), Relaxed);
        self.slot.deadline.store(supervisor.since_start(deadline).max(JUST_RAN + 1), SeqCst);
        // Sequentially consistent with `watch`: either the supervisor sees the deadline or we see it asleep. One of
        // those who do wakes it.
        if supervisor.asleep.load(SeqCst) && supervisor.asleep.swap(false, SeqCst) {
            supervisor.wake();
        }
        let _disarm = Disarm { slot: &self.slot };
        body()
    }
}

impl Timer {
    /// While [`Self::guard`] runs its body: the next kick comes at `at` instead.
    pub(crate) fn kick_at(&self, at: Instant) {
        self.slot.deadline.store(supervisor().since_start(at).max(1), SeqCst);
    }
}

/// Takes back what [`Timer::guard`] exposed, even when what it ran panicked: a kick that comes later must not
/// write to a `run` page that is gone.
struct Disarm<'a> {
    slot: &'a Slot,
}

impl Drop for Disarm<'_> {
    fn drop(&mut self) {
        // A kick that this is too late for finds no run page, or makes another run look at its own deadline.
        self.slot.deadline.store(JUST_RAN, Release);
        RUNNING.set(ptr::null_mut());
    }
}

#[derive(Debug)]
struct Supervisor {
    start: Instant,
    slots: Mutex<Vec<Weak<Slot>>>,
    asleep: AtomicBool,
    thread: OnceLock<Thread>,
}

/// The process's supervisor, started at its first use.
fn supervisor() -> &'static Supervisor {
    static SUPERVISOR: OnceLock<Supervisor> = OnceLock::new();
    static STARTED: OnceLock<()> = OnceLock::new();
    let supervisor = SUPERVISOR.get_or_init(|| Supervisor {
        start: Instant::now(),
        slots: Mutex::default(),
        asleep: AtomicBool::new(false),
        thread: OnceLock::new(),
    });
    STARTED.get_or_init(|| {
        install_handler();
        let spawned =
            thread::Builder::new().name("deadlines".into()).stack_size(64 * 1024).spawn(|| supervisor.watch());
        if let Ok(handle) = spawned {
            let _ = supervisor.thread.set(handle.thread().clone());
        }
    });
    supervisor
}

impl Supervisor {
    fn since_start(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.start).as_nanos()).unwrap_or(u64::MAX)
    }

    fn wake(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    fn watch(&self) {
        kernlet_jail::confine(kernlet_jail::Role::Deadlines);
        let mut idle = 0;
        loop {
            idle = if self.kick_late() == 0 { idle + 1 } else { 0 };
            if idle >= IDLE_TICKS {
                idle = 0;
                self.asleep.store(true, SeqCst);
                if self.kick_late() == 0 {
                    thread::park();
                }
                self.asleep.store(false, SeqCst);
            }
            thread::sleep(TICK);
        }
    }

    /// Kicks every guest past its deadline, again at each tick until it is out; says how many guests run or just ran.
    fn kick_late(&self) -> usize {
        let now = self.since_start(Instant::now());
        let mut running = 0;
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).retain(|slot| {
            let Some(slot) = slot.upgrade() else {
                return false;
            };
            match slot.deadline.load(SeqCst) {
                IDLE => return true,
                // Unless it runs again by now.
                JUST_RAN => drop(slot.deadline.compare_exchange(JUST_RAN, IDLE, Relaxed, Relaxed)),
                deadline if deadline <= now => kick(&slot),
                _ => {}
            }
            running += 1;
            true
        });
        running
    }
}

fn signal_number() -> libc::c_int {
    libc::SIGRTMIN() + 1
}

fn kick(slot: &Slot) {
    let process = slot.process.load(Relaxed);
    if process != NO_PROCESS {
        let (no_info, no_flags) = (ptr::null_mut::<libc::siginfo_t>(), 0);
        // SAFETY: a plain system call. A descriptor that was closed in the meantime names nothing, or another machine,
        // which is interrupted and goes on.
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, process, libc::SIGSTOP, no_info, no_flags) };
        return;
    }
    let thread = slot.thread.load(Relaxed);
    // SAFETY: plain system calls without pointers; a thread that is gone gives ESRCH, which is as good.
    let process = unsafe { libc::getpid() };
    // SAFETY: as above.
    unsafe { libc::syscall(libc::SYS_tgkill, process, thread, signal_number()) };
}

fn install_handler() {
    // SAFETY: all-zero is a valid sigaction: no flags, an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_kick as extern "C" fn(libc::c_int) as libc::sighandler_t;
    // KVM_RUN returns EINTR all the same; what a plugin does in the meantime is restarted.
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: the handler only stores one byte, which is async-signal-safe.
    unsafe { libc::sigaction(signal_number(), &raw const action, ptr::null_mut()) };
}

/// Makes the current or the next KVM_RUN of this thread return at once.
extern "C" fn on_kick(_signal: libc::c_int) {
    let run = RUNNING.get();
    if !run.is_null() {
        // SAFETY: `guard` set the pointer to a `kvm_run` page that is mapped until it clears it, on this thread.
        let immediate_exit = unsafe { &raw mut (*run).immediate_exit };
        // SAFETY: as above; the kernel reads the byte, hence volatile.
        unsafe { immediate_exit.write_volatile(1) };
    }
}

#[cfg(test)]
#[allow(clippy::panic, reason = "tests")]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    #[test]
    fn a_kick_after_a_panic_finds_no_run_page_to_write_to() {
        let timer = Timer::new();
        let mut page = kvm_run::default();
        let run = &raw mut page;
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            timer.guard(Instant::now() + Duration::from_secs(3600), Kick::Kvm(run), || panic!("a sink that fails"))
        }));
        assert!(panicked.is_err());
        assert!(RUNNING.get().is_null());
        assert!(timer.slot.deadline.load(SeqCst) <= JUST_RAN);
        on_kick(signal_number());
        assert_eq!(page.immediate_exit, 0);
    }

    #[test]
    fn a_deadline_that_passes_kicks_the_thread_that_runs() {
        let timer = Timer::new();
        let mut page = kvm_run::default();
        let run = &raw mut page;
        timer.guard(Instant::now(), Kick::Kvm(run), || {
            // SAFETY: the page is alive.
            let kicked = unsafe { &raw const (*run).immediate_exit };
            // SAFETY: as above; only this thread, here or in the handler, touches it.
            while unsafe { kicked.read_volatile() } == 0 {
                thread::yield_now();
            }
        });
        assert!(RUNNING.get().is_null());
    }
}

//! The library's life: started by the first call that needs it, with what the environment says, and ended with the
//! process.
//! Called by every other module that needs it to be started. Never ends the process, whatever fails.

use std::{
    cell::{Cell, UnsafeCell},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU8, AtomicU32, Ordering},
    },
};

use crate::{
    binding,
    errno::{EINVAL, Result},
    library, log, ops, registry, resource, rundir, session, trace,
    types::Config,
};

/// Not yet started; started; not to be started by itself, since it was ended, or failed, or is told not to.
const UNUSED: u8 = 0;
const READY: u8 = 1;
const STOPPED: u8 = 2;

static LIFE: AtomicU8 = AtomicU8::new(UNUSED);
/// Starts and ends one after the other.
static CHANGE: Mutex<()> = Mutex::new(());
/// The process that started it: a child of it that ends cleans nothing up.
static OWNER: AtomicU32 = AtomicU32::new(0);

thread_local! {
    /// Whether this thread is starting or ending the library, and calls it from a plugin.
    static CHANGING: Cell<bool> = const { Cell::new(false) };
}

/// The configuration, where C reads it.
struct Shared(UnsafeCell<Config>);

// SAFETY: it is replaced while the library is started or ended, which is one thread at a time, and C is told not to
// use it meanwhile.
unsafe impl Sync for Shared {}

static CONFIG: Shared = Shared(UnsafeCell::new(Config::DEFAULT));

api! {
    fn vaccel_bootstrap() {
        change(|| start(Config::from_env()?))
    }

    fn vaccel_bootstrap_with_config(config: Option<&Config>) {
        let config = config.ok_or(EINVAL)?.copy()?;
        change(|| start(config))
    }

    fn vaccel_cleanup() {
        change(|| {
            if LIFE.load(Ordering::Acquire) == READY {
                end();
                // The strings may be looked at until now.
                config_mut(Config::release);
            }
            Ok(())
        })
    }

    fn vaccel_is_initialized() -> bool {
        is_ready()
    }

    fn vaccel_config() -> *const Config {
        is_ready();
        CONFIG.0.get().cast_const()
    }

    fn vaccel_log_init() {
        is_ready();
        configure_log();
        Ok(())
    }

    fn vaccel_log_shutdown() {
        Ok(())
    }
}

/// Whether the library is started, after starting it if nobody has yet.
pub(crate) fn is_ready() -> bool {
    match LIFE.load(Ordering::Acquire) {
        READY => true,
        STOPPED => false,
        _ => start_by_itself(),
    }
}

/// Whether profiling regions measure.
pub(crate) fn profiling_enabled() -> bool {
    is_ready();
    // SAFETY: the address is the configuration's, which is always there.
    let flag = unsafe { &raw const (*CONFIG.0.get()).profiling_enabled };
    // SAFETY: the field is a byte that C may change at any time, hence the volatile read.
    unsafe { flag.read_volatile() }.get()
}

/// Whether plugins of other versions are loaded.
pub(crate) fn version_ignored() -> bool {
    // SAFETY: the address is the configuration's, which is always there.
    let flag = unsafe { &raw const (*CONFIG.0.get()).version_ignore };
    // SAFETY: the field is a byte that C may change at any time, hence the volatile read.
    unsafe { flag.read_volatile() }.get()
}

fn start_by_itself() -> bool {
    if CHANGING.get() {
        return false;
    }
    let enabled = std::env::var_os("VACCEL_BOOTSTRAP_ENABLED").is_none_or(|value| value != "0");
    let started = change(|| match LIFE.load(Ordering::Acquire) {
        UNUSED if enabled => start(Config::from_env()?),
        UNUSED => {
            LIFE.store(STOPPED, Ordering::Release);
            Ok(())
        }
        _ => Ok(()),
    });
    if let Err(errno) = started {
        // What failed is in the log already.
        error!("vAccel could not be started ({})", errno.get());
    }
    LIFE.load(Ordering::Acquire) == READY
}

/// Starts or ends the library, one thread at a time; from within a plugin that is being loaded or unloaded, an error.
fn change(work: impl FnOnce() -> Result) -> Result {
    if CHANGING.get() {
        error!("a plugin cannot start or end vAccel while it is loaded or unloaded");
        return Err(EINVAL);
    }
    let _order = CHANGE.lock().unwrap_or_else(PoisonError::into_inner);
    CHANGING.set(true);
    let result = work();
    CHANGING.set(false);
    result
}

fn start(config: Config) -> Result {
    if LIFE.load(Ordering::Acquire) == READY {
        end();
    }
    config_mut(|old| {
        old.release();
        *old = config;
    });
    configure_log();
    trace::forward();
    info!("vAccel {} of Kernlet {}", library::VERSION.to_string_lossy(), env!("CARGO_PKG_VERSION"));
    config_mut(|config| config.log());
    OWNER.store(std::process::id(), Ordering::Relaxed);
    let plugins = config_mut(|config| config.plugins().map(|plugins| plugins.to_string_lossy().into_owned()));
    let started = binding::start(plugins.as_deref());
    LIFE.store(if started.is_ok() { READY } else { STOPPED }, Ordering::Release);
    if started.is_err() {
        binding::end();
    }
    started
}

/// Releases whatever there is.
fn end() {
    debug!("ending vAccel");
    // Taken first: releasing them changes the registry.
    let sessions = registry::read().all_sessions();
    for session in sessions {
        let _ = session::release(session);
    }
    let resources = registry::read().all_resources();
    for resource in resources {
        let _ = resource::release(resource);
    }
    ops::print_profile();
    LIFE.store(STOPPED, Ordering::Release);
    binding::end();
    rundir::end();
}

fn configure_log() {
    config_mut(|config| log::configure(config.log_level, config.log_file()));
}

/// The configuration, for the thread that starts or ends the library.
fn config_mut<T>(work: impl FnOnce(&mut Config) -> T) -> T {
    // SAFETY: starting and ending are one thread's at a time; nobody else has a reference to it.
    work(unsafe { &mut *CONFIG.0.get() })
}

#[used]
#[unsafe(link_section = ".fini_array")]
static AT_EXIT: extern "C" fn() = at_exit;

/// What is left when the process ends: C's structs may be gone by now, so they are not touched.
extern "C" fn at_exit() {
    crate::api::value(|| {
        let enabled = std::env::var_os("VACCEL_CLEANUP_ENABLED").is_none_or(|value| value != "0");
        let owner = OWNER.load(Ordering::Relaxed) == std::process::id();
        if !enabled || !owner || LIFE.swap(STOPPED, Ordering::AcqRel) != READY || CHANGING.get() {
            return;
        }
        CHANGING.set(true);
        ops::print_profile();
        session::forget_all();
        binding::end();
        rundir::end();
        config_mut(Config::release);
    });
}

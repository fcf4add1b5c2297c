//! What parts of a function take: regions that it names itself, beside those that the host keeps of its operations. Used
//! by functions; the entry point hands over what a request recorded. Records nothing unless profiling is enabled,
//! and never more than [`REGIONS_MAX`] regions.
//!
//! ```ignore
//! let words = profile::region("parse", || parse(request.body()));
//! ```

use alloc::vec::Vec;
use core::{cell::RefCell, mem::size_of, time::Duration};

use kernlet_abi::accel::{PROFILING_VARIABLES, ProfileRegion, REGION_NAME_MAX, REGIONS_MAX, operation, says_yes};
use zerocopy::IntoBytes as _;

use super::{
    AccelError,
    call::{Arguments as _, Call},
};
use crate::{Global, clock, entry::AFTER_REQUEST, env};

/// What was recorded since the host was told last.
static RECORDED: Global<RefCell<Vec<ProfileRegion>>> = Global::new();

/// Whether profiling is enabled: the function's environment has `KERNLET_PROFILING_ENABLED` or vAccel's
/// `VACCEL_PROFILING_ENABLED` as 1, because its deployment or its watchdog says so.
#[must_use]
pub fn is_enabled() -> bool {
    static ENABLED: Global<bool> = Global::new();
    *ENABLED.get_or_init(|| PROFILING_VARIABLES.iter().find_map(|name| env::var(name)).is_some_and(says_yes))
}

/// Does some work and records under this name what it took. Names longer than 60 bytes are cut.
///
/// It costs two reads of the clock, an exit each, and nothing where profiling is not enabled. Before the first request the
/// clock stands still.
pub fn region<T>(name: &str, work: impl FnOnce() -> T) -> T {
    let running = start(name);
    let result = work();
    running.stop();
    result
}

/// Begins a region, which ends when what this gives is stopped or dropped.
#[must_use = "it ends when it is dropped"]
pub fn start(name: &str) -> Running<'_> {
    Running { name, begun: is_enabled().then(clock::monotonic) }
}

/// A region that has begun.
#[derive(Debug)]
pub struct Running<'a> {
    name: &'a str,
    begun: Option<Duration>,
}

impl Running<'_> {
    /// Ends the region.
    pub fn stop(self) {}
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if let Some(begun) = self.begun {
            let took = clock::monotonic().saturating_sub(begun);
            record(self.name, u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
        }
    }
}

fn record(name: &str, nanos: u64) {
    AFTER_REQUEST.get_or_init(|| hand_over);
    let name = &name[..name.floor_char_boundary(REGION_NAME_MAX)];
    let mut recorded = RECORDED.get_or_init(RefCell::default).borrow_mut();
    if let Some(region) = recorded.iter_mut().find(|region| region.name() == name) {
        region.entries += 1;
        region.total_ns = region.total_ns.saturating_add(nanos);
        region.min_ns = region.min_ns.min(nanos);
        region.max_ns = region.max_ns.max(nanos);
    } else if recorded.len() < REGIONS_MAX {
        let mut region = ProfileRegion {
            entries: 1,
            total_ns: nanos,
            min_ns: nanos,
            max_ns: nanos,
            name_len: name.len() as u32,
            ..ProfileRegion::EMPTY
        };
        region.name[..name.len()].copy_from_slice(name.as_bytes());
        recorded.push(region);
    }
}

/// Everything that was recorded, here and by the host, of all of the function's requests on this replica so far, by name.
/// [`kernlet_abi::accel::ProfileRegion::name`] says which is which.
///
/// # Errors
/// The host is of a version that has no profiles.
pub fn report() -> Result<Vec<ProfileRegion>, AccelError> {
    let mut all = alloc::vec![ProfileRegion::EMPTY; REGIONS_MAX];
    let written = hand_over_to(&mut all)?;
    all.truncate(written as usize / size_of::<ProfileRegion>());
    Ok(all)
}

/// Tells the host what the request that ends recorded, since its memory goes with it.
fn hand_over() {
    if RECORDED.get().is_some_and(|recorded| !recorded.borrow().is_empty()) {
        // A profile is no reason to fail a request.
        let _ = hand_over_to(&mut []);
    }
}

/// Tells the host what was recorded, and forgets it; gives the bytes that it wrote to `all`.
fn hand_over_to(all: &mut [ProfileRegion]) -> Result<u64, AccelError> {
    let mut recorded = RECORDED.get_or_init(RefCell::default).borrow_mut();
    let written = Call::<2>::new(operation::PROFILE).bytes(recorded.as_bytes()).room(all).run()?[1].written;
    recorded.clear();
    Ok(written)
}

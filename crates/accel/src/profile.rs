//! What a session's operations took, region by region: by operation and plugin, and whatever callers add of their own.
//! Filled by sessions, read by host programs, by guests (who merge theirs) and by bindings.
//! Never grows beyond [`REGIONS_MAX`] regions.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use kernlet_abi::accel::{ProfileRegion, REGION_NAME_MAX};

pub use kernlet_abi::accel::REGIONS_MAX;

/// What one kind of work took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// How often it was done.
    pub entries: u64,
    /// In all.
    pub total: Duration,
    /// The shortest.
    pub min: Duration,
    /// The longest.
    pub max: Duration,
}

impl Region {
    fn of(time: Duration) -> Self {
        Self { entries: 1, total: time, min: time, max: time }
    }

    fn merge(&mut self, other: Self) {
        self.entries = self.entries.saturating_add(other.entries);
        self.total = self.total.saturating_add(other.total);
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
    }

    /// As it goes over to a guest; a long name is cut.
    #[must_use]
    pub fn to_abi(self, name: &str) -> ProfileRegion {
        let cut = name.get(..name.floor_char_boundary(REGION_NAME_MAX)).unwrap_or_default();
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let mut region = ProfileRegion {
            entries: self.entries,
            total_ns: nanos(self.total),
            min_ns: nanos(self.min),
            max_ns: nanos(self.max),
            name_len: 0,
            name: [0; REGION_NAME_MAX],
        };
        for (to, from) in region.name.iter_mut().zip(cut.as_bytes()) {
            *to = *from;
            region.name_len += 1;
        }
        region
    }

    /// Name and figures of a region that came from a guest; `None` when its name is no text or empty.
    #[must_use]
    pub fn from_abi(region: &ProfileRegion) -> Option<(String, Self)> {
        let name = Some(region.name()).filter(|name| !name.is_empty() && !name.contains(char::is_control))?;
        let figures = Self {
            entries: region.entries,
            total: Duration::from_nanos(region.total_ns),
            min: Duration::from_nanos(region.min_ns),
            max: Duration::from_nanos(region.max_ns),
        };
        Some((name.to_owned(), figures))
    }
}

/// The regions of a session.
#[derive(Debug, Default)]
pub struct Profile {
    enabled: AtomicBool,
    regions: Mutex<BTreeMap<String, Region>>,
}

impl Profile {
    /// Starts or stops to record.
    pub fn enable(&self, enabled: bool) {
        self.enabled.store(enabled, Ordering::Relaxed);
    }

    /// Whether it records.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.enabled.load(Ordering::Relaxed)
    }

    /// Adds a time to a region, if it records.
    pub fn record(&self, name: &str, time: Duration) {
        self.merge(name, Region::of(time));
    }

    /// Adds figures to a region, if it records. A region beyond [`REGIONS_MAX`] is not kept.
    pub fn merge(&self, name: &str, figures: Region) {
        if !self.is_enabled() {
            return;
        }
        let mut regions = self.regions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(region) = regions.get_mut(name) {
            region.merge(figures);
        } else if regions.len() < REGIONS_MAX {
            regions.insert(name.to_owned(), figures);
        }
    }

    /// Its regions, by name.
    #[must_use]
    pub fn regions(&self) -> Vec<(String, Region)> {
        let regions = self.regions.lock().unwrap_or_else(PoisonError::into_inner);
        regions.iter().map(|(name, region)| (name.clone(), *region)).collect()
    }

    /// Forgets everything that was recorded.
    pub fn clear(&self) {
        self.regions.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

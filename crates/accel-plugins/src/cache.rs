//! What was made from resources, kept as long as they live.
//! Called by the plugin for every operation. Never makes the same thing twice, and never mistakes one resource
//! for another: the key is the resource itself, not a name.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use kernlet_accel::{Resource, ResourceIdentity, ResourceWatch};

/// Values of type `T` by resource, or the error `E` that making them ended in: a resource never changes, so that
/// what failed once fails again.
pub(crate) struct ResourceCache<T, E> {
    entries: Mutex<HashMap<ResourceIdentity, Entry<T, E>>>,
}

/// Filled by the first who needs it, while the others wait.
type Slot<T, E> = Arc<OnceLock<Result<Arc<T>, E>>>;

struct Entry<T, E> {
    slot: Slot<T, E>,
    resource: ResourceWatch,
}

impl<T, E: Clone> ResourceCache<T, E> {
    /// The value of a resource; `make` makes it if it is the first time.
    pub(crate) fn get(&self, resource: &Resource, make: impl FnOnce(&Resource) -> Result<T, E>) -> Result<Arc<T>, E> {
        self.slot(resource).get_or_init(|| make(resource).map(Arc::new)).clone()
    }

    /// Forgets what was made of a resource; who uses it keeps it.
    pub(crate) fn remove(&self, resource: &Resource) {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).remove(&resource.identity());
    }

    fn slot(&self, resource: &Resource) -> Slot<T, E> {
        // Between any two statements the map is whole, so that a panic elsewhere leaves it usable.
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = entries.get(&resource.identity()) {
            return Arc::clone(&entry.slot);
        }
        entries.retain(|_, entry| !entry.resource.is_gone());
        let slot = Slot::default();
        entries.insert(resource.identity(), Entry { slot: Arc::clone(&slot), resource: resource.watch() });
        slot
    }
}

impl<T, E> Default for ResourceCache<T, E> {
    fn default() -> Self {
        Self { entries: Mutex::default() }
    }
}

impl<T, E> fmt::Debug for ResourceCache<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let len = self.entries.lock().unwrap_or_else(PoisonError::into_inner).len();
        f.debug_struct("ResourceCache").field("len", &len).finish()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

    use std::sync::{
        Barrier,
        atomic::{AtomicUsize, Ordering},
    };

    use super::*;

    #[test]
    fn concurrent_first_uses_load_once() {
        let cache = ResourceCache::<usize, ()>::default();
        let (resource, loads, start) = (Resource::from_bytes(*b"model"), AtomicUsize::new(0), Barrier::new(8));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    start.wait();
                    let value = cache.get(&resource, |_| Ok(loads.fetch_add(1, Ordering::SeqCst)));
                    assert_eq!(value.as_deref(), Ok(&0));
                });
            }
        });
        assert_eq!(loads.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn equal_resources_are_still_two() {
        let cache = ResourceCache::<u32, ()>::default();
        let (one, other) = (Resource::from_bytes(*b"same"), Resource::from_bytes(*b"same"));
        assert_eq!(cache.get(&one, |_| Ok(1)).as_deref(), Ok(&1));
        assert_eq!(cache.get(&other, |_| Ok(2)).as_deref(), Ok(&2));
        assert_eq!(cache.get(&one.clone(), |_| Ok(3)).as_deref(), Ok(&1));
    }

    #[test]
    fn what_failed_once_fails_again_without_being_tried() {
        let cache = ResourceCache::<u32, &str>::default();
        let resource = Resource::from_bytes(*b"bad");
        assert_eq!(cache.get(&resource, |_| Err("no model")), Err("no model"));
        assert_eq!(cache.get(&resource, |_| panic!("tried twice")), Err("no model"));
    }

    #[test]
    fn values_of_resources_that_are_gone_are_dropped() {
        let cache = ResourceCache::<Vec<u8>, ()>::default();
        let gone = Resource::from_bytes(*b"gone");
        let value = Arc::downgrade(&cache.get(&gone, |_| Ok(vec![1])).unwrap());
        drop(gone);
        cache.get(&Resource::from_bytes(*b"next"), |_| Ok(vec![2])).unwrap();
        assert!(value.upgrade().is_none());
    }
}

//! Every session and resource there is, and which is registered where.
//! Asked by every function that gets a session or a resource: one that was never made, or is gone, or lies elsewhere
//! than it was made, is refused. It keeps the lists and counts inside of C's structs for who looks at them, and never
//! reads them itself. Nothing is called while it is locked.

use std::{
    collections::BTreeMap,
    ptr::NonNull,
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicI64, AtomicU32, Ordering},
    },
};

use crate::{
    binding::Binding,
    errno::{EINVAL, Result},
    list,
    resource::Content,
    types::{ListEntry, Resource, Session},
};

/// Where C has a struct.
#[derive(Debug)]
pub(crate) struct Place<T>(NonNull<T>);

impl<T> Clone for Place<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Place<T> {}
impl<T> PartialEq for Place<T> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

// SAFETY: it is an address; who goes there says why that is right.
unsafe impl<T> Send for Place<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Place<T> {}

impl<T> Place<T> {
    /// A place that C gave; null or no address of a `T` is an error.
    pub(crate) fn new(pointer: Option<NonNull<T>>) -> Result<Self> {
        pointer.filter(|pointer| pointer.as_ptr().is_aligned()).map(Self).ok_or(EINVAL)
    }

    /// The place of something of ours.
    pub(crate) const fn at(value: &'static mut T) -> Self {
        Self(NonNull::from_mut(value))
    }

    pub(crate) const fn as_ptr(self) -> *mut T {
        self.0.as_ptr()
    }
}

impl Place<Session> {
    /// The id that the struct has. Another thread may be releasing it.
    fn id(self) -> i64 {
        // SAFETY: C promises a session there, whether or not it was initialized.
        atomic(unsafe { &raw mut (*self.as_ptr()).id }).load(Ordering::Acquire)
    }

    /// Its hint.
    pub(crate) fn is_remote(self) -> bool {
        // SAFETY: C promises a session there, and the field does not change while the session is in use.
        unsafe { (*self.as_ptr()).is_virtio }.get()
    }
}

impl Place<Resource> {
    /// The id that the struct has. Another thread may be releasing it.
    pub(crate) fn id(self) -> i64 {
        // SAFETY: C promises a resource there, whether or not it was initialized.
        atomic(unsafe { &raw mut (*self.as_ptr()).id }).load(Ordering::Acquire)
    }

    /// Its type.
    pub(crate) fn kind(self) -> u32 {
        // SAFETY: C promises a resource there, whose type does not change.
        unsafe { (*self.as_ptr()).kind }
    }
}

/// The id of a struct that C has, which another thread may be releasing.
pub(crate) fn atomic<'a>(id: *mut i64) -> &'a AtomicI64 {
    // SAFETY: it is a field of a struct that C promises to be there, and used atomically on our side.
    unsafe { AtomicI64::from_ptr(id) }
}

/// A number that nothing had before.
pub(crate) fn next_id(of: &'static AtomicI64) -> i64 {
    of.fetch_add(1, Ordering::Relaxed)
}

/// A registration, as the lists in the structs have it.
struct Link {
    resource_entry: ListEntry,
    session_entry: ListEntry,
}

struct SessionEntry {
    place: Place<Session>,
    binding: Arc<Binding>,
    /// In the order of their registration.
    resources: Vec<i64>,
    /// Somebody is releasing it.
    closing: bool,
}

struct ResourceEntry {
    place: Place<Resource>,
    kind: u32,
    content: Arc<Content>,
    sessions: Vec<i64>,
    closing: bool,
}

pub(crate) struct Registry {
    sessions: BTreeMap<i64, SessionEntry>,
    resources: BTreeMap<i64, ResourceEntry>,
    /// Which session and which resource is at an address.
    session_ids: BTreeMap<usize, i64>,
    resource_ids: BTreeMap<usize, i64>,
    /// By session and resource. Boxed, since the lists hold their addresses.
    links: BTreeMap<(i64, i64), Box<Link>>,
}

// SAFETY: links are reached through the registry only, whose lock orders it.
unsafe impl Send for Registry {}
// SAFETY: as above.
unsafe impl Sync for Registry {}

static REGISTRY: RwLock<Registry> = RwLock::new(Registry {
    sessions: BTreeMap::new(),
    resources: BTreeMap::new(),
    session_ids: BTreeMap::new(),
    resource_ids: BTreeMap::new(),
    links: BTreeMap::new(),
});

/// The registry, to be asked.
pub(crate) fn read() -> RwLockReadGuard<'static, Registry> {
    REGISTRY.read().unwrap_or_else(PoisonError::into_inner)
}

/// The registry, to be changed.
pub(crate) fn write() -> RwLockWriteGuard<'static, Registry> {
    REGISTRY.write().unwrap_or_else(PoisonError::into_inner)
}

impl Registry {
    /// The session at this place.
    fn session(&self, place: Place<Session>) -> Result<(i64, &SessionEntry)> {
        let id = place.id();
        self.sessions.get(&id).filter(|entry| entry.place == place).map(|entry| (id, entry)).ok_or(EINVAL)
    }

    /// The resource at this place.
    fn resource(&self, place: Place<Resource>) -> Result<(i64, &ResourceEntry)> {
        let id = place.id();
        self.resources.get(&id).filter(|entry| entry.place == place).map(|entry| (id, entry)).ok_or(EINVAL)
    }

    /// Forgets a session that C left without releasing it, since another is to be where it was. What was there is not
    /// looked at any more.
    pub(crate) fn evict_session(&mut self, place: Place<Session>) {
        let Some(id) = self.session_ids.remove(&place.as_ptr().addr()) else { return };
        let Some(entry) = self.sessions.remove(&id) else { return };
        for resource_id in entry.resources {
            let link = self.links.remove(&(id, resource_id));
            let (Some(mut link), Some(resource)) = (link, self.resources.get_mut(&resource_id)) else { continue };
            resource.sessions.retain(|&other| other != id);
            // SAFETY: the neighbours are links to other sessions, and the head in a resource that is alive.
            unsafe { list::remove(&raw mut link.resource_entry) };
            refcount(resource.place.as_ptr()).fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// The same for a resource.
    pub(crate) fn evict_resource(&mut self, place: Place<Resource>) {
        let Some(id) = self.resource_ids.remove(&place.as_ptr().addr()) else { return };
        let Some(entry) = self.resources.remove(&id) else { return };
        for session_id in entry.sessions {
            let link = self.links.remove(&(session_id, id));
            let (Some(mut link), Some(session)) = (link, self.sessions.get_mut(&session_id)) else { continue };
            session.resources.retain(|&other| other != id);
            // SAFETY: the neighbours are links to other resources, and the head in a session that is alive.
            unsafe { list::remove(&raw mut link.session_entry) };
            add_count(session.place.as_ptr(), usize::try_from(entry.kind).unwrap_or_default(), -1);
        }
    }

    pub(crate) fn add_session(&mut self, id: i64, place: Place<Session>, binding: Arc<Binding>) {
        self.session_ids.insert(place.as_ptr().addr(), id);
        self.sessions.insert(id, SessionEntry { place, binding, resources: Vec::new(), closing: false });
    }

    pub(crate) fn add_resource(&mut self, id: i64, place: Place<Resource>, kind: u32) {
        let content = Arc::default();
        self.resource_ids.insert(place.as_ptr().addr(), id);
        self.resources.insert(id, ResourceEntry { place, kind, content, sessions: Vec::new(), closing: false });
    }

    /// What a session works with.
    pub(crate) fn binding(&self, session: Place<Session>) -> Result<Arc<Binding>> {
        Ok(Arc::clone(&self.session(session)?.1.binding))
    }

    /// Lets a session work with something else; an error when it has resources.
    pub(crate) fn rebind(&mut self, session: Place<Session>, binding: Arc<Binding>) -> Result<bool> {
        let id = self.session(session)?.0;
        let entry = self.sessions.get_mut(&id).ok_or(EINVAL)?;
        if !entry.resources.is_empty() {
            return Ok(false);
        }
        entry.binding = binding;
        Ok(true)
    }

    /// What a resource holds, for the runtime.
    pub(crate) fn content(&self, resource: Place<Resource>) -> Result<Arc<Content>> {
        Ok(Arc::clone(&self.resource(resource)?.1.content))
    }

    pub(crate) fn session_by_id(&self, id: i64) -> Option<Place<Session>> {
        self.sessions.get(&id).map(|entry| entry.place)
    }

    pub(crate) fn resource_by_id(&self, id: i64) -> Option<Place<Resource>> {
        self.resources.get(&id).map(|entry| entry.place)
    }

    /// The resources of a type, in the order of their making.
    pub(crate) fn resources_of(&self, kind: u32) -> impl Iterator<Item = Place<Resource>> {
        self.resources.values().filter(move |entry| entry.kind == kind).map(|entry| entry.place)
    }

    /// The resources of a session, in the order of their registration.
    pub(crate) fn registered(&self, session: Place<Session>) -> Result<impl Iterator<Item = (i64, Place<Resource>)>> {
        let (_, entry) = self.session(session)?;
        Ok(entry.resources.iter().filter_map(|id| Some((*id, self.resources.get(id)?.place))))
    }

    pub(crate) fn is_registered(&self, resource: Place<Resource>, session: Place<Session>) -> bool {
        let (Ok((session, _)), Ok((resource, _))) = (self.session(session), self.resource(resource)) else {
            return false;
        };
        self.links.contains_key(&(session, resource))
    }

    /// The sessions that a resource is registered in.
    pub(crate) fn sessions_with(&self, resource: Place<Resource>) -> Result<Vec<Place<Session>>> {
        let (_, entry) = self.resource(resource)?;
        Ok(entry.sessions.iter().filter_map(|id| self.session_by_id(*id)).collect())
    }

    /// Registers a resource in a session, unless it is already; an error when either is about to go.
    pub(crate) fn link(&mut self, resource: Place<Resource>, session: Place<Session>) -> Result {
        let ((session_id, session_entry), (resource_id, resource_entry)) =
            (self.session(session)?, self.resource(resource)?);
        if session_entry.closing || resource_entry.closing {
            return Err(EINVAL);
        }
        let (key, kind) = ((session_id, resource_id), resource_entry.kind);
        if self.links.contains_key(&key) {
            return Ok(());
        }
        let none = ListEntry { next: std::ptr::null_mut(), prev: std::ptr::null_mut() };
        let link = self.links.entry(key).or_insert(Box::new(Link { resource_entry: none, session_entry: none }));
        if let Some(entry) = self.sessions.get_mut(&session_id) {
            entry.resources.push(resource_id);
        }
        if let Some(entry) = self.resources.get_mut(&resource_id) {
            entry.sessions.push(session_id);
        }
        let (session, resource) = (session.as_ptr(), resource.as_ptr());
        // SAFETY: the resource is alive.
        let sessions = unsafe { &raw mut (*resource).sessions };
        // SAFETY: its list was initialized with it, and the link is alive while it is in the list.
        unsafe { list::push(sessions, &raw mut link.resource_entry) };
        let index = usize::try_from(kind).unwrap_or_default();
        // SAFETY: the session is alive; the reference ends with the block.
        if let Some(head) = unsafe { &mut (*session).resources }.get_mut(index) {
            // SAFETY: the list was initialized with the session, and the link is alive while it is in the list.
            unsafe { list::push(head, &raw mut link.session_entry) };
        }
        add_count(session, index, 1);
        refcount(resource).fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    /// Takes a resource out of a session; an error when it is not registered there.
    pub(crate) fn unlink(&mut self, resource: Place<Resource>, session: Place<Session>) -> Result {
        let ((session_id, _), (resource_id, entry)) = (self.session(session)?, self.resource(resource)?);
        let kind = entry.kind;
        let mut link = self.links.remove(&(session_id, resource_id)).ok_or(EINVAL)?;
        if let Some(entry) = self.sessions.get_mut(&session_id) {
            entry.resources.retain(|&id| id != resource_id);
        }
        if let Some(entry) = self.resources.get_mut(&resource_id) {
            entry.sessions.retain(|&id| id != session_id);
        }
        // SAFETY: the neighbours of a link are other links, and heads in structs that are alive.
        unsafe { list::remove(&raw mut link.resource_entry) };
        // SAFETY: as above.
        unsafe { list::remove(&raw mut link.session_entry) };
        add_count(session.as_ptr(), usize::try_from(kind).unwrap_or_default(), -1);
        refcount(resource.as_ptr()).fetch_sub(1, Ordering::AcqRel);
        Ok(())
    }

    /// Marks a session as about to go, or as staying after all; an error when somebody else has marked it.
    pub(crate) fn close_session(&mut self, place: Place<Session>, closing: bool) -> Result {
        let id = self.session(place)?.0;
        let entry = self.sessions.get_mut(&id).ok_or(EINVAL)?;
        let changed = entry.closing != closing;
        entry.closing = closing;
        if changed { Ok(()) } else { Err(EINVAL) }
    }

    /// The same for a resource.
    pub(crate) fn close_resource(&mut self, place: Place<Resource>, closing: bool) -> Result {
        let id = self.resource(place)?.0;
        let entry = self.resources.get_mut(&id).ok_or(EINVAL)?;
        let changed = entry.closing != closing;
        entry.closing = closing;
        if changed { Ok(()) } else { Err(EINVAL) }
    }

    pub(crate) fn remove_session(&mut self, place: Place<Session>) {
        if let Ok((id, _)) = self.session(place) {
            self.sessions.remove(&id);
            self.session_ids.remove(&place.as_ptr().addr());
        }
    }

    pub(crate) fn remove_resource(&mut self, place: Place<Resource>) {
        if let Ok((id, _)) = self.resource(place) {
            self.resources.remove(&id);
            self.resource_ids.remove(&place.as_ptr().addr());
        }
    }

    /// Every session.
    pub(crate) fn all_sessions(&self) -> Vec<Place<Session>> {
        self.sessions.values().map(|entry| entry.place).collect()
    }

    /// Every resource.
    pub(crate) fn all_resources(&self) -> Vec<Place<Resource>> {
        self.resources.values().map(|entry| entry.place).collect()
    }

    /// Forgets everything without touching C's structs, which may be gone.
    pub(crate) fn forget(&mut self) {
        self.links.clear();
        self.sessions.clear();
        self.resources.clear();
        self.session_ids.clear();
        self.resource_ids.clear();
    }
}

/// Changes the count that a session has of a type of resources.
fn add_count(session: *mut Session, index: usize, by: isize) {
    // SAFETY: the session is alive, and its counts are changed under the registry's lock only.
    if let Some(count) = unsafe { &mut (*session).resource_counts }.get_mut(index) {
        *count = count.saturating_add_signed(by);
    }
}

/// How often a resource is registered.
pub(crate) fn refcount<'a>(resource: *mut Resource) -> &'a AtomicU32 {
    // SAFETY: C promises a resource there; the field is used atomically, on either side.
    unsafe { &(*resource).refcount }
}

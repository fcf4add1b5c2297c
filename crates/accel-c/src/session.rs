//! Sessions: a client's view of the accelerators.
//! Made by C programs; a session works with what its hint chose, and has the resources that it registered.

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt as _,
    path::Path,
    ptr::{self, NonNull},
    sync::{
        Arc, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
};

use crate::{
    binding::{self, Binding},
    core,
    errno::{EINVAL, ENOENT, ENOTSUP, ESESS, Errno, Result},
    list, memory,
    pointer::{Out, out},
    registry::{self, Place},
    resource::{self, known, write_found},
    rundir,
    types::{Flag, ListEntry, PLUGIN_REMOTE, RESOURCE_TYPES, RUNDIR_MAX, Resource, Session},
};

api! {
    fn vaccel_session_get_by_id(session: Out<'_, *mut Session>, id: i64) {
        if !core::is_ready() {
            return Err(crate::errno::EPERM);
        }
        let found = registry::read().session_by_id(id);
        out(session)?.write(found.ok_or(ENOENT)?.as_ptr());
        Ok(())
    }

    fn vaccel_session_init(session: Option<NonNull<Session>>, flags: u32) {
        init(session, flags)
    }

    fn vaccel_sess_init(session: Option<NonNull<Session>>, flags: u32) {
        init(session, flags)
    }

    fn vaccel_session_new(session: Out<'_, *mut Session>, flags: u32) {
        memory::new(session, |session| init(Some(NonNull::from_mut(session).cast()), flags))
    }

    fn vaccel_session_release(session: Option<NonNull<Session>>) {
        release_of(session).map(|_| ())
    }

    fn vaccel_sess_free(session: Option<NonNull<Session>>) {
        release_of(session).map(|_| ())
    }

    fn vaccel_session_delete(session: Option<NonNull<Session>>) {
        let place = release_of(session)?;
        // SAFETY: a released session that `vaccel_session_new` made is malloc's, and nobody has it any more.
        unsafe { memory::free(place.as_ptr()) };
        Ok(())
    }

    fn vaccel_session_update(session: Option<NonNull<Session>>, flags: u32) {
        update(session, flags)
    }

    fn vaccel_sess_update(session: Option<NonNull<Session>>, flags: u32) {
        update(session, flags)
    }

    fn vaccel_session_has_resource(session: Option<NonNull<Session>>, resource: Option<NonNull<Resource>>) -> bool {
        has_resource(session, resource)
    }

    fn vaccel_sess_has_resource(session: Option<NonNull<Session>>, resource: Option<NonNull<Resource>>) -> bool {
        has_resource(session, resource)
    }

    fn vaccel_session_resource_by_id(session: Option<NonNull<Session>>, resource: Out<'_, *mut Resource>, id: i64) {
        let (session, resource) = (Place::new(session)?, out(resource)?);
        if id <= 0 {
            return Err(EINVAL);
        }
        let registry = registry::read();
        let found = registry.registered(session)?.find(|&(other, _)| other == id);
        resource.write(found.ok_or(ENOENT)?.1.as_ptr());
        Ok(())
    }

    fn vaccel_session_resource_by_type(
        session: Option<NonNull<Session>>,
        resource: Out<'_, *mut Resource>,
        kind: u32,
    ) {
        let (session, resource, kind) = (Place::new(session)?, out(resource)?, known(kind)?);
        let found = of_type(session, kind)?.first().copied();
        resource.write(found.ok_or(ENOENT)?.as_ptr());
        Ok(())
    }

    fn vaccel_session_resources_by_type(
        session: Option<NonNull<Session>>,
        resources: Out<'_, *mut *mut Resource>,
        count: Out<'_, usize>,
        kind: u32,
    ) {
        let (session, resources, count) = (Place::new(session)?, out(resources)?, out(count)?);
        let found: Vec<_> = of_type(session, known(kind)?)?.into_iter().map(Place::as_ptr).collect();
        write_found(&found, resources, count)
    }
}

/// The resources of a session that are of this type, in the order of their registration.
pub(crate) fn of_type(session: Place<Session>, kind: u32) -> Result<Vec<Place<Resource>>> {
    let registry = registry::read();
    Ok(registry.registered(session)?.map(|(_, place)| place).filter(|place| place.kind() == kind).collect())
}

fn has_resource(session: Option<NonNull<Session>>, resource: Option<NonNull<Resource>>) -> bool {
    match (Place::new(session), Place::new(resource)) {
        (Ok(session), Ok(resource)) => registry::read().is_registered(resource, session),
        _ => false,
    }
}

fn init(session: Option<NonNull<Session>>, flags: u32) -> Result {
    static NEXT: AtomicI64 = AtomicI64::new(1);
    let place = Place::new(session)?;
    if !core::is_ready() {
        return Err(ESESS);
    }
    let binding = binding::bind(flags)?;
    let id = registry::next_id(&NEXT);
    let null = ListEntry { next: ptr::null_mut(), prev: ptr::null_mut() };
    let made = Session {
        id,
        remote_id: 0,
        hint: flags,
        is_virtio: Flag::NO,
        rundir: [0; RUNDIR_MAX],
        entry: null,
        resources: [null; RESOURCE_TYPES],
        resource_counts: [0; RESOURCE_TYPES],
        resources_lock: libc::PTHREAD_MUTEX_INITIALIZER,
        plugin: binding.plugin().as_ptr(),
        private: ptr::null_mut(),
    };
    registry::write().evict_session(place);
    // SAFETY: C promises room for a session there, which is nobody else's yet.
    unsafe { place.as_ptr().write(made) };
    // SAFETY: it was just written.
    let written = unsafe { &mut *place.as_ptr() };
    list::clear(&mut written.entry);
    written.resources.iter_mut().for_each(list::clear);
    // Kernlet's own plugins want no folder; and a session without one works all the same, but for plugins that do.
    let folder = if binding.has_libraries() { rundir::folder_of(rundir::SESSION, id).ok() } else { None };
    if let Some(folder) = &folder {
        rundir::write(folder.as_os_str(), &mut written.rundir);
    }
    if let Err(errno) = begin_elsewhere(&binding, place, flags) {
        if let Some(folder) = folder {
            rundir::remove(&folder);
        }
        // SAFETY: the session is still the caller's alone.
        let written = unsafe { &mut *place.as_ptr() };
        (written.id, written.plugin) = (0, ptr::null_mut());
        return Err(errno);
    }
    debug!("session {id} works with plugin {}", binding.name());
    registry::write().add_session(id, place, Arc::new(binding));
    Ok(())
}

/// Tells a remote plugin of a session.
fn begin_elsewhere(binding: &Binding, place: Place<Session>, flags: u32) -> Result {
    let Some(library) = binding.library().filter(|library| library.is_remote()) else { return Ok(()) };
    let session_init = library.info().session_init.ok_or_else(|| {
        error!("remote plugin {} has no sessions", library.name());
        ENOTSUP
    })?;
    // SAFETY: the session was written, and the function is the plugin's for such.
    Errno::check(unsafe { session_init(place.as_ptr(), flags & !PLUGIN_REMOTE) })?;
    // SAFETY: the session is still the caller's alone.
    unsafe { (*place.as_ptr()).is_virtio = Flag::YES };
    Ok(())
}

fn update(session: Option<NonNull<Session>>, flags: u32) -> Result {
    let place = Place::new(session)?;
    if !core::is_ready() {
        return Err(ESESS);
    }
    let binding = registry::read().binding(place)?;
    if place.is_remote() {
        let update = binding.library().and_then(|library| library.info().session_update).ok_or(ENOTSUP)?;
        // SAFETY: the session is in the registry, hence alive; the function is the plugin's for such.
        return Errno::check(unsafe { update(place.as_ptr(), flags & !PLUGIN_REMOTE) });
    }
    let binding = Arc::new(binding::bind(flags)?);
    if binding.is_remote() {
        error!("a local session cannot become a remote one; release it and make another");
        return Err(ENOTSUP);
    }
    if !registry::write().rebind(place, Arc::clone(&binding))? {
        error!("a session that has resources cannot be updated");
        return Err(ENOTSUP);
    }
    // SAFETY: the session is in the registry, hence alive, and the caller's to change.
    let session = unsafe { &mut *place.as_ptr() };
    (session.hint, session.plugin) = (flags, binding.plugin().as_ptr());
    Ok(())
}

fn release_of(session: Option<NonNull<Session>>) -> Result<Place<Session>> {
    let place = Place::new(session)?;
    if !core::is_ready() {
        return Err(ESESS);
    }
    release(place)?;
    Ok(place)
}

/// Takes every resource out of a session, and ends it.
pub(crate) fn release(place: Place<Session>) -> Result {
    registry::write().close_session(place, true)?;
    let (binding, resources) = {
        let registry = registry::read();
        (registry.binding(place)?, registry.registered(place)?.map(|(_, place)| place).collect::<Vec<_>>())
    };
    for resource in resources {
        // A resource that is being released at the same time may have been quicker.
        let unregistered = resource::unregister(resource, place);
        if unregistered.is_err() && registry::read().is_registered(resource, place) {
            registry::write().close_session(place, false)?;
            return unregistered;
        }
    }
    if place.is_remote() {
        let release = binding.library().and_then(|library| library.info().session_release);
        // SAFETY: the session is in the registry, hence alive; the function is the plugin's for such.
        let released = release.map_or(Err(ENOTSUP), |release| Errno::check(unsafe { release(place.as_ptr()) }));
        if released.is_err() {
            warn!("the remote plugin could not release its side of the session");
        }
    }
    registry::write().remove_session(place);
    // SAFETY: the session is nobody's but C's now, who released it.
    let session = unsafe { &mut *place.as_ptr() };
    remove_folder(session);
    debug!("session {} is gone", session.id);
    (session.plugin, session.private) = (ptr::null_mut(), ptr::null_mut());
    registry::atomic(&raw mut session.id).store(0, Ordering::Release);
    Ok(())
}

fn remove_folder(session: &mut Session) {
    let bytes: Vec<u8> = session.rundir.iter().map(|byte| byte.cast_unsigned()).take_while(|&byte| byte != 0).collect();
    if !bytes.is_empty() {
        rundir::remove(Path::new(OsStr::from_bytes(&bytes)));
    }
    session.rundir = [0; RUNDIR_MAX];
}

/// Forgets every session and resource without touching C's structs.
pub(crate) fn forget_all() {
    registry::write().forget();
}

/// The runtime's own id for a resource that a session registered, registered there now if it was not.
pub(crate) fn adopt(binding: &Binding, place: Place<Resource>, name: Option<&str>) -> Result<kernlet_accel::Resource> {
    let content = registry::read().content(place)?.get(place)?;
    let mut adopted = binding.adopted.lock().unwrap_or_else(PoisonError::into_inner);
    let known = adopted.iter().any(|(id, _)| *id == place.id());
    if !known {
        let session = binding.session();
        let added = name.map_or_else(|| session.add(content.clone()), |name| session.register(name, content.clone()));
        let id = added.map_err(|error| {
            error!("{}", error.message());
            crate::ops::errno_of(&error)
        })?;
        adopted.push((place.id(), id.get()));
    }
    Ok(content)
}

/// Whether the runtime's own session has a resource.
pub(crate) fn is_adopted(binding: &Binding, place: Place<Resource>) -> bool {
    let adopted = binding.adopted.lock().unwrap_or_else(PoisonError::into_inner);
    adopted.iter().any(|(id, _)| *id == place.id())
}

/// The runtime's own id for a resource, which it then has no more.
pub(crate) fn disown(binding: &Binding, id: i64) -> Option<u32> {
    let mut adopted = binding.adopted.lock().unwrap_or_else(PoisonError::into_inner);
    let index = adopted.iter().position(|(other, _)| *other == id)?;
    Some(adopted.swap_remove(index).1)
}

/// Lets every session take a resource anew.
pub(crate) fn disown_everywhere(resource: Place<Resource>) {
    let bindings: Vec<_> = {
        let registry = registry::read();
        let sessions = registry.sessions_with(resource).unwrap_or_default();
        sessions.into_iter().filter_map(|session| registry.binding(session).ok()).collect()
    };
    for binding in bindings {
        if let Some(id) = disown(&binding, resource.id()) {
            // Another thread may have done it.
            let _ = binding.session().unregister(id);
        }
    }
}

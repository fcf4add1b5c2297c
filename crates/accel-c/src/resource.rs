//! Resources: files, folders, memory or blobs that sessions register and operations work on.
//! Made by C programs. Files are looked at when a resource is first registered and read when an operation first needs
//! them, once for all sessions.

use std::{
    ffi::{CStr, OsStr, c_char, c_long, c_void},
    fs,
    mem::MaybeUninit,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    ptr::{self, NonNull},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicI64, AtomicU32, Ordering},
    },
};

use kernlet_accel::{AccelError, ResourceFile, ResourceKind};
use kernlet_accel_fetch::FetchError;

use crate::{
    binding, blob, core,
    errno::{EINVAL, ENAMETOOLONG, ENOENT, ENOMEM, ENOTSUP, EPERM, EREMOTEIO, Errno, Result},
    file::{self, as_path},
    list, memory, ops,
    pointer::{Items, ItemsMut, Out, Text, out},
    registry::{self, Place},
    rundir, session,
    types::{
        BLOB_BUFFER, BLOB_FILE, Blob, Flag, ListEntry, OnResource, PATH_LOCAL_DIR, PATH_LOCAL_FILE, PATH_REMOTE_FILE,
        RESOURCE_LIB, RESOURCE_MODEL, RESOURCE_TYPES, RUNDIR_MAX, Resource, Session,
    },
};

/// What a resource holds, for the runtime: read once, when it is first needed.
#[derive(Debug, Default)]
pub(crate) struct Content(Mutex<Option<kernlet_accel::Resource>>);

impl Content {
    /// What the resource at this place holds.
    pub(crate) fn get(&self, place: Place<Resource>) -> Result<kernlet_accel::Resource> {
        let mut content = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(content) = &*content {
            return Ok(content.clone());
        }
        // SAFETY: the resource is in the registry, hence alive.
        let made = read(unsafe { &*place.as_ptr() })?;
        *content = Some(made.clone());
        Ok(made)
    }

    /// Reads it anew when it is next needed; says what it was.
    fn forget(&self) -> Option<kernlet_accel::Resource> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

api! {
    fn vaccel_resource_get_by_id(resource: Out<'_, *mut Resource>, id: i64) {
        ready()?;
        let found = registry::read().resource_by_id(id);
        out(resource)?.write(found.ok_or(ENOENT)?.as_ptr());
        Ok(())
    }

    fn vaccel_resource_get_by_type(resource: Out<'_, *mut Resource>, kind: u32) {
        ready()?;
        let (resource, kind) = (out(resource)?, known(kind)?);
        let found = registry::read().resources_of(kind).next();
        resource.write(found.ok_or(ENOENT)?.as_ptr());
        Ok(())
    }

    fn vaccel_resource_get_all_by_type(resources: Out<'_, *mut *mut Resource>, count: Out<'_, usize>, kind: u32) {
        ready()?;
        let (resources, count, kind) = (out(resources)?, out(count)?, known(kind)?);
        let found: Vec<_> = registry::read().resources_of(kind).map(Place::as_ptr).collect();
        write_found(&found, resources, count)
    }

    fn vaccel_resource_refcount(resource: Option<NonNull<Resource>>) -> c_long {
        match Place::new(resource) {
            Ok(place) => registry::refcount(place.as_ptr()).load(Ordering::Acquire).into(),
            Err(errno) => -c_long::from(errno.get()),
        }
    }

    fn vaccel_resource_init(resource: Option<NonNull<Resource>>, path: Text<'_>, kind: u32) {
        ready()?;
        init_multi(place(resource)?, &[path], kind)
    }

    fn vaccel_resource_init_multi(
        resource: Option<NonNull<Resource>>,
        paths: Items<'_, Text<'_>>,
        count: usize,
        kind: u32,
    ) {
        ready()?;
        // SAFETY: C gave `count` with the paths.
        init_multi(place(resource)?, unsafe { paths.slice(count) }?, kind)
    }

    fn vaccel_resource_init_from_buf(
        resource: Option<NonNull<Resource>>,
        buf: Items<'_, u8>,
        size: usize,
        kind: u32,
        name: Text<'_>,
        mem_only: Flag,
    ) {
        ready()?;
        init_from_buf(place(resource)?, buf, size, kind, name, mem_only.get())
    }

    fn vaccel_resource_init_from_blobs(
        resource: Option<NonNull<Resource>>,
        blobs: Items<'_, *mut Blob>,
        count: usize,
        kind: u32,
    ) {
        ready()?;
        init_from_blobs(place(resource)?, blobs, count, kind)
    }

    fn vaccel_resource_release(resource: Option<NonNull<Resource>>) {
        ready()?;
        release(Place::new(resource)?)
    }

    fn vaccel_resource_new(resource: Out<'_, *mut Resource>, path: Text<'_>, kind: u32) {
        new(resource, |place| init_multi(place, &[path], kind))
    }

    fn vaccel_resource_multi_new(
        resource: Out<'_, *mut Resource>,
        paths: Items<'_, Text<'_>>,
        count: usize,
        kind: u32,
    ) {
        // SAFETY: C gave `count` with the paths.
        new(resource, |place| init_multi(place, unsafe { paths.slice(count) }?, kind))
    }

    fn vaccel_resource_from_buf(
        resource: Out<'_, *mut Resource>,
        buf: Items<'_, u8>,
        size: usize,
        kind: u32,
        name: Text<'_>,
        mem_only: Flag,
    ) {
        new(resource, |place| init_from_buf(place, buf, size, kind, name, mem_only.get()))
    }

    fn vaccel_resource_from_blobs(
        resource: Out<'_, *mut Resource>,
        blobs: Items<'_, *mut Blob>,
        count: usize,
        kind: u32,
    ) {
        new(resource, |place| init_from_blobs(place, blobs, count, kind))
    }

    fn vaccel_resource_delete(resource: Option<NonNull<Resource>>) {
        ready()?;
        let place = Place::new(resource)?;
        release(place)?;
        // SAFETY: a released resource that `*_new` made is malloc's, and nobody has it any more.
        unsafe { memory::free(place.as_ptr()) };
        Ok(())
    }

    fn vaccel_resource_register(resource: Option<NonNull<Resource>>, session: Option<NonNull<Session>>) {
        ready()?;
        register(Place::new(resource)?, Place::new(session)?)
    }

    fn vaccel_resource_unregister(resource: Option<NonNull<Resource>>, session: Option<NonNull<Session>>) {
        ready()?;
        unregister(Place::new(resource)?, Place::new(session)?)
    }

    fn vaccel_resource_sync(resource: Option<NonNull<Resource>>, session: Option<NonNull<Session>>) {
        ready()?;
        sync(Place::new(resource)?, Place::new(session)?)
    }

    fn vaccel_resource_directory(
        resource: Option<NonNull<Resource>>,
        path: ItemsMut<'_, c_char>,
        size: usize,
        allocated: Out<'_, *mut c_char>,
    ) {
        let place = Place::new(resource)?;
        if allocated.is_none() && path.is_null() || place.id() <= 0 {
            return Err(EINVAL);
        }
        // SAFETY: the resource was initialized, as its id says.
        let resource = unsafe { &*place.as_ptr() };
        if resource.path_kind != PATH_LOCAL_DIR {
            error!("resource {} is not a folder", resource.id);
            return Err(ENOTSUP);
        }
        let folder = paths(resource)?.first().copied().ok_or(EINVAL)?;
        if let Some(allocated) = allocated {
            allocated.write(memory::copy_text(folder)?);
            return Ok(());
        }
        let folder = folder.to_bytes_with_nul();
        // SAFETY: C gave `size` with `path`.
        let room = unsafe { path.slice(size) }?.get_mut(..folder.len()).ok_or(EINVAL)?;
        for (to, from) in room.iter_mut().zip(folder) {
            *to = from.cast_signed();
        }
        Ok(())
    }
}

fn ready() -> Result {
    if core::is_ready() { Ok(()) } else { Err(EPERM) }
}

fn place(resource: Option<NonNull<Resource>>) -> Result<Place<Resource>> {
    Place::new(resource)
}

/// A type that there is.
pub(crate) fn known(kind: u32) -> Result<u32> {
    if usize::try_from(kind).is_ok_and(|kind| kind < RESOURCE_TYPES) { Ok(kind) } else { Err(EINVAL) }
}

/// Hands what was found to C; nothing is an error.
pub(crate) fn write_found(
    found: &[*mut Resource],
    resources: &mut MaybeUninit<*mut *mut Resource>,
    count: &mut MaybeUninit<usize>,
) -> Result {
    count.write(found.len());
    if found.is_empty() {
        return Err(ENOENT);
    }
    resources.write(memory::copy_array(found)?);
    Ok(())
}

/// Makes a resource on the heap.
fn new(resource: Out<'_, *mut Resource>, init: impl FnOnce(Place<Resource>) -> Result) -> Result {
    memory::new(resource, |resource| {
        ready()?;
        init(Place::new(Some(NonNull::from_mut(resource).cast()))?)
    })
}

/// What a resource is made of.
struct Parts {
    path_kind: u32,
    paths: *mut *mut c_char,
    nr_paths: usize,
    blobs: *mut *mut Blob,
    nr_blobs: usize,
    rundir: *mut c_char,
}

/// Writes a resource to where C wants it, and makes it known.
fn publish(place: Place<Resource>, id: i64, kind: u32, parts: &Parts) {
    let null = ListEntry { next: ptr::null_mut(), prev: ptr::null_mut() };
    let Parts { path_kind, paths, nr_paths, blobs, nr_blobs, rundir } = *parts;
    let resource = Resource {
        id,
        remote_id: 0,
        kind,
        path_kind,
        paths,
        nr_paths,
        rundir,
        blobs,
        nr_blobs,
        entry: null,
        sessions: null,
        sessions_lock: libc::PTHREAD_MUTEX_INITIALIZER,
        refcount: AtomicU32::new(0),
        plugin_priv: ptr::null_mut(),
    };
    registry::write().evict_resource(place);
    // SAFETY: C promises room for a resource there, which is nobody else's yet.
    unsafe { place.as_ptr().write(resource) };
    // SAFETY: it was just written.
    let written = unsafe { &mut *place.as_ptr() };
    list::clear(&mut written.entry);
    list::clear(&mut written.sessions);
    registry::write().add_resource(id, place, kind);
    debug!("resource {id} is there");
}

fn next_id() -> i64 {
    static NEXT: AtomicI64 = AtomicI64::new(1);
    registry::next_id(&NEXT)
}

fn init_multi(place: Place<Resource>, paths: &[Text<'_>], kind: u32) -> Result {
    let kind = known(kind)?;
    let parsed: Vec<(u32, &CStr)> = paths.iter().map(|path| parse(path.required()?)).collect::<Result<_>>()?;
    let Some((&(path_kind, _), others)) = parsed.split_first() else { return Err(EINVAL) };
    for (other, path) in others {
        if *other == PATH_LOCAL_DIR {
            error!("a resource of several paths cannot have a folder ({})", path.to_string_lossy());
            return Err(ENOTSUP);
        }
        if *other != path_kind {
            error!("the paths of a resource have to be of one kind");
            return Err(EINVAL);
        }
    }
    let mut copies = Strings::default();
    for (_, path) in &parsed {
        copies.0.push(memory::copy_text(path)?);
    }
    let (paths, nr_paths) = copies.into_array()?;
    let (blobs, rundir) = (ptr::null_mut(), ptr::null_mut());
    publish(place, next_id(), kind, &Parts { path_kind, paths, nr_paths, blobs, nr_blobs: 0, rundir });
    Ok(())
}

/// Strings for C, freed unless C gets them.
#[derive(Default)]
struct Strings(Vec<*mut c_char>);

impl Strings {
    fn into_array(mut self) -> Result<(*mut *mut c_char, usize)> {
        let array = memory::copy_array(&self.0)?;
        let count = self.0.len();
        self.0.clear();
        Ok((array, count))
    }
}

impl Drop for Strings {
    fn drop(&mut self) {
        for text in self.0.drain(..) {
            // SAFETY: the strings are malloc's, and nobody got them.
            unsafe { memory::free(text) };
        }
    }
}

/// Blobs for C, released unless C gets them.
#[derive(Default)]
struct Blobs(Vec<*mut Blob>);

impl Blobs {
    fn push(&mut self, mut blob: Blob) -> Result {
        let mut made = MaybeUninit::uninit();
        let mut taken = false;
        let outcome = memory::new(Some(&mut made), |place| {
            // SAFETY: the blob is moved, and not used here again.
            place.write(unsafe { ptr::read(&raw const blob) });
            taken = true;
            Ok(())
        });
        if !taken {
            let _ = blob.release();
        }
        outcome?;
        // SAFETY: `new` has written it.
        self.0.push(unsafe { made.assume_init() });
        Ok(())
    }

    fn into_array(mut self) -> Result<(*mut *mut Blob, usize)> {
        let array = memory::copy_array(&self.0)?;
        let count = self.0.len();
        self.0.clear();
        Ok((array, count))
    }
}

impl Drop for Blobs {
    fn drop(&mut self) {
        for blob in self.0.drain(..) {
            let _ = memory::delete(NonNull::new(blob), Blob::release);
        }
    }
}

fn init_from_buf(
    place: Place<Resource>,
    buf: Items<'_, u8>,
    size: usize,
    kind: u32,
    name: Text<'_>,
    mem_only: bool,
) -> Result {
    let kind = known(kind)?;
    if buf.is_null() || size == 0 {
        return Err(EINVAL);
    }
    // SAFETY: C gave `size` with `buf`.
    let bytes = unsafe { buf.slice(size) }?;
    let id = next_id();
    let folder = Folder::new(id, !mem_only)?;
    let given = name.get();
    let name = given.map_or(OsStr::new("file"), |name| OsStr::from_bytes(name.to_bytes()));
    let mut blobs = Blobs::default();
    blobs.push(Blob::of_bytes(bytes, false, name, folder.path(), given.is_none())?)?;
    publish_blobs(place, id, kind, blobs, folder)
}

fn init_from_blobs(place: Place<Resource>, blobs: Items<'_, *mut Blob>, count: usize, kind: u32) -> Result {
    let kind = known(kind)?;
    if blobs.is_null() || count == 0 {
        return Err(EINVAL);
    }
    // SAFETY: C gave `count` with the blobs.
    let given = unsafe { blobs.slice(count) }?;
    let mut sources = Vec::with_capacity(count);
    for blob in given {
        // SAFETY: C promises that each is null or a blob.
        sources.push(unsafe { blob.as_ref() }.filter(|blob| blob.is_valid()).ok_or(EINVAL)?);
    }
    let id = next_id();
    let folder = Folder::new(id, sources.iter().any(|blob| blob.kind != BLOB_BUFFER))?;
    let mut made = Blobs::default();
    for source in sources {
        let path = source.path().unwrap_or(Path::new(""));
        made.push(if source.kind == BLOB_FILE {
            Blob::of_file(path)?
        } else {
            let folder = folder.path().filter(|_| source.kind != BLOB_BUFFER);
            let name = source.name().unwrap_or(OsStr::new("file"));
            Blob::of_bytes(source.bytes()?, source.data_owned.get(), name, folder, false)?
        })?;
    }
    publish_blobs(place, id, kind, made, folder)
}

fn publish_blobs(place: Place<Resource>, id: i64, kind: u32, blobs: Blobs, folder: Folder) -> Result {
    let rundir = folder.path().map_or(Ok(ptr::null_mut()), |path| blob::text(path.as_os_str()))?;
    let (blobs, nr_blobs) = blobs.into_array().inspect_err(|_| {
        // SAFETY: it is the copy from above.
        unsafe { memory::free(rundir) }
    })?;
    folder.keep();
    let paths = ptr::null_mut();
    publish(place, id, kind, &Parts { path_kind: PATH_LOCAL_FILE, paths, nr_paths: 0, blobs, nr_blobs, rundir });
    Ok(())
}

/// The folder of a resource, removed again unless the resource is made.
struct Folder(Option<PathBuf>);

impl Folder {
    fn new(id: i64, needed: bool) -> Result<Self> {
        Ok(Self(if needed { Some(rundir::folder_of(rundir::RESOURCE, id)?) } else { None }))
    }

    fn path(&self) -> Option<&Path> {
        self.0.as_deref()
    }

    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            rundir::remove(path);
        }
    }
}

/// What a path names, and the path itself without a `file://`.
fn parse(uri: &CStr) -> Result<(u32, &CStr)> {
    let bytes = uri.to_bytes();
    let scheme = bytes.windows(3).position(|three| three == b"://").and_then(|at| bytes.get(..at));
    let path = match scheme {
        None => uri,
        Some(b"file") => {
            uri.to_bytes_with_nul().get(7..).and_then(|rest| CStr::from_bytes_with_nul(rest).ok()).ok_or(EINVAL)?
        }
        Some(b"http" | b"https" | b"ftp") => return Ok((PATH_REMOTE_FILE, uri)),
        Some(_) => {
            error!("{} is neither a path nor the address of a file", uri.to_string_lossy());
            return Err(EINVAL);
        }
    };
    if path.count_bytes() > RUNDIR_MAX {
        return Err(ENAMETOOLONG);
    }
    match fs::metadata(as_path(path)) {
        Ok(metadata) if metadata.is_dir() => Ok((PATH_LOCAL_DIR, path)),
        Ok(metadata) if metadata.is_file() => Ok((PATH_LOCAL_FILE, path)),
        Ok(_) => {
            error!("{} is neither a file nor a folder", path.to_string_lossy());
            Err(EINVAL)
        }
        Err(failure) => {
            error!("there is no file {}: {failure}", path.to_string_lossy());
            Err(EINVAL)
        }
    }
}

/// The paths that a resource was made of.
fn paths(resource: &Resource) -> Result<Vec<&CStr>> {
    // SAFETY: a resource has as many paths as it says.
    let paths = unsafe { ItemsMut::at(resource.paths).slice(resource.nr_paths) }?;
    // SAFETY: each is a string.
    Ok(paths.iter().filter(|path| !path.is_null()).map(|path| unsafe { CStr::from_ptr(*path) }).collect())
}

/// The blobs of a resource.
fn blobs(resource: &Resource) -> Result<Vec<&Blob>> {
    // SAFETY: a resource has as many blobs as it says.
    let blobs = unsafe { ItemsMut::at(resource.blobs).slice(resource.nr_blobs) }?;
    // SAFETY: each is null or a blob.
    Ok(blobs.iter().filter_map(|blob| unsafe { blob.as_ref() }).collect())
}

/// What a resource holds, for the runtime.
fn read(resource: &Resource) -> Result<kernlet_accel::Resource> {
    let kind = match resource.kind {
        RESOURCE_LIB => ResourceKind::Library,
        RESOURCE_MODEL => ResourceKind::Model,
        _ => ResourceKind::Data,
    };
    let failed = |error: AccelError| {
        error!("{}", error.message());
        ops::errno_of(&error)
    };
    if resource.path_kind == PATH_LOCAL_DIR {
        let folder = paths(resource)?.first().copied().ok_or(EINVAL)?;
        return kernlet_accel::Resource::from_dir(as_path(folder), kind).map_err(failed);
    }
    let blobs = blobs(resource)?;
    if blobs.is_empty() {
        return Err(EINVAL);
    }
    if blobs.iter().all(|blob| blob.kind == BLOB_FILE) {
        let paths: Vec<&Path> = blobs.iter().filter_map(|blob| blob.path()).collect();
        return kernlet_accel::Resource::from_files(paths, kind).map_err(failed);
    }
    let mut files = Vec::with_capacity(blobs.len());
    for blob in blobs {
        let name = blob.name().unwrap_or_default().to_string_lossy().into_owned();
        let bytes = if blob.kind == BLOB_FILE {
            let path = blob.path().ok_or(EINVAL)?;
            kernlet_accel::Resource::from_file(path).map_err(failed)?.bytes().into()
        } else {
            blob.bytes()?.into()
        };
        files.push(ResourceFile { name, bytes });
    }
    Ok(kernlet_accel::Resource::new(files, kind))
}

/// Two sessions may register a resource at one time.
static LOADING: Mutex<()> = Mutex::new(());

/// Makes the blobs of a resource's files, unless that was done.
fn load(place: Place<Resource>, remote: bool) -> Result {
    // Others are not kept waiting for a server. Two that fetch the same resource fetch it twice.
    let fetched = if remote { Vec::new() } else { fetch_all(place)? };
    let _one = LOADING.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: the resource is in the registry, hence alive; its blobs are made under this lock only.
    let resource = unsafe { &mut *place.as_ptr() };
    if !resource.blobs.is_null() && resource.nr_blobs > 0 {
        return Ok(());
    }
    let mut made = Blobs::default();
    let mut folder = Folder(None);
    match resource.path_kind {
        PATH_LOCAL_FILE => {
            for path in paths(resource)? {
                made.push(Blob::of_file(as_path(path))?)?;
            }
        }
        PATH_LOCAL_DIR => {
            for path in file::files_below(as_path(paths(resource)?.first().copied().ok_or(EINVAL)?))? {
                made.push(Blob::of_file(&path)?)?;
            }
        }
        PATH_REMOTE_FILE if remote => return Ok(()),
        PATH_REMOTE_FILE => {
            folder = Folder::new(resource.id, true)?;
            for (index, ResourceFile { name, bytes }) in fetched.iter().enumerate() {
                // Several may have one name.
                let name = if index == 0 { name.clone() } else { format!("{index}-{name}") };
                made.push(Blob::of_bytes(bytes, false, OsStr::new(&name), folder.path(), false)?)?;
            }
        }
        _ => return Err(EINVAL),
    }
    if remote {
        // Plugins that send a resource elsewhere take its content from the blobs.
        for blob in &made.0 {
            // SAFETY: the blobs are new, and nobody else has them.
            if let Some(blob) = unsafe { blob.as_mut() } {
                blob.content()?;
            }
        }
    }
    let rundir = folder.path().map_or(Ok(ptr::null_mut()), |path| blob::text(path.as_os_str()))?;
    (resource.blobs, resource.nr_blobs) = made.into_array().inspect_err(|_| {
        // SAFETY: it is the copy from above.
        unsafe { memory::free(rundir) }
    })?;
    if !rundir.is_null() {
        resource.rundir = rundir;
        folder.keep();
    }
    Ok(())
}

/// The files of a resource that has addresses and no blobs yet.
fn fetch_all(place: Place<Resource>) -> Result<Vec<ResourceFile>> {
    let addresses = {
        let _one = LOADING.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: as in `load`.
        let resource = unsafe { &*place.as_ptr() };
        if resource.path_kind != PATH_REMOTE_FILE || !resource.blobs.is_null() {
            return Ok(Vec::new());
        }
        let text = |path: &CStr| path.to_str().map(str::to_owned).map_err(|_| EINVAL);
        paths(resource)?.into_iter().map(text).collect::<Result<Vec<_>>>()?
    };
    let config = binding::fetch_config();
    let fetch = |address: &String| {
        kernlet_accel_fetch::fetch(address, &config).map_err(|error| {
            error!("{}", kernlet_accel::chain(&error));
            match error {
                FetchError::Address { .. } | FetchError::NotAllowed { .. } => ENOTSUP,
                FetchError::Status { status, .. } if matches!(status.as_u16(), 404 | 410) => ENOENT,
                FetchError::TooLarge { .. } => ENOMEM,
                _ => EREMOTEIO,
            }
        })
    };
    addresses.iter().map(fetch).collect()
}

fn register(resource: Place<Resource>, session: Place<Session>) -> Result {
    let binding = registry::read().binding(session)?;
    // That it is there is known from here on.
    registry::read().content(resource)?;
    load(resource, binding.is_remote()).inspect_err(|_| error!("cannot load resource {}", resource.id()))?;
    if registry::read().is_registered(resource, session) {
        debug!("resource {} is registered already", resource.id());
        return Ok(());
    }
    call(binding.library().and_then(|library| library.info().resource_register), resource, session)?;
    if binding.is_remote() {
        let callback = binding.library().and_then(|library| library.info().resource_register);
        // SAFETY: the resource is in the registry, hence alive.
        let remote_id = unsafe { (*resource.as_ptr()).remote_id };
        if callback.is_none() || remote_id <= 0 {
            error!("the remote plugin did not register resource {}", resource.id());
            return Err(ENOTSUP);
        }
    }
    registry::write().link(resource, session)
}

pub(crate) fn unregister(resource: Place<Resource>, session: Place<Session>) -> Result {
    let binding = registry::read().binding(session)?;
    registry::write().unlink(resource, session).inspect_err(|_| {
        error!("resource {} is not registered in the session", resource.id());
    })?;
    if let Some(id) = session::disown(&binding, resource.id()) {
        // The runtime's own session may have been told by another thread; then there is nothing left to do.
        let _ = binding.session().unregister(id);
    }
    let callback = binding.library().and_then(|library| library.info().resource_unregister);
    if binding.is_remote() && callback.is_none() {
        error!("the remote plugin cannot unregister resources");
        return Err(ENOTSUP);
    }
    call(callback, resource, session)
}

fn sync(resource: Place<Resource>, session: Place<Session>) -> Result {
    let (binding, content) = {
        let registry = registry::read();
        if !registry.is_registered(resource, session) {
            error!("the resource is not registered in the session");
            return Err(EPERM);
        }
        (registry.binding(session)?, registry.content(resource)?)
    };
    // SAFETY: the resource is in the registry, hence alive.
    let first = blobs(unsafe { &*resource.as_ptr() })?.first().map(|blob| blob.kind);
    if first != Some(BLOB_BUFFER) {
        error!("only resources of memory can be synchronized");
        return Err(EINVAL);
    }
    let callback = binding.library().and_then(|library| library.info().resource_sync);
    if binding.is_remote() && callback.is_none() {
        error!("the remote plugin cannot synchronize resources");
        return Err(ENOTSUP);
    }
    call(callback, resource, session)?;
    content.forget();
    session::disown_everywhere(resource);
    Ok(())
}

/// Calls a function of the session's plugin, if it has it.
fn call(callback: OnResource, resource: Place<Resource>, session: Place<Session>) -> Result {
    // SAFETY: both are in the registry, hence alive; the function is the plugin's for such.
    callback.map_or(Ok(()), |callback| Errno::check(unsafe { callback(resource.as_ptr(), session.as_ptr()) }))
}

/// Takes a resource out of every session, and frees what it has.
pub(crate) fn release(place: Place<Resource>) -> Result {
    registry::write().close_resource(place, true)?;
    let sessions = registry::read().sessions_with(place)?;
    for session in sessions {
        // A session that is being released at the same time may have been quicker.
        let unregistered = unregister(place, session);
        if unregistered.is_err() && registry::read().is_registered(place, session) {
            registry::write().close_resource(place, false)?;
            return unregistered;
        }
    }
    registry::write().remove_resource(place);
    // SAFETY: the resource is nobody's but C's now, who released it.
    let resource = unsafe { &mut *place.as_ptr() };
    // SAFETY: a resource has as many blobs as it says.
    let blobs = unsafe { ItemsMut::at(resource.blobs).slice(resource.nr_blobs) }.unwrap_or_default();
    for blob in blobs {
        let _ = memory::delete(NonNull::new(*blob), Blob::release);
    }
    // SAFETY: a resource has as many paths as it says.
    let paths = unsafe { ItemsMut::at(resource.paths).slice(resource.nr_paths) }.unwrap_or_default();
    for path in paths {
        // SAFETY: the paths are malloc's and the resource's.
        unsafe { memory::free(*path) };
    }
    if !resource.rundir.is_null() {
        // SAFETY: it is a string.
        rundir::remove(as_path(unsafe { CStr::from_ptr(resource.rundir) }));
    }
    // SAFETY: the arrays and the string are malloc's and the resource's.
    unsafe { memory::free_field(&mut resource.blobs) };
    // SAFETY: as above.
    unsafe { memory::free_field(&mut resource.paths) };
    // SAFETY: as above.
    unsafe { memory::free_field(&mut resource.rundir) };
    (resource.nr_blobs, resource.nr_paths, resource.plugin_priv) = (0, 0, ptr::null_mut::<c_void>());
    debug!("resource {} is gone", resource.id);
    registry::atomic(&raw mut resource.id).store(0, Ordering::Release);
    Ok(())
}

//! Plugins that are libraries of other people: `.so` files that export `vaccel_plugin`.
//! Loaded by the plugin functions and at the start; called with C's own sessions and arguments. A library stays loaded
//! as long as any session uses it.

use std::{
    ffi::{CStr, CString, c_void},
    ptr::NonNull,
    sync::atomic::{AtomicPtr, Ordering},
};

use crate::{
    core,
    errno::{EINVAL, ELIBBAD, ENOENT, Errno, Result},
    list,
    pointer::ItemsMut,
    registry::Place,
    types::{OPERATIONS, Op, Plugin, PluginInfo},
};

/// The version of the API, which plugins name.
pub(crate) const VERSION: &CStr = c"0.8.0";

/// A plugin library.
#[derive(Debug)]
pub(crate) struct Library {
    plugin: Place<Plugin>,
    info: PluginInfo,
    name: String,
    handle: Handle,
}

/// A library of the dynamic linker's.
#[derive(Debug)]
struct Handle(NonNull<c_void>);

// SAFETY: a handle may be used from any thread.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: the handle is dlopen's, and nothing of the library is used any more.
        unsafe { libc::dlclose(self.0.as_ptr()) };
    }
}

// SAFETY: the names in `info` are the library's constants, and plugins are called from any thread.
unsafe impl Send for Library {}
// SAFETY: as above.
unsafe impl Sync for Library {}

/// Why a library is no plugin.
#[derive(Debug)]
pub(crate) enum NotLoaded {
    /// The dynamic linker cannot load it, and says why.
    Missing(String),
    /// It is loaded, and is not a plugin or not one that works here.
    Refused(Errno),
}

impl From<NotLoaded> for Errno {
    fn from(why: NotLoaded) -> Self {
        match why {
            NotLoaded::Missing(_) => ENOENT,
            NotLoaded::Refused(errno) => errno,
        }
    }
}

impl Library {
    /// Loads a library and initializes its plugin, unless `is_loaded` knows it.
    pub(crate) fn load(path: &str, is_loaded: impl Fn(&Self) -> bool) -> std::result::Result<Self, NotLoaded> {
        let library = Self::open(path)?;
        if is_loaded(&library) {
            error!("plugin {} is loaded already", library.name);
            return Err(NotLoaded::Refused(crate::errno::EEXIST));
        }
        library.init().map_err(NotLoaded::Refused)?;
        info!("loaded plugin {} from {path}", library.name);
        Ok(library)
    }

    fn open(path: &str) -> std::result::Result<Self, NotLoaded> {
        let c_path = CString::new(path).map_err(|_| NotLoaded::Refused(EINVAL))?;
        // SAFETY: loading a library runs its constructors, which is what loading a plugin is for.
        let handle = unsafe { libc::dlopen(c_path.as_ptr(), libc::RTLD_LAZY) };
        let handle = NonNull::new(handle).map(Handle).ok_or_else(|| NotLoaded::Missing(last_error()))?;
        // SAFETY: the handle is dlopen's.
        let symbol = unsafe { libc::dlsym(handle.0.as_ptr(), c"vaccel_plugin".as_ptr()) };
        if symbol.is_null() {
            error!("{path} is not a vAccel plugin: it has no symbol `vaccel_plugin`");
            return Err(NotLoaded::Refused(ELIBBAD));
        }
        // SAFETY: the symbol of a plugin is a pointer to its struct.
        let plugin = NonNull::new(unsafe { symbol.cast::<*mut Plugin>().read() });
        let plugin = Place::new(plugin).map_err(|_| NotLoaded::Refused(ELIBBAD))?;
        // SAFETY: the struct is the plugin's and alive.
        let info = unsafe { (*plugin.as_ptr()).info };
        if info.is_null() {
            error!("{path} is not a vAccel plugin: it says nothing about itself");
            return Err(NotLoaded::Refused(ELIBBAD));
        }
        // SAFETY: so is what it says about itself.
        let info = unsafe { info.read() };
        let name = text(info.name).map(|name| name.to_string_lossy().into_owned());
        let library = Self { plugin, info, name: name.unwrap_or_default(), handle };
        check(&library.info).map_err(|(errno, what)| {
            error!("plugin {path} {what}");
            NotLoaded::Refused(errno)
        })?;
        Ok(library)
    }

    fn init(&self) -> Result {
        // SAFETY: the function is the plugin's, to be called once after loading.
        let initialized = self.info.init.map_or(Err(EINVAL), |init| Errno::check(unsafe { init() }));
        if initialized.is_err() {
            error!("plugin {} could not initialize itself", self.name);
            self.fini();
            return initialized;
        }
        // SAFETY: the struct is the plugin's and alive; nobody else has a reference to it.
        unsafe { (*self.plugin.as_ptr()).dl_handle = self.handle.0.as_ptr() };
        Ok(())
    }

    fn fini(&self) {
        if let Some(fini) = self.info.fini {
            // SAFETY: the function is the plugin's, to be called once before unloading.
            unsafe { fini() };
        }
        debug!("plugin {} is done", self.name);
    }

    /// Ends the plugin, whose library is unloaded after that.
    pub(crate) fn end(self) {
        self.fini();
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) const fn info(&self) -> &PluginInfo {
        &self.info
    }

    pub(crate) const fn plugin(&self) -> Place<Plugin> {
        self.plugin
    }

    /// Whether it hands sessions on to somewhere else.
    pub(crate) const fn is_remote(&self) -> bool {
        self.info.is_virtio.get()
    }

    /// Its function for an operation, if it has one.
    pub(crate) fn function(&self, operation: usize) -> Option<NonNull<c_void>> {
        let op = place_of(self.plugin, operation)?.load(Ordering::Acquire);
        if op.is_null() {
            return None;
        }
        // SAFETY: what a plugin registered is alive as long as the plugin is.
        NonNull::new(unsafe { (*op).func })
    }
}

api! {
    fn vaccel_plugin_register_ops(ops: ItemsMut<'_, Op>, count: usize) {
        if ops.is_null() || count == 0 || count > OPERATIONS {
            error!("a plugin registers {count} operations; it has to be 1 to {OPERATIONS}");
            return Err(EINVAL);
        }
        // SAFETY: C gave `count` with the operations, which the plugin leaves alone from now on.
        let ops = unsafe { ops.slice(count) }?;
        let owner = Place::new(NonNull::new(ops.first().map_or(std::ptr::null_mut(), |op| op.owner)))?;
        if ops.iter().any(|op| usize::try_from(op.kind).map_or(true, |kind| kind >= OPERATIONS)) {
            error!("a plugin registers an operation that does not exist");
            return Err(EINVAL);
        }
        for op in ops {
            if let Some(place) = usize::try_from(op.kind).ok().and_then(|operation| place_of(owner, operation)) {
                place.store(op, Ordering::Release);
            }
        }
        Ok(())
    }
}

/// Where a plugin has an operation: used atomically, since a plugin may register more while it is used.
fn place_of<'a>(plugin: Place<Plugin>, operation: usize) -> Option<&'a AtomicPtr<Op>> {
    if operation >= OPERATIONS {
        return None;
    }
    // SAFETY: the struct is a plugin's and alive.
    let ops = unsafe { &raw mut (*plugin.as_ptr()).ops };
    // SAFETY: it has a place for each operation.
    let place = unsafe { ops.cast::<*mut Op>().add(operation) };
    // SAFETY: a pointer there is used by this function's callers only, and lives as long as the plugin.
    Some(unsafe { AtomicPtr::from_ptr(place) })
}

/// Looks whether a plugin says what it has to, and whether it is for this version.
fn check(info: &PluginInfo) -> std::result::Result<(), (Errno, String)> {
    let wrong = |what: &str| Err((EINVAL, what.to_owned()));
    if info.name.is_null() {
        return wrong("has no name");
    }
    if info.version.is_null() {
        return wrong("has no version");
    }
    if info.init.is_none() || info.fini.is_none() {
        return wrong("has no init or no fini function");
    }
    if core::version_ignored() {
        return Ok(());
    }
    let Some(built_for) = text(info.vaccel_version) else {
        return wrong("does not say which vAccel version it was built with");
    };
    let built_for = built_for.to_string_lossy();
    let ours = VERSION.to_string_lossy();
    match (parse(&built_for), parse(&ours)) {
        (Some(theirs), Some(own)) if theirs.0 == own.0 => {
            if theirs != own {
                warn!("a plugin was built with vAccel {built_for} and is used with {ours}");
            }
            Ok(())
        }
        (Some(_), _) => Err((EINVAL, format!("was built with vAccel {built_for} and cannot be used with {ours}"))),
        (None, _) => Err((EINVAL, format!("says that it was built with vAccel `{built_for}`, which is no version"))),
    }
}

/// The parts of a version such as `0.8.0-12-abcdef`, with or without a `v` before.
fn parse(version: &str) -> Option<(u32, u32, u32, &str)> {
    let (major, rest) = number(version.strip_prefix('v').unwrap_or(version))?;
    let (minor, rest) = number(rest.strip_prefix('.')?)?;
    let (patch, extra) = number(rest.strip_prefix('.')?)?;
    Some((major, minor, patch, extra))
}

/// The number at the beginning of a text, and the rest.
fn number(text: &str) -> Option<(u32, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, rest) = text.split_at_checked(digits)?;
    Some((number.parse().ok()?, rest))
}

fn text<'a>(text: *const std::ffi::c_char) -> Option<&'a CStr> {
    // SAFETY: C promises that strings in structs end with a zero.
    (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) })
}

/// What the dynamic linker says was wrong.
fn last_error() -> String {
    // SAFETY: the call returns null or a string of this thread's.
    let error = unsafe { libc::dlerror() };
    text(error).map_or_else(String::new, |error| error.to_string_lossy().into_owned())
}

/// The plugin that sessions of Kernlet's own plugins point to.
pub(crate) fn built_in() -> Place<Plugin> {
    use std::sync::OnceLock;
    static BUILT_IN: OnceLock<Place<Plugin>> = OnceLock::new();
    unsafe extern "C" fn nothing() -> std::ffi::c_int {
        0
    }
    *BUILT_IN.get_or_init(|| {
        let info = Box::leak(Box::new(PluginInfo {
            name: c"kernlet".as_ptr(),
            version: VERSION.as_ptr(),
            vaccel_version: VERSION.as_ptr(),
            init: Some(nothing),
            fini: Some(nothing),
            is_virtio: crate::types::Flag::NO,
            kind: 0xffff & !crate::types::PLUGIN_REMOTE,
            session_init: None,
            session_release: None,
            session_update: None,
            resource_register: None,
            resource_unregister: None,
            resource_sync: None,
        }));
        let null = std::ptr::null_mut();
        let entry = crate::types::ListEntry { next: null, prev: null };
        let plugin = Box::leak(Box::new(Plugin {
            dl_handle: std::ptr::null_mut(),
            entry,
            ops: [std::ptr::null_mut(); OPERATIONS],
            info,
        }));
        list::clear(&mut plugin.entry);
        Place::at(plugin)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_have_three_numbers_and_maybe_more() {
        assert_eq!(parse("0.8.0"), Some((0, 8, 0, "")));
        assert_eq!(parse("v1.2.3-4-abcdef"), Some((1, 2, 3, "-4-abcdef")));
        for none in ["", "v", "1.2", "1-2.3", "a.b.c", "1.2.", "99999999999.0.0"] {
            assert_eq!(parse(none), None, "{none}");
        }
    }
}

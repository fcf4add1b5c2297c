//! Which plugins there are, and which of them a session works with.
//! Made at the start and by the plugin functions; asked for every operation. A session's choice never changes while it
//! has resources; what its first choice cannot do goes to another plugin, and the log says so.

use std::{
    cell::Cell,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use kernlet_accel::{Absent, Config, FetchConfig, Hint, Kinds, Plugin, Quota, Runtime, chain};
use kernlet_accel_agent::Remote;
use kernlet_accel_plugins::{CATALOGUE, Entry};

use crate::{
    core,
    errno::{EBACKEND, EINVAL, ENODEV, ENOTSUP, EPERM, Errno, Result},
    library::{self, Library, NotLoaded},
    pointer::Text,
    registry::Place,
    types::{self, PLUGIN_REMOTE},
};

/// The plugin that sends operations to an agent.
const REMOTE: &str = "remote";

/// The plugins of the process.
struct Plugins {
    /// In the order in which they were asked for.
    named: Vec<Named>,
    /// Kernlet's own that are there when none was named in the configuration.
    default: Vec<Arc<dyn Plugin>>,
    /// Kernlet's own that could be there.
    absent: Vec<Absent>,
    /// What runs the operations of Kernlet's own.
    runtime: Runtime,
    /// How Kernlet's own are configured.
    config: Config,
}

/// A plugin that was asked for.
enum Named {
    Library(Arc<Library>),
    BuiltIn(Arc<dyn Plugin>),
}

static PLUGINS: RwLock<Option<Plugins>> = RwLock::new(None);

/// What a session works with.
#[derive(Debug)]
pub(crate) struct Binding {
    /// The library that gets its operations first; without one, Kernlet's own plugins do.
    first: Option<Arc<Library>>,
    /// The libraries that get what nobody before has.
    others: Vec<Arc<Library>>,
    /// Kernlet's own plugins.
    session: kernlet_accel::Session,
    /// Ids of resources that `session` has, and its ids for them.
    pub(crate) adopted: Mutex<Vec<(i64, u32)>>,
}

impl Binding {
    /// The library that gets its operations, and its sessions and resources, first.
    pub(crate) fn library(&self) -> Option<&Library> {
        self.first.as_deref()
    }

    /// The libraries that may be asked for what is missing.
    pub(crate) fn others(&self) -> impl Iterator<Item = &Library> {
        self.others.iter().map(Arc::as_ref)
    }

    /// Whether a library may get its operations.
    pub(crate) fn has_libraries(&self) -> bool {
        self.first.is_some() || !self.others.is_empty()
    }

    /// Kernlet's own plugins.
    pub(crate) const fn session(&self) -> &kernlet_accel::Session {
        &self.session
    }

    /// Whether its resources and operations are somewhere else.
    pub(crate) fn is_remote(&self) -> bool {
        self.first.as_ref().is_some_and(|library| library.is_remote())
    }

    /// The plugin that C sees.
    pub(crate) fn plugin(&self) -> Place<types::Plugin> {
        self.first.as_ref().map_or_else(library::built_in, |library| library.plugin())
    }

    /// The name of the plugin that C sees.
    pub(crate) fn name(&self) -> &str {
        self.first.as_ref().map_or("kernlet", |library| library.name())
    }
}

impl Drop for Plugins {
    fn drop(&mut self) {
        for named in self.named.drain(..).rev() {
            let Named::Library(library) = named else { continue };
            // A session that is still there keeps the library, whose plugin then is never told of its end.
            if let Some(library) = Arc::into_inner(library) {
                library.end();
            }
        }
    }
}

/// Loads the plugins of the configuration; Kernlet's own where it names none.
pub(crate) fn start(names: Option<&str>) -> Result {
    let config = Config::from_variables(variable).map_err(|error| {
        error!("{}", chain(&error));
        EINVAL
    })?;
    let names = names.filter(|names| !names.is_empty()).map_or_else(|| config.plugins.join(":"), str::to_owned);
    let (default, absent) = if names.is_empty() {
        let found = kernlet_accel_plugins::load(&Config { plugins: Vec::new(), ..config.clone() });
        let absent = found.runtime().absent().to_vec();
        (found.plugins, absent)
    } else {
        let absent = |entry: &Entry| Absent {
            plugin: entry.name,
            operations: entry.operations,
            why: "it is not among the plugins that are named".to_owned(),
        };
        (Vec::new(), CATALOGUE.iter().map(absent).collect())
    };
    let mut plugins = Plugins { named: Vec::new(), default, absent, runtime: Runtime::new(Vec::new()), config };
    plugins.make_runtime();
    let has_agent = plugins.config.agent.is_some();
    *write() = Some(plugins);
    load_all(&names)?;
    // An agent that is configured is meant, unless plugins are named and it is not among them.
    if has_agent && names.is_empty() { load(REMOTE) } else { Ok(()) }
}

/// A variable that configures Kernlet's own plugins: not one of those that the C configuration has, and reads in a
/// way of its own.
fn variable(name: &str) -> Option<String> {
    const OF_C: [&str; 9] = [
        "VACCEL_PLUGINS",
        "VACCEL_BACKENDS",
        "VACCEL_LOG_LEVEL",
        "VACCEL_DEBUG_LEVEL",
        "VACCEL_LOG_FILE",
        "VACCEL_PROFILING_ENABLED",
        "VACCEL_PROFILING",
        "VACCEL_VERSION_IGNORE",
        "VACCEL_IGNORE_VERSION",
    ];
    if OF_C.contains(&name) {
        return None;
    }
    std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}

/// What may be fetched.
pub(crate) fn fetch_config() -> FetchConfig {
    read().as_ref().map(|plugins| plugins.config.fetch.clone()).unwrap_or_default()
}

/// Unloads every plugin.
pub(crate) fn end() {
    let plugins = write().take();
    drop(plugins);
}

api! {
    fn vaccel_plugin_load(name: Text<'_>) {
        core::is_ready();
        load(&name.required()?.to_string_lossy())
    }

    fn vaccel_plugin_parse_and_load(names: Text<'_>) {
        core::is_ready();
        load_all(&names.required()?.to_string_lossy())
    }
}

fn load_all(names: &str) -> Result {
    names.split(':').filter(|name| !name.is_empty()).try_for_each(load)
}

/// Loads one of Kernlet's own by its name, or a library. Where vAccel's own library of a plugin is not installed,
/// Kernlet's plugin of that name does its work.
fn load(name: &str) -> Result {
    let _alone = Loading::begin();
    if read().is_none() {
        return Err(EBACKEND);
    }
    if let Some(entry) = find(name) {
        return add_built_in(entry);
    }
    let is_loaded = |library: &Library| {
        let plugins = read();
        let mut libraries = plugins.iter().flat_map(Plugins::libraries);
        libraries.any(|other| other.plugin() == library.plugin())
    };
    match Library::load(name, is_loaded) {
        Ok(library) => {
            if let Some(plugins) = &mut *write() {
                plugins.named.push(Named::Library(Arc::new(library)));
            }
            Ok(())
        }
        Err(NotLoaded::Missing(why)) => {
            let own = name.strip_prefix("libvaccel-").and_then(|name| name.strip_suffix(".so")).and_then(find);
            if let Some(entry) = own {
                info!("{name} is not installed; Kernlet's plugin {} does its work", entry.name);
                return add_built_in(entry);
            }
            error!("cannot load plugin {name}: {why}");
            Err(Errno::from(NotLoaded::Missing(why)))
        }
        Err(why) => Err(why.into()),
    }
}

/// Plugins are loaded one after the other, though one that is being loaded may load another.
struct Loading {
    alone: Option<MutexGuard<'static, ()>>,
}

thread_local! {
    static LOADING: Cell<bool> = const { Cell::new(false) };
}

impl Loading {
    fn begin() -> Self {
        static ONE: Mutex<()> = Mutex::new(());
        let nested = LOADING.replace(true);
        Self { alone: (!nested).then(|| ONE.lock().unwrap_or_else(PoisonError::into_inner)) }
    }
}

impl Drop for Loading {
    fn drop(&mut self) {
        LOADING.set(self.alone.is_none());
    }
}

/// Kernlet's own plugin of this name; vAccel calls the one that sends operations elsewhere `rpc`.
fn find(name: &str) -> Option<&'static Entry> {
    let name = if name == "rpc" { REMOTE } else { name };
    CATALOGUE.iter().find(|entry| entry.name == name)
}

/// The plugin that sends operations to the agent which is configured.
fn connect(config: &Config) -> Result<Arc<dyn Plugin>> {
    match Remote::from_config(config) {
        Ok(Some(remote)) => Ok(Arc::new(remote)),
        Ok(None) => {
            error!(
                "plugin {REMOTE} needs an agent; set KERNLET_ACCEL_AGENT or VACCEL_RPC_ADDRESS, or agent in the file of KERNLET_ACCEL_CONFIG, to its address"
            );
            Err(ENODEV)
        }
        Err(error) => {
            error!("plugin {REMOTE} cannot be loaded: {}", chain(&error));
            Err(ENODEV)
        }
    }
}

fn add_built_in(entry: &Entry) -> Result {
    let config = {
        let plugins = read();
        let plugins = plugins.as_ref().ok_or(EBACKEND)?;
        if plugins.built_in().any(|other| other.name() == entry.name) {
            return Ok(());
        }
        Config { plugins: vec![entry.name.to_owned()], ..plugins.config.clone() }
    };
    // It may look for libraries, devices and agents, so nobody waits for it.
    let plugin = if entry.name == REMOTE { connect(&config)? } else { make(entry, &config)? };
    info!("loaded plugin {}", entry.name);
    if let Some(plugins) = &mut *write() {
        plugins.named.push(Named::BuiltIn(plugin));
        plugins.make_runtime();
    }
    Ok(())
}

fn make(entry: &Entry, config: &Config) -> Result<Arc<dyn Plugin>> {
    let mut found = kernlet_accel_plugins::load(config);
    if let Some(index) = found.plugins.iter().position(|plugin| plugin.name() == entry.name) {
        return Ok(found.plugins.swap_remove(index));
    }
    let why = found.found.into_iter().find(|found| found.plugin == entry.name).and_then(|found| found.what.err());
    error!("plugin {} cannot be loaded: {}", entry.name, why.unwrap_or_default());
    Err(ENODEV)
}

impl Plugins {
    fn libraries(&self) -> impl Iterator<Item = &Arc<Library>> {
        self.named.iter().filter_map(|named| match named {
            Named::Library(library) => Some(library),
            Named::BuiltIn(_) => None,
        })
    }

    /// Makes the runtime anew, for the plugins that there are now.
    fn make_runtime(&mut self) {
        let present: Vec<_> = self.built_in().cloned().collect();
        let is_absent = |absent: &&Absent| present.iter().all(|plugin| plugin.name() != absent.plugin);
        let absent = self.absent.iter().filter(is_absent).cloned().collect();
        self.runtime = Runtime::with_absent(present, absent);
    }

    fn built_in(&self) -> impl Iterator<Item = &Arc<dyn Plugin>> {
        let named = self.named.iter().filter_map(|named| match named {
            Named::BuiltIn(plugin) => Some(plugin),
            Named::Library(_) => None,
        });
        named.chain(&self.default)
    }

    /// The library that a session with this hint works with first, if it is not Kernlet's own plugins.
    fn choose(&self, hint: u32) -> Result<Option<&Arc<Library>>> {
        let own_has = |kinds: u32| self.built_in().any(|plugin| plugin.kinds().bits() & kinds != 0);
        if hint & PLUGIN_REMOTE != 0 {
            let remote = self.libraries().find(|library| library.is_remote());
            if remote.is_none() && !own_has(PLUGIN_REMOTE) {
                error!("a remote session takes a remote plugin, and none is loaded");
                return Err(ENOTSUP);
            }
            return Ok(remote);
        }
        let wanted = self.named.iter().find(|named| match named {
            Named::Library(library) => library.info().kind & hint != 0,
            Named::BuiltIn(plugin) => plugin.kinds().bits() & hint != 0,
        });
        let local = || self.named.iter().find(|named| !named.is_remote_library());
        let chosen = match wanted.or_else(local) {
            // Of those that are there anyway, one may still be of the kind.
            Some(_) if wanted.is_none() && own_has(hint) => None,
            Some(named) => Some(named),
            None if self.default.is_empty() => match &*self.named {
                [only] => Some(only),
                [] => {
                    error!("no plugin is loaded");
                    return Err(ENOTSUP);
                }
                _ => {
                    error!("a local session takes a local plugin, and all that are loaded are remote");
                    return Err(ENOTSUP);
                }
            },
            None => match &*self.named {
                [only] => Some(only),
                _ => None,
            },
        };
        Ok(match chosen {
            Some(Named::Library(library)) => Some(library),
            Some(Named::BuiltIn(_)) | None => None,
        })
    }
}

impl Named {
    fn is_remote_library(&self) -> bool {
        match self {
            Self::Library(library) => library.is_remote(),
            Self::BuiltIn(_) => false,
        }
    }
}

/// What a session with this hint works with.
pub(crate) fn bind(hint: u32) -> Result<Binding> {
    let plugins = read();
    let plugins = plugins.as_ref().ok_or(EPERM)?;
    let first = plugins.choose(hint)?.cloned();
    let is_other = |library: &&Arc<Library>| {
        !library.is_remote() && first.as_ref().is_none_or(|first| !Arc::ptr_eq(first, library))
    };
    let others = plugins.libraries().filter(is_other).cloned().collect();
    // A program is its own client: it has what the machine has, unless that was said otherwise.
    let config = &plugins.config;
    let (resources, bytes) = (config.resources.unwrap_or(usize::MAX), config.resource_bytes.unwrap_or(u64::MAX));
    let session = plugins.runtime.session_with(Quota { resources, bytes, ..config.quota() });
    session.prefer(Hint { kinds: Kinds::from_bits(hint), ..config.hint() });
    Ok(Binding { first, others, session, adopted: Mutex::default() })
}

fn read() -> RwLockReadGuard<'static, Option<Plugins>> {
    PLUGINS.read().unwrap_or_else(PoisonError::into_inner)
}

fn write() -> RwLockWriteGuard<'static, Option<Plugins>> {
    PLUGINS.write().unwrap_or_else(PoisonError::into_inner)
}

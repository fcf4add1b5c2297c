//! Calls functions of libraries that the host allows: its own by name, and resources by their digest.
//! Called by the runtime for exec. Never opens a library that is not on its list, and never calls a function that is not
//! the library's own.

mod call;
mod library;

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use kernlet_accel::{
    AccelError, Cost, Deadline, Done, ExecConfig, Kinds, Operation, Plugin, PluginError, Resource, ResourceFile,
    ResourceKind, hex,
    operation::{Exec as Call, Library as Callee, Task},
};
use sha2::{Digest as _, Sha256};

use self::library::Library;
use crate::cache::ResourceCache;

/// What it has.
pub(crate) const OPERATIONS: [Operation; 2] = [Operation::Exec, Operation::ExecWithResource];

/// The plugin `exec`.
#[derive(Debug)]
pub struct Exec {
    named: BTreeMap<String, Resource>,
    digests: HashSet<String>,
    bind_now: bool,
    /// Libraries that are kept open as long as their resource lives, where that is wanted.
    open: Option<ResourceCache<Library, NotOpened>>,
    /// Whether a resource's digests are on the list: they take a while to make.
    allowed: ResourceCache<(), NotAllowed>,
}

/// What is wrong with the list of what may be called.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExecError {
    /// A library's file cannot be read.
    #[error("library `{name}` of plugin exec is not there")]
    Library {
        /// What callers would call it.
        name: String,
        /// Why.
        source: Box<AccelError>,
    },
    /// A digest is none.
    #[error("`{digest}` is no SHA-256 digest; give 64 hexadecimal digits, as sha256sum prints them")]
    Digest {
        /// As it was given.
        digest: String,
    },
}

/// Why a library is not called.
#[derive(Clone, Debug, thiserror::Error)]
enum NotAllowed {
    #[error("library `{name}` is not on the host's list (exec.libraries)")]
    Name { name: String },
    #[error("the resource is not registered as a library")]
    Kind,
    #[error("the resource has no file")]
    Empty,
    #[error("file `{name}` of the resource is not on the host's list (exec.digests); its SHA-256 is {digest}")]
    Digest { name: String, digest: String },
}

/// Why a library is not opened.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the library cannot be opened: {reason}")]
struct NotOpened {
    reason: String,
}

impl Exec {
    /// The plugin with this list. Libraries of the host are read now.
    ///
    /// # Errors
    /// [`ExecError`] names what is wrong with the list.
    pub fn new(config: &ExecConfig) -> Result<Self, ExecError> {
        let mut named = BTreeMap::new();
        for (name, path) in &config.libraries {
            let library = Resource::from_files([path], ResourceKind::Library)
                .map_err(|source| ExecError::Library { name: name.clone(), source: Box::new(source) })?;
            named.insert(name.clone(), library);
        }
        let mut digests = HashSet::new();
        for digest in &config.digests {
            if digest.len() != 64 || !digest.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Err(ExecError::Digest { digest: digest.clone() });
            }
            digests.insert(digest.to_ascii_lowercase());
        }
        let open = config.keep_open.then(ResourceCache::default);
        Ok(Self { named, digests, bind_now: config.bind_now, open, allowed: ResourceCache::default() })
    }

    /// What may be called, in words.
    #[must_use]
    pub fn found(&self) -> String {
        let names: Vec<_> = self.named.keys().map(String::as_str).collect();
        format!(
            "may call {} and resources of {} digests",
            if names.is_empty() { "no library".to_owned() } else { names.join(", ") },
            self.digests.len()
        )
    }

    fn call(&self, mut task: Call<'_>, deadline: Deadline) -> Result<Done, PluginError> {
        let resource = self.allow(&task.library)?;
        deadline.check("the library was opened")?;
        let library = self.library(&resource).map_err(PluginError::invalid)?;
        let function = library.function(task.function).map_err(PluginError::invalid)?;
        deadline.check("the function was called")?;
        call::call(&function, task.function, &task.read, &mut task.write)
    }

    /// The library of a call, if it may be called.
    fn allow(&self, callee: &Callee<'_>) -> Result<Resource, PluginError> {
        match callee {
            Callee::Name(name) => {
                let unknown = || PluginError::denied(NotAllowed::Name { name: (*name).to_owned() });
                self.named.get(*name).cloned().ok_or_else(unknown)
            }
            Callee::Resource(resource) => {
                self.allowed.get(resource, |resource| self.check(resource)).map_err(PluginError::denied)?;
                Ok(resource.clone())
            }
        }
    }

    /// Every file of a library is code of its own: what another needs runs as well.
    fn check(&self, resource: &Resource) -> Result<(), NotAllowed> {
        if resource.kind() != ResourceKind::Library {
            return Err(NotAllowed::Kind);
        }
        if resource.files().is_empty() {
            return Err(NotAllowed::Empty);
        }
        for ResourceFile { name, bytes } in resource.files() {
            let digest = hex(&Sha256::digest(bytes));
            if !self.digests.contains(&digest) {
                return Err(NotAllowed::Digest { name: name.escape_debug().to_string(), digest });
            }
        }
        Ok(())
    }

    fn library(&self, resource: &Resource) -> Result<Arc<Library>, NotOpened> {
        let open =
            |resource: &Resource| Library::open(resource.files(), self.bind_now).map_err(|reason| NotOpened { reason });
        match &self.open {
            Some(kept) => kept.get(resource, open),
            None => open(resource).map(Arc::new),
        }
    }
}

impl Plugin for Exec {
    fn name(&self) -> &'static str {
        "exec"
    }

    fn operations(&self) -> &[Operation] {
        &OPERATIONS
    }

    fn cost(&self, _task: &Task<'_>) -> Cost {
        // Nobody knows what a library does.
        Cost::micros(100)
    }

    fn kinds(&self) -> Kinds {
        Kinds::CPU | Kinds::GENERIC
    }

    fn run(&self, task: Task<'_>, deadline: Deadline) -> Result<Done, PluginError> {
        match task {
            Task::Exec(task) | Task::ExecWithResource(task) => self.call(task, deadline),
            other => Err(PluginError::NotOffered { operation: other.operation() }),
        }
    }
}

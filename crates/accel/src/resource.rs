//! What a function registers once and then refers to by id: a model, labels, any file.
//! Made by the watchdog when it starts a function; read by plugins.
//! Never changes: its bytes are read once, when it is made, and shared by all who use it.

use std::{
    fmt,
    fs::File,
    io::Read as _,
    path::Path,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{AccelError, onnx};

/// Largest resource, in bytes: 2 GiB, the most that a protobuf file such as an ONNX model can have.
pub const RESOURCE_MAX: u64 = 2 * 1024 * 1024 * 1024;

/// Bytes that operations refer to. Cheap to clone; clones are the same resource.
#[derive(Clone)]
pub struct Resource(Arc<Contents>);

struct Contents {
    identity: ResourceIdentity,
    bytes: Arc<[u8]>,
}

/// Which resource it is, whatever sessions call it: no two resources of a process share one, ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ResourceIdentity(u64);

impl ResourceIdentity {
    fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

impl Resource {
    /// The content of a file, read now and never again.
    ///
    /// # Errors
    /// When it is missing, no file, longer than [`RESOURCE_MAX`], or cannot be read.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, AccelError> {
        let path = path.as_ref();
        let unreadable = |source| AccelError::ReadFile { path: path.to_owned(), source };
        // The kind is asked before opening, since opening a named pipe waits for its other end.
        if !path.metadata().map_err(unreadable)?.is_file() {
            return Err(AccelError::NotAFile { path: path.to_owned() });
        }
        let mut file = File::open(path).map_err(unreadable)?;
        let size = file.metadata().map_err(unreadable)?.len();
        let too_large = || AccelError::FileTooLarge { path: path.to_owned(), size, max: RESOURCE_MAX };
        if size > RESOURCE_MAX {
            return Err(too_large());
        }
        let mut bytes = zeroed(usize::try_from(size).map_err(|_| too_large())?);
        if let Some(bytes) = Arc::get_mut(&mut bytes) {
            file.read_exact(bytes).map_err(unreadable)?;
        }
        Ok(Self::from_bytes(bytes))
    }

    /// These bytes.
    #[must_use]
    pub fn from_bytes(bytes: impl Into<Arc<[u8]>>) -> Self {
        Self(Arc::new(Contents { identity: ResourceIdentity::next(), bytes: bytes.into() }))
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0.bytes
    }

    /// Its length in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.0.bytes.len() as u64
    }

    /// Which resource it is; what a plugin derives from it is cached under this.
    #[must_use]
    pub fn identity(&self) -> ResourceIdentity {
        self.0.identity
    }

    /// A watch on its life, so that a cache can drop what belongs to resources that are gone.
    #[must_use]
    pub fn watch(&self) -> ResourceWatch {
        ResourceWatch(Arc::downgrade(&self.0))
    }

    /// Whether its bytes have the outline of an ONNX model.
    #[must_use]
    pub fn is_onnx_model(&self) -> bool {
        onnx::has_model_outline(self.bytes())
    }
}

impl fmt::Debug for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resource").field("identity", &self.0.identity).field("size", &self.size()).finish()
    }
}

/// Says whether a resource is still there, without keeping it.
#[derive(Clone)]
pub struct ResourceWatch(Weak<Contents>);

impl ResourceWatch {
    /// Whether nobody has the resource any more.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.0.strong_count() == 0
    }
}

impl fmt::Debug for ResourceWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResourceWatch").field("is_gone", &self.is_gone()).finish()
    }
}

/// Shared bytes, to be filled in place: reading a file into a vector first would hold it twice.
fn zeroed(len: usize) -> Arc<[u8]> {
    std::iter::repeat_n(0, len).collect()
}

//! What a function registers once and then refers to by id: a model, labels, any file.
//! Made by the watchdog when it starts a function; read by plugins.
//! Never changes: its bytes are read once, when it is made, and shared by all who use it.

use std::{
    fmt,
    fs::{self, Metadata, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::Path,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{AccelError, onnx};

/// Largest resource, in bytes: 2 GiB, the most that a protobuf file such as an ONNX model can have.
pub const RESOURCE_MAX: u64 = 2 * 1024 * 1024 * 1024;

/// Most files of a resource.
pub const FILES_MAX: usize = 4096;

/// What a resource is for, with vAccel's numbers (`VACCEL_RESOURCE_*`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ResourceKind {
    /// A library whose functions `exec-with-resource` calls.
    Library = 0,
    /// Anything else.
    #[default]
    Data = 1,
    /// A model.
    Model = 2,
}

/// Bytes that operations refer to: a file, several, or those of a folder. Cheap to clone; clones are the same resource.
#[derive(Clone)]
pub struct Resource(Arc<Contents>);

struct Contents {
    identity: ResourceIdentity,
    kind: ResourceKind,
    files: Vec<ResourceFile>,
    is_onnx_model: OnceLock<bool>,
}

/// One of the files of a resource.
#[derive(Clone)]
pub struct ResourceFile {
    /// Its name, or, within a folder, its path from there; empty for bytes that came without a name.
    pub name: String,
    /// What it holds.
    pub bytes: Arc<[u8]>,
}

impl fmt::Debug for ResourceFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResourceFile").field("name", &self.name).field("size", &self.bytes.len()).finish()
    }
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
        Self::from_files([path], ResourceKind::Data)
    }

    /// The contents of several files, read now and never again.
    ///
    /// # Errors
    /// When there are more than [`FILES_MAX`], one is missing, no file, or cannot be read, or they are longer than
    /// [`RESOURCE_MAX`] together.
    pub fn from_files(
        paths: impl IntoIterator<Item = impl AsRef<Path>>,
        kind: ResourceKind,
    ) -> Result<Self, AccelError> {
        let mut reader = Reader::default();
        for path in paths {
            let path = path.as_ref();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            reader.read(path, None, name)?;
        }
        Ok(Self::new(reader.files, kind))
    }

    /// The contents of all files in a folder and those below it, read now and never again. What is neither a file nor a
    /// folder (links too) is left out.
    ///
    /// # Errors
    /// As [`Resource::from_files`].
    pub fn from_dir(path: impl AsRef<Path>, kind: ResourceKind) -> Result<Self, AccelError> {
        let root = path.as_ref();
        let mut reader = Reader::default();
        reader.read_dir(root, Path::new(""))?;
        Ok(Self::new(reader.files, kind))
    }

    /// These bytes, without a name.
    #[must_use]
    pub fn from_bytes(bytes: impl Into<Arc<[u8]>>) -> Self {
        Self::new(vec![ResourceFile { name: String::new(), bytes: bytes.into() }], ResourceKind::Data)
    }

    /// These files.
    #[must_use]
    pub fn new(files: Vec<ResourceFile>, kind: ResourceKind) -> Self {
        Self(Arc::new(Contents { identity: ResourceIdentity::next(), kind, files, is_onnx_model: OnceLock::new() }))
    }

    /// The bytes of its last file, which of a library is the main one; of one file, those.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.0.files.last().map(|file| &*file.bytes).unwrap_or_default()
    }

    /// Its files, in the order in which they were given, or of their paths.
    #[must_use]
    pub fn files(&self) -> &[ResourceFile] {
        &self.0.files
    }

    /// What it is for.
    #[must_use]
    pub fn kind(&self) -> ResourceKind {
        self.0.kind
    }

    /// Its length in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.0.files.iter().map(|file| file.bytes.len() as u64).sum()
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
        *self.0.is_onnx_model.get_or_init(|| onnx::has_model_outline(self.bytes()))
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

/// Reads the files of a resource, as many and as much as there may be.
#[derive(Default)]
struct Reader {
    files: Vec<ResourceFile>,
    size: u64,
}

impl Reader {
    fn read_dir(&mut self, root: &Path, below: &Path) -> Result<(), AccelError> {
        let folder = root.join(below);
        let unreadable = |source| AccelError::ReadFile { path: folder.clone(), source };
        let mut names = Vec::new();
        for entry in fs::read_dir(&folder).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            names.push((entry.file_name(), entry.metadata().map_err(unreadable)?));
        }
        names.sort_by(|(one, _), (other, _)| one.cmp(other));
        for (name, found) in names {
            let path = below.join(name);
            // Links are not followed, so that this ends, and ends within the folder.
            if found.is_dir() {
                self.read_dir(root, &path)?;
            } else if found.is_file() {
                self.read(&root.join(&path), Some(&found), path.to_string_lossy().into_owned())?;
            }
        }
        Ok(())
    }

    /// Reads a file; the one that was `found` there, where it matters which.
    fn read(&mut self, path: &Path, found: Option<&Metadata>, name: String) -> Result<(), AccelError> {
        if self.files.len() >= FILES_MAX {
            return Err(AccelError::TooManyFiles { path: path.to_owned(), max: FILES_MAX });
        }
        let bytes = read_file(path, found, RESOURCE_MAX - self.size)?;
        self.size += bytes.len() as u64;
        self.files.push(ResourceFile { name, bytes });
        Ok(())
    }
}

/// `O_NONBLOCK` on Linux: opening what has become a named pipe meanwhile does not wait for its other end.
const NO_WAITING: i32 = 0o4000;

/// The content of a file of at most `max` bytes; of the one that was `found` at its path, where it matters which.
fn read_file(path: &Path, found: Option<&Metadata>, max: u64) -> Result<Arc<[u8]>, AccelError> {
    let unreadable = |source| AccelError::ReadFile { path: path.to_owned(), source };
    // The kind is asked before opening, since opening a device can have effects, and again of what was opened.
    if !path.metadata().map_err(unreadable)?.is_file() {
        return Err(AccelError::NotAFile { path: path.to_owned() });
    }
    let mut file = OpenOptions::new().read(true).custom_flags(NO_WAITING).open(path).map_err(unreadable)?;
    let opened = file.metadata().map_err(unreadable)?;
    if !opened.is_file() {
        return Err(AccelError::NotAFile { path: path.to_owned() });
    }
    if found.is_some_and(|found| (found.dev(), found.ino()) != (opened.dev(), opened.ino())) {
        return Err(unreadable(io::Error::other("it was replaced while its folder was read")));
    }
    let size = opened.len();
    let too_large = || AccelError::FileTooLarge { path: path.to_owned(), size, max };
    if size > max {
        return Err(too_large());
    }
    let mut bytes = zeroed(usize::try_from(size).map_err(|_| too_large())?);
    if let Some(bytes) = Arc::get_mut(&mut bytes) {
        file.read_exact(bytes).map_err(unreadable)?;
    }
    Ok(bytes)
}

/// Shared bytes, to be filled in place: reading a file into a vector first would hold it twice.
fn zeroed(len: usize) -> Arc<[u8]> {
    std::iter::repeat_n(0, len).collect()
}

//! What can go wrong with the store and with an image in it. Made by the store, shown by the CLI and the
//! gateway. A message never repeats its source; whoever prints one prints the chain.

use std::{io, path::PathBuf};

use crate::{ByteSize, ConfigError, Reference, digest::Digest};

/// An operation on a file or directory of the store that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}{}", path.display(), advice(source))]
pub struct IoError {
    /// What was to be done, in the words of the message.
    pub action: &'static str,
    /// On which file or directory.
    pub path: PathBuf,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

impl IoError {
    /// For `map_err`: what was to be done on which path.
    pub(crate) fn on(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self { action, path, source }
    }
}

/// What to do about the commonest causes.
fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "; free some space on that disk",
        io::ErrorKind::PermissionDenied => "; see who owns it, or choose another place with --home",
        io::ErrorKind::ReadOnlyFilesystem => "; choose another place with --home",
        _ => "",
    }
}

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file could not be read or written.
    #[error(transparent)]
    Io(#[from] IoError),
    /// The store has no image of this name.
    #[error("there is no image {reference}; {}", existing(known))]
    UnknownImage {
        /// The image asked for.
        reference: Reference,
        /// The names of the images that there are.
        known: Vec<String>,
    },
    /// A file of the store itself cannot be understood.
    #[error("{} cannot be read as part of an OCI image layout; move the folder away and build its images again", path.display())]
    Layout {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: LayoutError,
    },
    /// What was to be stored is no proper image.
    #[error("image {reference} cannot be stored")]
    Refused {
        /// The name it was to have.
        reference: Reference,
        /// What is wrong with it.
        #[source]
        source: ImageError,
    },
    /// An image in the store is damaged, or was made by someone who meant no good.
    #[error("image {reference} cannot be used; remove it with `kernlet rmi {reference}` and build it again")]
    Unusable {
        /// The image.
        reference: Reference,
        /// What is wrong with it.
        #[source]
        source: ImageError,
    },
}

fn existing(known: &[String]) -> String {
    if known.is_empty() {
        "the store is empty: make one with `kernlet build FOLDER`".to_owned()
    } else {
        format!("the store has {}", known.join(", "))
    }
}

/// What is wrong with `oci-layout` or `index.json`.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// It is not the document it should be.
    #[error("it is not the JSON document that OCI describes")]
    Json(#[source] serde_json::Error),
    /// It is too large to be true.
    #[error("it has more than {0}")]
    TooLarge(ByteSize),
    /// Another version of the layout.
    #[error("it says version {0:?}; this program knows 1.0.0")]
    Version(String),
}

/// What is wrong with an image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// A blob that a document names is not there.
    #[error("blob {digest} is missing from the store")]
    BlobMissing {
        /// Digest of the blob.
        digest: String,
    },
    /// A blob is shorter or longer than its descriptor says.
    #[error("blob {digest} has {found} bytes instead of {expected}")]
    BlobSize {
        /// Digest of the blob.
        digest: String,
        /// Bytes in the file.
        found: u64,
        /// Bytes by the descriptor.
        expected: u64,
    },
    /// A blob's bytes are not those that its digest belongs to.
    #[error("blob {digest} is corrupt: its bytes have another digest")]
    BlobDigest {
        /// Digest that it should have.
        digest: String,
    },
    /// Something is larger than allowed.
    #[error("{what} has {size} bytes; at most {limit} are allowed")]
    TooLarge {
        /// What it is.
        what: String,
        /// Its size in bytes.
        size: u64,
        /// The limit.
        limit: ByteSize,
    },
    /// There are more of something than allowed.
    #[error("it has more than {limit} {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// A blob is not the document that it should be.
    #[error("blob {digest} is not the {what} that it should be")]
    Document {
        /// Digest of the blob.
        digest: String,
        /// Which document.
        what: &'static str,
        /// Why not.
        #[source]
        source: serde_json::Error,
    },
    /// A descriptor names a media type that is not understood here.
    #[error("{what} has media type {found:?}; understood are {known}")]
    MediaType {
        /// What the descriptor describes.
        what: &'static str,
        /// Its media type.
        found: String,
        /// The media types that could be.
        known: &'static str,
    },
    /// It was made for another kind of machine.
    #[error("it is for {os}/{architecture}; functions are linux/amd64 images")]
    Platform {
        /// Operating system by the image's configuration.
        os: String,
        /// Processor by the image's configuration.
        architecture: String,
    },
    /// A layer cannot be read as a tar archive.
    #[error("layer {digest} is not a readable tar archive")]
    Archive {
        /// Digest of the layer.
        digest: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A layer has an entry that no image may have.
    #[error("layer {digest} has an entry {name:?} that is refused: {reason}")]
    Entry {
        /// Digest of the layer.
        digest: String,
        /// Name of the entry as it is in the archive.
        name: String,
        /// Why it is refused.
        reason: &'static str,
    },
    /// No layer has a unikernel.
    #[error("no layer has a /.boot/kernel")]
    NoKernel,
    /// The unikernel has no bytes.
    #[error("the unikernel is empty")]
    EmptyKernel,
    /// A layer says that it holds a resource and does not.
    #[error("no layer has the resource {name:?} that the manifest promises")]
    NoResource {
        /// Name of the resource.
        name: String,
    },
    /// A resource's name breaks the rule.
    #[error(
        "{name:?} is not a resource's name: use 1 to 64 letters, digits, '.', '_' and '-', beginning with a letter or digit"
    )]
    ResourceName {
        /// The name.
        name: String,
    },
    /// A layer says that it holds a block device's file and does not.
    #[error("no layer has the file of the block device {name:?} that the manifest promises")]
    NoBlock {
        /// Name of the device.
        name: String,
    },
    /// A block device's name breaks the rule.
    #[error("{name:?} is not a block device's name: use 1 to 67 letters and digits")]
    BlockName {
        /// The name.
        name: String,
    },
    /// Two resources, or two block devices, have one name.
    #[error("two {what} are called {name:?}")]
    Duplicate {
        /// Of what.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// A resource or a block device is something else than a file.
    #[error("{name:?} is not a regular file: {}", path.display())]
    NotAFile {
        /// Its name.
        name: String,
        /// Where it should have been.
        path: PathBuf,
    },
    /// A file was written to while it was read.
    #[error("{} changed its size while it was read; try again when nobody writes to it", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// Its annotations ask for what cannot be.
    #[error("its annotations are wrong")]
    Config(#[source] ConfigError),
}

/// Reading a part of an image fails for the image's sake or for the disk's.
#[derive(Debug)]
pub(super) enum ReadError {
    Io(IoError),
    Image(ImageError),
}

impl ReadError {
    /// The error of reading `reference`.
    pub(super) fn reading(self, reference: &Reference) -> StoreError {
        match self {
            Self::Io(error) => StoreError::Io(error),
            Self::Image(source) => StoreError::Unusable { reference: reference.clone(), source },
        }
    }

    /// The error of storing `reference`.
    pub(super) fn storing(self, reference: &Reference) -> StoreError {
        match self {
            Self::Io(error) => StoreError::Io(error),
            Self::Image(source) => StoreError::Refused { reference: reference.clone(), source },
        }
    }
}

impl From<IoError> for ReadError {
    fn from(error: IoError) -> Self {
        Self::Io(error)
    }
}

impl From<ImageError> for ReadError {
    fn from(error: ImageError) -> Self {
        Self::Image(error)
    }
}

/// Refuses what has more bytes than `limit`.
pub(super) fn check_size(what: impl Into<String>, size: u64, limit: ByteSize) -> Result<(), ImageError> {
    if size <= limit.bytes() { Ok(()) } else { Err(ImageError::TooLarge { what: what.into(), size, limit }) }
}

impl ImageError {
    /// An entry of the layer `digest` that is refused.
    pub(super) fn entry(digest: &Digest, name: &str, reason: &'static str) -> Self {
        Self::Entry { digest: digest.to_string(), name: name.to_owned(), reason }
    }
}

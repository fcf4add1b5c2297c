//! What the store is given and what it tells: the types of its interface. Used by the CLI and the gateway.
//! They hold no open files and no locks: what they say was true when they were made.

use std::{collections::BTreeMap, path::PathBuf, time::SystemTime};

use serde::{Serialize, Serializer};

use super::StoreError;
use crate::{FunctionConfig, Reference};

/// What an image is made from.
#[derive(Clone, Debug, Default)]
pub struct ImageParts {
    /// The unikernel, an ELF file.
    pub kernel: Vec<u8>,
    /// Files that go with it, each with the name that the function knows it by.
    pub resources: Vec<(String, PathBuf)>,
    /// Files of block devices, each with the name by which the unikernel declares the device.
    pub blocks: Vec<(String, PathBuf)>,
    /// Annotations of the image; those that begin with `dev.kernlet.` say how it runs.
    pub annotations: BTreeMap<String, String>,
}

/// How far an import is.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// What is being stored: `kernel`, or the name of a resource or of a block device.
    pub part: &'a str,
    /// Bytes stored so far, of all parts.
    pub done: u64,
    /// Bytes of all parts.
    pub total: u64,
}

/// An image in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ImageInfo {
    /// Its name.
    pub reference: Reference,
    /// Digest of its manifest: `sha256:` and 64 hexadecimal digits.
    pub digest: String,
    /// Bytes of its manifest, configuration and layers; images may share some of them.
    pub size: u64,
    /// When it came into this store, if known.
    #[serde(serialize_with = "rfc3339")]
    pub created: Option<SystemTime>,
    /// Names of its resources.
    pub resources: Vec<String>,
    /// Names of the block devices that it has files for.
    pub blocks: Vec<String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
}

/// All images of a store.
#[derive(Debug)]
pub struct Listing {
    /// Those that can be read, by name.
    pub images: Vec<ImageInfo>,
    /// Those that cannot; each error names its image.
    pub broken: Vec<StoreError>,
}

/// What removing an image did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Removed {
    /// The image's name.
    pub reference: Reference,
    /// Digest of its manifest.
    pub digest: String,
    /// Bytes of the blobs that nothing needed any more.
    pub freed: u64,
}

/// An image's files, ready to be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unpacked {
    /// Digest of the image's manifest: `sha256:` and 64 hexadecimal digits.
    pub digest: String,
    /// The unikernel.
    pub kernel: PathBuf,
    /// The image's resources by name.
    pub resources: Vec<(String, PathBuf)>,
    /// Files of its block devices by name.
    pub blocks: Vec<(String, PathBuf)>,
    /// What the image's annotations ask for.
    pub config: FunctionConfig,
}

fn rfc3339<S: Serializer>(time: &Option<SystemTime>, serializer: S) -> Result<S::Ok, S::Error> {
    time.map(|time| humantime::format_rfc3339_seconds(time).to_string()).serialize(serializer)
}

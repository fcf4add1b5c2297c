//! The local store of images: an OCI image layout under `<home>/images`, and what was unpacked from it under
//! `<home>/unpacked`. Used by the CLI and the gateway, from any number of processes at the same time.
//! A reader never sees a half image, whoever was killed while writing one.
//!
//! ```text
//! <home>/images/oci-layout, index.json     which images there are; replaced in one step
//!               blobs/sha256/<digest>      manifests, configurations, layers; complete once they have a name
//!               tmp/                       files without a name yet
//!               .blobs.lock                shared: "I need blobs to stay"; exclusive: "I delete unneeded ones"
//!               .index.lock                exclusive: "I change index.json"; always taken after .blobs.lock
//! <home>/unpacked/<digest>/kernel, resources/<name>, blocks/<name>
//! ```

mod blobs;
mod collect;
mod error;
mod info;
mod layer;
mod locks;
mod oci;
mod unpack;
mod write;

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs::{self, DirBuilder, File},
    io::Read,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    time::SystemTime,
};

use serde::de::DeserializeOwned;

pub use error::{ImageError, IoError, LayoutError, StoreError};
pub use info::{ImageInfo, ImageParts, Listing, Progress, Removed, Unpacked};

use self::{
    blobs::{Blobs, DOCUMENT_MAX},
    error::{ReadError, check_size},
    layer::IMAGE_MAX,
    oci::{Descriptor, Index, Layout, Manifest},
};
use crate::{Reference, digest::Digest};

const LAYOUT_FILE: &str = "oci-layout";
const INDEX_FILE: &str = "index.json";

/// Most layers of an image: the unikernel and the files beside it.
const LAYERS_MAX: usize = 64;

/// What a name of something incomplete under `unpacked` begins with.
const INCOMPLETE: &str = ".tmp-";

/// The local store of images.
#[derive(Debug)]
pub struct Store {
    blobs: Blobs,
    unpacked: PathBuf,
}

impl Store {
    /// The store under `home`, made if it is missing. A home that is made is its owner's alone: deployments and logs
    /// will be in it.
    pub fn open(home: &Path) -> Result<Self, StoreError> {
        if !home.exists() {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(home);
            made.map_err(IoError::on("create the folder", home))?;
        }
        let store = Self { blobs: Blobs::open(home.join("images"))?, unpacked: home.join("unpacked") };
        fs::create_dir_all(&store.unpacked).map_err(IoError::on("create the folder", &store.unpacked))?;
        let _blobs = store.keep_blobs()?;
        let _index = store.change_index()?;
        if !store.blobs.beside(INDEX_FILE).exists() {
            store.write_index(&Index::default())?;
        }
        let layout = store.blobs.beside(LAYOUT_FILE);
        if layout.exists() {
            let found: Layout = read_document(&layout)?;
            if found.image_layout_version != oci::LAYOUT_VERSION {
                let source = LayoutError::Version(found.image_layout_version);
                return Err(StoreError::Layout { path: layout, source });
            }
        } else {
            let layout = Layout { image_layout_version: oci::LAYOUT_VERSION.to_owned() };
            store.blobs.replace(LAYOUT_FILE, &layout)?;
        }
        Ok(store)
    }

    /// Makes an image and gives it a name, which then no longer names the image that had it.
    ///
    /// The same parts always make the same image, with the same digest.
    pub fn import(
        &self,
        reference: &Reference,
        parts: ImageParts,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<ImageInfo, StoreError> {
        let blobs = self.keep_blobs()?;
        let manifest = match self.write_image(parts, progress) {
            Ok(manifest) => manifest,
            Err(error) => {
                drop(blobs);
                // What cannot be deleted now, the next import deletes.
                let _ = self.collect_if_alone();
                return Err(error.storing(reference));
            }
        };
        self.blobs.sync()?;
        let created = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let entry = manifest.annotated(oci::REF_NAME, reference.to_string()).annotated(oci::CREATED, created);
        let index_lock = self.change_index()?;
        let mut index = self.read_index()?;
        index.manifests.retain(|other| name_of(other).as_ref() != Some(reference));
        index.manifests.push(entry.clone());
        self.write_index(&index)?;
        let info = self.info(reference, &entry)?;
        drop((index_lock, blobs));
        // What the name stood for before may be needed no more.
        self.collect_if_alone()?;
        Ok(info)
    }

    /// Deletes the blobs that no image needs; if others are at work, that can wait for them.
    fn collect_if_alone(&self) -> Result<(), StoreError> {
        if let Some(_alone) = self.try_delete_blobs()? {
            self.collect(&self.read_index()?)?;
        }
        Ok(())
    }

    /// All images, by name.
    pub fn list(&self) -> Result<Listing, StoreError> {
        let _blobs = self.keep_blobs()?;
        let index = self.read_index()?;
        let mut listing = Listing { images: Vec::new(), broken: Vec::new() };
        for entry in &index.manifests {
            let Some(reference) = name_of(entry) else {
                continue;
            };
            match self.info(&reference, entry) {
                Ok(info) => listing.images.push(info),
                Err(error) => listing.broken.push(error),
            }
        }
        listing.images.sort_by(|a, b| a.reference.cmp(&b.reference));
        Ok(listing)
    }

    /// What the store knows about one image.
    pub fn get(&self, reference: &Reference) -> Result<ImageInfo, StoreError> {
        let _blobs = self.keep_blobs()?;
        self.info(reference, &self.find(reference)?)
    }

    /// Removes an image's name, all blobs that no other image needs, and what was unpacked from it.
    ///
    /// A function that runs from the image keeps running, but cannot be started again.
    pub fn remove(&self, reference: &Reference) -> Result<Removed, StoreError> {
        let _blobs = self.delete_blobs()?;
        let _index = self.change_index()?;
        let entry = self.find(reference)?;
        let mut index = self.read_index()?;
        index.manifests.retain(|other| name_of(other).as_ref() != Some(reference));
        self.write_index(&index)?;
        if !index.manifests.iter().any(|other| other.digest == entry.digest) {
            self.discard_unpacked(entry.digest.hex())?;
        }
        let freed = self.collect(&index)?;
        Ok(Removed { reference: reference.clone(), digest: entry.digest.to_string(), freed })
    }

    /// Extracts an image's files, or finds those that were extracted before.
    pub fn unpack(&self, reference: &Reference) -> Result<Unpacked, StoreError> {
        let _blobs = self.keep_blobs()?;
        let entry = self.find(reference)?;
        self.unpack_entry(&entry).map_err(|error| error.reading(reference))
    }

    /// Removes unpacked files of images that have no name any more, except those whose digests are in `in_use`:
    /// a deployed function goes on with the image it was deployed with when the name goes to a newer one.
    pub fn prune(&self, in_use: &BTreeSet<String>) -> Result<(), StoreError> {
        let _blobs = self.delete_blobs()?;
        let index = self.read_index()?;
        let named = index.manifests.iter().map(|entry| entry.digest.hex());
        let used = in_use.iter().filter_map(|digest| digest.parse::<Digest>().ok());
        let keep: BTreeSet<String> =
            named.map(str::to_owned).chain(used.map(|digest| digest.hex().to_owned())).collect();
        for name in file_names(&self.unpacked)? {
            if let Some(name) = name.to_str().filter(|name| !keep.contains(*name)) {
                self.discard_unpacked(name)?;
            }
        }
        Ok(())
    }

    fn read_index(&self) -> Result<Index, StoreError> {
        read_document(&self.blobs.beside(INDEX_FILE))
    }

    fn write_index(&self, index: &Index) -> Result<(), IoError> {
        self.blobs.replace(INDEX_FILE, index)
    }

    fn find(&self, reference: &Reference) -> Result<Descriptor, StoreError> {
        let index = self.read_index()?;
        if let Some(entry) = index.manifests.iter().find(|entry| name_of(entry).as_ref() == Some(reference)) {
            return Ok(entry.clone());
        }
        let known: BTreeSet<String> = index.manifests.iter().filter_map(name_of).map(String::from).collect();
        Err(StoreError::UnknownImage { reference: reference.clone(), known: known.into_iter().collect() })
    }

    fn info(&self, reference: &Reference, entry: &Descriptor) -> Result<ImageInfo, StoreError> {
        let manifest = self.manifest(entry).map_err(|error| error.reading(reference))?;
        let blobs = manifest.layers.iter().chain([&manifest.config, entry]);
        let held =
            |annotation| manifest.layers.iter().filter_map(move |layer| layer.annotations.get(annotation).cloned());
        Ok(ImageInfo {
            reference: reference.clone(),
            digest: entry.digest.to_string(),
            size: blobs.map(|blob| blob.size).sum(),
            created: entry.annotations.get(oci::CREATED).and_then(|time| humantime::parse_rfc3339(time).ok()),
            resources: held(oci::RESOURCE).collect(),
            blocks: held(oci::BLOCK).collect(),
            annotations: manifest.annotations,
        })
    }

    /// Reads a manifest and refuses sizes that cannot be meant.
    fn manifest(&self, entry: &Descriptor) -> Result<Manifest, ReadError> {
        if entry.media_type != oci::MANIFEST {
            let found = entry.media_type.clone();
            return Err(ImageError::MediaType { what: "its manifest", found, known: oci::MANIFEST }.into());
        }
        let manifest: Manifest = self.blobs.document(entry, "manifest")?;
        if manifest.layers.len() > LAYERS_MAX {
            return Err(ImageError::TooMany { what: "layers", limit: LAYERS_MAX }.into());
        }
        let size = manifest.layers.iter().fold(0u64, |sum, layer| sum.saturating_add(layer.size));
        check_size("the image", size, IMAGE_MAX)?;
        check_size("its configuration", manifest.config.size, DOCUMENT_MAX)?;
        Ok(manifest)
    }
}

/// The image's name that an index entry carries, if it is one that a user could say.
fn name_of(entry: &Descriptor) -> Option<Reference> {
    entry.annotations.get(oci::REF_NAME)?.parse().ok()
}

/// Reads a document of the layout itself.
fn read_document<T: DeserializeOwned>(path: &Path) -> Result<T, StoreError> {
    let mut content = Vec::new();
    File::open(path)
        .and_then(|file| file.take(DOCUMENT_MAX.bytes() + 1).read_to_end(&mut content))
        .map_err(IoError::on("read", path))?;
    let broken = |source| StoreError::Layout { path: path.to_owned(), source };
    if content.len() as u64 > DOCUMENT_MAX.bytes() {
        return Err(broken(LayoutError::TooLarge(DOCUMENT_MAX)));
    }
    serde_json::from_slice(&content).map_err(|source| broken(LayoutError::Json(source)))
}

/// Names of everything in a folder.
fn file_names(folder: &Path) -> Result<Vec<OsString>, IoError> {
    let entries = fs::read_dir(folder).map_err(IoError::on("list", folder))?;
    entries.map(|entry| Ok(entry.map_err(IoError::on("list", folder))?.file_name())).collect()
}

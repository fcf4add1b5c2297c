//! Makes stores and images for the tests: proper ones through the store, improper ones by writing the layout's
//! files by hand, as a stranger's tool could.

use std::{
    collections::BTreeMap,
    error::Error,
    fs,
    path::{Path, PathBuf},
};

use kernlet_image::{ImageInfo, ImageParts, Reference, Store, StoreError};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

pub(crate) const TAR: &str = "application/vnd.oci.image.layer.v1.tar";

/// A store in a folder of its own.
pub(crate) struct Home {
    pub(crate) folder: TempDir,
    pub(crate) store: Store,
}

pub(crate) fn reference(text: &str) -> Reference {
    text.parse().unwrap()
}

/// The message and those of its sources, as the binary prints them.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// Names of all files and folders in `folder`, sorted.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

impl Home {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        Self { folder, store }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn blobs(&self) -> PathBuf {
        self.path().join("images/blobs/sha256")
    }

    /// Writes a file outside the store, for use as a resource.
    pub(crate) fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    /// Parts with a kernel and resources of this content.
    pub(crate) fn parts(&self, kernel: &[u8], resources: &[(&str, &[u8])]) -> ImageParts {
        ImageParts {
            kernel: kernel.to_vec(),
            resources: resources
                .iter()
                .map(|(name, content)| ((*name).to_owned(), self.file(&format!("source-{name}"), content)))
                .collect(),
            annotations: BTreeMap::from([("dev.kernlet.memory".to_owned(), "16Mi".to_owned())]),
            ..ImageParts::default()
        }
    }

    pub(crate) fn import(&self, name: &str, parts: ImageParts) -> ImageInfo {
        self.store.import(&reference(name), parts, &mut |_| ()).unwrap()
    }

    /// Why `name` cannot be unpacked.
    pub(crate) fn unpack_error(&self, name: &str) -> String {
        let error: StoreError = self.store.unpack(&reference(name)).unwrap_err();
        chain(&error)
    }

    /// Stores a blob as it is and returns its descriptor.
    pub(crate) fn blob(&self, media_type: &str, content: &[u8]) -> Value {
        let hex: String = Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect();
        fs::write(self.blobs().join(&hex), content).unwrap();
        json!({ "mediaType": media_type, "digest": format!("sha256:{hex}"), "size": content.len() })
    }

    fn document(&self, media_type: &str, document: &Value) -> Value {
        self.blob(media_type, document.to_string().as_bytes())
    }

    pub(crate) fn image_config(&self, architecture: &str) -> Value {
        let config =
            json!({ "architecture": architecture, "os": "linux", "rootfs": { "type": "layers", "diff_ids": [] } });
        self.document("application/vnd.oci.image.config.v1+json", &config)
    }

    /// Makes an image with these layers and calls it `name`.
    pub(crate) fn forge(&self, name: &str, layers: &[Value]) {
        self.forge_manifest(
            name,
            &json!({ "schemaVersion": 2, "config": self.image_config("amd64"), "layers": layers }),
        );
    }

    /// Makes an image with this manifest and calls it `name`.
    pub(crate) fn forge_manifest(&self, name: &str, manifest: &Value) {
        let entry = self.document("application/vnd.oci.image.manifest.v1+json", manifest);
        self.forge_entry(name, entry);
    }

    /// Puts an entry into the index and calls it `name`.
    pub(crate) fn forge_entry(&self, name: &str, mut entry: Value) {
        entry["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
        let path = self.path().join("images/index.json");
        let mut index: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        index["manifests"].as_array_mut().unwrap().push(entry);
        fs::write(path, index.to_string()).unwrap();
    }

    /// Makes an image of one layer with this archive and calls it `name`.
    pub(crate) fn forge_archive(&self, name: &str, archive: &[u8]) {
        let layer = self.blob(TAR, archive);
        self.forge(name, &[layer]);
    }
}

/// A tar header whose fields nobody has checked.
pub(crate) fn header(name: &str, kind: tar::EntryType, size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    if matches!(kind, tar::EntryType::Symlink | tar::EntryType::Link) {
        header.set_link_name("/etc/passwd").unwrap();
    }
    header.set_cksum();
    header
}

/// A header with its content, filled up to whole blocks.
pub(crate) fn entry(name: &str, kind: tar::EntryType, content: &[u8]) -> Vec<u8> {
    let mut bytes = header(name, kind, content.len() as u64).as_bytes().to_vec();
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

/// An archive of these entries.
pub(crate) fn archive(entries: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = entries.concat();
    bytes.extend_from_slice(&[0; 1024]);
    bytes
}

/// An archive of these files.
pub(crate) fn files(files: &[(&str, &[u8])]) -> Vec<u8> {
    let entries: Vec<Vec<u8>> =
        files.iter().map(|(name, content)| entry(name, tar::EntryType::Regular, content)).collect();
    archive(&entries)
}

//! From the blobs of an image to files that can be run. Used by the store's unpack. Every blob is checked
//! against its digest before anything in it is looked at.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{
    INCOMPLETE, ImageError, IoError, Store, Unpacked, blobs,
    error::ReadError,
    file_names,
    layer::{BLOCKS, Extractor, KINDS, RESOURCES},
    oci::{self, Descriptor, ImageConfig, Manifest},
};
use crate::FunctionConfig;

impl Store {
    pub(super) fn unpack_entry(&self, entry: &Descriptor) -> Result<Unpacked, ReadError> {
        let manifest = self.manifest(entry)?;
        let config = FunctionConfig::from_annotations(&manifest.annotations).map_err(ImageError::Config)?;
        let folder = self.unpacked.join(entry.digest.hex());
        // A folder of this name is complete: it got the name after its last file.
        if !folder.join("kernel").is_file() {
            self.extract(&manifest, &folder)?;
        }
        let resources = files(&folder.join(RESOURCES.folder))?;
        // What an earlier version has unpacked has no such folder.
        let blocks = folder.join(BLOCKS.folder);
        let blocks = if blocks.is_dir() { files(&blocks)? } else { Vec::new() };
        let kernel = folder.join("kernel");
        Ok(Unpacked { digest: entry.digest.to_string(), kernel, resources, blocks, config })
    }

    fn extract(&self, manifest: &Manifest, folder: &Path) -> Result<(), ReadError> {
        let image: ImageConfig = self.blobs.document(&manifest.config, "configuration")?;
        if image.os != oci::OS || image.architecture != oci::ARCHITECTURE {
            return Err(ImageError::Platform { os: image.os, architecture: image.architecture }.into());
        }
        let incomplete = tempfile::Builder::new()
            .prefix(INCOMPLETE)
            .tempdir_in(&self.unpacked)
            .map_err(IoError::on("create a folder in", &self.unpacked))?;
        let mut extractor = Extractor::new(incomplete.path())?;
        for layer in &manifest.layers {
            extractor.layer(layer, self.blobs.open_checked(layer)?)?;
        }
        extractor.finish()?;
        for kind in &KINDS {
            for name in manifest.layers.iter().filter_map(|layer| layer.annotations.get(kind.annotation)) {
                if !(kind.fits)(name) || !incomplete.path().join(kind.folder).join(name).is_file() {
                    return Err((kind.missing)(name.clone()).into());
                }
            }
        }
        blobs::sync_folder(incomplete.path())?;
        match fs::rename(incomplete.path(), folder) {
            // Somebody else was faster; theirs is as good.
            Err(_) if folder.join("kernel").is_file() => Ok(()),
            renamed => Ok(renamed.map_err(IoError::on("create", folder))?),
        }
    }
}

/// The files of a folder by their names.
fn files(folder: &Path) -> Result<Vec<(String, PathBuf)>, IoError> {
    let names = file_names(folder)?.into_iter().filter_map(|name| name.into_string().ok());
    let mut files: Vec<(String, PathBuf)> = names.map(|name| (name.clone(), folder.join(name))).collect();
    files.sort();
    Ok(files)
}

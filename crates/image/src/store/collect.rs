//! Deleting what nobody needs: blobs that no image leads to, leftovers of killed processes, unpacked files.
//! Used by the store, with `.blobs.lock` held exclusively. It never touches what the index leads to.

use std::{collections::BTreeSet, fs, io, path::Path};

use super::{
    INCOMPLETE, IoError, Store, StoreError,
    error::ReadError,
    file_names,
    oci::{Descriptor, Index, Links},
};

/// How deep indexes may nest in a layout that another tool has written to.
const NESTING_MAX: usize = 4;

impl Store {
    /// Deletes blobs that `index` does not lead to, and what killed processes have left; returns the blobs' bytes.
    pub(super) fn collect(&self, index: &Index) -> Result<u64, StoreError> {
        let mut live = BTreeSet::new();
        for entry in &index.manifests {
            self.mark(entry, NESTING_MAX, &mut live)?;
        }
        let folder = self.blobs.folder();
        let mut freed = 0;
        for name in file_names(&folder)? {
            if name.to_str().is_none_or(|name| !live.contains(name)) {
                let path = folder.join(name);
                freed += fs::metadata(&path).map_err(IoError::on("examine", &path))?.len();
                fs::remove_file(&path).map_err(IoError::on("remove", &path))?;
            }
        }
        let temporary = self.blobs.temporary();
        for name in file_names(&temporary)? {
            let path = temporary.join(name);
            fs::remove_file(&path).map_err(IoError::on("remove", &path))?;
        }
        for name in file_names(&self.unpacked)? {
            if name.to_str().is_some_and(|name| name.starts_with(INCOMPLETE)) {
                remove_folder(&self.unpacked.join(name))?;
            }
        }
        Ok(freed)
    }

    /// Adds the blob of `entry` and all that it leads to.
    fn mark(&self, entry: &Descriptor, depth: usize, live: &mut BTreeSet<String>) -> Result<(), StoreError> {
        live.insert(entry.digest.hex().to_owned());
        let links: Links = match self.blobs.document(entry, "manifest") {
            Ok(links) => links,
            // What a damaged manifest led to, nobody can find any more.
            Err(ReadError::Image(_)) => return Ok(()),
            Err(ReadError::Io(error)) => return Err(error.into()),
        };
        live.extend(links.config.iter().chain(&links.layers).map(|blob| blob.digest.hex().to_owned()));
        if depth > 0 {
            for nested in &links.manifests {
                self.mark(nested, depth - 1, live)?;
            }
        }
        Ok(())
    }

    /// Removes what was unpacked from an image; first its name, so that half of it is never taken for all.
    pub(super) fn discard_unpacked(&self, hex: &str) -> Result<(), IoError> {
        let folder = self.unpacked.join(hex);
        let incomplete = self.unpacked.join(format!("{INCOMPLETE}{hex}"));
        if incomplete.exists() {
            remove_folder(&incomplete)?;
        }
        match fs::rename(&folder, &incomplete) {
            Ok(()) => remove_folder(&incomplete),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(IoError::on("remove", folder)(error)),
        }
    }
}

fn remove_folder(folder: &Path) -> Result<(), IoError> {
    fs::remove_dir_all(folder).map_err(IoError::on("remove", folder))
}

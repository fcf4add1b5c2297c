//! Where functions' templates are kept from one watchdog to the next: one file a function, of its own. The gateway names
//! the file to the watchdog and deletes it with its function. It never reads or writes one.
//!
//! ```text
//! <home>/templates/NAMESPACE/NAME
//! ```

use kernlet_image::{FunctionName, FunctionSpec, Namespace};
use std::collections::BTreeSet;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

/// The folder of saved templates. Deleting it while no gateway runs costs each function one boot.
#[derive(Debug)]
pub(crate) struct Templates {
    folder: PathBuf,
}

impl Templates {
    /// Those of a home.
    pub(crate) fn of(home: &Path) -> Templates {
        Templates { folder: home.join("templates") }
    }

    /// The file of a function, in a folder that exists; none where there can be no folder.
    pub(crate) fn place(&self, spec: &FunctionSpec) -> Option<PathBuf> {
        let folder = self.folder.join(spec.namespace.as_str());
        match DirBuilder::new().recursive(true).mode(0o700).create(&folder) {
            Ok(()) => Some(folder.join(spec.name.as_str())),
            Err(error) => {
                let folder = folder.display();
                tracing::warn!(%error, %folder, "Templates cannot be saved: every start of a function boots it");
                None
            }
        }
    }

    /// Forgets a function's.
    pub(crate) fn remove(&self, name: &FunctionName, namespace: &Namespace) {
        remove(&self.folder.join(namespace.as_str()).join(name.as_str()));
    }

    /// Forgets those of functions other than these, as a gateway that was killed between two steps leaves them.
    pub(crate) fn keep_only(&self, functions: &BTreeSet<(String, String)>) {
        let entries = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten();
        for namespace in entries(&self.folder) {
            for name in entries(&namespace.path()) {
                let text = |name: std::ffi::OsString| name.to_string_lossy().into_owned();
                if !functions.contains(&(text(namespace.file_name()), text(name.file_name()))) {
                    remove(&name.path());
                }
            }
        }
    }
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            let path = path.display();
            tracing::warn!(%error, %path, "A saved template that nothing needs cannot be deleted");
        }
        _ => {}
    }
}

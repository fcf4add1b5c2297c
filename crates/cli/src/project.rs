//! Finds a checkout of Kernlet, with the example functions and the demo's model and pictures.
//! Used by `demo`, which must work from any folder of a checkout. It never looks at the network.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

/// The file by which a checkout is known.
const LANDMARK: &str = "functions/classify/Cargo.toml";

/// Searches upwards from the current folder, then from the program's own.
pub(crate) fn find_root() -> anyhow::Result<PathBuf> {
    let here = std::env::current_dir().context("cannot tell the current folder")?;
    let program = std::env::current_exe().context("cannot tell where this program is")?;
    for start in [here.as_path(), program.as_path()] {
        if let Some(root) = search_upwards(start) {
            return Ok(root.to_path_buf());
        }
    }
    bail!(
        "the demo's functions are not here: no {LANDMARK} in {} or above it, nor above the program itself; \
         run this inside a checkout of Kernlet",
        here.display()
    )
}

fn search_upwards(start: &Path) -> Option<&Path> {
    start.ancestors().find(|folder| folder.join(LANDMARK).is_file())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_checkout_is_found_from_any_of_its_folders() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("models/pictures");
        std::fs::create_dir_all(&deep).unwrap();
        assert_eq!(search_upwards(&deep), None);
        std::fs::create_dir_all(root.path().join("functions/classify")).unwrap();
        std::fs::write(root.path().join(LANDMARK), "").unwrap();
        assert_eq!(search_upwards(&deep), Some(root.path()));
    }
}

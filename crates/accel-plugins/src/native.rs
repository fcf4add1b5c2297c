//! Where libraries that are opened at run time may lie: what the configuration says, what the environment says, and
//! the folders of the system and of Python.
//! Called once a process by the plugins that need a library. Never runs a program, and never looks below a folder's
//! first level but for Python's own layout.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

/// Folders of the system's libraries: Debian's and its kin's first, then those of other distributions.
const SYSTEM: [&str; 6] =
    ["/usr/local/lib", "/usr/lib/x86_64-linux-gnu", "/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib", "/opt/lib"];

/// What of the process's environment decides where to look.
pub(crate) trait Environment {
    /// A variable that is set and not empty.
    fn var(&self, name: &str) -> Option<OsString>;
}

/// The process's own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Process;

impl Environment for Process {
    fn var(&self, name: &str) -> Option<OsString> {
        std::env::var_os(name).filter(|value| !value.is_empty())
    }
}

/// The folders of the system's libraries.
pub(crate) fn system_folders() -> Vec<PathBuf> {
    SYSTEM.iter().map(PathBuf::from).collect()
}

/// Where packages of Python are, best first: of the active virtual environment, of the `python3` on the path, of the
/// user, of the system.
pub(crate) fn python_folders(environment: &impl Environment) -> Vec<PathBuf> {
    let mut roots = Vec::new();
    roots.extend(environment.var("VIRTUAL_ENV").map(PathBuf::from));
    roots.extend(environment.var("PATH").as_deref().and_then(python_root));
    roots.extend(environment.var("HOME").map(|home| PathBuf::from(home).join(".local")));
    roots.extend(["/usr/local", "/usr"].map(PathBuf::from));
    let mut folders = Vec::new();
    for root in roots {
        for folder in python_of(&root) {
            if !folders.contains(&folder) {
                folders.push(folder);
            }
        }
    }
    folders
}

/// The folder above the `bin` that the first `python3` of a search path lies in. A virtual environment's `python3` is
/// a link to the system's, which is why links are not followed.
fn python_root(path: &std::ffi::OsStr) -> Option<PathBuf> {
    let bin = std::env::split_paths(path).find(|folder| folder.join("python3").is_file())?;
    bin.parent().map(Path::to_path_buf)
}

/// Of one root, such as `/usr/local`, the folders that hold packages, the newest Python's first.
fn python_of(root: &Path) -> Vec<PathBuf> {
    let lib = root.join("lib");
    let mut versions: Vec<_> = names(&lib).into_iter().filter(|name| name.starts_with("python3")).collect();
    versions.sort_by_key(|name| std::cmp::Reverse(numbers(name)));
    let packages = |version: &String| ["site-packages", "dist-packages"].map(|kind| lib.join(version).join(kind));
    versions.iter().flat_map(packages).filter(|folder| folder.is_dir()).collect()
}

/// The files of these folders whose name is `stem` or `stem` and a version, such as `libx.so.1.2`: in each folder the
/// highest version first.
pub(crate) fn libraries<'a>(folders: impl IntoIterator<Item = &'a PathBuf>, stem: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in folders {
        let fits = |name: &String| {
            name.strip_prefix(stem).is_some_and(|version| version.is_empty() || version.starts_with('.'))
        };
        let mut files: Vec<_> = names(folder).into_iter().filter(fits).collect();
        files.sort_by_key(|name| std::cmp::Reverse(numbers(name)));
        found.extend(files.into_iter().map(|name| folder.join(name)));
    }
    found
}

/// Why a library is not there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoLibrary {
    /// No file that could be it.
    #[error("found no {name} in {places}; `{remedy}` brings it")]
    NotFound {
        /// The library's name.
        name: String,
        /// Where it was looked for.
        places: String,
        /// What installs it.
        remedy: &'static str,
    },
    /// Files that could be it, of which none is.
    #[error("{reasons}; `{remedy}` brings one that works")]
    NoneFits {
        /// What is wrong with each.
        reasons: String,
        /// What installs it.
        remedy: &'static str,
    },
}

/// Opens the first file that `open` takes: the one that somebody names, which is taken at its word, or of `folders` those
/// called `stem`.
pub(crate) fn open<T>(
    named: Option<&Path>,
    folders: &[PathBuf],
    stem: &str,
    remedy: &'static str,
    open: impl Fn(&Path) -> Result<T, String>,
) -> Result<T, NoLibrary> {
    let (candidates, places) = match named {
        Some(path) => (vec![path.to_owned()], path.display().to_string()),
        None => (
            libraries(folders, stem),
            folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(", "),
        ),
    };
    let candidates: Vec<_> = candidates.into_iter().filter(|path| path.is_file()).collect();
    if candidates.is_empty() {
        return Err(NoLibrary::NotFound { name: stem.to_owned(), places, remedy });
    }
    let mut reasons = Vec::new();
    for path in candidates {
        match open(&path) {
            Ok(opened) => return Ok(opened),
            Err(reason) => reasons.push(format!("{} {reason}", path.display())),
        }
    }
    Err(NoLibrary::NoneFits { reasons: reasons.join("; "), remedy })
}

/// The names in a folder; none where it cannot be read.
fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
}

/// The numbers in a name, so that `1.10` is after `1.9`.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

    use std::collections::HashMap;

    use super::*;

    struct Fake(HashMap<&'static str, OsString>);

    impl Environment for Fake {
        fn var(&self, name: &str) -> Option<OsString> {
            self.0.get(name).cloned()
        }
    }

    fn file(path: &Path) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }

    #[test]
    fn packages_of_python_are_found_the_nearest_environment_first() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        for path in ["venv/lib/python3.9/site-packages/a", "venv/lib/python3.11/site-packages/a"] {
            file(&at(path));
        }
        file(&at("tool/bin/python3"));
        file(&at("tool/lib/python3.12/site-packages/a"));
        file(&at("home/.local/lib/python3.11/site-packages/a"));
        let environment = Fake(HashMap::from([
            ("VIRTUAL_ENV", at("venv").into_os_string()),
            ("PATH", std::env::join_paths([at("nothing"), at("tool/bin")]).unwrap()),
            ("HOME", at("home").into_os_string()),
        ]));
        let found = python_folders(&environment);
        let expected = [
            "venv/lib/python3.11/site-packages",
            "venv/lib/python3.9/site-packages",
            "tool/lib/python3.12/site-packages",
            "home/.local/lib/python3.11/site-packages",
        ];
        assert_eq!(found[..4], expected.map(at));
    }

    #[test]
    fn the_highest_version_of_a_library_comes_first() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["libx.so.1.9.0", "libx.so.1.10.0", "libx.so", "libxy.so.3", "libx.a"] {
            file(&folder.path().join(name));
        }
        let found = libraries(&[folder.path().to_path_buf()], "libx.so");
        assert_eq!(found, ["libx.so.1.10.0", "libx.so.1.9.0", "libx.so"].map(|name| folder.path().join(name)));
    }
}

//! Folders of this process alone, for files that plugins want to find by a path.
//! Made when they are first asked for: in XDG_RUNTIME_DIR where there is one, or else in TMPDIR or /tmp.

use std::{
    ffi::{CStr, CString, OsStr, c_char},
    fs::DirBuilder,
    os::unix::{
        ffi::{OsStrExt as _, OsStringExt as _},
        fs::DirBuilderExt as _,
    },
    path::{Path, PathBuf},
    ptr,
    sync::{Mutex, PoisonError},
};

use crate::{
    errno::{EIO, Errno, Result},
    file::as_path,
};

/// How the names of folders begin that are made in it.
const KINDS: [&str; 2] = [SESSION, RESOURCE];
pub(crate) const SESSION: &str = "session.";
pub(crate) const RESOURCE: &str = "resource.";

/// The folder, once it is made.
static FOLDER: Mutex<Folder> = Mutex::new(Folder { is_there: false, paths: Vec::new() });

struct Folder {
    is_there: bool,
    /// The last is the folder's; those before are kept for good, since C may have pointers to them.
    paths: Vec<CString>,
}

api! {
    fn vaccel_rundir() -> *const c_char {
        crate::core::is_ready();
        with_folder(CStr::as_ptr).unwrap_or(ptr::null())
    }
}

/// Does something with the process's folder, which is made now if it is not there.
fn with_folder<T>(work: impl FnOnce(&CStr) -> T) -> Result<T> {
    let mut folder = FOLDER.lock().unwrap_or_else(PoisonError::into_inner);
    if !folder.is_there {
        let path = make()?;
        debug!("the folder for files of this process is {}", path.to_string_lossy());
        folder.paths.push(path);
        folder.is_there = true;
    }
    folder.paths.last().map(|path| work(path)).ok_or(EIO)
}

/// A folder for a session or a resource.
pub(crate) fn folder_of(kind: &str, id: i64) -> Result<PathBuf> {
    let path = with_folder(|folder| as_path(folder).join(format!("{kind}{id}")))?;
    private(&path).map_err(|error| {
        warn!("cannot make the folder {}: {error}", path.display());
        Errno::from(&error)
    })?;
    Ok(path)
}

/// Removes a folder, which has to be empty.
pub(crate) fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_dir(path) {
        warn!("cannot remove the folder {}: {error}", path.display());
    }
}

/// Removes the process's folder, with what is left in those of sessions and resources that were never released.
pub(crate) fn end() {
    let mut folder = FOLDER.lock().unwrap_or_else(PoisonError::into_inner);
    if !std::mem::take(&mut folder.is_there) {
        return;
    }
    let Some(folder) = folder.paths.last().map(|path| as_path(path)) else { return };
    for entry in folder.read_dir().into_iter().flatten().flatten() {
        let name = entry.file_name();
        let is_ours = KINDS.iter().any(|kind| name.as_bytes().starts_with(kind.as_bytes()));
        if is_ours && let Err(error) = std::fs::remove_dir_all(entry.path()) {
            warn!("cannot remove the folder {}: {error}", entry.path().display());
        }
    }
    remove(folder);
}

fn make() -> Result<CString> {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
    let vaccel = runtime.map(|path| path.join("vaccel"));
    if let Some(vaccel) = vaccel
        && (vaccel.is_dir() || private(&vaccel).is_ok())
        && let Ok(folder) = unique(&vaccel.join("XXXXXX"))
    {
        return Ok(folder);
    }
    unique(&std::env::temp_dir().join("vaccel.XXXXXX")).inspect_err(|errno| {
        let temporary = std::env::temp_dir();
        error!("cannot make a folder in {} ({}); set TMPDIR", temporary.display(), errno.get());
    })
}

/// A new folder for this user alone, with letters of its own for the Xs.
fn unique(template: &Path) -> Result<CString> {
    let template = CString::new(template.as_os_str().to_owned().into_vec()).map_err(|_| EIO)?;
    let mut template = template.into_bytes_with_nul();
    // SAFETY: the call writes letters over the last six before the zero.
    if unsafe { libc::mkdtemp(template.as_mut_ptr().cast()) }.is_null() {
        return Err(Errno::from(&std::io::Error::last_os_error()));
    }
    CString::from_vec_with_nul(template).map_err(|_| EIO)
}

fn private(path: &Path) -> std::io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)
}

/// A path for a field of a struct; empty when it does not fit.
pub(crate) fn write(path: &OsStr, field: &mut [c_char]) {
    let Some((last, room)) = field.split_last_mut() else { return };
    *last = 0;
    let bytes = path.as_bytes();
    let fitting = if bytes.len() <= room.len() { bytes } else { &[] };
    for (to, from) in room.iter_mut().zip(fitting.iter().chain(std::iter::once(&0))) {
        *to = from.cast_signed();
    }
}

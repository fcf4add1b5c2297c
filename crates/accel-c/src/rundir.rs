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

/// The folder, once it is made. The string is kept for good, since C may have a pointer to it.
static FOLDER: Mutex<Option<&'static CStr>> = Mutex::new(None);

api! {
    fn vaccel_rundir() -> *const c_char {
        crate::core::is_ready();
        folder().map_or(ptr::null(), CStr::as_ptr)
    }
}

/// The process's folder, made now if it is not there.
fn folder() -> Result<&'static CStr> {
    let mut folder = FOLDER.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(folder) = *folder {
        return Ok(folder);
    }
    let made: &CStr = Box::leak(make()?.into_boxed_c_str());
    debug!("the folder for files of this process is {}", made.to_string_lossy());
    *folder = Some(made);
    Ok(made)
}

/// A folder for a session or a resource.
pub(crate) fn folder_of(kind: &str, id: i64) -> Result<PathBuf> {
    let path = as_path(folder()?).join(format!("{kind}.{id}"));
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

/// Removes the process's folder.
pub(crate) fn end() {
    let folder = FOLDER.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(folder) = folder {
        remove(as_path(folder));
    }
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

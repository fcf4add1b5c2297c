//! Files: read whole, written anew, removed; and what a path names.
//! Used by blobs and resources. Never follows a file that changes while it is read: what was read is what counts.

use std::{
    ffi::{CStr, OsStr, c_void},
    fs::{File, OpenOptions},
    io::{ErrorKind, Read as _, Write as _},
    os::unix::{
        ffi::OsStrExt as _,
        fs::{FileTypeExt as _, OpenOptionsExt as _},
    },
    path::{Component, Path, PathBuf},
    ptr::{self, NonNull},
};

use crate::{
    errno::{EEXIST, EINVAL, ENOMEM, Errno, Result},
    memory,
    pointer::{Out, Text, out},
};

api! {
    fn fs_file_read(path: Text<'_>, data: Out<'_, *mut c_void>, size: Out<'_, usize>) {
        let (path, data) = (path.required()?, out(data)?);
        let (mut file, len) = open(as_path(path))?;
        let place = memory::zeroed(len)?;
        // SAFETY: the memory is new and of that size.
        let bytes = unsafe { std::slice::from_raw_parts_mut(place.as_ptr().cast::<u8>(), len) };
        if let Err(errno) = fill(&mut file, as_path(path), bytes) {
            // SAFETY: it is the memory from above, which nobody got.
            unsafe { memory::free(place.as_ptr()) };
            return Err(errno);
        }
        data.write(place.as_ptr());
        if let Some(size) = size {
            size.write(len);
        }
        Ok(())
    }
}

/// A C string as a path.
pub(crate) fn as_path(text: &CStr) -> &Path {
    Path::new(OsStr::from_bytes(text.to_bytes()))
}

/// Pages of the process's own with a file's content: what happens to the file later does not matter to them.
#[derive(Debug)]
pub(crate) struct Pages {
    address: NonNull<u8>,
    size: usize,
}

impl Pages {
    /// A file's content.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let (mut file, size) = open(path)?;
        let pages = Self::zeroed(size)?;
        // SAFETY: the pages are new and of that size.
        let bytes = unsafe { std::slice::from_raw_parts_mut(pages.address.as_ptr(), size) };
        fill(&mut file, path, bytes)?;
        Ok(pages)
    }

    fn zeroed(size: usize) -> Result<Self> {
        let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: new pages, wherever the kernel has room.
        let address = unsafe { libc::mmap(ptr::null_mut(), size, access, flags, -1, 0) };
        if address == libc::MAP_FAILED {
            return Err(ENOMEM);
        }
        let address = NonNull::new(address.cast()).ok_or(ENOMEM)?;
        Ok(Self { address, size })
    }

    /// Hands the pages to C, which gives them back to [`unmap`].
    pub(crate) fn into_raw(self) -> (*mut u8, usize) {
        let pages = std::mem::ManuallyDrop::new(self);
        (pages.address.as_ptr(), pages.size)
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the pages are this value's, and nobody else knows them.
        let _ = unsafe { unmap(self.address.as_ptr(), self.size) };
    }
}

/// Gives pages back.
///
/// # Safety
/// They are from [`Pages::into_raw`], and nobody uses them any more.
pub(crate) unsafe fn unmap(address: *mut u8, size: usize) -> Result {
    // SAFETY: as promised by the caller.
    if unsafe { libc::munmap(address.cast(), size) } == 0 { Ok(()) } else { Err(EINVAL) }
}

/// Opens a file that is not empty, and says how long it is.
fn open(path: &Path) -> Result<(File, usize)> {
    let failed = |error: std::io::Error| {
        error!("cannot read {}: {error}", path.display());
        Errno::from(&error)
    };
    // The kind is asked first, since opening a named pipe waits for its other end.
    let kind = path.metadata().map_err(failed)?.file_type();
    if kind.is_dir() || kind.is_fifo() || kind.is_socket() {
        error!("cannot read {}: it is not a file", path.display());
        return Err(EINVAL);
    }
    let file = File::open(path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    if size == 0 {
        error!("cannot read {}: it is empty", path.display());
        return Err(EINVAL);
    }
    Ok((file, usize::try_from(size).map_err(|_| ENOMEM)?))
}

fn fill(file: &mut File, path: &Path, bytes: &mut [u8]) -> Result {
    file.read_exact(bytes).map_err(|error| {
        error!("cannot read {}: {error}", path.display());
        Errno::from(&error)
    })
}

/// Writes a new file in a folder, for this user alone; under another name when the name is taken or `random` is set.
/// The name has to be one: nothing that leads out of the folder.
pub(crate) fn create(folder: &Path, name: &OsStr, random: bool, bytes: &[u8]) -> Result<PathBuf> {
    let mut components = Path::new(name).components();
    if !matches!((components.next(), components.next()), (Some(Component::Normal(part)), None) if part == name) {
        error!("{} cannot name a file", name.display());
        return Err(EINVAL);
    }
    for attempt in 0..u32::MAX {
        let path = if attempt == 0 && !random { folder.join(name) } else { folder.join(with_suffix(name)) };
        let created = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let written = match created {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
            created => created.and_then(|mut file| file.write_all(bytes)),
        };
        return match written {
            Ok(()) => Ok(path),
            Err(error) => {
                error!("cannot write {}: {error}", path.display());
                Err(Errno::from(&error))
            }
        };
    }
    Err(EEXIST)
}

/// A name with something before its extension that no other file of this process has.
fn with_suffix(name: &OsStr) -> PathBuf {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let path = Path::new(name);
    let mut stem = path.file_stem().unwrap_or(name).to_owned();
    stem.push(format!("_{}_{number}", std::process::id()));
    match path.extension() {
        Some(extension) => Path::new(&stem).with_added_extension(extension),
        None => stem.into(),
    }
}

/// The files of a folder and of those in it, in the order of their names.
pub(crate) fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = folder.read_dir().map_err(|error| {
            error!("cannot read the folder {}: {error}", folder.display());
            Errno::from(&error)
        })?;
        for entry in entries {
            let path = entry.map_err(|error| Errno::from(&error))?.path();
            // A link to a folder is not followed, so that none is entered twice.
            let kind = path.symlink_metadata().map_err(|error| Errno::from(&error))?;
            if kind.is_dir() {
                folders.push(path);
            } else if path.is_file() {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

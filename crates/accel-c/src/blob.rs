//! Blobs: files, memory, or memory that a file was read into.
//! Made by C programs and by resources. A file is read when its content is first asked for, and never again.

use std::{
    ffi::{CString, OsStr, c_char},
    mem::MaybeUninit,
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::Path,
    ptr::{self, NonNull},
};

use crate::{
    errno::{EEXIST, EINVAL, ENOENT, Result},
    file::{self, Pages, as_path},
    memory,
    pointer::{Items, ItemsMut, Out, Text, out},
    types::{BLOB_BUFFER, BLOB_FILE, BLOB_MAPPED, BLOB_TYPE_MAX, Blob, Flag},
};

impl Blob {
    const NONE: Self = Self {
        kind: BLOB_TYPE_MAX,
        name: ptr::null_mut(),
        path: ptr::null_mut(),
        path_owned: Flag::NO,
        data: ptr::null_mut(),
        data_owned: Flag::NO,
        size: 0,
    };

    /// A blob of a file.
    pub(crate) fn of_file(path: &Path) -> Result<Self> {
        if !path.is_file() {
            error!("{} is not a file", path.display());
            return Err(EINVAL);
        }
        let name = path.file_name().unwrap_or(path.as_os_str());
        let mut blob = Self { kind: BLOB_FILE, path: text(path.as_os_str())?, ..Self::NONE };
        match text(name) {
            Ok(name) => blob.name = name,
            Err(errno) => {
                blob.discard();
                return Err(errno);
            }
        }
        Ok(blob)
    }

    /// A blob of memory: lent, copied, or in a file of a folder.
    pub(crate) fn of_bytes(bytes: &[u8], own: bool, name: &OsStr, folder: Option<&Path>, random: bool) -> Result<Self> {
        if bytes.is_empty() {
            return Err(EINVAL);
        }
        let mut blob = Self { kind: BLOB_BUFFER, data: bytes.as_ptr().cast_mut(), size: bytes.len(), ..Self::NONE };
        if let Some(folder) = folder {
            blob.persist(folder, name, random)?;
            return Ok(blob);
        }
        blob.name = text(name)?;
        if own {
            match memory::copy(bytes) {
                Ok(copy) => (blob.data, blob.data_owned) = (copy.cast(), Flag::YES),
                Err(errno) => {
                    blob.discard();
                    return Err(errno);
                }
            }
        }
        Ok(blob)
    }

    /// Its content, read when it was not yet.
    pub(crate) fn content(&mut self) -> Result<&[u8]> {
        if self.data.is_null() || self.size == 0 {
            self.read()?;
        }
        self.bytes()
    }

    /// Its content, as far as it is in memory.
    pub(crate) fn bytes(&self) -> Result<&[u8]> {
        // SAFETY: C promises `size` bytes at `data`.
        unsafe { ItemsMut::at(self.data).slice(self.size) }.map(|bytes| &*bytes)
    }

    /// The file it is in.
    pub(crate) fn path(&self) -> Option<&Path> {
        field(self.path)
    }

    /// Its name.
    pub(crate) fn name(&self) -> Option<&OsStr> {
        field(self.name).map(Path::as_os_str)
    }

    fn persist(&mut self, folder: &Path, name: &OsStr, random: bool) -> Result {
        if self.kind >= BLOB_TYPE_MAX || self.data.is_null() || self.size == 0 {
            return Err(EINVAL);
        }
        if !folder.is_dir() {
            error!("{} is not a folder", folder.display());
            return Err(ENOENT);
        }
        if !self.path.is_null() {
            error!("the blob has a file already");
            return Err(EEXIST);
        }
        let path = file::create(folder, name, random, self.bytes()?)?;
        let made = || -> Result<_> {
            let pages = Pages::read(&path)?;
            let named = text(path.file_name().unwrap_or(name))?;
            let path = text(path.as_os_str()).inspect_err(|_| {
                // SAFETY: the name is the copy from above.
                unsafe { memory::free(named) }
            })?;
            Ok((pages, named, path))
        };
        let (pages, named, path) = made().inspect_err(|_| remove(&path))?;
        let old = (self.kind == BLOB_BUFFER && self.data_owned.get()).then_some(self.data);
        // SAFETY: a blob's name is malloc's and the blob's.
        unsafe { memory::free(std::mem::replace(&mut self.name, named)) };
        if let Some(old) = old {
            // SAFETY: owned memory of a buffer is malloc's and the blob's.
            unsafe { memory::free(old) };
        }
        (self.data, self.size) = pages.into_raw();
        (self.path, self.path_owned, self.data_owned) = (path, Flag::YES, Flag::YES);
        self.kind = BLOB_MAPPED;
        Ok(())
    }

    fn read(&mut self) -> Result {
        if self.kind >= BLOB_TYPE_MAX {
            return Err(EINVAL);
        }
        if !self.data.is_null() {
            return Ok(());
        }
        let pages = Pages::read(self.path().ok_or(EINVAL)?)?;
        (self.data, self.size) = pages.into_raw();
        (self.kind, self.data_owned) = (BLOB_MAPPED, Flag::YES);
        Ok(())
    }

    /// Gives back all that it owns.
    pub(crate) fn release(&mut self) -> Result {
        if self.kind >= BLOB_TYPE_MAX {
            error!("a blob that is none cannot be released");
            return Err(EINVAL);
        }
        if self.path_owned.get()
            && let Some(path) = self.path()
        {
            remove(path);
        }
        self.discard();
        Ok(())
    }

    /// Gives back all that it owns but its file.
    fn discard(&mut self) {
        if self.data_owned.get() && !self.data.is_null() {
            match self.kind {
                // SAFETY: owned memory of this type is from `Pages` and the blob's.
                BLOB_MAPPED => _ = unsafe { file::unmap(self.data, self.size) },
                // SAFETY: owned memory of this type is malloc's and the blob's.
                BLOB_BUFFER => unsafe { memory::free(self.data) },
                _ => {}
            }
        }
        // SAFETY: a blob's name is malloc's and the blob's.
        unsafe { memory::free(self.name) };
        // SAFETY: as is its path.
        unsafe { memory::free(self.path) };
        *self = Self::NONE;
    }

    /// Whether it has a name, and data or a file.
    pub(crate) fn is_valid(&self) -> bool {
        let has_data = !self.data.is_null() && self.size > 0;
        self.kind < BLOB_TYPE_MAX && !self.name.is_null() && (has_data || !self.path.is_null())
    }
}

api! {
    fn vaccel_blob_persist(blob: Option<&mut Blob>, folder: Text<'_>, name: Text<'_>, random: Flag) {
        let (blob, name) = (blob.ok_or(EINVAL)?, name.required()?);
        let folder = folder.get().ok_or(ENOENT)?;
        blob.persist(as_path(folder), as_path(name).as_os_str(), random.get())
    }

    fn vaccel_blob_init(blob: Out<'_, Blob>, path: Text<'_>) {
        init(out(blob)?, path)
    }

    fn vaccel_blob_init_from_buf(
        blob: Out<'_, Blob>,
        buf: Items<'_, u8>,
        size: usize,
        own: Flag,
        name: Text<'_>,
        folder: Text<'_>,
        random: Flag,
    ) {
        init_from_buf(out(blob)?, buf, size, own, name, folder, random)
    }

    fn vaccel_blob_release(blob: Option<&mut Blob>) {
        blob.ok_or(EINVAL)?.release()
    }

    fn vaccel_blob_new(blob: Out<'_, *mut Blob>, path: Text<'_>) {
        memory::new(blob, |blob| init(blob, path))
    }

    fn vaccel_blob_from_buf(
        blob: Out<'_, *mut Blob>,
        buf: Items<'_, u8>,
        size: usize,
        own: Flag,
        name: Text<'_>,
        folder: Text<'_>,
        random: Flag,
    ) {
        memory::new(blob, |blob| init_from_buf(blob, buf, size, own, name, folder, random))
    }

    fn vaccel_blob_delete(blob: Option<NonNull<Blob>>) {
        memory::delete(blob, Blob::release)
    }

    fn vaccel_blob_read(blob: Option<&mut Blob>) {
        blob.ok_or(EINVAL)?.read()
    }

    fn vaccel_blob_data(blob: Option<&mut Blob>, size: Out<'_, usize>) -> *mut u8 {
        let Some(blob) = blob.filter(|blob| blob.kind < BLOB_TYPE_MAX) else { return ptr::null_mut() };
        let len = match blob.content() {
            Ok(content) => content.len(),
            Err(_) => return ptr::null_mut(),
        };
        if let Some(size) = size {
            size.write(len);
        }
        blob.data
    }

    fn vaccel_blob_path(blob: Option<&Blob>) -> *const c_char {
        let in_file = |blob: &&Blob| matches!(blob.kind, BLOB_FILE | BLOB_MAPPED);
        blob.filter(in_file).map_or(ptr::null(), |blob| blob.path.cast_const())
    }

    fn vaccel_blob_valid(blob: Option<&Blob>) -> bool {
        blob.is_some_and(Blob::is_valid)
    }
}

fn init(blob: &mut MaybeUninit<Blob>, path: Text<'_>) -> Result {
    blob.write(Blob::of_file(as_path(path.required()?))?);
    Ok(())
}

fn init_from_buf(
    blob: &mut MaybeUninit<Blob>,
    buf: Items<'_, u8>,
    size: usize,
    own: Flag,
    name: Text<'_>,
    folder: Text<'_>,
    random: Flag,
) -> Result {
    if buf.is_null() {
        return Err(EINVAL);
    }
    // SAFETY: C gave `size` with `buf`.
    let bytes = unsafe { buf.slice(size) }?;
    let name = as_path(name.required()?).as_os_str();
    blob.write(Blob::of_bytes(bytes, own.get(), name, folder.get().map(as_path), random.get())?);
    Ok(())
}

fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_file(path) {
        warn!("cannot remove {}: {error}", path.display());
    }
}

/// A copy of a name or a path for C.
pub(crate) fn text(text: &OsStr) -> Result<*mut c_char> {
    let text = CString::new(text.to_owned().into_vec()).map_err(|_| EINVAL)?;
    memory::copy_text(&text)
}

/// What a string of a struct says.
fn field<'a>(text: *mut c_char) -> Option<&'a Path> {
    if text.is_null() {
        return None;
    }
    // SAFETY: C promises that strings in structs end with a zero.
    let text = unsafe { std::ffi::CStr::from_ptr(text) };
    Some(Path::new(OsStr::from_bytes(text.to_bytes())))
}

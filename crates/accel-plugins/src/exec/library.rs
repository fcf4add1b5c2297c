//! A library that is opened from memory: sealed files without a name, which nobody can change under it.
//! Called by the plugin for libraries that are allowed. Never finds a function in another library, such as C's own.
#![allow(unsafe_code, reason = "opening a library and finding a function take pointers")]

use std::{
    ffi::{CStr, CString, c_int, c_void},
    fs::File,
    io::Write as _,
    os::fd::{AsRawFd as _, OwnedFd},
    sync::atomic::{AtomicU64, Ordering},
};

use elf::{ElfBytes, endian::NativeEndian};
use kernlet_accel::ResourceFile;
use libloading::os::unix;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

use super::call::Function;

/// A library, open, with those that it needs.
#[derive(Debug)]
pub(super) struct Library {
    main: Opened,
    /// Closed after it.
    _needed: Vec<Opened>,
}

#[derive(Debug)]
struct Opened {
    library: unix::Library,
    path: CString,
    /// Keeps the descriptor's number, and with it the path, from being another file's.
    _file: OwnedFd,
}

impl Library {
    /// Opens the last of these files, and those before it so that it finds their functions.
    pub(super) fn open(files: &[ResourceFile], bind_now: bool) -> Result<Self, String> {
        let (main, needed) = files.split_last().ok_or("it has no file")?;
        let bind = if bind_now { unix::RTLD_NOW } else { unix::RTLD_LAZY };
        let needed = needed.iter().map(|file| Opened::new(file, bind | unix::RTLD_GLOBAL)).collect::<Result<_, _>>()?;
        Ok(Self { main: Opened::new(main, bind | unix::RTLD_LOCAL)?, _needed: needed })
    }

    /// The function of a name, if it is this library's own: a handle finds those of the libraries that it needs as well,
    /// `system` and `abort` among them.
    pub(super) fn function(&self, name: &str) -> Result<Function<'_>, String> {
        let missing = || format!("the library has no function `{}`", name.escape_debug());
        // SAFETY: the type is vAccel's for every function that is called this way, which is what a library that the host
        // allows is for.
        let function =
            unsafe { self.main.library.get::<super::call::Callee>(name.as_bytes()) }.map_err(|_| missing())?;
        let address = *function as *const c_void;
        let mut info = libc::Dl_info {
            dli_fname: std::ptr::null(),
            dli_fbase: std::ptr::null_mut(),
            dli_sname: std::ptr::null(),
            dli_saddr: std::ptr::null_mut(),
        };
        // SAFETY: any address may be asked about; the answer goes to a structure of ours.
        let found = unsafe { libc::dladdr(address, &raw mut info) };
        if found == 0 || info.dli_fname.is_null() {
            return Err(missing());
        }
        // SAFETY: the linker's own string of a library that is open.
        let of = unsafe { CStr::from_ptr(info.dli_fname) };
        if of != self.main.path.as_c_str() {
            return Err(missing());
        }
        Ok(Function::new(function))
    }
}

impl Opened {
    fn new(file: &ResourceFile, flags: c_int) -> Result<Self, String> {
        is_whole(&file.bytes)?;
        let sealed = sealed(&file.bytes).map_err(|error| format!("no memory can be had for it: {error}"))?;
        let path = unique_path(&sealed);
        // SAFETY: opening a library runs its constructors. The host allowed exactly these bytes, and the seals keep them
        // from changing.
        let library = unsafe { unix::Library::open(Some(&path), flags) }.map_err(|error| error.to_string())?;
        let path = CString::new(path).map_err(|error| error.to_string())?;
        Ok(Self { library, path, _file: sealed })
    }
}

/// Goes on if a file holds all that the linker will map of it: it maps beyond the end of one that was cut short, and the
/// process ends where it reads that.
fn is_whole(bytes: &[u8]) -> Result<(), String> {
    let broken = || "it is no library, or not a whole one".to_owned();
    let file = ElfBytes::<NativeEndian>::minimal_parse(bytes).map_err(|_| broken())?;
    for segment in file.segments().ok_or_else(broken)? {
        let end = segment.p_offset.checked_add(segment.p_filesz).ok_or_else(broken)?;
        if end > bytes.len() as u64 {
            return Err(broken());
        }
    }
    Ok(())
}

fn sealed(bytes: &[u8]) -> std::io::Result<OwnedFd> {
    let memory = memfd_create("kernlet-exec", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut file = File::from(memory);
    file.write_all(bytes)?;
    fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
    Ok(file.into())
}

/// A path of the file that no library had before: the linker takes one of the same path for the same library, even
/// where its file was closed long ago. A number is written into it in slashes that change nothing.
fn unique_path(file: &OwnedFd) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let slashes: String = (0..u64::BITS).map(|bit| if number >> bit & 1 == 1 { "/." } else { "/" }).collect();
    format!("/proc/self/fd{slashes}/{}", file.as_raw_fd())
}

//! Finds ONNX Runtime's library, opens it, and makes the one environment that a process may have.
//! Called when the plugin is made. Never panics and never ends the process: what is missing, too old or broken is a
//! reason in words.
#![allow(
    unsafe_code,
    reason = "asking a library for its version, and for an arena with a limit, takes its C functions"
)]

use std::{
    ffi::CStr,
    panic::catch_unwind,
    path::{Path, PathBuf},
    ptr,
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use ort::{
    AsPointer as _,
    environment::{Environment, GlobalThreadPoolOptions},
    memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType},
    sys,
};

use super::{
    OnnxRuntimeOptions,
    providers::{self, Selection},
};
use crate::native::{self, NoLibrary};

/// The oldest ONNX Runtime that has every function that is called.
const MINOR_VERSION_MIN: u32 = sys::ORT_API_VERSION;

/// Why there is no ONNX Runtime.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Unavailable {
    /// There is no library, or none that works.
    #[error(transparent)]
    NoLibrary(#[from] NoLibrary),
    /// The library opens and does not start.
    #[error("{} does not start: {reason}", path.display())]
    DoesNotStart {
        /// The library.
        path: PathBuf,
        /// What it says.
        reason: String,
    },
}

/// ONNX Runtime, open and started.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) environment: Environment,
    pub(super) path: PathBuf,
    pub(super) version: String,
    pub(super) selection: Selection,
}

/// A library can have one environment, and it is never closed: threads and models refer to it. Who comes later gets
/// what is there, whatever its own options say.
static OPENED: Mutex<Option<Arc<Opened>>> = Mutex::new(None);

/// The process's ONNX Runtime; the first call opens it.
pub(super) fn open(options: &OnnxRuntimeOptions) -> Result<Arc<Opened>, Unavailable> {
    let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(opened) = &*opened {
        return Ok(Arc::clone(opened));
    }
    let (path, version) = find(options, &native::Process)?;
    let selection = |reason: String| Unavailable::DoesNotStart { path: path.clone(), reason };
    // The crate panics where a library gives no functions of the version that it was asked for, and in its defaults.
    let (environment, providers) = catch_unwind(|| start(&path, options))
        .map_err(|_| selection("it broke while it started".to_owned()))?
        .map_err(selection)?;
    let started = Arc::new(Opened { environment, path, version, selection: providers });
    *opened = Some(Arc::clone(&started));
    Ok(started)
}

/// The library's file and version.
fn find(options: &OnnxRuntimeOptions, environment: &impl native::Environment) -> Result<(PathBuf, String), NoLibrary> {
    let named = options.library.clone().or_else(|| environment.var("ORT_DYLIB_PATH").map(PathBuf::from));
    let mut folders: Vec<_> =
        native::python_folders(environment).into_iter().map(|folder| folder.join("onnxruntime/capi")).collect();
    folders.extend(native::system_folders());
    native::open(named.as_deref(), &folders, "libonnxruntime.so", super::REMEDY, |path| {
        let version = version(path)?;
        if minor(&version) < Some(MINOR_VERSION_MIN) {
            return Err(format!("is ONNX Runtime {version}, and 1.{MINOR_VERSION_MIN} is the oldest that works"));
        }
        Ok((path.to_owned(), version))
    })
}

/// The minor version of `1.x.y`; `None` of any other major version.
fn minor(version: &str) -> Option<u32> {
    let mut numbers = version.split('.').map(str::parse);
    match (numbers.next()?, numbers.next()?) {
        (Ok(1), Ok(minor)) => Some(minor),
        _ => None,
    }
}

/// What a library says that its version is, once it is sure that it has the functions that are called.
fn version(path: &Path) -> Result<String, String> {
    // SAFETY: opening a library runs its constructors. It is a file that the operator installed or named, as
    // trustworthy as the libraries that the program is linked with.
    let library = unsafe { libloading::Library::new(path) }.map_err(|error| format!("cannot be opened: {error}"))?;
    // SAFETY: a library that exports this name is ONNX Runtime, whose header gives the function this type.
    let base = unsafe { library.get::<unsafe extern "C" fn() -> *const sys::OrtApiBase>(b"OrtGetApiBase") }
        .map_err(|_| "is not ONNX Runtime: it has no OrtGetApiBase".to_owned())?;
    // SAFETY: the function takes nothing and may be called at any time.
    let base = unsafe { base() };
    // SAFETY: it gives null or a constant of the library, which is open until the end of this function.
    let base = unsafe { base.as_ref() }.ok_or("gives no functions")?;
    // SAFETY: a function of that constant, which gives a constant, terminated string or null.
    let version = unsafe { (base.GetVersionString)() };
    if version.is_null() {
        return Err("does not say its version".to_owned());
    }
    // SAFETY: not null, and therefore such a string.
    let version = unsafe { CStr::from_ptr(version) }.to_string_lossy().into_owned();
    // SAFETY: any number may be asked for; null is the answer to one that the library does not have.
    if minor(&version) >= Some(MINOR_VERSION_MIN) && unsafe { (base.GetApi)(MINOR_VERSION_MIN) }.is_null() {
        return Err(format!("is ONNX Runtime {version}, but lacks the functions of 1.{MINOR_VERSION_MIN}"));
    }
    Ok(version)
}

/// What keeps the library from writing down and sending what it is used for. Its own call for that comes too late: from
/// 1.32 on, it begins with the environment.
const NO_TELEMETRY: &str = "ORT_DISABLE_TELEMETRY";

fn start(path: &Path, options: &OnnxRuntimeOptions) -> Result<(Environment, Selection), String> {
    if std::env::var_os(NO_TELEMETRY).is_none() {
        // SAFETY: it happens once in a process, when the library is opened, which programs do before they do anything else
        // with accelerators. What reads or changes variables at that very moment without Rust's lock must be ruled out by
        // the program, as the description of the plugin says.
        #[allow(clippy::disallowed_methods, reason = "the library reads it there and nowhere else")]
        unsafe {
            std::env::set_var(NO_TELEMETRY, "1");
        };
    }
    let builder = ort::init_from(path).map_err(|error| error.to_string())?;
    let threads = options.threads.map_or_else(|| thread::available_parallelism().map_or(1, usize::from), usize::from);
    // One pool for all models, so that many of them do not make many threads; and no thread that has nothing to do
    // keeps a processor, which machines need.
    let pool = GlobalThreadPoolOptions::default()
        .with_intra_threads(threads)
        .and_then(|pool| pool.with_inter_threads(1))
        .and_then(|pool| pool.with_spin_control(options.spin))
        .map_err(|error| error.message().to_owned())?;
    // What it would log comes back as an error as well, and a model's author chooses words of it.
    let silent = std::sync::Arc::new(|_: ort::logging::LogLevel, _: &str, _: &str, _: &str, _: &str| {});
    let environment = builder
        .with_name("kernlet")
        .with_telemetry(false)
        .with_global_thread_pool(pool)
        .with_logger(silent)
        .build()
        .map_err(|error| error.message().to_owned())?;
    limit_memory(&environment, options.memory_max).map_err(|error| error.message().to_owned())?;
    let selection = providers::probe(&environment, &options.providers);
    Ok((environment, selection))
}

/// Gives all models one arena of at most so many bytes, so that a model cannot ask for all of the host's memory.
fn limit_memory(environment: &Environment, bytes: usize) -> ort::Result<()> {
    /// Grow by what is asked for, and not by powers of two: a limit is met late.
    const SAME_AS_REQUESTED: i32 = 1;
    const DEFAULT: i32 = -1;
    let api = ort::api();
    let memory = MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Arena, MemoryType::Default)?;
    let mut arena = ptr::null_mut();
    // SAFETY: the function of the library that is open, with room for its result.
    let status = unsafe { (api.CreateArenaCfg)(bytes, SAME_AS_REQUESTED, DEFAULT, DEFAULT, &raw mut arena) };
    // SAFETY: a status that the library just gave, which is taken over.
    unsafe { ort::Error::result_from_status(status) }?;
    // SAFETY: environment and memory are the library's own and alive; it copies what the arena's description says.
    let status = unsafe { (api.CreateAndRegisterAllocator)(environment.ptr().cast_mut(), memory.ptr(), arena) };
    // SAFETY: made above, released once.
    unsafe { (api.ReleaseArenaCfg)(arena) };
    // SAFETY: a status that the library just gave, which is taken over.
    unsafe { ort::Error::result_from_status(status) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

    use std::{collections::HashMap, ffi::OsString, fs};

    use super::*;

    struct Fake(HashMap<&'static str, OsString>);

    impl native::Environment for Fake {
        fn var(&self, name: &str) -> Option<OsString> {
            self.0.get(name).cloned()
        }
    }

    #[test]
    fn the_library_is_looked_for_where_pip_puts_it_and_where_somebody_says() {
        let root = tempfile::tempdir().unwrap();
        let capi = root.path().join("lib/python3.11/site-packages/onnxruntime/capi");
        fs::create_dir_all(&capi).unwrap();
        fs::write(capi.join("libonnxruntime.so.1.31.1"), "no library").unwrap();
        fs::write(capi.join("libonnxruntime_providers_shared.so"), "no library").unwrap();
        let venv = Fake(HashMap::from([("VIRTUAL_ENV", root.path().as_os_str().to_owned())]));
        // A machine may have a good one elsewhere.
        if let Err(error) = find(&OnnxRuntimeOptions::default(), &venv) {
            let file = capi.join("libonnxruntime.so.1.31.1");
            assert!(error.to_string().contains(&format!("{} cannot be opened", file.display())), "{error}");
            assert!(!error.to_string().contains("providers_shared"), "{error}");
        }
        // What somebody says is taken at its word: no other library instead.
        let said = Fake(HashMap::from([("ORT_DYLIB_PATH", "/nowhere/mine.so".into())]));
        let error = find(&OnnxRuntimeOptions::default(), &said).unwrap_err();
        assert!(error.to_string().contains("/nowhere/mine.so"), "{error}");
        let configured = OnnxRuntimeOptions { library: Some("/nowhere/x.so".into()), ..OnnxRuntimeOptions::default() };
        let error = find(&configured, &said).unwrap_err();
        assert!(error.to_string().contains("/nowhere/x.so"), "{error}");
    }

    #[test]
    fn what_is_no_onnx_runtime_is_refused_with_a_reason() {
        // A library that every Linux has, and that is none of ours.
        let other = OnnxRuntimeOptions {
            library: Some("/lib/x86_64-linux-gnu/libm.so.6".into()),
            ..OnnxRuntimeOptions::default()
        };
        let error = find(&other, &native::Process).unwrap_err().to_string();
        assert!(error.contains("no OrtGetApiBase") && error.contains("pip install onnxruntime"), "{error}");
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        assert_eq!(minor("1.9.0"), Some(9));
        assert!(minor("1.100.0-dev") > minor("1.31.1"));
        assert_eq!(minor("2.0.0"), None);
        assert_eq!(minor("one"), None);
    }
}

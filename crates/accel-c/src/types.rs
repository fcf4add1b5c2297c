//! The structs of the C API, laid out as vAccel 0.8.0 has them on x86-64.
//! Read and written by C programs and plugins as much as by us. Every bit pattern is valid in every field.

use std::{
    ffi::{c_char, c_int, c_uint, c_void},
    sync::atomic::AtomicU32,
};

/// A `bool` that C wrote: whatever is not zero is true.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flag(u8);

impl Flag {
    pub(crate) const NO: Self = Self(0);
    pub(crate) const YES: Self = Self(1);

    pub(crate) const fn get(self) -> bool {
        self.0 != 0
    }
}

impl From<bool> for Flag {
    fn from(flag: bool) -> Self {
        Self(flag.into())
    }
}

/// The numbers that end enumerations.
pub(crate) const RESOURCE_TYPES: usize = 3;
pub(crate) const BLOB_TYPE_MAX: u32 = 3;
pub(crate) const OPERATIONS: usize = 24;

/// `VACCEL_RESOURCE_*`
pub(crate) const RESOURCE_LIB: u32 = 0;
pub(crate) const RESOURCE_DATA: u32 = 1;
pub(crate) const RESOURCE_MODEL: u32 = 2;

/// `VACCEL_BLOB_*`
pub(crate) const BLOB_FILE: u32 = 0;
pub(crate) const BLOB_BUFFER: u32 = 1;
pub(crate) const BLOB_MAPPED: u32 = 2;

/// `VACCEL_PATH_*`
pub(crate) const PATH_LOCAL_FILE: u32 = 0;
pub(crate) const PATH_LOCAL_DIR: u32 = 1;
pub(crate) const PATH_REMOTE_FILE: u32 = 2;

/// `VACCEL_PLUGIN_REMOTE`
pub(crate) const PLUGIN_REMOTE: u32 = 0x4000;

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arg {
    pub buf: *mut c_void,
    pub size: usize,
    pub kind: u32,
    pub custom_type_id: u32,
    pub owned: Flag,
}

#[repr(C)]
#[derive(Debug)]
pub(crate) struct ArgArray {
    pub args: *mut Arg,
    pub count: usize,
    pub capacity: usize,
    pub position: usize,
    pub owned: Flag,
}

#[repr(C)]
#[derive(Debug)]
pub(crate) struct ArgList {
    pub size: u32,
    pub list: *mut Arg,
    pub curr_idx: c_int,
    pub allocated: *mut c_int,
}

#[repr(C)]
#[derive(Debug)]
pub(crate) struct Blob {
    pub kind: u32,
    pub name: *mut c_char,
    pub path: *mut c_char,
    pub path_owned: Flag,
    pub data: *mut u8,
    pub data_owned: Flag,
    pub size: usize,
}

#[repr(C)]
#[derive(Debug)]
pub(crate) struct Config {
    pub plugins: *mut c_char,
    pub log_level: u32,
    pub log_file: *mut c_char,
    pub profiling_enabled: Flag,
    pub version_ignore: Flag,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct ListEntry {
    pub next: *mut Self,
    pub prev: *mut Self,
}

#[repr(C)]
pub(crate) struct Resource {
    pub id: i64,
    pub remote_id: i64,
    pub kind: u32,
    pub path_kind: u32,
    pub paths: *mut *mut c_char,
    pub nr_paths: usize,
    pub rundir: *mut c_char,
    pub blobs: *mut *mut Blob,
    pub nr_blobs: usize,
    pub entry: ListEntry,
    pub sessions: ListEntry,
    pub sessions_lock: libc::pthread_mutex_t,
    pub refcount: AtomicU32,
    pub plugin_priv: *mut c_void,
}

pub(crate) const RUNDIR_MAX: usize = libc::PATH_MAX as usize;

#[repr(C)]
pub(crate) struct Session {
    pub id: i64,
    pub remote_id: i64,
    pub hint: c_uint,
    pub is_virtio: Flag,
    pub rundir: [c_char; RUNDIR_MAX],
    pub entry: ListEntry,
    pub resources: [ListEntry; RESOURCE_TYPES],
    pub resource_counts: [usize; RESOURCE_TYPES],
    pub resources_lock: libc::pthread_mutex_t,
    pub plugin: *mut Plugin,
    pub private: *mut c_void,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Op {
    pub kind: u32,
    pub func: *mut c_void,
    pub owner: *mut Plugin,
}

#[repr(C)]
#[derive(Debug)]
pub(crate) struct Plugin {
    pub dl_handle: *mut c_void,
    pub entry: ListEntry,
    pub ops: [*mut Op; OPERATIONS],
    pub info: *mut PluginInfo,
}

pub(crate) type OnSession = Option<unsafe extern "C" fn(*mut Session) -> c_int>;
pub(crate) type OnSessionFlags = Option<unsafe extern "C" fn(*mut Session, u32) -> c_int>;
pub(crate) type OnResource = Option<unsafe extern "C" fn(*mut Resource, *mut Session) -> c_int>;

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct PluginInfo {
    pub name: *const c_char,
    pub version: *const c_char,
    pub vaccel_version: *const c_char,
    pub init: Option<unsafe extern "C" fn() -> c_int>,
    pub fini: Option<unsafe extern "C" fn() -> c_int>,
    pub is_virtio: Flag,
    pub kind: u32,
    pub session_init: OnSessionFlags,
    pub session_release: OnSession,
    pub session_update: OnSessionFlags,
    pub resource_register: OnResource,
    pub resource_unregister: OnResource,
    pub resource_sync: OnResource,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub start: u64,
    pub time: u64,
}

#[repr(C)]
#[derive(Debug)]
pub(crate) struct Region {
    pub name: *const c_char,
    pub name_owned: Flag,
    pub nr_entries: usize,
    pub samples: *mut Sample,
    pub size: usize,
}

/// TensorFlow's, TensorFlow Lite's and PyTorch's tensors: the same but for the types of the dimensions.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Tensor<Rank, Dim> {
    pub data: *mut c_void,
    pub size: usize,
    pub owned: Flag,
    pub nr_dims: Rank,
    pub dims: *mut Dim,
    pub data_type: u32,
}

pub(crate) type TfTensor = Tensor<c_int, i64>;
pub(crate) type TfliteTensor = Tensor<c_int, i32>;
pub(crate) type TorchTensor = Tensor<i64, i64>;

/// TensorFlow's and PyTorch's buffers.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Buffer {
    pub data: *mut c_void,
    pub size: usize,
}

#[repr(C)]
#[derive(Debug)]
pub(crate) struct TfNode {
    pub name: *mut c_char,
    pub id: c_int,
}

#[repr(C)]
#[derive(Debug)]
pub(crate) struct TfStatus {
    pub code: u8,
    pub message: *mut c_char,
}

/// What slog's configuration holds; of the four flags of a bit each, in `flags`, none is looked at.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct SlogConfig {
    pub file_name: [c_char; 256],
    pub file_path: [c_char; 2048],
    pub color: u32,
    pub flags: u8,
    pub levels: u16,
}

/// The sizes that programs were compiled with.
const _: () = {
    assert!(size_of::<Arg>() == 32);
    assert!(size_of::<ArgArray>() == 40);
    assert!(size_of::<ArgList>() == 32);
    assert!(size_of::<Blob>() == 56);
    assert!(size_of::<Config>() == 32);
    assert!(size_of::<Resource>() == 152);
    assert!(size_of::<Session>() == 4264);
    assert!(size_of::<Op>() == 24);
    assert!(size_of::<Plugin>() == 224);
    assert!(size_of::<PluginInfo>() == 96);
    assert!(size_of::<Region>() == 40);
    assert!(size_of::<TfTensor>() == 40);
    assert!(size_of::<TfliteTensor>() == 40);
    assert!(size_of::<TorchTensor>() == 48);
    assert!(size_of::<Buffer>() == 16);
    assert!(size_of::<TfNode>() == 16);
    assert!(size_of::<TfStatus>() == 16);
    assert!(size_of::<SlogConfig>() == 2312);
};

/// The places of fields that padding could move.
const _: () = {
    assert!(std::mem::offset_of!(Arg, custom_type_id) == 20);
    assert!(std::mem::offset_of!(Blob, size) == 48);
    assert!(std::mem::offset_of!(Session, rundir) == 21);
    assert!(std::mem::offset_of!(Session, entry) == 4120);
    assert!(std::mem::offset_of!(Session, plugin) == 4248);
    assert!(std::mem::offset_of!(Resource, sessions_lock) == 96);
    assert!(std::mem::offset_of!(Resource, refcount) == 136);
    assert!(std::mem::offset_of!(PluginInfo, kind) == 44);
    assert!(std::mem::offset_of!(TorchTensor, dims) == 32);
    assert!(std::mem::offset_of!(SlogConfig, levels) == 2310);
};

//! OpenBLAS's library, opened at run time, and the one function of it that multiplies.
//! Called by the plugin with matrices that fit each other. Never sees a size that was not checked: the types [`Matrix`]
//! and [`MatrixMut`] exist only for elements that hold all their rows.
#![allow(unsafe_code, reason = "the library has C functions")]

use std::{
    ffi::{CStr, c_char, c_float, c_int},
    fmt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use kernlet_accel::operation::{Matrix, MatrixMut};

/// `cblas_sgemm`, with the 32-bit integers of Debian's and most other builds.
type Sgemm = unsafe extern "C" fn(
    order: c_int,
    transpose_a: c_int,
    transpose_b: c_int,
    m: c_int,
    n: c_int,
    k: c_int,
    alpha: c_float,
    a: *const c_float,
    lda: c_int,
    b: *const c_float,
    ldb: c_int,
    beta: c_float,
    c: *mut c_float,
    ldc: c_int,
);

/// CBLAS's constants: row-major, and not transposed.
const ROW_MAJOR: c_int = 101;
const NO_TRANSPOSE: c_int = 111;

/// The library, open.
pub(super) struct Library {
    pub(super) path: PathBuf,
    /// What it was built as, such as `OpenBLAS 0.3.21 ... Haswell`.
    pub(super) config: String,
    sgemm: Sgemm,
    /// One product at a time: it uses all threads, and a library ends the process when too many call at once for the
    /// buffers that it was built with.
    turn: Mutex<()>,
    /// Keeps the functions where they are.
    _library: libloading::Library,
}

impl Library {
    /// Opens a file that could be the library.
    pub(super) fn open(path: &Path, threads: usize) -> Result<Self, String> {
        // SAFETY: opening a library runs its constructors. It is a file that the operator installed or named, as
        // trustworthy as the libraries that the program is linked with.
        let library =
            unsafe { libloading::Library::new(path) }.map_err(|error| format!("cannot be opened: {error}"))?;
        // A library without these two is another BLAS, whose integers may be wider.
        // SAFETY: OpenBLAS gives this function this type.
        let set_threads = unsafe { library.get::<unsafe extern "C" fn(c_int)>(b"openblas_set_num_threads") }
            .map_err(|_| "is not OpenBLAS: it has no openblas_set_num_threads".to_owned())?;
        let config = text_of(&library, b"openblas_get_config").ok_or("is not OpenBLAS: it does not say its version")?;
        if config.contains("USE64BITINT") {
            return Err("is a build with 64-bit integers".to_owned());
        }
        // SAFETY: CBLAS gives this function this type, where integers are those of 32 bits.
        let sgemm = *unsafe { library.get::<Sgemm>(b"cblas_sgemm") }.map_err(|_| "has no cblas_sgemm".to_owned())?;
        // SAFETY: any positive number may be set.
        unsafe { set_threads(c_int::try_from(threads).unwrap_or(c_int::MAX)) };
        Ok(Self { path: path.to_owned(), config, sgemm, turn: Mutex::default(), _library: library })
    }

    /// C = αAB + βC of matrices that fit each other; says whether the library's integers hold their sizes, else it did
    /// nothing.
    pub(super) fn multiply(&self, alpha: f32, a: Matrix<'_>, b: Matrix<'_>, beta: f32, c: &mut MatrixMut<'_>) -> bool {
        let (m, n, k) = (c.layout().rows(), c.layout().columns(), a.layout().columns());
        let fit = a.layout().rows() == m && b.layout().rows() == k && b.layout().columns() == n;
        let sizes = [m, n, k, a.layout().stride(), b.layout().stride(), c.layout().stride()];
        let [Some(m), Some(n), Some(k), Some(lda), Some(ldb), Some(ldc)] =
            sizes.map(|size| c_int::try_from(size).ok().filter(|&size| size > 0))
        else {
            return false;
        };
        if !fit {
            return false;
        }
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: A, B and C are row-major with m×k, k×n and m×n elements, which the comparison above makes sure of.
        // Element (i, j) lies i * stride + j elements from the start, and the constructors of Matrix and MatrixMut have
        // checked that this is within the slice for every row and column. C is borrowed exclusively, so that it
        // overlaps neither A nor B. No size is zero, and a stride is at least a row's width, which is all that CBLAS
        // asks for.
        unsafe {
            (self.sgemm)(
                ROW_MAJOR,
                NO_TRANSPOSE,
                NO_TRANSPOSE,
                m,
                n,
                k,
                alpha,
                a.elements().as_ptr(),
                lda,
                b.elements().as_ptr(),
                ldb,
                beta,
                c.elements_mut().as_mut_ptr(),
                ldc,
            );
        }
        true
    }
}

/// What a function of the library's without arguments says.
fn text_of(library: &libloading::Library, name: &[u8]) -> Option<String> {
    // SAFETY: the function that this is called for has this type in every OpenBLAS.
    let function = unsafe { library.get::<unsafe extern "C" fn() -> *const c_char>(name) }.ok()?;
    // SAFETY: it takes nothing and may be called at any time.
    let text = unsafe { function() };
    if text.is_null() {
        return None;
    }
    // SAFETY: it gives a string that ends in zero and lives as long as the library.
    Some(unsafe { CStr::from_ptr(text) }.to_string_lossy().trim().to_owned())
}

impl fmt::Debug for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Library").field("path", &self.path).field("config", &self.config).finish_non_exhaustive()
    }
}

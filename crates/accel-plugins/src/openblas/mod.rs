//! Matrix products by OpenBLAS, which is opened at run time where it is installed.
//! Called by the runtime for sgemm. Never copies a matrix: C is written in place.

mod library;
mod speed;

use std::{num::NonZeroUsize, path::PathBuf, thread};

use kernlet_accel::{Cost, Deadline, Done, Operation, Plugin, PluginError, operation::Task};

use self::library::Library;
use crate::{
    matrix::{self, STEP},
    native::{self, NoLibrary},
};

/// What installs it.
pub(crate) const REMEDY: &str = "apt-get install libopenblas0-pthread";

/// How OpenBLAS is found and used.
#[derive(Clone, Debug, Default)]
pub struct OpenBlasOptions {
    /// The library's file; else it is looked for.
    pub library: Option<PathBuf>,
    /// Threads of a product; else one for each processor.
    pub threads: Option<NonZeroUsize>,
}

/// The plugin `openblas`.
#[derive(Debug)]
pub struct OpenBlas {
    library: Library,
    threads: usize,
}

impl OpenBlas {
    /// The plugin.
    ///
    /// # Errors
    /// [`NoLibrary`] says where the library was looked for and what is wrong with what was found.
    pub fn open(options: &OpenBlasOptions) -> Result<Self, NoLibrary> {
        let threads =
            options.threads.map_or_else(|| thread::available_parallelism().map_or(1, usize::from), usize::from);
        let mut folders = native::system_folders();
        folders.push("/usr/lib/x86_64-linux-gnu/openblas-pthread".into());
        let library = native::open(options.library.as_deref(), &folders, "libopenblas.so", REMEDY, |path| {
            Library::open(path, threads)
        })?;
        Ok(Self { library, threads })
    }

    /// What was found, in words: version, processor, file.
    #[must_use]
    pub fn found(&self) -> String {
        format!("{} in {}", self.library.config, self.library.path.display())
    }
}

impl Plugin for OpenBlas {
    fn name(&self) -> &'static str {
        "openblas"
    }

    fn operations(&self) -> &[Operation] {
        &matrix::OPERATIONS
    }

    fn cost(&self, task: &Task<'_>) -> Cost {
        speed::of(&self.library.core).cost(task, self.threads)
    }

    fn run(&self, task: Task<'_>, deadline: Deadline) -> Result<Done, PluginError> {
        matrix::run(task, deadline, STEP, |alpha, a, b, beta, c| {
            // A product whose first rows are too large was not begun.
            let done = self.library.multiply(alpha, a, b, beta, c);
            if done { Ok(()) } else { Err(PluginError::declined(TOO_LARGE)) }
        })
    }
}

/// What the library's 32-bit integers do not hold.
const TOO_LARGE: &str = "OpenBLAS counts rows, columns and the elements between rows in 31 bits";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

    use kernlet_accel::operation::MatrixProduct;

    use super::*;
    use crate::Gemm;

    #[test]
    fn the_plugin_that_was_measured_to_be_faster_at_a_size_is_expected_to_be() {
        let one = NonZeroUsize::MIN;
        for (core, threads, faster) in [
            ("Cooperlake", one, &[(16, true), (64, true), (128, false), (512, false), (2048, false)][..]),
            ("SKYLAKEX", one.saturating_add(1), &[(16, true), (128, true), (512, true), (1024, false), (2048, false)]),
        ] {
            for &(size, openblas_is) in faster {
                let (a, mut c) = (vec![0.0; size * size], vec![0.0; size * size]);
                let task = Task::FpgaMmult(MatrixProduct::new(&a, &a, &mut c).unwrap());
                let openblas = speed::of(core).cost(&task, threads.get());
                assert_eq!(openblas < Gemm::with_threads(threads).cost(&task), openblas_is, "{size} on {threads}");
            }
        }
    }
}

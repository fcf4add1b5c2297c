//! Matrix products by OpenBLAS, which is opened at run time where it is installed.
//! Called by the runtime for sgemm. Never copies a matrix: C is written in place.

mod library;

use std::{num::NonZeroUsize, path::PathBuf, thread};

use kernlet_accel::{Cost, Deadline, Done, Operation, Plugin, PluginError, operation::Task};

use self::library::Library;
use crate::{
    matrix::{self, STEP},
    native::{self, NoLibrary},
    speed::Speed,
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
    speed: Speed,
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
        Ok(Self { library, threads, speed: Speed::unmeasured() })
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
        self.speed.cost(task, self.threads)
    }

    fn calibrate(&self) {
        self.speed.measure(self.name(), |a, b, c| {
            self.library.multiply(1.0, a, b, 0.0, c);
        });
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

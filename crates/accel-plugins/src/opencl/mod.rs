//! Arrays, matrices and pictures by OpenCL: graphics cards first, and whatever else has a driver.
//! Called by the runtime. Never keeps anything on the device from one task to the next but its kernels, which are
//! compiled when the plugin is opened.

mod device;
mod tasks;

use kernlet_accel::{
    ArgError, Cost, Deadline, Done, Kinds, Operation, Plugin, PluginError,
    operation::{Matrix, MatrixLayout, MatrixMut, Parallel, Resize, Sgemm, Task},
};

use self::device::{Class, Description, OpenDevice};
use crate::{matrix, native::NoLibrary};

/// What it has.
pub(crate) const OPERATIONS: [Operation; 7] = [
    Operation::FpgaArrayCopy,
    Operation::FpgaVectorAdd,
    Operation::FpgaParallel,
    Operation::BlasSgemm,
    Operation::TorchSgemm,
    Operation::FpgaMmult,
    Operation::ImageResize,
];

/// What installs it.
pub(crate) const REMEDY: &str = "apt-get install ocl-icd-libopencl1 pocl-opencl-icd";

/// The plugin `opencl`.
#[derive(Debug)]
pub struct OpenCl {
    device: OpenDevice,
}

impl OpenCl {
    /// The plugin on the best device there is.
    ///
    /// # Errors
    /// [`NoLibrary`] says whether the loader, a device or its compiler is missing.
    pub fn open() -> Result<Self, NoLibrary> {
        let no_library = |reasons| NoLibrary::NoneFits { reasons, remedy: REMEDY };
        let device = OpenDevice::open().map_err(no_library)?;
        try_out(&device).map_err(|reason| no_library(format!("{} {reason}", device.description.name)))?;
        Ok(Self { device })
    }

    /// What was found, in words: the device and its memory.
    #[must_use]
    pub fn found(&self) -> String {
        let Description { name, class, memory, .. } = &self.device.description;
        let class = match class {
            Class::Discrete => "graphics card",
            Class::Accelerator => "accelerator",
            Class::Integrated => "integrated graphics",
            Class::Cpu => "processor",
        };
        format!("{name} ({class}, {} MiB)", memory / (1024 * 1024))
    }
}

/// Runs each kernel once, so that a driver that compiles when it is first used does it now, while it may still read and
/// write files, and one that computes something else is found out.
fn try_out(device: &OpenDevice) -> Result<(), String> {
    let (mut copied, mut sum, mut both, mut product, mut pixel) = ([0], [0.0], [0.0; 2], [3.0], [0]);
    let [of_sum, of_product] = &mut both;
    let (of_sum, of_product) = (std::slice::from_mut(of_sum), std::slice::from_mut(of_product));
    let unfit = |error: ArgError| error.to_string();
    let parallel = Parallel::new(&[2.0], &[5.0], of_sum, of_product).map_err(unfit)?;
    let one = MatrixLayout::new(1, 1, 1).and_then(|layout| {
        let (a, b) = (Matrix::new(&[2.0], layout)?, Matrix::new(&[5.0], layout)?);
        Sgemm::new(1.0, a, b, 2.0, MatrixMut::new(&mut product, layout)?)
    });
    let resize = Resize::new((1, 1), 1, &[7], (1, 1), &mut pixel).map_err(unfit)?;
    let done = tasks::copy(device, &[7], &mut copied, Deadline::NONE)
        .and_then(|_| tasks::add(device, &[2.0], &[5.0], &mut sum, Deadline::NONE))
        .and_then(|_| tasks::add_multiply(device, parallel, Deadline::NONE))
        .and_then(|_| one.map_or(Ok(Done::default()), |one| tasks::sgemm(device, one, Deadline::NONE)))
        .and_then(|_| tasks::resize(device, resize, Deadline::NONE));
    let Done { .. } = done.map_err(|error| format!("does not run the kernels: {error}"))?;
    if (copied, sum, both, product, pixel) == ([7], [7.0], [7.0, 10.0], [16.0], [7]) {
        Ok(())
    } else {
        Err("computes something else than it should".to_owned())
    }
}

impl Plugin for OpenCl {
    fn name(&self) -> &'static str {
        "opencl"
    }

    fn operations(&self) -> &[Operation] {
        &OPERATIONS
    }

    fn cost(&self, task: &Task<'_>) -> Cost {
        cost(&self.device.description, task)
    }

    fn kinds(&self) -> Kinds {
        match self.device.description.class {
            Class::Discrete | Class::Integrated => Kinds::GPU,
            Class::Accelerator => Kinds::GENERIC,
            Class::Cpu => Kinds::CPU | Kinds::SOFTWARE,
        }
    }

    fn run(&self, task: Task<'_>, deadline: Deadline) -> Result<Done, PluginError> {
        let device = &self.device;
        match task {
            Task::FpgaArrayCopy(task) => tasks::copy(device, task.from, task.to, deadline),
            Task::FpgaVectorAdd(task) => tasks::add(device, task.a, task.b, task.sum, deadline),
            Task::FpgaParallel(task) => tasks::add_multiply(device, task, deadline),
            Task::BlasSgemm(task) | Task::TorchSgemm(task) => tasks::sgemm(device, task, deadline),
            Task::FpgaMmult(task) => {
                let task = matrix::square(task).ok_or_else(|| PluginError::failed(matrix::NOT_SQUARE))?;
                tasks::sgemm(device, task, deadline)
            }
            Task::ImageResize(task) => tasks::resize(device, task, deadline),
            other => Err(PluginError::NotOffered { operation: other.operation() }),
        }
    }
}

/// What a task takes: to begin a kernel and wait for it, to copy arguments there and back, and to compute.
fn cost(device: &Description, task: &Task<'_>) -> Cost {
    let (bytes, products) = match task {
        Task::FpgaArrayCopy(task) => (8 * task.from.len() as u64, 0),
        Task::FpgaVectorAdd(task) => (12 * task.a.len() as u64, 0),
        Task::FpgaParallel(task) => (16 * task.a.len() as u64, 0),
        Task::BlasSgemm(task) | Task::TorchSgemm(task) => (tasks::bytes_of(task), task.products()),
        Task::FpgaMmult(task) => (12 * task.a.len() as u64, (task.size as u64).saturating_pow(3)),
        // Each pixel of the larger picture takes four products and more a channel.
        Task::ImageResize(task) => {
            let bytes = task.from.len() as u64 + task.to.len() as u64;
            (bytes, bytes.saturating_mul(8))
        }
        _ => return Cost::nanos(u64::MAX),
    };
    let (begin, bytes_per_micro, products_per_micro) = match device.class {
        // PCIe 3's 6 GB/s; 64 lanes a compute unit, each a product a cycle, of which a third is reached.
        Class::Discrete => (Cost::micros(60), 6_000, device.speed.saturating_mul(64) / 3),
        Class::Accelerator | Class::Integrated => (Cost::micros(40), 10_000, device.speed.saturating_mul(8)),
        // PoCL on two cores: 10 GFLOP/s.
        Class::Cpu => (Cost::micros(50), 5_000, device.speed.min(5_000)),
    };
    Cost::of_work(Cost::of_work(begin, bytes, bytes_per_micro), products, products_per_micro.max(1))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

    use kernlet_accel::operation::MatrixProduct;

    use super::*;
    use crate::Gemm;

    fn device(class: Class, speed: u64) -> Description {
        Description { name: String::new(), class, speed, buffer_max: 1 << 30, memory: 1 << 33 }
    }

    #[test]
    fn a_card_is_expected_to_be_faster_than_the_processor_for_large_products_only() {
        let card = device(Class::Discrete, 60 * 1_500);
        for (size, card_is_faster) in [(16, false), (64, false), (2048, true)] {
            let (a, mut c) = (vec![0.0; size * size], vec![0.0; size * size]);
            let task = Task::FpgaMmult(MatrixProduct::new(&a, &a, &mut c).unwrap());
            assert_eq!(cost(&card, &task) < Gemm::new().cost(&task), card_is_faster, "{size}");
            // PoCL's processor never is.
            assert!(cost(&device(Class::Cpu, 2 * 3_000), &task) > Gemm::new().cost(&task), "{size}");
        }
    }
}

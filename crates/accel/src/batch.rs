//! Several operations at once, with the methods that one has: what lies on the way to a plugin is gone once for all of them.
//! Used by host programs; functions have the same in the guest's library. Never does anything that
//! [`Session::perform_batch`] does not: it only collects tasks.

use std::time::{Duration, Instant};

use crate::{
    AccelError, Operation, Report, Session,
    host::{Input, Model, Output, Sgemm, bad, product, set},
    operation::{
        ArrayCopy, Exec, Library, MatrixProduct, MinMax, ModelRun, Parallel, Resize, Task, TypedIn, TypedOut, VectorAdd,
    },
};

/// Operations that are carried out together, in their order, each as if it were alone: one that fails keeps no other from
/// being done.
///
/// ```
/// # use std::sync::Arc;
/// # use kernlet_accel::{Cost, Deadline, Done, Operation, Plugin, PluginError, Runtime, operation::Task};
/// # #[derive(Debug)]
/// # struct Copies;
/// # impl Plugin for Copies {
/// #     fn name(&self) -> &'static str { "copies" }
/// #     fn operations(&self) -> &[Operation] { &[Operation::FpgaArrayCopy] }
/// #     fn cost(&self, _: &Task<'_>) -> Cost { Cost::nanos(1) }
/// #     fn run(&self, task: Task<'_>, _: Deadline) -> Result<Done, PluginError> {
/// #         if let Task::FpgaArrayCopy(task) = task { task.to.copy_from_slice(task.from); }
/// #         Ok(Done::default())
/// #     }
/// # }
/// # let session = Runtime::new(vec![Arc::new(Copies)]).session();
/// let (mut one, mut other) = ([0; 2], [0; 3]);
/// let mut batch = session.batch();
/// batch.array_copy(&[1, 2], &mut one).array_copy(&[3, 4, 5], &mut other);
/// let reports = batch.run().into_iter().collect::<Result<Vec<_>, _>>()?;
/// assert_eq!((one, other, reports.len()), ([1, 2], [3, 4, 5], 2));
/// # Ok::<(), kernlet_accel::AccelError>(())
/// ```
#[derive(Debug)]
#[must_use = "nothing is done until it is run"]
pub struct Batch<'a> {
    session: &'a Session,
    tasks: Vec<Result<Task<'a>, AccelError>>,
    deadline: Option<Instant>,
}

impl Session {
    /// Operations to be carried out at once.
    pub const fn batch(&self) -> Batch<'_> {
        Batch { session: self, tasks: Vec::new(), deadline: None }
    }
}

impl<'a> Batch<'a> {
    /// The same, all of it within this time from now.
    pub fn within(self, time: Duration) -> Self {
        Self { deadline: Instant::now().checked_add(time), ..self }
    }

    /// How many operations there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.tasks.len()
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Carries them out, and says of each what became of it.
    pub fn run(self) -> Vec<Result<Report, AccelError>> {
        self.session.perform_batch(self.tasks, self.deadline)
    }

    fn push(&mut self, task: Result<Task<'a>, AccelError>) -> &mut Self {
        self.tasks.push(task);
        self
    }

    /// As [`crate::host::Ops::noop`].
    pub fn noop(&mut self) -> &mut Self {
        self.push(Ok(Task::Noop))
    }

    /// As [`crate::host::Ops::sgemm`].
    pub fn sgemm(&mut self, params: &Sgemm, a: &'a [f32], b: &'a [f32], c: &'a mut [f32]) -> &mut Self {
        self.push(product(Operation::BlasSgemm, params, a, b, c).map(Task::BlasSgemm))
    }

    /// As [`crate::host::Ops::torch_sgemm`].
    pub fn torch_sgemm(&mut self, params: &Sgemm, a: &'a [f32], b: &'a [f32], c: &'a mut [f32]) -> &mut Self {
        self.push(product(Operation::TorchSgemm, params, a, b, c).map(Task::TorchSgemm))
    }

    /// As [`crate::host::Ops::array_copy`].
    pub fn array_copy(&mut self, from: &'a [i32], to: &'a mut [i32]) -> &mut Self {
        let task = ArrayCopy::new(from, to).map(Task::FpgaArrayCopy);
        self.push(task.map_err(bad(Operation::FpgaArrayCopy, 1, "copy")))
    }

    /// As [`crate::host::Ops::mmult`].
    pub fn mmult(&mut self, a: &'a [f32], b: &'a [f32], c: &'a mut [f32]) -> &mut Self {
        let task = MatrixProduct::new(a, b, c).map(Task::FpgaMmult);
        self.push(task.map_err(bad(Operation::FpgaMmult, 0, "A")))
    }

    /// As [`crate::host::Ops::parallel`].
    pub fn parallel(&mut self, a: &'a [f32], b: &'a [f32], sum: &'a mut [f32], product: &'a mut [f32]) -> &mut Self {
        let task = Parallel::new(a, b, sum, product).map(Task::FpgaParallel);
        self.push(task.map_err(bad(Operation::FpgaParallel, 1, "B")))
    }

    /// As [`crate::host::Ops::vector_add`].
    pub fn vector_add(&mut self, a: &'a [f32], b: &'a [f32], sum: &'a mut [f32]) -> &mut Self {
        let task = VectorAdd::new(a, b, sum).map(Task::FpgaVectorAdd);
        self.push(task.map_err(bad(Operation::FpgaVectorAdd, 1, "B")))
    }

    /// As [`crate::host::Ops::minmax`]; the smallest and the largest go to `extremes`.
    pub fn minmax(
        &mut self,
        from: &'a [f64],
        low: i32,
        high: i32,
        to: &'a mut [f64],
        extremes: &'a mut (f64, f64),
    ) -> &mut Self {
        let task = MinMax::new((low, high), from, to, &mut extremes.0, &mut extremes.1).map(Task::MinMax);
        self.push(task.map_err(bad(Operation::MinMax, 1, "numbers")))
    }

    /// As [`crate::host::Ops::resize`].
    pub fn resize(
        &mut self,
        size: (u32, u32),
        channels: u32,
        from: &'a [u8],
        to_size: (u32, u32),
        to: &'a mut [u8],
    ) -> &mut Self {
        let task = Resize::new(size, channels, from, to_size, to).map(Task::ImageResize);
        self.push(task.map_err(bad(Operation::ImageResize, 0, "picture")))
    }

    /// As [`crate::host::Ops::exec`].
    pub fn exec(
        &mut self,
        library: &'a str,
        function: &'a str,
        read: Vec<TypedIn<'a>>,
        write: Vec<TypedOut<'a>>,
    ) -> &mut Self {
        self.push(Ok(Task::Exec(Exec { library: Library::Name(library), function, read, write })))
    }

    /// As [`Model::run`].
    pub fn model(&mut self, model: &Model<'_>, inputs: &'a [Input<'a>], outputs: &'a mut [Output<'_>]) -> &mut Self {
        let task = set(model.operation(), inputs, outputs).map(|set| {
            let resource = model.resource().clone();
            model.task(ModelRun { model: resource, options: &[], names: "", inputs: set.inputs, outputs: set.outputs })
        });
        self.push(task)
    }
}

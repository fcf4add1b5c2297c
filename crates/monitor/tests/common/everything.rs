//! A plugin that has every operation and does each so simply that a test can say what comes of it. Used by the tests of
//! the guest's side; never by the platform.

use kernlet_accel::{
    Cost, Deadline, Dims, Done, Dtype, Operation, Plugin, PluginError,
    operation::{
        Classify, Elements, Exec, Library, ModelLoad, ModelRun, OpenCv, Picture, Resize, Sgemm, Task, TypedIn, TypedOut,
    },
};

/// As little as has the outline of an ONNX model: a version, an empty graph, an opset.
pub(crate) const MODEL: [u8; 6] = [0x08, 0x08, 0x3a, 0x00, 0x42, 0x00];

/// Labels of two classes.
pub(crate) const LABELS: &[u8] = b"tench\ngoldfish\n";

/// Does everything, simply.
#[derive(Debug)]
pub(crate) struct Everything;

impl Plugin for Everything {
    fn name(&self) -> &'static str {
        "everything"
    }

    fn operations(&self) -> &[Operation] {
        Operation::ALL
    }

    fn cost(&self, _: &Task<'_>) -> Cost {
        Cost::nanos(1)
    }

    fn run(&self, task: Task<'_>, _: Deadline) -> Result<Done, PluginError> {
        let operation = task.operation();
        match task {
            Task::Noop => {}
            Task::TfModelLoad(task)
            | Task::TfModelUnload(task)
            | Task::TfliteModelLoad(task)
            | Task::TfliteModelUnload(task)
            | Task::TorchModelLoad(task)
            | Task::OnnxModelLoad(task)
            | Task::OnnxModelUnload(task) => load(&task)?,
            Task::TfModelRun(task) => {
                expect("options", task.options, b"options")?;
                expect("names", task.names, "input:0\noutput:0\noutput:1")?;
                double(task)?;
            }
            Task::OnnxModelRun(task) | Task::TfliteModelRun(task) | Task::TorchModelRun(task) => {
                expect("options", task.options, b"")?;
                double(task)?;
            }
            Task::OnnxModelRunBatch(mut task) => task.runs().try_for_each(double)?,
            Task::ImageClassify(task) => classify(task),
            Task::ImageDetect(task) | Task::ImageSegment(task) | Task::ImagePose(task) | Task::ImageDepth(task) => {
                say(operation, task)?;
            }
            Task::ImageResize(task) => resize(&mut { task }),
            Task::BlasSgemm(task) | Task::TorchSgemm(task) => multiply(task),
            Task::FpgaArrayCopy(task) => task.to.copy_from_slice(task.from),
            Task::FpgaMmult(task) => {
                for (index, c) in task.c.iter_mut().enumerate() {
                    let (row, column) = (index / task.size * task.size, index % task.size);
                    *c = (0..task.size).map(|k| task.a[row + k] * task.b[k * task.size + column]).sum();
                }
            }
            Task::FpgaParallel(task) => {
                for (index, (a, b)) in task.a.iter().zip(task.b).enumerate() {
                    (task.sum[index], task.product[index]) = (a + b, a * b);
                }
            }
            Task::FpgaVectorAdd(task) => {
                task.sum.iter_mut().zip(task.a.iter().zip(task.b)).for_each(|(sum, (a, b))| *sum = a + b);
            }
            Task::MinMax(task) => {
                let (low, high) = (f64::from(task.low), f64::from(task.high));
                task.to.iter_mut().zip(task.from).for_each(|(to, from)| *to = from.clamp(low, high));
                *task.min = task.from.iter().copied().fold(f64::INFINITY, f64::min);
                *task.max = task.from.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            }
            Task::Exec(Exec { library: Library::Name(name), function, read, write }) => {
                expect("library", name, "libexample.so")?;
                expect("function", function, "example")?;
                call(&read, write)?;
            }
            Task::ExecWithResource(Exec { library: Library::Resource(library), function, read, write }) => {
                expect("library", library.bytes(), LABELS)?;
                expect("function", function, "example")?;
                call(&read, write)?;
            }
            Task::OpenCv(OpenCv { read, write }) => call(&read, write)?,
            Task::Exec(_) | Task::ExecWithResource(_) => return Err(PluginError::failed("the library is another")),
        }
        Ok(Done::default())
    }
}

/// Fails an operation whose argument did not arrive.
fn expect<T: PartialEq + std::fmt::Debug + ?Sized>(what: &str, got: &T, expected: &T) -> Result<(), PluginError> {
    if got == expected {
        return Ok(());
    }
    Err(PluginError::failed(format!("the {what} arrived as {got:?} and not as {expected:?}")))
}

fn load(task: &ModelLoad) -> Result<(), PluginError> {
    expect("model", task.model.bytes(), &MODEL)
}

/// Each output is twice the input of the same place, in its shape; of elements that it does not know, the same.
fn double(mut task: ModelRun<'_>) -> Result<(), PluginError> {
    expect("model", task.model.bytes(), &MODEL)?;
    for (index, output) in task.outputs.iter_mut().enumerate() {
        let input = task.inputs[index % task.inputs.len()];
        let wanted = output.dtype().unwrap_or_else(|| input.elements().dtype());
        match (input.elements(), wanted) {
            (Elements::F32(from), Dtype::F32) => {
                let to = output.claim::<f32>(*input.dims())?;
                to.iter_mut().zip(from).for_each(|(to, from)| *to = from * 2.0);
            }
            (Elements::I64(from), Dtype::I64) => {
                let to = output.claim::<i64>(*input.dims())?;
                to.iter_mut().zip(from).for_each(|(to, from)| *to = from * 2);
            }
            (Elements::F32(from), Dtype::I64) => {
                let to = output.claim::<i64>(Dims::new(&[1]).expect("one dimension"))?;
                to[0] = i64::try_from(from.len()).expect("few");
            }
            (other, _) => output.claim_bytes(other.dtype(), *input.dims())?.copy_from_slice(other.bytes()),
        }
    }
    Ok(())
}

fn classify(mut task: Classify<'_>) {
    let labels = task.labels.as_ref().map_or(&b""[..], |labels| labels.bytes());
    let labels: Vec<_> = str::from_utf8(labels).expect("text").lines().collect();
    let label = |class: usize| labels.get(class).copied().unwrap_or_default();
    task.ranking.fill([(1, 0.75, label(1)), (0, 0.25, label(0))]);
}

fn say(operation: Operation, mut task: Picture<'_>) -> Result<(), PluginError> {
    let size = |resource: &Option<kernlet_accel::Resource>| {
        resource.as_ref().map_or("none".to_owned(), |resource| resource.size().to_string())
    };
    let (model, labels) = (size(&task.model), size(&task.labels));
    let text = format!("{operation} of {} bytes, model {model}, labels {labels}", task.picture.len());
    Ok(task.text.fill(&text)?)
}

/// To the nearest pixel.
fn resize(task: &mut Resize<'_>) {
    let ((width, height), (to_width, to_height)) = (task.size, task.to_size);
    let channels = task.channels as usize;
    for row in 0..to_height {
        for column in 0..to_width {
            let from = (row * height / to_height * width + column * width / to_width) as usize * channels;
            let to = (row * to_width + column) as usize * channels;
            task.to[to..to + channels].copy_from_slice(&task.from[from..from + channels]);
        }
    }
}

fn multiply(mut task: Sgemm<'_>) {
    let (alpha, beta) = task.factors();
    let (a, b, c) = task.matrices();
    let (columns, stride) = (c.layout().columns(), c.layout().stride());
    for row in 0..c.layout().rows() {
        for column in 0..columns {
            let products = (0..a.layout().columns())
                .map(|k| a.elements()[row * a.layout().stride() + k] * b.elements()[k * b.layout().stride() + column]);
            let product: f32 = products.sum();
            let c = &mut c.elements_mut()[row * stride + column];
            *c = alpha * product + beta * *c;
        }
    }
}

/// Checks what the function reads, and adds one to every byte of what it writes; says that it wrote all but the last.
fn call(read: &[TypedIn<'_>], write: Vec<TypedOut<'_>>) -> Result<(), PluginError> {
    let got: Vec<_> = read.iter().map(|arg| (arg.dtype, arg.custom, arg.array, arg.bytes)).collect();
    let numbers = [0.5_f32.to_le_bytes(), 1.5_f32.to_le_bytes()].concat();
    let number = (-7_i64).to_le_bytes();
    let expected = [
        (Dtype::I64, 0, false, &number[..]),
        (Dtype::F32, 0, true, &numbers),
        (Dtype::Text, 0, false, b"text"),
        (Dtype::Bytes, 0, false, b"\0\x01"),
        (Dtype::Custom, 9, false, b"mine"),
    ];
    expect("arguments that are read", &got[..], &expected[..])?;
    let got: Vec<_> = write.iter().map(|arg| (arg.dtype, arg.custom, arg.array)).collect();
    let expected = [(Dtype::U16, 0, false), (Dtype::I32, 0, true), (Dtype::Custom, 8, false)];
    expect("arguments that are written", &got[..], &expected[..])?;
    for arg in write {
        arg.bytes.iter_mut().for_each(|byte| *byte += 1);
        *arg.written = arg.bytes.len() as u64 - 1;
    }
    Ok(())
}

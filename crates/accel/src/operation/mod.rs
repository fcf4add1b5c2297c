//! The operations there are, and what each looks like once its arguments are checked.
//! Made by the decoder or by host programs, consumed by plugins: a plugin that holds a [`Task`] need not check a length
//! again. Nothing here can be built outside this crate without its checks.

mod array;
mod error;
mod exec;
mod image;
mod matrix;
mod tensor;

use kernlet_abi::accel::operation;

pub(crate) use self::tensor::{slice, slice_mut};
use crate::AccelError;

pub use self::{
    array::{ArrayCopy, MatrixProduct, MinMax, Parallel, VectorAdd},
    error::ArgError,
    exec::{Exec, Library, OpenCv, TypedIn, TypedOut},
    image::{Classify, Picture, Ranking, Resize, TextOut},
    matrix::{Matrix, MatrixLayout, MatrixMut, Sgemm},
    tensor::{
        BatchRun, BatchSet, Element, Elements, ModelLoad, ModelRun, TENSOR_MAX, Tensor, TensorBuf, TensorOut,
        tensor_bytes,
    },
};

/// Declares the operations, each with its number and name.
macro_rules! operations {
    ($($(#[doc = $doc:literal])* $variant:ident = $number:ident, $name:literal;)*) => {
        /// Which operation.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Operation {
            $($(#[doc = $doc])* $variant,)*
        }

        impl Operation {
            /// All of them, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The operation that a number of [`kernlet_abi::accel::operation`] stands for.
            ///
            /// # Errors
            /// [`AccelError::UnknownOperation`] when it stands for none.
            pub const fn from_abi(number: u32) -> Result<Self, AccelError> {
                Ok(match number {
                    $(operation::$number => Self::$variant,)*
                    number => return Err(AccelError::UnknownOperation { number }),
                })
            }

            /// Its number in [`kernlet_abi::accel::operation`].
            #[must_use]
            pub const fn abi_number(self) -> u32 {
                match self { $(Self::$variant => operation::$number,)* }
            }

            /// Its name in messages, metrics and configuration, such as `image-classify`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

operations! {
    /// Nothing at all.
    Noop = NOOP, "noop";
    /// Call a function of a library that the host allows.
    Exec = EXEC, "exec";
    /// Call a function of a library that is a resource.
    ExecWithResource = EXEC_WITH_RESOURCE, "exec-with-resource";
    /// Classify a picture.
    ImageClassify = IMAGE_CLASSIFY, "image-classify";
    /// Find objects in a picture.
    ImageDetect = IMAGE_DETECT, "image-detect";
    /// Divide a picture into what it shows.
    ImageSegment = IMAGE_SEGMENT, "image-segment";
    /// Find poses in a picture.
    ImagePose = IMAGE_POSE, "image-pose";
    /// Estimate the depth of a picture.
    ImageDepth = IMAGE_DEPTH, "image-depth";
    /// Load a TensorFlow SavedModel.
    TfModelLoad = TF_MODEL_LOAD, "tf-model-load";
    /// Forget a TensorFlow model.
    TfModelUnload = TF_MODEL_UNLOAD, "tf-model-unload";
    /// Run a TensorFlow model.
    TfModelRun = TF_MODEL_RUN, "tf-model-run";
    /// Load a TensorFlow Lite model.
    TfliteModelLoad = TFLITE_MODEL_LOAD, "tflite-model-load";
    /// Forget a TensorFlow Lite model.
    TfliteModelUnload = TFLITE_MODEL_UNLOAD, "tflite-model-unload";
    /// Run a TensorFlow Lite model.
    TfliteModelRun = TFLITE_MODEL_RUN, "tflite-model-run";
    /// Load a TorchScript model.
    TorchModelLoad = TORCH_MODEL_LOAD, "torch-model-load";
    /// Run a TorchScript model.
    TorchModelRun = TORCH_MODEL_RUN, "torch-model-run";
    /// Multiply `f32` matrices by Torch.
    TorchSgemm = TORCH_SGEMM, "torch-sgemm";
    /// Multiply `f32` matrices.
    BlasSgemm = BLAS_SGEMM, "blas-sgemm";
    /// Copy an array.
    FpgaArrayCopy = FPGA_ARRAY_COPY, "fpga-array-copy";
    /// Multiply square matrices.
    FpgaMmult = FPGA_MMULT, "fpga-mmult";
    /// Add and multiply element by element.
    FpgaParallel = FPGA_PARALLEL, "fpga-parallel";
    /// Add element by element.
    FpgaVectorAdd = FPGA_VECTOR_ADD, "fpga-vector-add";
    /// Smallest and largest of some numbers, and the numbers held between two thresholds.
    MinMax = MINMAX, "minmax";
    /// A function of OpenCV.
    OpenCv = OPENCV, "opencv";
    /// Load an ONNX model.
    OnnxModelLoad = ONNX_MODEL_LOAD, "onnx-model-load";
    /// Run an ONNX model.
    OnnxModelRun = ONNX_MODEL_RUN, "onnx-model-run";
    /// Forget an ONNX model.
    OnnxModelUnload = ONNX_MODEL_UNLOAD, "onnx-model-unload";
    /// Run an ONNX model on several sets of inputs.
    OnnxModelRunBatch = ONNX_MODEL_RUN_BATCH, "onnx-model-run-batch";
    /// An operation in vAccel's generic layout. No plugin has it: it becomes the operation that it names.
    Generic = GENERIC, "generic";
    /// Resize a picture.
    ImageResize = IMAGE_RESIZE, "image-resize";
    /// What the session's operations took. No plugin has it: the session answers.
    Profile = PROFILE, "profile";
}

impl Operation {
    /// The operation of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|operation| operation.name() == name)
    }
}

impl core::fmt::Display for Operation {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name())
    }
}

/// Declares [`Task`] from operations and what each carries.
macro_rules! tasks {
    ($($variant:ident($contents:ty),)*) => {
        /// An operation with its checked arguments, which lie where the caller has them.
        #[derive(Debug)]
        pub enum Task<'a> {
            /// Nothing.
            Noop,
            $(
                #[doc = concat!("[`Operation::", stringify!($variant), "`].")]
                $variant($contents),
            )*
        }

        impl Task<'_> {
            /// Which operation it is.
            #[must_use]
            pub const fn operation(&self) -> Operation {
                match self {
                    Self::Noop => Operation::Noop,
                    $(Self::$variant(_) => Operation::$variant,)*
                }
            }

            /// The same task for a while, so that another plugin can be asked if the first declines it.
            #[must_use]
            pub fn reborrow(&mut self) -> Task<'_> {
                match self {
                    Self::Noop => Task::Noop,
                    $(Self::$variant(task) => Task::$variant(task.reborrow()),)*
                }
            }
        }
    };
}

tasks! {
    Exec(Exec<'a>),
    ExecWithResource(Exec<'a>),
    ImageClassify(Classify<'a>),
    ImageDetect(Picture<'a>),
    ImageSegment(Picture<'a>),
    ImagePose(Picture<'a>),
    ImageDepth(Picture<'a>),
    TfModelLoad(ModelLoad),
    TfModelUnload(ModelLoad),
    TfModelRun(ModelRun<'a>),
    TfliteModelLoad(ModelLoad),
    TfliteModelUnload(ModelLoad),
    TfliteModelRun(ModelRun<'a>),
    TorchModelLoad(ModelLoad),
    TorchModelRun(ModelRun<'a>),
    TorchSgemm(Sgemm<'a>),
    BlasSgemm(Sgemm<'a>),
    FpgaArrayCopy(ArrayCopy<'a>),
    FpgaMmult(MatrixProduct<'a>),
    FpgaParallel(Parallel<'a>),
    FpgaVectorAdd(VectorAdd<'a>),
    MinMax(MinMax<'a>),
    OpenCv(OpenCv<'a>),
    OnnxModelLoad(ModelLoad),
    OnnxModelRun(ModelRun<'a>),
    OnnxModelUnload(ModelLoad),
    OnnxModelRunBatch(BatchRun<'a>),
    ImageResize(Resize<'a>),
}

//! A loaded ONNX model: its session, and what its inputs and outputs are.
//! Made once a resource by the plugin's cache. Never keeps the file's bytes, and never lets a model refer to files.

use std::{
    any::Any,
    collections::HashMap,
    ffi::CString,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use kernlet_accel::{
    Dims, Dtype, Resource,
    onnx::{self, Refused},
    operation::Tensor,
};
use ort::{
    ErrorCode,
    logging::LogLevel,
    session::{Session, builder::GraphOptimizationLevel, builder::SessionBuilder},
    value::{Outlet, ValueType},
};

use super::{library::Opened, value};
use crate::vision::{InputSize, NoClassifier};

/// Why ONNX Runtime does not take a model.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum NotLoadable {
    /// It could harm.
    #[error("the resource is no ONNX model that may be run")]
    Refused(#[source] Refused),
    /// It is more than this library or this build has.
    #[error("ONNX Runtime does not have what the model uses ({reason})")]
    Unsupported {
        /// What ONNX Runtime says.
        reason: String,
    },
    /// It takes more memory than is granted.
    #[error("the model takes more memory than the plugin grants ({reason})")]
    TooLarge {
        /// What ONNX Runtime says.
        reason: String,
    },
    /// It is broken.
    #[error(
        "the resource is no ONNX model that ONNX Runtime can run ({reason}); check the file, its opset and its operators"
    )]
    Broken {
        /// What ONNX Runtime says.
        reason: String,
    },
}

impl NotLoadable {
    fn new(error: &ort::Error) -> Self {
        let reason = one_line(error.message());
        // The codes do not tell an unknown operator from a broken graph.
        let is_unsupported = error.code() == ErrorCode::NotImplemented
            || ["No Op registered for", "is not a registered function/op", "Could not find an implementation for"]
                .iter()
                .any(|words| reason.contains(words))
            || reason.contains("is under development and support for this is limited")
            || reason.contains("Unsupported model IR version");
        if is_unsupported {
            Self::Unsupported { reason }
        } else if says_out_of_memory(&reason) {
            Self::TooLarge { reason }
        } else {
            Self::Broken { reason }
        }
    }
}

/// What ONNX Runtime says where memory ends.
pub(super) fn says_out_of_memory(reason: &str) -> bool {
    ["bad_alloc", "Failed to allocate memory", "Available memory of", "SafeIntOnOverflow", "Integer overflow"]
        .iter()
        .any(|words| reason.contains(words))
}

/// A message of ONNX Runtime's, which may have lines of a model's author, as one of at most 300 characters.
pub(super) fn one_line(message: &str) -> String {
    let words: String = message.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect();
    words.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A model that is ready to run.
#[derive(Debug)]
pub(super) struct LoadedModel {
    session: Session,
    /// Held for a run where providers are used whose runs do not stand each other.
    turn: Option<Mutex<()>>,
    pub(super) inputs: Vec<Port>,
    pub(super) outputs: Vec<Port>,
    classifier: Result<InputSize, NoClassifier>,
    warm: AtomicBool,
}

/// An input or output of a model.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) name: CString,
    /// The element type, where it is one that a call can have.
    pub(super) dtype: Option<Dtype>,
    /// `None` where it is no tensor.
    dims: Option<Vec<Dim>>,
    /// Such as `f32 [N,3,224,224]`.
    pub(super) words: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Dim {
    Fixed(u64),
    Named(String),
    Free,
}

impl LoadedModel {
    /// Loads a model from its file's bytes.
    pub(super) fn load(opened: &Opened, resource: &Resource) -> Result<Self, NotLoadable> {
        onnx::check(resource.bytes()).map_err(NotLoadable::Refused)?;
        // The crate panics at types of inputs that it does not know.
        catch_unwind(AssertUnwindSafe(|| Self::commit(opened, resource.bytes())))
            .map_err(|panic| NotLoadable::Broken { reason: panic_text(&*panic) })?
            .map_err(|error| NotLoadable::new(&error))
    }

    fn commit(opened: &Opened, bytes: &[u8]) -> ort::Result<Self> {
        let mut accelerated = !opened.selection.used.is_empty();
        let session = match builder(opened, accelerated)?.commit_from_memory(bytes) {
            // A card can be too small for a model that the processor's memory holds.
            Err(_) if accelerated => {
                accelerated = false;
                builder(opened, false)?.commit_from_memory(bytes)
            }
            committed => committed,
        }?;
        let inputs: Vec<_> = session.inputs().iter().map(Port::new).collect::<ort::Result<_>>()?;
        let outputs: Vec<_> = session.outputs().iter().map(Port::new).collect::<ort::Result<_>>()?;
        let classifier = classifier(&inputs, &outputs);
        let turn = accelerated.then(Mutex::default);
        Ok(Self { session, turn, inputs, outputs, classifier, warm: AtomicBool::new(false) })
    }

    /// Whether the caller is the first to ask, and so the one who warms the model up.
    pub(super) fn take_warm_up(&self) -> bool {
        !self.warm.swap(true, Ordering::Relaxed)
    }

    /// The size of the pictures that it classifies.
    pub(super) fn classifier(&self) -> Result<InputSize, NoClassifier> {
        self.classifier.clone()
    }

    /// Whether one dimension, of any size, is the first of all inputs and outputs.
    pub(super) fn shares_first_dimension(&self) -> bool {
        let names = self.inputs.iter().chain(&self.outputs).map(|port| match port.dims.as_deref()?.first()? {
            Dim::Named(name) => Some(name),
            Dim::Fixed(_) | Dim::Free => None,
        });
        names.collect::<Option<Vec<_>>>().is_some_and(|names| names.windows(2).all(|pair| pair[0] == pair[1]))
    }

    pub(super) const fn session(&self) -> &Session {
        &self.session
    }

    /// Waits until it may be run.
    pub(super) fn turn(&self) -> Option<MutexGuard<'_, ()>> {
        self.turn.as_ref().map(|turn| turn.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn builder(opened: &Opened, accelerated: bool) -> ort::Result<SessionBuilder> {
    let mut builder = Session::builder(&opened.environment)?
        .with_optimization_level(GraphOptimizationLevel::All)?
        // ORT's own format could refer to other files in ways that are not checked here.
        .with_config_entry("session.load_model_format", "ONNX")?
        .with_config_entry("session.use_env_allocators", "1")?
        .with_log_level(LogLevel::Fatal)?;
    if accelerated {
        builder = builder.with_execution_providers(opened.selection.dispatches())?;
    }
    Ok(builder)
}

impl Port {
    fn new(outlet: &Outlet) -> ort::Result<Self> {
        let name = CString::new(outlet.name()).map_err(ort::Error::wrap)?;
        let ValueType::Tensor { ty, shape, dimension_symbols } = outlet.dtype() else {
            return Ok(Self { name, dtype: None, dims: None, words: "something that is no tensor".to_owned() });
        };
        let symbols = dimension_symbols.iter().map(String::as_str).chain(std::iter::repeat(""));
        let dim = |(&size, symbol): (&i64, &str)| match (u64::try_from(size), symbol) {
            (Ok(size), _) => Dim::Fixed(size),
            (Err(_), "") => Dim::Free,
            (Err(_), name) => Dim::Named(name.to_owned()),
        };
        let dims: Vec<_> = shape.iter().zip(symbols).map(dim).collect();
        let dtype = value::dtype((*ty).into());
        let element = dtype.map_or_else(|| ty.to_string(), |dtype| dtype.name().to_owned());
        let words = format!("{element} [{}]", dims.iter().map(Dim::words).collect::<Vec<_>>().join(","));
        Ok(Self { name, dtype, dims: Some(dims), words })
    }

    /// The shape that it will have, as far as the model and the shapes of its inputs say.
    pub(super) fn known_dims(&self, names: &HashMap<&str, u64>) -> Option<Dims> {
        let size = |dim: &Dim| match dim {
            Dim::Fixed(size) => Some(*size),
            Dim::Named(name) => names.get(name.as_str()).copied(),
            Dim::Free => None,
        };
        let sizes: Option<Vec<_>> = self.dims.as_ref()?.iter().map(size).collect();
        Dims::new(&sizes?).ok()
    }

    /// Whether a tensor is one of this type and shape, as far as the model says it.
    pub(super) fn takes(&self, tensor: &Tensor<'_>) -> bool {
        let (Some(dims), sizes) = (&self.dims, tensor.dims().sizes()) else {
            return false;
        };
        let fits = |(dim, size): (&Dim, &u64)| !matches!(dim, Dim::Fixed(fixed) if fixed != size);
        // A model that declares no shape looks as one that takes a scalar.
        self.dtype == Some(tensor.elements().dtype())
            && (dims.is_empty() || dims.len() == sizes.len() && dims.iter().zip(sizes).all(fits))
    }

    /// The sizes that an input's shape gives to names of the model's.
    pub(super) fn named<'a>(&'a self, dims: &'a Dims) -> impl Iterator<Item = (&'a str, u64)> {
        let declared = self.dims.as_deref().unwrap_or_default();
        declared.iter().zip(dims.sizes()).filter_map(|(dim, &size)| match dim {
            Dim::Named(name) => Some((name.as_str(), size)),
            Dim::Fixed(_) | Dim::Free => None,
        })
    }

    fn is_f32(&self) -> bool {
        self.dtype == Some(Dtype::F32)
    }
}

impl Dim {
    fn words(&self) -> String {
        match self {
            Self::Fixed(size) => size.to_string(),
            Self::Named(name) => one_line(name),
            Self::Free => "?".to_owned(),
        }
    }

    fn may_be_one(&self) -> bool {
        *self != Self::Fixed(0) && !matches!(self, Self::Fixed(2..))
    }
}

fn classifier(inputs: &[Port], outputs: &[Port]) -> Result<InputSize, NoClassifier> {
    let size = picture_size(inputs).ok_or_else(|| NoClassifier::Input { found: words(inputs) })?;
    if !gives_classes(outputs) {
        return Err(NoClassifier::Output { found: words(outputs) });
    }
    Ok(size)
}

fn picture_size(inputs: &[Port]) -> Option<InputSize> {
    let [input] = inputs else {
        return None;
    };
    match input.dims.as_deref()? {
        [n, Dim::Fixed(3), Dim::Fixed(height), Dim::Fixed(width)] if n.may_be_one() && input.is_f32() => {
            InputSize::new(usize::try_from(*height).ok()?, usize::try_from(*width).ok()?)
        }
        _ => None,
    }
}

/// Whether it has one output of classes; the shape of what a model does not declare is believed until it has run.
fn gives_classes(outputs: &[Port]) -> bool {
    let [output] = outputs else {
        return false;
    };
    let fits = match output.dims.as_deref() {
        Some([]) => true,
        Some([n, classes]) => n.may_be_one() && *classes != Dim::Fixed(0),
        Some(_) | None => false,
    };
    fits && output.is_f32()
}

fn words(ports: &[Port]) -> String {
    let words: Vec<_> = ports.iter().map(|port| port.words.as_str()).collect();
    if words.is_empty() { "nothing".to_owned() } else { words.join(" and ") }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("it broke").to_owned()
}

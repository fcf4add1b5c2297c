//! Which of ONNX Runtime's execution providers are used: the graphics cards' where they work, and always the processor.
//! Called when the library is opened, and for each model. Never fails: a provider that does not work is left out, with
//! the reason.

use std::fmt;

use ort::{
    environment::Environment,
    ep::{self, ExecutionProvider as _, ExecutionProviderDispatch},
    session::Session,
};

/// What an inference can run on besides the processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provider {
    /// NVIDIA's TensorRT.
    TensorRt,
    /// NVIDIA's CUDA.
    Cuda,
}

impl Provider {
    /// All, best first: TensorRT hands to CUDA what it does not have.
    pub const ALL: [Self; 2] = [Self::TensorRt, Self::Cuda];

    /// Its name, as ONNX Runtime writes it without the ending.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::TensorRt => "Tensorrt",
            Self::Cuda => "CUDA",
        }
    }

    fn dispatch(self) -> ExecutionProviderDispatch {
        match self {
            Self::TensorRt => ep::TensorRT::default().build(),
            Self::Cuda => ep::CUDA::default().build(),
        }
        .error_on_failure()
    }

    /// Whether it works here: the library has it, and its own libraries and a device are there.
    fn try_out(self, environment: &Environment) -> Result<(), String> {
        let compiled = match self {
            Self::TensorRt => ep::TensorRT::is_available(),
            Self::Cuda => ep::CUDA::is_available(),
        };
        match compiled {
            Ok(true) => {}
            Ok(false) => return Err("this build of the library does not have it".to_owned()),
            Err(error) => return Err(error.message().to_owned()),
        }
        let builder = Session::builder(environment).map_err(|error| error.message().to_owned())?;
        builder.with_execution_providers([self.dispatch()]).map(drop).map_err(|error| error.message().to_owned())
    }
}

/// The providers that are used, and why others are not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Selection {
    /// Best first, before the processor.
    pub(super) used: Vec<Provider>,
    /// Wanted, and not there.
    pub(super) left_out: Vec<(Provider, String)>,
}

impl Selection {
    /// What models are loaded with.
    pub(super) fn dispatches(&self) -> Vec<ExecutionProviderDispatch> {
        self.used.iter().map(|provider| provider.dispatch()).collect()
    }
}

impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for provider in &self.used {
            write!(f, "{}, ", provider.name())?;
        }
        f.write_str("CPU")?;
        for (provider, reason) in &self.left_out {
            write!(f, "; no {}: {reason}", provider.name())?;
        }
        Ok(())
    }
}

/// Tries the wanted providers out.
pub(super) fn probe(environment: &Environment, wanted: &[Provider]) -> Selection {
    select(wanted, |provider| provider.try_out(environment))
}

fn select(wanted: &[Provider], try_out: impl Fn(Provider) -> Result<(), String>) -> Selection {
    let mut selection = Selection::default();
    // In our order, whatever theirs is.
    for provider in Provider::ALL.into_iter().filter(|provider| wanted.contains(provider)) {
        match try_out(provider) {
            Ok(()) => selection.used.push(provider),
            Err(reason) => selection.left_out.push((provider, reason)),
        }
    }
    selection
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(works: Provider) -> impl Fn(Provider) -> Result<(), String> {
        move |provider| if provider == works { Ok(()) } else { Err("no device".to_owned()) }
    }

    #[test]
    fn providers_that_work_are_used_the_best_first() {
        let all = select(&[Provider::Cuda, Provider::TensorRt], |_| Ok(()));
        assert_eq!(all.used, [Provider::TensorRt, Provider::Cuda]);
        assert_eq!(all.to_string(), "Tensorrt, CUDA, CPU");
        assert_eq!(all.dispatches().len(), 2);
    }

    #[test]
    fn providers_that_do_not_work_are_left_out_with_the_reason() {
        let cuda = select(&Provider::ALL, only(Provider::Cuda));
        assert_eq!(cuda.used, [Provider::Cuda]);
        assert_eq!(cuda.to_string(), "CUDA, CPU; no Tensorrt: no device");
        let none = select(&Provider::ALL, |_| Err("no device".to_owned()));
        assert_eq!(none.to_string(), "CPU; no Tensorrt: no device; no CUDA: no device");
    }

    #[test]
    fn providers_that_nobody_wants_are_not_tried() {
        let selection = select(&[Provider::TensorRt], |provider| match provider {
            Provider::TensorRt => Ok(()),
            Provider::Cuda => unreachable!("tried"),
        });
        assert_eq!(selection.used, [Provider::TensorRt]);
        assert_eq!(select(&[], |_| Ok(())).to_string(), "CPU");
    }
}

//! The accelerator runtime as a module of Python: sessions, resources, and each operation on memory of Python's, in place.
//! Called by the package `kernlet_accel`, which gives it names, defaults and NumPy arrays. It computes nothing, and keeps
//! no memory of Python's beyond the call that lent it.
#![deny(unsafe_code)]

mod buffer;
mod error;
mod model;
mod resource;
mod runtime;
mod session;
mod tensor;
mod typed;

use pyo3::prelude::*;

/// Sessions, resources and operations; what the package `kernlet_accel` is made of.
#[pymodule(name = "_native", gil_used = true)]
mod native {
    use kernlet_accel::Operation;
    use pyo3::{prelude::*, types::PyDict};

    #[pymodule_export]
    use crate::{resource::Resource, session::Report, session::Session, tensor::Tensor};

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        let operations = PyDict::new(module.py());
        for operation in Operation::ALL {
            operations.set_item(operation.name(), operation.abi_number())?;
        }
        module.add("OPERATIONS", operations)?;
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}

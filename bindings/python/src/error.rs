//! Errors as Python has them.
//! Called wherever an operation or a resource fails. The classes are the package's own, in `errors.py`.

use kernlet_abi::hypercall::status;
use kernlet_accel::{AccelError, chain};
use kernlet_accel_fetch::FetchError;
use pyo3::{
    exceptions::{PyConnectionError, PyTypeError, PyValueError},
    prelude::*,
    sync::PyOnceLock,
};

/// What the runtime says, as the class of its status.
pub(crate) fn raised(py: Python<'_>, error: &AccelError) -> PyErr {
    of_status(py, error.status(), &error.message())
}

/// That there is no resource of this name.
pub(crate) fn unknown_resource(py: Python<'_>, name: &str) -> PyErr {
    of_status(py, status::ENOENT, &format!("the session has no resource {name:?}; register it under this name"))
}

/// A status of the runtime's and its message.
fn of_status(py: Python<'_>, status: i32, message: &str) -> PyErr {
    static OF_STATUS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let raised =
        OF_STATUS.import(py, "kernlet_accel.errors", "of_status").and_then(|make| make.call1((status, message)));
    raised.map_or_else(|error| error, PyErr::from_value)
}

/// That a resource could not be fetched.
pub(crate) fn not_fetched(py: Python<'_>, error: &FetchError) -> PyErr {
    let status = match error {
        FetchError::Address { .. } => status::EINVAL,
        FetchError::NotAllowed { .. } => status::EACCES,
        FetchError::TimedOut { .. } => status::ETIMEDOUT,
        FetchError::TooLarge { .. } => status::ENOMEM,
        FetchError::Status { status, .. } if matches!(status.as_u16(), 404 | 410) => status::ENOENT,
        _ => status::EIO,
    };
    of_status(py, status, &chain(error))
}

/// An argument of the right type cannot be used.
pub(crate) fn bad_value(message: impl Into<String>) -> PyErr {
    PyValueError::new_err(message.into())
}

/// An agent that is configured cannot be used.
pub(crate) fn no_agent(address: &str, error: &dyn std::error::Error) -> PyErr {
    PyConnectionError::new_err(format!("the agent at {address} cannot be used: {}", chain(error)))
}

/// An argument has the wrong type.
pub(crate) fn bad_type(message: impl Into<String>) -> PyErr {
    PyTypeError::new_err(message.into())
}

//! Resources: files and bytes that operations refer to.
//! Used by Python's programs directly. Bytes are read once, when one is made.

use std::{path::PathBuf, sync::Arc};

use kernlet_accel::{Config, ResourceFile, ResourceKind};
use pyo3::prelude::*;

use crate::{buffer::In, error};

/// What operations refer to: a model, labels, a library; a file, several, or those of a folder.
///
/// Its bytes are read once, when it is made, and shared by all who use it.
///
/// >>> from kernlet_accel import Resource
/// >>> labels = Resource.from_bytes(b"tench\ngoldfish\n", name="labels.txt")
/// >>> labels.size, labels.kind, labels.files
/// (15, 'data', [('labels.txt', 15)])
#[pyclass(frozen, module = "kernlet_accel")]
#[derive(Debug)]
pub(crate) struct Resource(pub(crate) kernlet_accel::Resource);

#[pymethods]
impl Resource {
    /// The content of a file, read now and never again. `kind` is "data", "model" or "library".
    #[staticmethod]
    #[pyo3(signature = (path, *, kind = "data"))]
    fn from_file(py: Python<'_>, path: PathBuf, kind: &str) -> PyResult<Self> {
        Self::from_files(py, vec![path], kind)
    }

    /// The contents of several files. Of a library, the last is the main one and may need those before it.
    #[staticmethod]
    #[pyo3(signature = (paths, *, kind = "data"))]
    fn from_files(py: Python<'_>, paths: Vec<PathBuf>, kind: &str) -> PyResult<Self> {
        let kind = kind_of(kind)?;
        if paths.is_empty() {
            return Err(error::bad_value("a resource has at least one file"));
        }
        let read = py.detach(|| kernlet_accel::Resource::from_files(paths, kind));
        read.map(Self).map_err(|error| error::raised(py, &error))
    }

    /// The contents of all files in a folder and those below it. Links are not followed.
    #[staticmethod]
    #[pyo3(signature = (path, *, kind = "model"))]
    fn from_dir(py: Python<'_>, path: PathBuf, kind: &str) -> PyResult<Self> {
        let kind = kind_of(kind)?;
        let read = py.detach(|| kernlet_accel::Resource::from_dir(path, kind));
        read.map(Self).map_err(|error| error::raised(py, &error))
    }

    /// What is at an http or https address that the configuration allows (fetch.allow), as `config` or the environment has it.
    #[staticmethod]
    #[pyo3(signature = (url, *, kind = "data", config = None))]
    fn from_url(py: Python<'_>, url: &str, kind: &str, config: Option<PathBuf>) -> PyResult<Self> {
        let kind = kind_of(kind)?;
        let config = config.map_or_else(Config::from_env, |path| Config::from_file(&path));
        let config = config.map_err(|error| error::bad_value(kernlet_accel::chain(&error)))?;
        let fetched = py.detach(|| kernlet_accel_fetch::fetch(url, &config.fetch));
        let file = fetched.map_err(|error| error::not_fetched(py, &error))?;
        Ok(Self(kernlet_accel::Resource::new(vec![file], kind)))
    }

    /// A copy of these bytes, as a file of this name.
    #[staticmethod]
    #[pyo3(signature = (data, *, name = "", kind = "data"))]
    fn from_bytes(data: &Bound<'_, PyAny>, name: &str, kind: &str) -> PyResult<Self> {
        let kind = kind_of(kind)?;
        let bytes: Arc<[u8]> = In::new(data, "data")?.bytes().into();
        let file = ResourceFile { name: name.to_owned(), bytes };
        Ok(Self(kernlet_accel::Resource::new(vec![file], kind)))
    }

    /// Its length in bytes.
    #[getter]
    fn size(&self) -> u64 {
        self.0.size()
    }

    /// "data", "model" or "library".
    #[getter]
    fn kind(&self) -> &'static str {
        match self.0.kind() {
            ResourceKind::Library => "library",
            ResourceKind::Data => "data",
            ResourceKind::Model => "model",
        }
    }

    /// Names and sizes of its files; a path within a folder, an empty name for bytes that came without one.
    #[getter]
    fn files(&self) -> Vec<(String, usize)> {
        self.0.files().iter().map(|file| (file.name.clone(), file.bytes.len())).collect()
    }

    /// Whether it looks like an ONNX model.
    #[getter]
    fn is_onnx_model(&self) -> bool {
        self.0.is_onnx_model()
    }

    fn __repr__(&self) -> String {
        let files = self.0.files();
        let name = files.last().map(|file| file.name.as_str()).unwrap_or_default();
        format!("<Resource {name:?} of {} files, {} bytes>", files.len(), self.size())
    }
}

fn kind_of(kind: &str) -> PyResult<ResourceKind> {
    match kind {
        "library" => Ok(ResourceKind::Library),
        "data" => Ok(ResourceKind::Data),
        "model" => Ok(ResourceKind::Model),
        other => {
            Err(error::bad_value(format!("{other:?} is no kind of resource; use \"data\", \"model\" or \"library\"")))
        }
    }
}

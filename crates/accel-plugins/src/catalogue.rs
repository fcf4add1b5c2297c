//! The plugins there are: what each has, and how it comes to a host.
//! Read when plugins are loaded, and by who lists them. Never looks whether one is there.

use kernlet_accel::Operation;

use crate::{exec, matrix, mbench, noop, onnxruntime, opencl, rten};

/// A plugin that there is, loaded or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name in configuration.
    pub name: &'static str,
    /// What it has.
    pub operations: &'static [Operation],
    /// What it is, in a few words.
    pub summary: &'static str,
    /// How to get it.
    pub remedy: &'static str,
    /// Whether it is loaded without being named.
    pub by_default: bool,
}

/// All of them, in the order of preference where the cost is the same.
pub const CATALOGUE: [Entry; 9] = [
    Entry {
        name: "noop",
        operations: &noop::OPERATIONS,
        summary: "does nothing; named in the configuration, it has a dummy for every operation",
        remedy: "name it in the configuration for its dummies",
        by_default: true,
    },
    Entry {
        name: "rten",
        operations: &rten::OPERATIONS,
        summary: "ONNX models on the processor",
        remedy: "it is built in",
        by_default: true,
    },
    Entry {
        name: "gemm",
        operations: &matrix::OPERATIONS,
        summary: "products of matrices on the processor",
        remedy: "it is built in",
        by_default: true,
    },
    Entry {
        name: "onnxruntime",
        operations: &onnxruntime::OPERATIONS,
        summary: "ONNX models by ONNX Runtime, on a graphics card where it can",
        remedy: onnxruntime::REMEDY,
        by_default: true,
    },
    Entry {
        name: "openblas",
        operations: &matrix::OPERATIONS,
        summary: "products of matrices by OpenBLAS",
        remedy: crate::openblas::REMEDY,
        by_default: true,
    },
    Entry {
        name: "opencl",
        operations: &opencl::OPERATIONS,
        summary: "arrays, matrices and pictures on a graphics card",
        remedy: opencl::REMEDY,
        by_default: true,
    },
    Entry {
        name: "exec",
        operations: &exec::OPERATIONS,
        summary: "functions of libraries that the host allows",
        remedy: "name it in the configuration and list what it may call (exec.libraries, exec.digests)",
        by_default: false,
    },
    Entry {
        name: "mbench",
        operations: &mbench::OPERATIONS,
        summary: "takes as long as it is told to",
        remedy: "name it in the configuration",
        by_default: false,
    },
    Entry {
        name: "remote",
        operations: &noop::OPERATIONS,
        summary: "whatever an agent elsewhere has",
        remedy: "say where its agent is (KERNLET_ACCEL_AGENT, or agent in the configuration)",
        by_default: false,
    },
];

//! What the gateway hands a watchdog, as one JSON document: which function, from which files, under which
//! limits. Everything in it is checked already; it never holds a secret.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::{FunctionConfig, FunctionName, Namespace};

/// One replica of a function, ready to be run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionSpec {
    /// The function's name.
    pub name: FunctionName,
    /// The function's namespace.
    pub namespace: Namespace,
    /// Which of the function's replicas this is, from 0.
    pub replica: u32,
    /// The image as the deployment named it.
    pub image: String,
    /// Digest of the image's manifest: `sha256:` and 64 hexadecimal digits.
    pub digest: String,
    /// The unikernel.
    pub kernel: PathBuf,
    /// Files that the function's accelerator calls name, each with its name.
    pub resources: Vec<(String, PathBuf)>,
    /// Files of the block devices of a Solo5 unikernel, each with the device's name.
    #[serde(default)]
    pub blocks: Vec<(String, PathBuf)>,
    /// Limits and isolation.
    pub config: FunctionConfig,
    /// Environment variables for the guest.
    pub environment: BTreeMap<String, String>,
    /// The file that keeps the function's template from one process to the next; none, and each boots its own. It has
    /// to be this function's alone, in a folder that exists.
    #[serde(default)]
    pub template: Option<PathBuf>,
}

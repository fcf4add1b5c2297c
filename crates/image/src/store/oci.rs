//! The JSON documents of an OCI image layout, from the OCI image specification 1.1. Written and read by the
//! store. Fields that this program does not know survive in `index.json`, which other tools may write too.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::digest::Digest;

pub(super) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(super) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(super) const LAYER_TAR: &str = "application/vnd.oci.image.layer.v1.tar";
pub(super) const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub(super) const LAYERS_KNOWN: &str =
    "application/vnd.oci.image.layer.v1.tar and application/vnd.oci.image.layer.v1.tar+gzip";

/// Version in `oci-layout`.
pub(super) const LAYOUT_VERSION: &str = "1.0.0";

/// Annotation of an index entry: the image's name.
pub(super) const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Annotation of an index entry: when the image came into this store, RFC 3339. It is there and not in the
/// manifest, so that the same inputs always make the same manifest.
pub(super) const CREATED: &str = "org.opencontainers.image.created";

/// Annotation of a layer: name of the resource that it holds.
pub(super) const RESOURCE: &str = "dev.kernlet.resource";

/// Annotation of a layer: name of the block device whose file it holds.
pub(super) const BLOCK: &str = "dev.kernlet.block";

/// OCI tools refuse an operating system that Go does not know, so images say `linux`; what runs them is in the
/// `dev.kernlet.machine` annotation.
pub(super) const OS: &str = "linux";
pub(super) const ARCHITECTURE: &str = "amd64";

/// `schemaVersion` of all documents, since Docker's time.
const SCHEMA_VERSION: u32 = 2;

type Annotations = BTreeMap<String, String>;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Layout {
    pub(super) image_layout_version: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    pub(super) media_type: String,
    pub(super) digest: Digest,
    pub(super) size: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) annotations: Annotations,
    #[serde(flatten)]
    pub(super) other: Map<String, Value>,
}

impl Descriptor {
    pub(super) fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Self { media_type: media_type.to_owned(), digest, size, annotations: Annotations::new(), other: Map::new() }
    }

    pub(super) fn annotated(mut self, key: &str, value: String) -> Self {
        self.annotations.insert(key.to_owned(), value);
        self
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Index {
    pub(super) schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) media_type: Option<String>,
    pub(super) manifests: Vec<Descriptor>,
    #[serde(flatten)]
    pub(super) other: Map<String, Value>,
}

impl Default for Index {
    fn default() -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            media_type: Some(INDEX.to_owned()),
            manifests: Vec::new(),
            other: Map::new(),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Manifest {
    pub(super) schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) media_type: Option<String>,
    pub(super) config: Descriptor,
    pub(super) layers: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) annotations: Annotations,
}

impl Manifest {
    pub(super) fn new(config: Descriptor, layers: Vec<Descriptor>, annotations: Annotations) -> Self {
        Self { schema_version: SCHEMA_VERSION, media_type: Some(MANIFEST.to_owned()), config, layers, annotations }
    }
}

/// What a manifest or a nested index refers to; for finding out which blobs are still needed.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Links {
    pub(super) config: Option<Descriptor>,
    pub(super) layers: Vec<Descriptor>,
    pub(super) manifests: Vec<Descriptor>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ImageConfig {
    pub(super) architecture: String,
    pub(super) os: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) config: Option<Execution>,
    pub(super) rootfs: RootFs,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Execution {
    #[serde(rename = "Entrypoint", default)]
    pub(super) entrypoint: Option<Vec<String>>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct RootFs {
    #[serde(rename = "type")]
    pub(super) kind: String,
    /// Digests of the layers' uncompressed archives.
    pub(super) diff_ids: Vec<Digest>,
}

impl ImageConfig {
    pub(super) fn new(diff_ids: Vec<Digest>) -> Self {
        Self {
            architecture: ARCHITECTURE.to_owned(),
            os: OS.to_owned(),
            config: Some(Execution { entrypoint: Some(vec!["/.boot/kernel".to_owned()]) }),
            rootfs: RootFs { kind: "layers".to_owned(), diff_ids },
        }
    }
}

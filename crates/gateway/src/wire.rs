//! OpenFaaS's JSON types, key by key, as `faas-cli` and other clients send and read them.
//! The system handlers read and write them; the state store keeps deployments in the same form.
//! It never checks what the values mean: [`crate::deploy`] does.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use thiserror::Error;

/// Text to text: labels, annotations, environment.
pub(crate) type Map = BTreeMap<String, String>;

/// A request to deploy or to update a function. `null` and an absent field mean the same, as `faas-cli` sends
/// `"labels":null`. Fields that OpenFaaS has given up (`registryAuth`, `network`) are ignored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FunctionDeployment {
    /// The function's name.
    pub(crate) service: String,
    /// The image, like `echo:latest`.
    pub(crate) image: String,
    /// The function's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) namespace: Option<String>,
    /// A process to start per request: kept and returned; a unikernel has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) env_process: Option<String>,
    /// The function's environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) env_vars: Option<Map>,
    /// Where to place the function: kept and returned; there is one machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) constraints: Option<Vec<String>>,
    /// Names of secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) secrets: Option<Vec<String>>,
    /// Labels; those that begin with `dev.kernlet.` configure the function.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) labels: Option<Map>,
    /// Annotations; those that begin with `dev.kernlet.` configure the function.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) annotations: Option<Map>,
    /// Upper limits; `memory` is the memory of one machine, `cpu` what all machines of a replica use together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) limits: Option<FunctionResources>,
    /// What is asked for: kept and returned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) requests: Option<FunctionResources>,
    /// Kept and returned; a unikernel has no file system to write to.
    #[serde(default)]
    pub(crate) read_only_root_filesystem: Option<bool>,
}

/// Kubernetes quantities, returned letter for letter as they came.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FunctionResources {
    /// Bytes, like `64Mi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) memory: Option<String>,
    /// Processors, like `100m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cpu: Option<String>,
    /// NVIDIA devices.
    #[serde(default, rename = "nvidia.com/gpu", skip_serializing_if = "Option::is_none")]
    pub(crate) nvidia_gpu: Option<String>,
    /// AMD devices.
    #[serde(default, rename = "amd.com/gpu", skip_serializing_if = "Option::is_none")]
    pub(crate) amd_gpu: Option<String>,
    /// Intel devices.
    #[serde(default, rename = "intel.com/gpu", skip_serializing_if = "Option::is_none")]
    pub(crate) intel_gpu: Option<String>,
}

/// A function as lists and descriptions show it. Maps are objects even where they are empty.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FunctionStatus {
    pub(crate) name: String,
    pub(crate) image: String,
    pub(crate) namespace: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) env_process: Option<String>,
    pub(crate) env_vars: Map,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) constraints: Vec<String>,
    pub(crate) labels: Map,
    pub(crate) annotations: Map,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) limits: Option<FunctionResources>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) requests: Option<FunctionResources>,
    pub(crate) read_only_root_filesystem: bool,
    /// Invocations since the gateway started.
    pub(crate) invocation_count: u64,
    /// Replicas that there should be.
    pub(crate) replicas: u32,
    /// Replicas whose watchdog said that it is ready.
    pub(crate) available_replicas: u32,
    /// RFC 3339.
    pub(crate) created_at: String,
    /// Only where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) usage: Option<FunctionUsage>,
}

/// What a function's processes use.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FunctionUsage {
    /// Thousandths of a processor.
    pub(crate) cpu: f64,
    pub(crate) total_memory_bytes: u64,
}

/// A request to remove a function.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DeleteFunctionRequest {
    pub(crate) function_name: String,
    #[serde(default)]
    pub(crate) namespace: Option<String>,
}

/// A request for another number of replicas.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ScaleServiceRequest {
    #[serde(default)]
    pub(crate) service_name: Option<String>,
    pub(crate) replicas: u64,
    #[serde(default)]
    pub(crate) namespace: Option<String>,
}

/// What the platform is. The provider's *name* has the key `provider`, inside `provider`.
#[derive(Debug, Serialize)]
pub(crate) struct PlatformInfo {
    pub(crate) provider: ProviderInfo,
    pub(crate) version: VersionInfo,
    pub(crate) arch: &'static str,
}

/// What runs the functions.
#[derive(Debug, Serialize)]
pub(crate) struct ProviderInfo {
    pub(crate) provider: &'static str,
    pub(crate) orchestration: &'static str,
    pub(crate) version: VersionInfo,
}

/// A release and the commit it was built from (empty where the build did not say).
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct VersionInfo {
    pub(crate) release: &'static str,
    pub(crate) sha: &'static str,
}

/// One line of a function's log, as clients read it and as the log file keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LogLine {
    pub(crate) name: String,
    pub(crate) namespace: String,
    /// The replica that wrote it.
    pub(crate) instance: String,
    /// RFC 3339.
    pub(crate) timestamp: String,
    pub(crate) text: String,
    /// A crash report, which OpenFaaS does not know and its clients ignore.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) report: Option<serde_json::Value>,
}

/// Why a request body was refused.
#[derive(Debug, Error)]
#[error("The request body is not the JSON that this call takes")]
pub(crate) struct JsonError(#[from] serde_json::Error);

/// Reads the JSON body of a call. The error's source names the field, the line and the column.
pub(crate) fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, JsonError> {
    Ok(serde_json::from_slice(body)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
    use super::*;
    use proptest::prelude::*;
    use std::error::Error as _;

    #[test]
    fn the_deployment_of_faas_cli_is_read() {
        let sent = br#"{"service":"echo","image":"echo:latest","network":"","envProcess":"","envVars":{"a":"1"},
            "constraints":null,"secrets":[],"labels":null,"annotations":null,
            "limits":{"memory":"40m","cpu":"100m"},"readOnlyRootFilesystem":false}"#;
        let deployment: FunctionDeployment = read(sent).unwrap();
        assert_eq!(deployment.service, "echo");
        assert_eq!(deployment.labels, None);
        assert_eq!(deployment.limits.unwrap().memory.as_deref(), Some("40m"));
    }

    #[test]
    fn broken_json_is_refused_with_the_field_and_the_line() {
        let missing = read::<FunctionDeployment>(b"{\n\"service\":\"echo\"}").unwrap_err();
        let cause = missing.source().unwrap().to_string();
        assert!(cause.contains("image") && cause.contains("line 2"), "{cause}");
        let wrong = read::<FunctionDeployment>(br#"{"service":"echo","image":7}"#).unwrap_err();
        assert!(wrong.source().unwrap().to_string().contains("integer `7`"));
    }

    #[test]
    fn accelerators_keep_their_vendors_keys() {
        let limits = FunctionResources { nvidia_gpu: Some("1".into()), ..FunctionResources::default() };
        assert_eq!(serde_json::to_string(&limits).unwrap(), r#"{"nvidia.com/gpu":"1"}"#);
    }

    proptest! {
        #[test]
        fn a_deployment_survives_the_state_store(
            service in "\\PC*", image in "\\PC*",
            labels in proptest::option::of(proptest::collection::btree_map("\\PC*", "\\PC*", 0..4)),
            memory in proptest::option::of("\\PC*"),
        ) {
            let limits = memory.map(|memory| FunctionResources { memory: Some(memory), ..FunctionResources::default() });
            let deployment = FunctionDeployment { service, image, labels, limits, ..FunctionDeployment::default() };
            let kept = serde_json::to_vec(&deployment).unwrap();
            prop_assert_eq!(read::<FunctionDeployment>(&kept).unwrap(), deployment);
        }

        #[test]
        fn any_bytes_are_answered_without_a_panic(bytes: Vec<u8>) {
            let _ = read::<FunctionDeployment>(&bytes);
            let _ = read::<ScaleServiceRequest>(&bytes);
            let _ = read::<DeleteFunctionRequest>(&bytes);
        }
    }
}

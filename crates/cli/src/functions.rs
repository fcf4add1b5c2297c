//! OpenFaaS's function API as a client sees it: deploy, list, describe, scale, remove, logs, invoke.
//! Used by the subcommands of the same names and by `demo`. It sends what faas-cli sends and accepts
//! what faas-cli accepts; it never sends the gateway's credentials to a function.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::client::{self, Call, GatewayUrl, encode, query};
use crate::credentials::Credentials;

/// The namespace of a function that names none (fixed by OpenFaaS's clients).
pub(crate) const DEFAULT_NAMESPACE: &str = "openfaas-fn";

/// How often a function that is not ready yet is asked again.
const READY_POLL: Duration = Duration::from_millis(25);

/// A gateway and what to log in with.
#[derive(Clone, Debug)]
pub(crate) struct Gateway {
    url: GatewayUrl,
    credentials: Option<Credentials>,
}

/// What a deployment asks for; the keys are OpenFaaS's `FunctionDeployment`.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Deployment {
    /// The function's name.
    pub(crate) service: String,
    /// Reference of its image.
    pub(crate) image: String,
    pub(crate) namespace: String,
    pub(crate) env_vars: BTreeMap<String, String>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) annotations: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) limits: Option<Limits>,
}

/// Resource limits, as Kubernetes quantities.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Limits {
    /// Memory of one machine, such as `64Mi`.
    pub(crate) memory: String,
}

/// What the gateway says about a function: the part of OpenFaaS's `FunctionStatus` that is shown.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FunctionStatus {
    pub(crate) name: String,
    pub(crate) image: String,
    #[serde(default)]
    pub(crate) namespace: String,
    #[serde(default)]
    pub(crate) invocation_count: f64,
    #[serde(default)]
    pub(crate) replicas: u64,
    #[serde(default)]
    pub(crate) available_replicas: u64,
    #[serde(default)]
    pub(crate) created_at: Option<String>,
    #[serde(default)]
    pub(crate) env_vars: Option<BTreeMap<String, String>>,
    #[serde(default)]
    pub(crate) labels: Option<BTreeMap<String, String>>,
    #[serde(default)]
    pub(crate) annotations: Option<BTreeMap<String, String>>,
    #[serde(default)]
    pub(crate) usage: Option<Usage>,
}

/// What a function's replicas use now.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Usage {
    /// Thousandths of a processor.
    #[serde(default)]
    pub(crate) cpu: f64,
    /// Bytes.
    #[serde(default)]
    pub(crate) total_memory_bytes: f64,
}

/// One line that a function or its watchdog wrote; OpenFaaS's log message.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct LogLine {
    #[serde(default)]
    pub(crate) timestamp: String,
    #[serde(default)]
    pub(crate) text: String,
    /// What the gateway passes on of a crash.
    #[serde(default)]
    pub(crate) report: Option<Value>,
}

/// Which lines to fetch.
#[derive(Clone, Debug)]
pub(crate) struct LogQuery {
    pub(crate) follow: bool,
    /// Only lines from this time on, RFC 3339.
    pub(crate) since: Option<String>,
    /// At most so many of the last lines; all of them without it.
    pub(crate) tail: Option<u32>,
}

/// A request for a function.
#[derive(Clone, Debug)]
pub(crate) struct Invocation {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) method: Method,
    /// Empty, or what comes after the name, from its `/` on, already encoded.
    pub(crate) path: String,
    pub(crate) query: Vec<(String, String)>,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Gateway {
    /// A gateway that is called with these credentials.
    pub(crate) fn new(url: GatewayUrl, credentials: Option<Credentials>) -> Self {
        Self { url, credentials }
    }

    /// Deploys or updates: PUT first, POST when there is nothing to update, as faas-cli does.
    pub(crate) async fn deploy(&self, deployment: &Deployment) -> anyhow::Result<()> {
        let what = format!("deploy `{}` from image `{}`", deployment.service, deployment.image);
        let call = |method| Call::new(method, "/system/functions").json(deployment);
        let (status, body) = self.exchange(call(Method::PUT)?).await?;
        if status != StatusCode::NOT_FOUND {
            return accepted(&what, status, &body);
        }
        let (status, body) = self.exchange(call(Method::POST)?).await?;
        accepted(&what, status, &body)
    }

    /// Waits until the function has a replica that takes requests.
    pub(crate) async fn wait_ready(&self, name: &str, namespace: &str, patience: Duration) -> anyhow::Result<()> {
        let give_up = Instant::now() + patience;
        loop {
            let status: FunctionStatus = decode(self.describe(name, namespace).await?)?;
            if status.available_replicas > 0 {
                return Ok(());
            }
            if Instant::now() >= give_up {
                let last = self.last_line(name, namespace).await.unwrap_or_default();
                let said = if last.is_empty() { "nothing".to_owned() } else { last };
                bail!(
                    "`{name}` is deployed and has no replica ready after {} s; its log ends with: {said}",
                    patience.as_secs()
                );
            }
            tokio::time::sleep(READY_POLL).await;
        }
    }

    /// What a function or its watchdog said last.
    async fn last_line(&self, name: &str, namespace: &str) -> anyhow::Result<String> {
        let wanted = LogQuery { follow: false, since: None, tail: Some(1) };
        let response = self.logs(name, namespace, &wanted).await?;
        let (_, line) = client::collect(response).await?;
        Ok(serde_json::from_slice::<LogLine>(&line)?.text)
    }

    /// All functions of a namespace, as the gateway describes them.
    pub(crate) async fn list(&self, namespace: &str) -> anyhow::Result<Value> {
        let path = format!("/system/functions{}", query([("namespace", namespace)]));
        self.get("list functions", path).await
    }

    /// One function, with what it uses.
    pub(crate) async fn describe(&self, name: &str, namespace: &str) -> anyhow::Result<Value> {
        let path = format!("/system/function/{}{}", encode(name), query([("namespace", namespace), ("usage", "1")]));
        self.get(&format!("describe `{name}`"), path).await
    }

    /// Sets how many replicas a function has.
    pub(crate) async fn scale(&self, name: &str, namespace: &str, replicas: u32) -> anyhow::Result<()> {
        let body = json!({"serviceName": name, "replicas": replicas, "namespace": namespace});
        let call = Call::new(Method::POST, format!("/system/scale-function/{}", encode(name))).json(&body)?;
        let (status, body) = self.exchange(call).await?;
        accepted(&format!("scale `{name}` to {replicas}"), status, &body)
    }

    /// Removes a function and its replicas.
    pub(crate) async fn remove(&self, name: &str, namespace: &str) -> anyhow::Result<()> {
        let call = Call::new(Method::DELETE, "/system/functions")
            .json(&json!({"functionName": name, "namespace": namespace}))?;
        let (status, body) = self.exchange(call).await?;
        accepted(&format!("remove `{name}`"), status, &body)
    }

    /// A function's log, as a stream of JSON lines.
    pub(crate) async fn logs(
        &self,
        name: &str,
        namespace: &str,
        wanted: &LogQuery,
    ) -> anyhow::Result<Response<Incoming>> {
        let tail = wanted.tail.map_or_else(|| "-1".to_owned(), |lines| lines.to_string());
        let follow = if wanted.follow { "true" } else { "false" };
        let mut pairs = vec![("name", name), ("namespace", namespace), ("follow", follow), ("tail", &tail)];
        pairs.extend(wanted.since.as_deref().map(|since| ("since", since)));
        let response =
            client::send(&self.url, self.log_in(Call::new(Method::GET, format!("/system/logs{}", query(pairs))))?)
                .await?;
        if response.status().is_success() {
            return Ok(response);
        }
        let (status, body) = client::collect(response).await?;
        accepted(&format!("read the log of `{name}`"), status, &body)?;
        bail!("the gateway answered the log of `{name}` with {status}")
    }

    /// Calls a function; without credentials, which are the gateway's and not the function's business.
    pub(crate) async fn invoke(&self, invocation: Invocation) -> anyhow::Result<Response<Incoming>> {
        let pairs = invocation.query.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        let path = format!(
            "/function/{}.{}{}{}",
            encode(&invocation.name),
            encode(&invocation.namespace),
            invocation.path,
            query(pairs)
        );
        let call = Call { method: invocation.method, path, headers: invocation.headers, body: invocation.body };
        client::send(&self.url, call).await
    }

    async fn get(&self, what: &str, path: String) -> anyhow::Result<Value> {
        let (status, body) = self.exchange(Call::new(Method::GET, path)).await?;
        accepted(what, status, &body)?;
        serde_json::from_slice(&body)
            .with_context(|| format!("what answers at {} is not an OpenFaaS gateway: its answer is not JSON", self.url))
    }

    async fn exchange(&self, call: Call) -> anyhow::Result<(StatusCode, Bytes)> {
        client::collect(client::send(&self.url, self.log_in(call)?).await?).await
    }

    fn log_in(&self, mut call: Call) -> anyhow::Result<Call> {
        if let Some(credentials) = &self.credentials {
            let mut value = HeaderValue::from_str(&credentials.header())
                .context("the credentials do not fit into an HTTP header")?;
            value.set_sensitive(true);
            call.headers.insert(header::AUTHORIZATION, value);
        }
        Ok(call)
    }
}

/// Reads one of the gateway's JSON answers as a type.
pub(crate) fn decode<T: serde::de::DeserializeOwned>(value: Value) -> anyhow::Result<T> {
    serde_json::from_value(value)
        .context("the gateway's answer lacks what OpenFaaS's API promises; is it an OpenFaaS gateway?")
}

/// Turns any refusal of the gateway into an error that quotes it.
fn accepted(what: &str, status: StatusCode, body: &[u8]) -> anyhow::Result<()> {
    if status.is_success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(body);
    let said = said.trim();
    match status {
        StatusCode::UNAUTHORIZED => bail!(
            "cannot {what}: the gateway does not accept the credentials; use the --home that it runs with, \
             or give --username and --password-stdin"
        ),
        _ if said.is_empty() => bail!("cannot {what}: the gateway answered {status}"),
        _ => bail!("cannot {what}: {said} ({status})"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_deployment_has_the_keys_of_openfaas() {
        let deployment = Deployment {
            service: "echo".into(),
            image: "echo:latest".into(),
            namespace: DEFAULT_NAMESPACE.into(),
            limits: Some(Limits { memory: "64Mi".into() }),
            ..Deployment::default()
        };
        let expected = json!({
            "service": "echo", "image": "echo:latest", "namespace": "openfaas-fn",
            "envVars": {}, "labels": {}, "annotations": {}, "limits": {"memory": "64Mi"}
        });
        assert_eq!(serde_json::to_value(&deployment).unwrap(), expected);
    }

    #[test]
    fn a_status_may_leave_out_what_openfaas_leaves_out() {
        let status: FunctionStatus = decode(json!({"name": "echo", "image": "echo:latest", "labels": null})).unwrap();
        assert_eq!((status.replicas, status.available_replicas), (0, 0));
    }

    #[test]
    fn a_refusal_quotes_the_gateway() {
        let error = accepted("remove `x`", StatusCode::NOT_FOUND, b"no function x\n").unwrap_err();
        assert_eq!(error.to_string(), "cannot remove `x`: no function x (404 Not Found)");
        assert!(
            accepted("list functions", StatusCode::UNAUTHORIZED, b"")
                .unwrap_err()
                .to_string()
                .contains("--password-stdin")
        );
        assert!(accepted("list functions", StatusCode::ACCEPTED, b"").is_ok());
    }
}

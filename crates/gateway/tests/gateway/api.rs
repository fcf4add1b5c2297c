//! `/system/*` as faas-cli calls it, and what bad requests are told.

use crate::support::{Platform, add_image};
use http::{Method, StatusCode};
use serde_json::{Value, json};

#[tokio::test]
async fn a_deployment_of_faas_cli_is_accepted_and_described_letter_for_letter() {
    let platform = Platform::start().await;
    let sent = json!({
        "service": "echo", "image": "echo:latest", "network": "", "namespace": "", "envProcess": "",
        "envVars": {"greeting": "hi"}, "constraints": null, "secrets": [], "labels": null, "annotations": {"topic": "news"},
        "limits": {"memory": "65536Ki", "cpu": "100m"}, "requests": {"memory": "0.5Gi"}, "readOnlyRootFilesystem": true,
    });
    let absent = platform.client.system(Method::PUT, "/system/functions", &sent).await;
    absent.says(StatusCode::NOT_FOUND, &["echo.openfaas-fn"]);
    let created = platform.client.system(Method::POST, "/system/functions", &sent).await;
    assert_eq!(created.status, StatusCode::ACCEPTED, "{}", created.text());

    let status = platform.client.get("/system/function/echo?usage=1&namespace=openfaas-fn").await.json();
    assert_eq!(status["name"], "echo");
    assert_eq!(status["image"], "echo:latest");
    assert_eq!(status["namespace"], "openfaas-fn");
    assert_eq!(status["labels"], json!({}));
    assert_eq!(status["annotations"], json!({"topic": "news"}));
    assert_eq!(status["envVars"], json!({"greeting": "hi"}));
    assert_eq!(status["limits"], json!({"memory": "65536Ki", "cpu": "100m"}));
    assert_eq!(status["requests"], json!({"memory": "0.5Gi"}));
    assert_eq!(status["readOnlyRootFilesystem"], true);
    assert_eq!(status["replicas"], 1);
    assert_eq!(status["invocationCount"], 0);
    assert!(status["usage"]["totalMemoryBytes"].as_u64().unwrap() > 0, "{status}");
    assert!(status["createdAt"].as_str().unwrap().ends_with('Z'));

    let list = platform.client.get("/system/functions?namespace=openfaas-fn").await.json();
    assert_eq!(list.as_array().unwrap().len(), 1);
    assert_eq!(list[0]["name"], "echo");
    let updated = platform.client.system(Method::PUT, "/system/functions", &sent).await;
    assert_eq!(updated.status, StatusCode::ACCEPTED);
}

#[tokio::test]
async fn a_post_replaces_what_is_there_and_keeps_its_count_of_invocations() {
    let platform = Platform::start().await;
    add_image(platform.home.path(), "other:v2");
    platform.client.deploy("echo", "reflect").await;
    platform.client.call(Method::GET, "/function/echo", &[], "").await.says(StatusCode::OK, &[]);
    let other = json!({"service": "echo", "image": "other:v2"});
    assert_eq!(platform.client.system(Method::POST, "/system/functions", &other).await.status, StatusCode::ACCEPTED);
    let status = platform.client.status("echo").await;
    assert_eq!(status["image"], "other:v2");
    assert_eq!(status["invocationCount"], 1);
}

#[tokio::test]
async fn the_namespace_may_stand_in_the_body_or_in_the_query() {
    let platform = Platform::start().await;
    let client = &platform.client;
    let body = json!({"service": "echo", "image": "echo:latest", "namespace": "team-a"});
    assert_eq!(
        client.system(Method::POST, "/system/functions?namespace=team-b", &body).await.status,
        StatusCode::ACCEPTED
    );
    let body = json!({"service": "echo", "image": "echo:latest"});
    assert_eq!(
        client.system(Method::POST, "/system/functions?namespace=team-b", &body).await.status,
        StatusCode::ACCEPTED
    );
    assert_eq!(client.get("/system/namespaces").await.json(), json!(["openfaas-fn", "team-a", "team-b"]));
    assert_eq!(client.get("/system/functions").await.json(), json!([]));
    assert_eq!(client.get("/system/functions?namespace=team-a").await.json().as_array().unwrap().len(), 1);
    assert_eq!(client.get("/system/function/echo").await.status, StatusCode::NOT_FOUND);
    assert_eq!(client.get("/system/function/echo?namespace=team-b").await.status, StatusCode::OK);

    let scaled = client
        .system(
            Method::POST,
            "/system/scale-function/echo?namespace=team-b",
            &json!({"serviceName": "echo", "replicas": 2}),
        )
        .await;
    assert_eq!(scaled.status, StatusCode::ACCEPTED, "{}", scaled.text());
    assert_eq!(client.get("/system/function/echo?namespace=team-b").await.json()["replicas"], 2);
    assert_eq!(client.get("/system/function/echo?namespace=team-a").await.json()["replicas"], 1);

    client.call(Method::GET, "/function/echo.team-a/x", &[], "").await.says(StatusCode::OK, &["\"/x\""]);
    client.call(Method::GET, "/function/echo", &[], "").await.says(StatusCode::NOT_FOUND, &["echo.openfaas-fn"]);
    let in_body = client
        .system(Method::DELETE, "/system/functions", &json!({"functionName": "echo", "namespace": "team-a"}))
        .await;
    assert_eq!(in_body.status, StatusCode::ACCEPTED);
    let in_query =
        client.system(Method::DELETE, "/system/functions?namespace=team-b", &json!({"functionName": "echo"})).await;
    assert_eq!(in_query.status, StatusCode::ACCEPTED);
    assert_eq!(client.get("/system/namespaces").await.json(), json!(["openfaas-fn"]));
}

#[tokio::test]
async fn a_removed_function_is_404_everywhere_by_its_name() {
    let platform = Platform::start().await;
    let client = &platform.client;
    client.deploy("echo", "reflect").await;
    let body = json!({"functionName": "echo"});
    assert_eq!(client.system(Method::DELETE, "/system/functions", &body).await.status, StatusCode::ACCEPTED);
    let gone = ["error finding function echo.openfaas-fn", "kernlet deploy"];
    client.system(Method::DELETE, "/system/functions", &body).await.says(StatusCode::NOT_FOUND, &gone);
    client.get("/system/function/echo").await.says(StatusCode::NOT_FOUND, &gone);
    client.get("/system/logs?name=echo").await.says(StatusCode::NOT_FOUND, &gone);
    client
        .system(Method::POST, "/system/scale-function/echo", &json!({"replicas": 1}))
        .await
        .says(StatusCode::NOT_FOUND, &gone);
    client.call(Method::POST, "/function/echo", &[], "x").await.says(StatusCode::NOT_FOUND, &gone);
}

#[tokio::test]
async fn info_names_the_provider_under_the_key_provider() {
    let platform = Platform::start().await;
    let info = platform.client.get("/system/info").await.json();
    assert_eq!(info["provider"]["provider"], "kernlet");
    assert_eq!(info["provider"]["version"]["release"], env!("CARGO_PKG_VERSION"));
    assert_eq!(info["version"]["release"], env!("CARGO_PKG_VERSION"));
    assert!(info["version"]["sha"].is_string());
    assert_eq!(info["arch"], "x86_64");
}

async fn refused(platform: &Platform, deployment: Value, status: StatusCode, words: &[&str]) {
    platform.client.system(Method::POST, "/system/functions", &deployment).await.says(status, words);
}

#[tokio::test]
async fn a_deployment_that_cannot_work_is_refused_with_what_to_do() {
    let platform = Platform::start().await;
    let bad = StatusCode::BAD_REQUEST;
    refused(&platform, json!({"service": "Echo_1", "image": "echo:latest"}), bad, &["Echo_1", "RFC 1123"]).await;
    refused(
        &platform,
        json!({"service": "echo", "namespace": "A", "image": "echo:latest"}),
        bad,
        &["\"A\"", "RFC 1123"],
    )
    .await;
    refused(
        &platform,
        json!({"service": "echo", "image": "nosuch:v1"}),
        bad,
        &["nosuch:v1", "kernlet build", "kernlet images"],
    )
    .await;
    refused(&platform, json!({"service": "echo", "image": "Not An Image"}), bad, &["Not An Image"]).await;
    refused(
        &platform,
        json!({"service": "echo", "image": "echo:latest", "secrets": ["key"]}),
        bad,
        &["key", "without secrets"],
    )
    .await;
    refused(&platform, json!({"service": "echo", "image": "echo:latest", "envVars": {"a=b": "1"}}), bad, &["a=b"])
        .await;
    refused(
        &platform,
        json!({"service": "echo", "image": "echo:latest", "envVars": {"exec_timeout": "soon"}}),
        bad,
        &["exec_timeout", "soon"],
    )
    .await;
    refused(
        &platform,
        json!({"service": "echo", "image": "echo:latest", "limits": {"memory": "lots"}}),
        bad,
        &["limits.memory", "lots"],
    )
    .await;
    refused(
        &platform,
        json!({"service": "echo", "image": "echo:latest", "annotations": {"dev.kernlet.isolation": "clean"}}),
        bad,
        &["dev.kernlet.isolation", "fresh"],
    )
    .await;
    assert_eq!(platform.client.get("/system/functions").await.json(), json!([]));
}

#[tokio::test]
async fn broken_json_is_refused_with_the_field_and_the_place() {
    let platform = Platform::start().await;
    let send = async |method, path: &str, body: &'static str| platform.client.system_text(method, path, body).await;
    let bad = StatusCode::BAD_REQUEST;
    send(Method::POST, "/system/functions", "{\n\"service\": 1}").await.says(bad, &["integer `1`", "line 2"]);
    send(Method::POST, "/system/functions", "{\"service\":\"a\"}").await.says(bad, &["`image`"]);
    send(Method::POST, "/system/functions", "").await.says(bad, &["line 1"]);
    send(Method::DELETE, "/system/functions", "{}").await.says(bad, &["`functionName`"]);
    send(Method::POST, "/system/scale-function/a", "{\"replicas\":-1}").await.says(bad, &["-1"]);
    send(Method::POST, "/system/scale-function/a", "{\"serviceName\":\"b\",\"replicas\":1}")
        .await
        .says(bad, &["\"a\"", "\"b\""]);
    send(Method::GET, "/system/functions?namespace=%zz", "").await.says(bad, &["%zz"]);
    send(Method::GET, "/system/logs?name=a&tail=x", "").await.says(StatusCode::UNPROCESSABLE_ENTITY, &["tail"]);
    send(Method::GET, "/system/logs", "").await.says(StatusCode::UNPROCESSABLE_ENTITY, &["name"]);
}

#[tokio::test]
async fn a_body_larger_than_any_deployment_is_refused() {
    let platform = Platform::start().await;
    let body = vec![b' '; 3 * 1024 * 1024];
    let answer = platform.client.system_text(Method::POST, "/system/functions", body).await;
    answer.says(StatusCode::PAYLOAD_TOO_LARGE, &["1048576"]);
}

#[tokio::test]
async fn more_replicas_than_the_limit_are_refused() {
    let platform = Platform::start().await;
    platform.client.deploy("echo", "reflect").await;
    let answer = platform.client.system(Method::POST, "/system/scale-function/echo", &json!({"replicas": 65})).await;
    answer.says(StatusCode::BAD_REQUEST, &["65", "0 to 64"]);
    assert_eq!(platform.client.status("echo").await["replicas"], 1);
}

#[tokio::test]
async fn what_this_version_lacks_is_404_and_a_wrong_method_405() {
    let platform = Platform::start().await;
    platform.client.get("/system/secrets").await.says(StatusCode::NOT_FOUND, &["/system/functions"]);
    let answer = platform.client.system_text(Method::PATCH, "/system/functions", "").await;
    answer.says(StatusCode::METHOD_NOT_ALLOWED, &["GET, POST, PUT, DELETE"]);
    assert_eq!(answer.headers["allow"], "GET, POST, PUT, DELETE");
    let answer = platform.client.system_text(Method::POST, "/system/info", "").await;
    assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED);
    let answer = platform.client.call(Method::DELETE, "/healthz", &[], "").await;
    assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED);
    platform
        .client
        .call(Method::POST, "/async-function/echo", &[], "")
        .await
        .says(StatusCode::NOT_FOUND, &["/function/NAME"]);
}

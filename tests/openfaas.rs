//! OpenFaaS's API, sent exactly as the stock faas-cli sends it: login, deploy, list, describe, invoke, logs,
//! scale, remove. It never uses Kernlet's own client, so that a habit of ours cannot hide a difference.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use common::{Platform, deployment, eventually, home, kvm_is_usable};
use http::{Method, StatusCode};
use serde_json::json;

/// What faas-cli accepts as success; it treats 204 as a failure.
#[track_caller]
fn accepted(status: StatusCode) {
    assert!([StatusCode::OK, StatusCode::CREATED, StatusCode::ACCEPTED].contains(&status), "{status}");
}

/// `faas-cli deploy`: PUT, then POST when the PUT says that there is nothing to update.
#[track_caller]
fn faas_cli_deploy(platform: &Platform, name: &str) {
    let body = deployment(name, "echo:latest");
    let put = platform.system(Method::PUT, "/system/functions", Some(&body));
    if put.status == StatusCode::NOT_FOUND {
        accepted(platform.system(Method::POST, "/system/functions", Some(&body)).status);
    } else {
        accepted(put.status);
    }
}

/// `faas-cli ready`: asks until a replica is available.
#[track_caller]
fn faas_cli_ready(platform: &Platform, name: &str) {
    eventually("a replica", || {
        let status = platform.system(Method::GET, &format!("/system/function/{name}?usage=1"), None).json();
        (status["availableReplicas"].as_u64()? > 0).then_some(())
    });
}

#[test]
fn login_accepts_the_generated_password_and_no_other() {
    let home = tempfile::tempdir().unwrap();
    let platform = Platform::start(home.path());

    let reply = platform.system(Method::GET, "/system/functions", None);
    assert_eq!(reply.status, StatusCode::OK);
    assert_eq!(reply.json(), json!([]), "an empty list is [], never null");

    for headers in [&[][..], &[("authorization", "Basic YWRtaW46d3Jvbmc=")]] {
        let refused = platform.send(Method::GET, "/system/functions", headers, "");
        assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
        assert_eq!(refused.text().trim(), "invalid credentials");
        assert_eq!(refused.header("www-authenticate"), "Basic realm=\"Restricted\"");
    }
}

#[test]
fn the_password_is_readable_by_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let home = tempfile::tempdir().unwrap();
    let _platform = Platform::start(home.path());
    let mode = std::fs::metadata(home.path().join("auth/basic-auth-password")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn info_and_health_answer_as_openfaas_does() {
    let home = tempfile::tempdir().unwrap();
    let platform = Platform::start(home.path());
    assert_eq!(platform.send(Method::GET, "/healthz", &[], "").status, StatusCode::OK);
    let info = platform.system(Method::GET, "/system/info", None).json();
    assert!(info["provider"]["provider"].is_string(), "{info}");
    assert!(info["provider"]["version"]["release"].is_string(), "{info}");
    assert!(info["arch"].is_string(), "{info}");
}

#[test]
fn faas_cli_deploys_lists_describes_invokes_and_removes() {
    if !kvm_is_usable() {
        return;
    }
    let home = home();
    let platform = Platform::start(home.path());
    let body = deployment("echo", "echo:latest");
    let put = platform.system(Method::PUT, "/system/functions", Some(&body));
    assert_eq!(put.status, StatusCode::NOT_FOUND, "a first PUT must send faas-cli on to POST");
    accepted(platform.system(Method::POST, "/system/functions", Some(&body)).status);
    faas_cli_ready(&platform, "echo");

    let listed = platform.system(Method::GET, "/system/functions?namespace=openfaas-fn", None).json();
    assert_eq!(listed.as_array().map(Vec::len), Some(1), "{listed}");
    assert_eq!((&listed[0]["name"], &listed[0]["image"]), (&json!("echo"), &json!("echo:latest")));

    let invoked = platform.send(Method::POST, "/function/echo.openfaas-fn", &[("content-type", "text/plain")], "hello");
    assert_eq!((invoked.status, invoked.text().as_str()), (StatusCode::OK, "hello"));

    let described = platform.system(Method::GET, "/system/function/echo?namespace=openfaas-fn&usage=1", None).json();
    assert_eq!(described["availableReplicas"], json!(1), "{described}");
    assert_eq!(described["invocationCount"].as_f64(), Some(1.0), "{described}");
    assert!(described["createdAt"].as_str().unwrap().contains('T'), "{described}");

    let name = json!({"functionName": "echo"});
    let removed = platform.system(Method::DELETE, "/system/functions?namespace=openfaas-fn", Some(&name));
    accepted(removed.status);
    assert_eq!(platform.system(Method::GET, "/system/functions", None).json(), json!([]));
    assert_eq!(platform.call("echo", "hello").status, StatusCode::NOT_FOUND);
    let again = platform.system(Method::DELETE, "/system/functions", Some(&json!({"functionName": "echo"})));
    assert_eq!(again.status, StatusCode::NOT_FOUND);
}

#[test]
fn a_function_that_was_removed_can_be_deployed_again() {
    if !kvm_is_usable() {
        return;
    }
    let home = home();
    let platform = Platform::start(home.path());
    for _ in 0..2 {
        faas_cli_deploy(&platform, "echo");
        faas_cli_ready(&platform, "echo");
        platform.still_serves_echo();
        accepted(
            platform
                .system(
                    Method::DELETE,
                    "/system/functions",
                    Some(&json!({"functionName": "echo", "namespace": "openfaas-fn"})),
                )
                .status,
        );
        eventually("the watchdog's end", || platform.watchdogs().is_empty().then_some(()));
    }
}

#[test]
fn a_second_deployment_updates_the_function_in_place() {
    if !kvm_is_usable() {
        return;
    }
    let home = home();
    let platform = Platform::start(home.path());
    faas_cli_deploy(&platform, "echo");
    let mut update = deployment("echo", "echo:latest");
    update["labels"] = json!({"team": "blue"});
    accepted(platform.system(Method::PUT, "/system/functions", Some(&update)).status);
    faas_cli_ready(&platform, "echo");
    let described = platform.system(Method::GET, "/system/function/echo", None).json();
    assert_eq!(described["labels"]["team"], json!("blue"), "{described}");
    platform.still_serves_echo();
}

#[test]
fn every_method_reaches_the_function() {
    if !kvm_is_usable() {
        return;
    }
    let home = home();
    let platform = Platform::start(home.path());
    platform.deploy("echo");
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"] {
        let method: Method = method.parse().unwrap();
        let reply = platform.send(method.clone(), "/function/echo", &[], "the body");
        assert_eq!(reply.status, StatusCode::OK, "{method}");
        let body = if method == Method::HEAD { "" } else { "the body" };
        assert_eq!(reply.text(), body, "{method}");
    }
}

#[test]
fn path_and_headers_reach_the_function_with_the_call_id() {
    if !kvm_is_usable() {
        return;
    }
    let home = home();
    let platform = Platform::start(home.path());
    platform.deploy("echo");
    let sent = [("x-color", "teal"), ("x-call-id", "call-7")];
    let reply = platform.send(Method::GET, "/function/echo/headers", &sent, "");
    let shown = reply.text().to_lowercase();
    assert_eq!(reply.status, StatusCode::OK, "{shown}");
    for line in ["x-color: teal", "x-call-id: call-7", "x-forwarded-for: 127.0.0.1"] {
        assert!(shown.lines().any(|shown| shown == line), "{line} is not in\n{shown}");
    }
    assert!(shown.contains("x-start-time: "), "{shown}");
    assert_eq!(reply.header("x-call-id"), "call-7");
    assert!(reply.header("x-duration-seconds").parse::<f64>().is_ok());
}

#[test]
fn the_query_reaches_the_function() {
    if !kvm_is_usable() {
        return;
    }
    let home = home();
    let platform = Platform::start(home.path());
    platform.deploy("classify");
    let cat = std::fs::read(common::picture("cat.jpg")).unwrap();
    let reply = platform.send(Method::POST, "/function/classify.openfaas-fn?top=3", &[], cat);
    assert_eq!(reply.json()["predictions"].as_array().map(Vec::len), Some(3));
}

#[test]
fn the_admins_password_never_reaches_a_function() {
    if !kvm_is_usable() {
        return;
    }
    let home = home();
    let platform = Platform::start(home.path());
    platform.deploy("echo");
    let output = common::succeeded(platform.run(["invoke", "echo", "--path", "/headers"]));
    assert!(!common::stdout(&output).to_lowercase().contains("authorization"), "{}", common::stdout(&output));
}

#[test]
fn logs_are_json_lines_that_name_the_function() {
    if !kvm_is_usable() {
        return;
    }
    let home = home();
    let platform = Platform::start(home.path());
    platform.deploy("echo");
    platform.still_serves_echo();
    let line = eventually("a log line", || {
        let reply =
            platform.system(Method::GET, "/system/logs?follow=false&name=echo&namespace=openfaas-fn&tail=-1", None);
        assert_eq!(reply.status, StatusCode::OK);
        assert!(reply.header("content-type").starts_with("application/x-ndjson"), "{}", reply.header("content-type"));
        reply.text().lines().next().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
    });
    assert_eq!((&line["name"], &line["namespace"]), (&json!("echo"), &json!("openfaas-fn")), "{line}");
    assert!(line["timestamp"].is_string() && line["text"].is_string() && line["instance"].is_string(), "{line}");
}

#[test]
fn a_function_scales_to_nothing_and_back() {
    if !kvm_is_usable() {
        return;
    }
    let home = home();
    let platform = Platform::start(home.path());
    faas_cli_deploy(&platform, "echo");
    faas_cli_ready(&platform, "echo");
    accepted(
        platform
            .system(Method::POST, "/system/scale-function/echo", Some(&json!({"serviceName": "echo", "replicas": 0})))
            .status,
    );
    eventually("the watchdog's end", || platform.watchdogs().is_empty().then_some(()));
    accepted(
        platform
            .system(Method::POST, "/system/scale-function/echo", Some(&json!({"serviceName": "echo", "replicas": 1})))
            .status,
    );
    faas_cli_ready(&platform, "echo");
    platform.still_serves_echo();
}

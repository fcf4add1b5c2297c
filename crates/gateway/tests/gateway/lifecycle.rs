//! Replicas: scaling, updating, removing, stopping.

use crate::support::{Client, Platform};
use http::{Method, StatusCode};
use serde_json::json;
use std::collections::BTreeSet;
use std::path::Path;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

async fn scale(client: &Client, replicas: u32) {
    let body = json!({"serviceName": "echo", "replicas": replicas});
    let answer = client.system(Method::POST, "/system/scale-function/echo", &body).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.text());
}

#[tokio::test]
async fn a_function_scaled_to_zero_has_no_process_and_wakes_with_the_first_call() {
    let platform = Platform::start().await;
    platform.client.deploy("echo", "reflect").await;
    scale(&platform.client, 0).await;
    let status = platform.client.status("echo").await;
    assert_eq!((&status["replicas"], &status["availableReplicas"]), (&json!(0), &json!(0)));
    platform.client.call(Method::GET, "/function/echo", &[], "").await.says(StatusCode::OK, &[]);
    assert_eq!(platform.client.status("echo").await["replicas"], 1);
}

#[tokio::test]
async fn every_replica_gets_its_share() {
    let platform = Platform::start().await;
    platform.client.deploy("echo", "reflect").await;
    scale(&platform.client, 3).await;
    let mut seen = BTreeSet::new();
    for _ in 0..6 {
        seen.insert(
            platform.client.call(Method::GET, "/function/echo", &[], "").await.json()["replica"].as_u64().unwrap(),
        );
    }
    assert_eq!(seen, BTreeSet::from([0, 1, 2]));
    while platform.client.status("echo").await["availableReplicas"] != 3 {}
    scale(&platform.client, 1).await;
    assert_eq!(platform.client.status("echo").await["availableReplicas"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_fails_no_request() {
    let platform = Platform::start().await;
    platform.client.deploy_with("echo", json!({"VERSION": "0"})).await;
    let client = platform.client.clone();
    let calls = tokio::spawn(async move {
        let mut last = String::new();
        while last != "4" {
            let answer = client.call(Method::POST, "/function/echo", &[], "x").await;
            assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
            last = answer.json()["version"].as_str().unwrap().to_owned();
        }
    });
    for version in 1..=4 {
        let body = json!({"service": "echo", "image": "echo:latest", "envVars": {"VERSION": version.to_string()}});
        let answer = platform.client.system(Method::PUT, "/system/functions", &body).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.text());
    }
    calls.await.unwrap();
}

#[tokio::test]
async fn a_request_under_way_outlives_the_removal_of_its_function() {
    let platform = Platform::start().await;
    platform.client.deploy("echo", "reflect").await;
    let mut stream = TcpStream::connect(platform.client.address).await.unwrap();
    let head = "POST /function/echo HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 4\r\nconnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    // The answer to the expectation says that the request is on its way to the function.
    let mut going_on = [0; 25];
    stream.read_exact(&mut going_on).await.unwrap();
    assert_eq!(&going_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    let removed = platform.client.system(Method::DELETE, "/system/functions", &json!({"functionName": "echo"})).await;
    assert_eq!(removed.status, StatusCode::ACCEPTED);
    stream.write_all(b"late").await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    assert!(response.contains("200 OK") && response.contains("\"length\":4"), "{response}");
}

#[tokio::test]
async fn no_process_outlives_the_gateways_shutdown() {
    let platform = Platform::start().await;
    platform.client.deploy("echo", "reflect").await;
    let pid = platform.client.call(Method::GET, "/function/echo/pid", &[], "").await.text().to_owned();
    assert!(Path::new("/proc").join(&pid).exists());
    let home = platform.stop().await;
    assert!(!Path::new("/proc").join(&pid).exists());
    assert_eq!(std::fs::read_dir(home.path().join("run")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_functions_template_has_a_file_of_its_own_that_goes_with_the_function() {
    let platform = Platform::start().await;
    platform.client.deploy("echo", "reflect").await;
    platform.client.deploy("other", "reflect").await;
    let folder = platform.home.path().join("templates").join("openfaas-fn");
    let file = |name: &str| folder.canonicalize().unwrap().join(name);
    let described = std::fs::read_dir(platform.home.path().join("run")).unwrap().filter_map(|entry| {
        let text = std::fs::read_to_string(entry.unwrap().path()).ok()?;
        serde_json::from_str::<serde_json::Value>(&text).ok()
    });
    let named: BTreeSet<String> = described.map(|spec| spec["template"].as_str().unwrap().to_owned()).collect();
    let expected = ["echo", "other"].map(|name| file(name).display().to_string());
    assert_eq!(named, BTreeSet::from(expected));
    for name in ["echo", "other", "gone"] {
        std::fs::write(file(name), "a template").unwrap();
    }
    platform.client.system(Method::DELETE, "/system/functions", &json!({"functionName": "echo"})).await;
    assert!(!folder.join("echo").exists() && folder.join("other").exists());
    // One that a gateway that was killed has left goes with the next start.
    let platform = Platform::start_in(platform.stop().await).await;
    assert!(folder.join("other").exists() && !folder.join("gone").exists());
    platform.stop().await;
}

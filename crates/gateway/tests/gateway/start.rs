//! Starting: what survives a gateway that was killed, and what keeps one from starting.

use crate::support::{Client, Platform, add_image, config};
use http::{Method, StatusCode};
use kernlet_gateway::{Gateway, GatewayError};
use serde_json::json;
use std::path::PathBuf;
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// A gateway in a process of its own, to be killed.
async fn start_process(home: &std::path::Path) -> (Child, Client) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "start::the_process", "--nocapture"])
        .env("GATEWAY_HOME", home)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    loop {
        let line = lines.next_line().await.unwrap().expect("the gateway starts");
        if let Some((_, address)) = line.split_once("serves at ") {
            return (child, Client::new(address.parse().unwrap(), home));
        }
    }
}

#[test]
#[ignore = "the body of the process that another test kills"]
fn the_process() {
    let Ok(home) = std::env::var("GATEWAY_HOME") else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let gateway = Gateway::start(config(&PathBuf::from(home))).await.unwrap();
        println!("serves at {}", gateway.address());
        std::future::pending::<()>().await;
    });
}

#[tokio::test]
async fn what_was_acknowledged_survives_kill_9() {
    let home = tempfile::tempdir().unwrap();
    add_image(home.path(), "echo:latest");
    let (mut process, client) = start_process(home.path()).await;
    client.deploy_with("echo", json!({"VERSION": "7"})).await;
    client.deploy("other", "reflect").await;
    let scaled = client.system(Method::POST, "/system/scale-function/other", &json!({"replicas": 2})).await;
    assert_eq!(scaled.status, StatusCode::ACCEPTED);
    client.deploy("gone", "reflect").await;
    let removed = client.system(Method::DELETE, "/system/functions", &json!({"functionName": "gone"})).await;
    assert_eq!(removed.status, StatusCode::ACCEPTED);
    let before = client.status("echo").await;
    process.start_kill().unwrap();
    process.wait().await.unwrap();

    let platform = Platform::start_in(home).await;
    let list = platform.client.get("/system/functions").await.json();
    let names: Vec<&str> = list.as_array().unwrap().iter().map(|function| function["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["echo", "other"]);
    assert_eq!(list[0]["createdAt"], before["createdAt"]);
    assert_eq!(list[1]["replicas"], 2);
    let answer = platform.client.call(Method::GET, "/function/echo", &[], "").await;
    assert_eq!(answer.json()["version"], "7");
}

#[tokio::test]
async fn a_function_whose_unpacked_files_were_deleted_gets_them_again() {
    let platform = Platform::start().await;
    platform.client.deploy("echo", "reflect").await;
    let home = platform.stop().await;
    std::fs::remove_dir_all(home.path().join("unpacked")).unwrap();
    let platform = Platform::start_in(home).await;
    platform.client.call(Method::GET, "/function/echo", &[], "").await.says(StatusCode::OK, &[]);
    assert_eq!(std::fs::read_dir(platform.home.path().join("unpacked")).unwrap().count(), 1);
}

#[tokio::test]
async fn a_second_gateway_on_the_same_home_is_refused_with_where_the_first_one_is() {
    let platform = Platform::start().await;
    let error = Gateway::start(config(platform.home.path())).await.unwrap_err();
    assert!(matches!(error, GatewayError::Locked { .. }));
    let message = error.to_string();
    assert!(message.contains(&platform.client.address.to_string()), "{message}");
    assert_eq!(platform.client.get("/system/functions").await.status, StatusCode::OK);
}

#[tokio::test]
async fn an_address_in_use_is_refused_by_name() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let home = tempfile::tempdir().unwrap();
    let mut config = config(home.path());
    config.listen = taken.local_addr().unwrap();
    let error = Gateway::start(config).await.unwrap_err();
    let message = error.to_string();
    assert!(matches!(error, GatewayError::AddressInUse(_)));
    assert!(message.contains(&taken.local_addr().unwrap().to_string()) && message.contains("--listen"), "{message}");
}

#[tokio::test]
async fn a_home_too_long_for_sockets_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let mut config = config(home.path());
    config.home = home.path().join("x".repeat(100));
    let error = Gateway::start(config).await.unwrap_err();
    assert!(matches!(error, GatewayError::LongHome(_)), "{error}");
}

#[tokio::test]
async fn a_home_that_is_a_file_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let mut config = config(home.path());
    config.home = config.program.clone();
    let error = Gateway::start(config).await.unwrap_err();
    assert!(matches!(error, GatewayError::Home { .. }), "{error}");
}

#[tokio::test]
async fn a_watchdog_that_cannot_be_started_refuses_the_deployment() {
    let home = tempfile::tempdir().unwrap();
    add_image(home.path(), "echo:latest");
    let mut config = config(home.path());
    config.program = "/nosuch/kernlet".into();
    let gateway = Gateway::start(config).await.unwrap();
    let client = Client::new(gateway.address(), home.path());
    let answer = client.system(Method::POST, "/system/functions", &json!({"service": "echo", "image": "echo"})).await;
    answer.says(StatusCode::INTERNAL_SERVER_ERROR, &["/nosuch/kernlet"]);
    assert_eq!(client.get("/system/functions").await.json(), json!([]));
}

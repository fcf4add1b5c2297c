//! `/system/logs`: what functions said, as it is kept and as it comes.

use crate::support::{Answer, Client, Platform};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;

fn lines(answer: &Answer) -> Vec<Value> {
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    assert_eq!(answer.headers["content-type"], "application/x-ndjson");
    answer.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Follows a log until a line says this.
async fn follow(client: &Client, query: &str) -> Lines<BufReader<OwnedReadHalf>> {
    let (read, mut write) = TcpStream::connect(client.address).await.unwrap().into_split();
    let head =
        format!("GET /system/logs?{query} HTTP/1.1\r\nhost: a\r\nauthorization: {}\r\n\r\n", client.authorization());
    write.write_all(head.as_bytes()).await.unwrap();
    // The server takes a closed writing half for a client that went away.
    write.forget();
    BufReader::new(read).lines()
}

async fn until(lines: &mut Lines<BufReader<OwnedReadHalf>>, words: &str) -> Value {
    loop {
        let line = lines.next_line().await.unwrap().expect("the log goes on");
        if line.contains(words) {
            return serde_json::from_str(&line).unwrap();
        }
    }
}

#[tokio::test]
async fn a_line_carries_its_function_replica_level_and_call_id() {
    let platform = Platform::start().await;
    platform.client.deploy("echo", "reflect").await;
    let mut log = follow(&platform.client, "name=echo&namespace=openfaas-fn&follow=1&tail=-1").await;
    platform.client.call(Method::GET, "/function/echo/log", &[("x-call-id", "call-1")], "").await;
    let line = until(&mut log, "said in a request").await;
    assert_eq!(line["name"], "echo");
    assert_eq!(line["namespace"], "openfaas-fn");
    assert!(line["instance"].as_str().unwrap().starts_with("echo-"));
    assert_eq!(line["timestamp"], "2026-01-02T03:04:05.678Z");
    assert_eq!(line["text"], "[warn] [call-1] said in a request");
    assert_eq!(until(&mut log, "plain words").await["text"], "plain words");
}

#[tokio::test]
async fn logs_survive_scaling_to_zero_and_the_gateway() {
    let platform = Platform::start().await;
    platform.client.deploy("echo", "reflect").await;
    let mut log = follow(&platform.client, "name=echo&follow=true").await;
    platform.client.call(Method::GET, "/function/echo/log", &[], "").await;
    until(&mut log, "plain words").await;
    let zero = json!({"serviceName": "echo", "replicas": 0});
    assert_eq!(
        platform.client.system(Method::POST, "/system/scale-function/echo", &zero).await.status,
        StatusCode::ACCEPTED
    );
    assert!(lines(&platform.client.get("/system/logs?name=echo&tail=1").await)[0]["text"] == "plain words");
    let platform = Platform::start_in(platform.stop().await).await;
    let kept = lines(&platform.client.get("/system/logs?name=echo&follow=false").await);
    assert!(kept.iter().any(|line| line["text"] == "plain words"));
    let none = lines(&platform.client.get("/system/logs?name=echo&instance=nosuch").await);
    assert!(none.is_empty());
}

#[tokio::test]
async fn a_follower_is_let_go_when_the_function_is_removed() {
    let platform = Platform::start().await;
    platform.client.deploy("echo", "reflect").await;
    let mut log = follow(&platform.client, "name=echo&follow=1").await;
    until(&mut log, "the stand-in serves").await;
    let removed = platform.client.system(Method::DELETE, "/system/functions", &json!({"functionName": "echo"})).await;
    assert_eq!(removed.status, StatusCode::ACCEPTED);
    // The last chunk of the response.
    while log.next_line().await.unwrap().expect("the response ends in order") != "0" {}
}

#[tokio::test]
async fn a_follower_does_not_hold_up_the_shutdown() {
    let platform = Platform::start().await;
    platform.client.deploy("echo", "reflect").await;
    let mut log = follow(&platform.client, "name=echo&follow=1").await;
    until(&mut log, "the stand-in serves").await;
    platform.stop().await;
    while log.next_line().await.unwrap().is_some() {}
}

#[tokio::test]
async fn a_flood_of_lines_neither_stops_the_function_nor_fills_the_disk() {
    let platform = Platform::start().await;
    platform.client.deploy("echo", "reflect").await;
    for _ in 0..3 {
        platform.client.call(Method::GET, "/function/echo/flood", &[], "").await.says(StatusCode::OK, &[]);
    }
    platform.client.call(Method::GET, "/function/echo", &[], "").await.says(StatusCode::OK, &[]);
    let home = platform.stop().await;
    let folder = std::fs::read_dir(home.path().join("logs/openfaas-fn")).unwrap();
    let sizes: Vec<u64> = folder.map(|file| file.unwrap().metadata().unwrap().len()).collect();
    assert!(sizes.len() <= 2 && sizes.iter().all(|size| *size <= 4 * 1024 * 1024), "{sizes:?}");
}

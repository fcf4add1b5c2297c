//! Invocations: what reaches the function, what comes back, and what is said when nothing does.

use crate::support::Platform;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

fn header<'a>(seen: &'a Value, name: &str) -> Option<&'a str> {
    let headers = seen["headers"].as_array().unwrap();
    headers.iter().find(|pair| pair[0] == name).map(|pair| pair[1].as_str().unwrap())
}

#[tokio::test]
async fn path_and_query_arrive_byte_for_byte() {
    let platform = Platform::start().await;
    platform.client.deploy("echo", "reflect").await;
    for (sent, seen) in [
        ("/function/echo", "/"),
        ("/function/echo/", "/"),
        ("/function/echo?a=1&&b=%20+", "/?a=1&&b=%20+"),
        ("/function/echo.openfaas-fn/a%2Fb/../c//d?x=%2e%2e", "/a%2Fb/../c//d?x=%2e%2e"),
        ("/function/echo/_/../?", "/_/../?"),
    ] {
        let answer = platform.client.call(Method::GET, sent, &[], "").await;
        assert_eq!(answer.json()["uri"], seen, "{sent}");
    }
}

#[tokio::test]
async fn every_method_arrives_and_the_rest_are_405() {
    let platform = Platform::start().await;
    platform.client.deploy("echo", "reflect").await;
    for method in [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS] {
        let answer = platform.client.call(method.clone(), "/function/echo", &[], "").await;
        assert_eq!(answer.json()["method"], method.as_str());
    }
    let head = platform.client.call(Method::HEAD, "/function/echo", &[], "").await;
    assert_eq!(head.status, StatusCode::OK);
    assert!(head.body.is_empty());
    assert_ne!(head.headers["content-length"], "0");
    for method in [Method::TRACE, Method::from_bytes(b"PURGE").unwrap()] {
        let answer = platform.client.call(method, "/function/echo", &[], "").await;
        assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED);
        assert!(answer.headers["allow"].to_str().unwrap().contains("OPTIONS"));
        assert!(answer.headers.contains_key("x-call-id"));
    }
}

#[tokio::test]
async fn a_call_is_marked_in_both_directions() {
    let platform = Platform::start().await;
    platform.client.deploy("echo", "reflect").await;
    let sent = [
        ("x-call-id", "my-call"),
        ("x-forwarded-for", "10.1.1.1"),
        ("connection", "x-secret"),
        ("x-secret", "1"),
        ("te", "trailers"),
        ("x-kept", "1"),
    ];
    let answer = platform.client.call(Method::POST, "/function/echo", &sent, "abc").await;
    let seen = answer.json();
    assert_eq!(answer.headers["x-call-id"], "my-call");
    assert_eq!(header(&seen, "x-call-id"), Some("my-call"));
    assert_eq!(header(&seen, "x-start-time"), answer.headers["x-start-time"].to_str().ok());
    assert_eq!(header(&seen, "x-forwarded-for"), Some("10.1.1.1, 127.0.0.1"));
    assert_eq!(header(&seen, "x-forwarded-host"), Some(platform.client.address.to_string().as_str()));
    assert_eq!(header(&seen, "x-kept"), Some("1"));
    for name in ["connection", "x-secret", "te"] {
        assert_eq!(header(&seen, name), None, "{name}");
    }
    assert_eq!(answer.headers["x-served-by"], concat!("kernlet/", env!("CARGO_PKG_VERSION")));
    assert!(!answer.headers.contains_key("x-openfaas-internal"));

    let answer = platform.client.call(Method::GET, "/function/echo", &[("x-call-id", "two words")], "").await;
    assert!(uuid::Uuid::parse_str(answer.headers["x-call-id"].to_str().unwrap()).is_ok());
    let hop = platform.client.call(Method::GET, "/function/echo/hop", &[], "").await;
    assert!(!hop.headers.contains_key("x-mine") && !hop.headers.contains_key("keep-alive"));
}

#[tokio::test]
async fn a_redirect_goes_to_the_caller() {
    let platform = Platform::start().await;
    platform.client.deploy("echo", "reflect").await;
    let answer = platform.client.call(Method::GET, "/function/echo/redirect", &[], "").await;
    assert_eq!(answer.status, StatusCode::FOUND);
    assert_eq!(answer.headers["location"], "/elsewhere");
}

#[tokio::test]
async fn a_response_without_a_media_type_gets_the_requests() {
    let platform = Platform::start().await;
    platform.client.deploy("echo", "reflect").await;
    let typed =
        platform.client.call(Method::POST, "/function/echo/no-type", &[("content-type", "image/png")], "x").await;
    assert_eq!(typed.headers["content-type"], "image/png");
    let untyped = platform.client.call(Method::POST, "/function/echo/no-type", &[], "x").await;
    assert_eq!(untyped.headers["content-type"], "text/plain");
}

#[tokio::test]
async fn the_time_in_the_gateway_is_told_to_those_who_ask() {
    let platform = Platform::start().await;
    platform.client.deploy("echo", "reflect").await;
    let asked = platform.client.call(Method::GET, "/function/echo", &[("x-kernlet-timing", "1")], "").await;
    let timing = asked.headers["server-timing"].to_str().unwrap();
    assert!(timing.starts_with("gateway;dur=") && timing.ends_with(", watchdog;dur=0.1"), "{timing}");
    let not_asked = platform.client.call(Method::GET, "/function/echo", &[], "").await;
    assert!(!not_asked.headers.contains_key("server-timing"));
}

#[tokio::test]
async fn a_large_upload_streams_through() {
    let platform = Platform::start().await;
    platform.client.deploy("echo", "reflect").await;
    let answer = platform.client.call(Method::POST, "/function/echo", &[], vec![7; 48 * 1024 * 1024]).await;
    assert_eq!(answer.json()["length"], 48 * 1024 * 1024);
}

#[tokio::test]
async fn a_chunked_upload_arrives_whole() {
    let platform = Platform::start().await;
    platform.client.deploy("echo", "reflect").await;
    let mut stream = TcpStream::connect(platform.client.address).await.unwrap();
    let request = "POST /function/echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    assert!(response.contains("\"length\":5"), "{response}");
}

#[tokio::test]
async fn both_bodies_stream_at_the_same_time() {
    let platform = Platform::start().await;
    platform.client.deploy("echo", "reflect").await;
    let mut stream = BufReader::new(TcpStream::connect(platform.client.address).await.unwrap());
    let head = "POST /function/echo/duplex HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    // Each piece has to come back before the next one is sent.
    for piece in ["first", "again", "third"] {
        stream.write_all(format!("5\r\n{piece}\r\n").as_bytes()).await.unwrap();
        let mut line = String::new();
        while line.trim_end() != piece {
            line.clear();
            assert_ne!(stream.read_line(&mut line).await.unwrap(), 0, "the response ended before {piece}");
        }
    }
}

#[tokio::test]
async fn a_refusal_reaches_a_client_that_is_still_sending() {
    let platform = Platform::start().await;
    platform.client.deploy("echo", "reflect").await;
    for _ in 0..20 {
        let mut stream = TcpStream::connect(platform.client.address).await.unwrap();
        let length = 16 * 1024 * 1024;
        let head = format!(
            "POST /function/echo/refuse HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        // Like Go's and Python's clients, this one sends everything before it reads anything.
        stream.write_all(&vec![0; length]).await.unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).await.unwrap();
        assert!(response.starts_with("HTTP/1.1 413"), "{response}");
        assert!(response.ends_with("too large for me"), "{response}");
        assert!(response.contains("x-openfaas-internal: watchdog"), "{response}");
    }
}

#[tokio::test]
async fn an_unknown_function_is_404_with_its_name_and_what_to_do() {
    let platform = Platform::start().await;
    let answer = platform.client.call(Method::POST, "/function/nosuch/x?y", &[("x-call-id", "c")], "body").await;
    answer.says(StatusCode::NOT_FOUND, &["error finding function nosuch.openfaas-fn", "kernlet list"]);
    assert_eq!(answer.headers["x-openfaas-internal"], "gateway");
    assert_eq!(answer.headers["x-call-id"], "c");
}

#[tokio::test]
async fn a_watchdog_that_dies_in_a_request_is_a_502_with_its_last_words() {
    let platform = Platform::start().await;
    platform.client.deploy("echo", "reflect").await;
    let answer = platform.client.call(Method::POST, "/function/echo/die", &[], "x").await;
    answer.says(StatusCode::BAD_GATEWAY, &["echo.openfaas-fn died", "exit status 7", "the machine is on fire"]);
    assert_eq!(answer.headers["x-openfaas-internal"], "gateway");
    let next = platform.client.call(Method::GET, "/function/echo", &[], "").await;
    next.says(StatusCode::OK, &[]);
}

#[tokio::test]
async fn a_watchdog_that_speaks_no_http_is_a_502() {
    let platform = Platform::start().await;
    platform.client.deploy("echo", "garbage").await;
    let answer = platform.client.call(Method::GET, "/function/echo", &[], "").await;
    answer.says(StatusCode::BAD_GATEWAY, &["echo.openfaas-fn", "HTTP"]);
    assert_eq!(answer.headers["x-openfaas-internal"], "gateway");
}

#[tokio::test]
async fn a_watchdog_that_keeps_dying_is_a_503_with_its_cause() {
    let platform = Platform::start().await;
    platform.client.deploy("echo", "dies").await;
    for _ in 0..4 {
        let answer = platform.client.call(Method::GET, "/function/echo", &[], "").await;
        answer.says(
            StatusCode::SERVICE_UNAVAILABLE,
            &["echo.openfaas-fn", "exit status 3", "the kernel is not an ELF file"],
        );
        assert!(answer.headers["retry-after"].to_str().unwrap().parse::<u64>().unwrap() >= 1);
        assert_eq!(answer.headers["x-openfaas-internal"], "gateway");
    }
    assert_eq!(platform.client.status("echo").await["availableReplicas"], 0);
    platform.client.get("/system/logs?name=echo&tail=5").await.says(StatusCode::OK, &["the kernel is not an ELF file"]);
}

#[tokio::test]
async fn a_request_waits_while_a_dead_watchdog_is_replaced() {
    let platform = Platform::start().await;
    let mark = platform.home.path().join("mark");
    platform.client.deploy_with("echo", json!({"STANDIN": "dies once", "MARK": mark})).await;
    platform.client.call(Method::GET, "/function/echo", &[], "").await.says(StatusCode::OK, &[]);
    assert!(mark.exists());
}

#[tokio::test]
async fn a_function_that_never_answers_is_a_504_that_names_the_limit() {
    let platform = Platform::start().await;
    platform.client.deploy_with("echo", json!({"STANDIN": "reflect", "exec_timeout": "10ms"})).await;
    let answer = platform.client.call(Method::GET, "/function/echo/never", &[], "").await;
    answer.says(StatusCode::GATEWAY_TIMEOUT, &["echo.openfaas-fn", "5.01s", "exec_timeout"]);
}

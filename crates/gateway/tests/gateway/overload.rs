//! More work than there is room for, what everything took, and who gets to know it.

use crate::support::{Answer, Client, Platform};
use http::{Method, StatusCode};
use tokio::task::JoinSet;

/// A sample of `/metrics`, zero where there is none.
pub(crate) async fn sample(client: &Client, name: &str) -> f64 {
    let metrics = client.call(Method::GET, "/metrics", &[], "").await;
    let line = metrics.text().lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0.0, |value| value.parse().unwrap())
}

/// Calls of a function that never answers, all under way.
async fn occupy(client: &Client, function: &'static str, calls: u32) -> JoinSet<Answer> {
    let mut occupied = JoinSet::new();
    for _ in 0..calls {
        let client = client.clone();
        occupied.spawn(async move { client.call(Method::GET, &format!("/function/{function}/never"), &[], "").await });
    }
    let started = format!("gateway_function_invocation_started{{function_name=\"{function}.openfaas-fn\"}}");
    while sample(client, &started).await < f64::from(calls) {
        tokio::task::yield_now().await;
    }
    occupied
}

#[tokio::test]
async fn beyond_its_share_a_function_is_shed_and_the_others_are_served() {
    let platform = Platform::start_with_seats(8).await;
    let client = &platform.client;
    client.deploy("heavy", "reflect").await;
    client.deploy("light", "reflect").await;
    let mut occupied = occupy(client, "heavy", 7).await;
    for _ in 0..3 {
        let shed = client.call(Method::GET, "/function/heavy/never", &[], "").await;
        shed.says(StatusCode::SERVICE_UNAVAILABLE, &["heavy.openfaas-fn", "8 invocations", "its share of them, 7"]);
        assert_eq!(shed.headers["retry-after"], "1");
        assert_eq!(shed.headers["x-openfaas-internal"], "gateway");
        assert_eq!(client.call(Method::GET, "/function/light", &[], "").await.status, StatusCode::OK);
    }
    let refused = "gateway_function_invocation_total{function_name=\"heavy.openfaas-fn\",code=\"503\"}";
    assert_eq!(sample(client, refused).await, 3.0);

    // A client that goes gives its seat back.
    occupied.abort_all();
    while occupied.join_next().await.is_some() {}
    while client.call(Method::GET, "/function/heavy", &[], "").await.status != StatusCode::OK {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn seats_come_back_from_answers_of_every_kind() {
    let platform = Platform::start_with_seats(2).await;
    let client = &platform.client;
    client.deploy("echo", "reflect").await;
    for path in ["", "/refuse", "/redirect", "/no-type", "/used", "/die", "", "/hop"] {
        let answer = client.call(Method::POST, &format!("/function/echo{path}"), &[], "body").await;
        let shed = answer.headers.get("x-openfaas-internal").is_some_and(|who| who == "gateway")
            && answer.status == StatusCode::SERVICE_UNAVAILABLE;
        assert!(!shed, "{path}: {}", answer.text());
    }
}

#[tokio::test]
async fn what_invocations_used_is_added_up_and_shown_to_who_asks() {
    let platform = Platform::start().await;
    let client = &platform.client;
    client.deploy("echo", "reflect").await;
    let silent = client.call(Method::GET, "/function/echo/used", &[], "").await;
    assert!(!silent.headers.contains_key("x-kernlet-usage"));
    let told = client.call(Method::GET, "/function/echo/used", &[("x-kernlet-usage", "1")], "").await;
    assert!(told.headers["x-kernlet-usage"].to_str().unwrap().starts_with("wall=5000000, cpu=3000000, "));
    // The sums are the gateway's: they outlive the watchdog, and a new deployment.
    client.call(Method::GET, "/function/echo/die", &[], "").await;
    client.deploy("echo", "reflect").await;
    for (name, sum) in [
        ("kernlet_wall_seconds_total", 0.01),
        ("kernlet_guest_cpu_seconds_total", 0.006),
        ("kernlet_accelerator_seconds_total", 0.002),
        ("kernlet_exits_total", 4.0),
        ("kernlet_pages_dirtied_total", 6.0),
        ("kernlet_request_bytes_total", 8.0),
        ("kernlet_response_bytes_total", 10.0),
    ] {
        assert_eq!(sample(client, &format!("{name}{{function_name=\"echo.openfaas-fn\"}}")).await, sum, "{name}");
    }
}

#[tokio::test]
async fn metrics_have_openfaas_names_and_ask_for_no_credentials() {
    let platform = Platform::start().await;
    let client = &platform.client;
    client.deploy("echo", "reflect").await;
    client.call(Method::GET, "/function/echo", &[], "").await;
    client.call(Method::GET, "/function/echo/refuse", &[], "").await;
    client.call(Method::GET, "/function/nosuch", &[], "").await;
    let metrics = client.call(Method::GET, "/metrics", &[], "").await;
    assert_eq!(metrics.status, StatusCode::OK);
    assert_eq!(metrics.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    for line in [
        "# TYPE gateway_functions_seconds histogram",
        "gateway_service_count{function_name=\"echo.openfaas-fn\"} 1",
        "gateway_function_invocation_started{function_name=\"echo.openfaas-fn\"} 2",
        "gateway_function_invocation_total{function_name=\"echo.openfaas-fn\",code=\"200\"} 1",
        "gateway_function_invocation_total{function_name=\"echo.openfaas-fn\",code=\"413\"} 1",
        "gateway_functions_seconds_bucket{function_name=\"echo.openfaas-fn\",code=\"200\",le=\"+Inf\"} 1",
        "gateway_functions_seconds_count{function_name=\"echo.openfaas-fn\",code=\"413\"} 1",
    ] {
        assert!(metrics.text().lines().any(|found| found == line), "{line} is not in {}", metrics.text());
    }
    assert!(!metrics.text().contains("nosuch"), "nobody but a deployment makes a series");
    let posted = client.call(Method::POST, "/metrics", &[], "").await;
    assert_eq!(posted.status, StatusCode::METHOD_NOT_ALLOWED);
}

//! Who may do what.

use crate::support::{Client, Platform, password_file};
use http::{Method, StatusCode};
use std::os::unix::fs::PermissionsExt as _;

#[tokio::test]
async fn every_system_call_asks_for_credentials() {
    let platform = Platform::start().await;
    for path in [
        "/system/functions",
        "/system/function/echo",
        "/system/info",
        "/system/logs?name=echo",
        "/system/namespaces",
        "/system/nosuch",
    ] {
        let answer = platform.client.call(Method::GET, path, &[], "").await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{path}");
        assert_eq!(answer.text().trim_end(), "invalid credentials");
        assert_eq!(answer.headers["www-authenticate"], "Basic realm=\"Restricted\"");
    }
    let wrong = Client { password: "guess".into(), ..platform.client.clone() };
    assert_eq!(wrong.get("/system/functions").await.status, StatusCode::UNAUTHORIZED);
    let scale = platform.client.call(Method::POST, "/system/scale-function/echo", &[], "{\"replicas\":0}").await;
    assert_eq!(scale.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn functions_and_health_ask_for_none() {
    let platform = Platform::start().await;
    platform.client.deploy("echo", "reflect").await;
    assert_eq!(platform.client.call(Method::GET, "/function/echo", &[], "").await.status, StatusCode::OK);
    assert_eq!(platform.client.call(Method::GET, "/healthz", &[], "").await.status, StatusCode::OK);
    assert_eq!(platform.client.call(Method::HEAD, "/healthz", &[], "").await.status, StatusCode::OK);
    platform.client.call(Method::GET, "/", &[], "").await.says(StatusCode::OK, &["/function/NAME"]);
    platform.client.call(Method::GET, "/nosuch", &[], "").await.says(StatusCode::NOT_FOUND, &["/nosuch"]);
}

#[tokio::test]
async fn the_password_outlives_the_gateway_and_is_its_owners_alone() {
    let platform = Platform::start().await;
    let password = platform.client.password.clone();
    let home = platform.stop().await;
    let mode = std::fs::metadata(password_file(home.path())).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let platform = Platform::start_in(home).await;
    assert_eq!(platform.client.password, password);
    assert_eq!(platform.client.get("/system/functions").await.status, StatusCode::OK);
}

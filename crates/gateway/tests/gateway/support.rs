//! A gateway in a home of its own, and a client that sends exactly what it is told to.

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use kernlet_gateway::{Config, Gateway};
use kernlet_image::{ImageParts, Store};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use tokio::net::TcpStream;

/// A running gateway with the image `echo:latest` in its store.
pub(crate) struct Platform {
    pub(crate) gateway: Gateway,
    pub(crate) client: Client,
    pub(crate) home: TempDir,
}

/// A response, whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// Calls one gateway, each time over a new connection.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    pub(crate) address: SocketAddr,
    pub(crate) password: String,
}

impl Platform {
    pub(crate) async fn start() -> Platform {
        let home = tempfile::tempdir().unwrap();
        add_image(home.path(), "echo:latest");
        Platform::start_in(home).await
    }

    pub(crate) async fn start_in(home: TempDir) -> Platform {
        let config = config(home.path());
        Platform::start_as(config, home).await
    }

    /// One that works on so many invocations at once.
    pub(crate) async fn start_with_seats(seats: usize) -> Platform {
        let home = tempfile::tempdir().unwrap();
        add_image(home.path(), "echo:latest");
        let config = Config { max_inflight: NonZero::new(seats), ..config(home.path()) };
        Platform::start_as(config, home).await
    }

    async fn start_as(config: Config, home: TempDir) -> Platform {
        let gateway = Gateway::start(config).await.unwrap();
        let client = Client::new(gateway.address(), home.path());
        Platform { gateway, client, home }
    }

    /// Stops the gateway in order and gives its home back.
    pub(crate) async fn stop(self) -> TempDir {
        self.gateway.shutdown().await;
        self.home
    }
}

/// A configuration whose watchdogs are stand-ins.
pub(crate) fn config(home: &Path) -> Config {
    Config {
        home: home.to_owned(),
        listen: "127.0.0.1:0".parse().unwrap(),
        program: crate::standin::program(home),
        options: Vec::new(),
        max_inflight: None,
        // Stand-ins tell their process ids, which a pid namespace would change.
        jail: kernlet_jail::Mode::Off,
        agents: None,
    }
}

/// Puts an image into a home's store. The gateway never reads the kernel, so any bytes will do.
pub(crate) fn add_image(home: &Path, reference: &str) {
    let parts = ImageParts { kernel: reference.as_bytes().to_vec(), ..ImageParts::default() };
    Store::open(home).unwrap().import(&reference.parse().unwrap(), parts, &mut |_| {}).unwrap();
}

impl Client {
    pub(crate) fn new(address: SocketAddr, home: &Path) -> Client {
        let password = std::fs::read_to_string(password_file(home)).unwrap();
        Client { address, password }
    }

    /// Calls `/system/*` with credentials.
    pub(crate) async fn system(&self, method: Method, path: &str, body: &Value) -> Answer {
        self.system_text(method, path, body.to_string()).await
    }

    pub(crate) async fn system_text(&self, method: Method, path: &str, body: impl Into<Bytes>) -> Answer {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", self.authorization())
            .header("content-type", "application/json")
            .body(Full::new(body.into()))
            .unwrap();
        self.send(request).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.system_text(Method::GET, path, "").await
    }

    pub(crate) fn authorization(&self) -> String {
        use base64::Engine as _;
        let pair = format!("admin:{}", self.password);
        format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
    }

    /// Invokes a function, or anything else that takes no credentials.
    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(Full::new(body.into())).unwrap()).await
    }

    async fn send(&self, mut request: Request<Full<Bytes>>) -> Answer {
        request.headers_mut().entry("host").or_insert(self.address.to_string().parse().unwrap());
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let (head, body) = sender.send_request(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer { status: head.status, headers: head.headers, body }
    }

    /// Deploys a function whose stand-in behaves as `mode` says.
    pub(crate) async fn deploy(&self, name: &str, mode: &str) -> Answer {
        self.deploy_with(name, json!({"STANDIN": mode})).await
    }

    pub(crate) async fn deploy_with(&self, name: &str, environment: Value) -> Answer {
        let body = json!({"service": name, "image": "echo:latest", "envVars": environment});
        let answer = self.system(Method::POST, "/system/functions", &body).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.text());
        answer
    }

    pub(crate) async fn status(&self, name: &str) -> Value {
        self.get(&format!("/system/function/{name}")).await.json()
    }
}

impl Answer {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// Asserts the status and that the text says each of these.
    pub(crate) fn says(&self, status: StatusCode, words: &[&str]) {
        assert_eq!(self.status, status, "{}", self.text());
        for word in words {
            assert!(self.text().contains(word), "{word:?} is not in {:?}", self.text());
        }
    }
}

pub(crate) fn password_file(home: &Path) -> PathBuf {
    home.join("auth/basic-auth-password")
}

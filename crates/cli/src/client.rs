//! A small HTTP/1.1 client for one gateway: a connection per call, bodies streamed back.
//! Used by every subcommand that talks to a running gateway. It never follows redirects, never retries,
//! and never speaks TLS: put a TLS proxy's client side (or ssh -L) in front for gateways elsewhere.

use std::str::FromStr;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Longest wait for a TCP connection: a host that drops packets is told from a slow function.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Where a gateway listens: `http://HOST[:PORT][/prefix]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GatewayUrl {
    host: String,
    port: u16,
    prefix: String,
}

/// Why a text is not a gateway's address.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BadGatewayUrl(&'static str);

impl std::fmt::Display for BadGatewayUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}; expected something like http://127.0.0.1:8080", self.0)
    }
}

impl std::error::Error for BadGatewayUrl {}

impl FromStr for GatewayUrl {
    type Err = BadGatewayUrl;

    fn from_str(text: &str) -> Result<Self, BadGatewayUrl> {
        let uri: http::Uri = text.parse().map_err(|_| BadGatewayUrl("not a URL"))?;
        match uri.scheme_str() {
            None | Some("http") => {}
            Some("https") => {
                return Err(BadGatewayUrl(
                    "kernlet does not speak TLS: use faas-cli for an https gateway, or tunnel to it with ssh -L",
                ));
            }
            Some(_) => return Err(BadGatewayUrl("a gateway is reached over http")),
        }
        let authority = uri.authority().ok_or(BadGatewayUrl("no host in it"))?;
        if authority.as_str().contains('@') {
            return Err(BadGatewayUrl(
                "a user name or password does not belong in the URL: use --username and --password-stdin",
            ));
        }
        if authority.host().is_empty() {
            return Err(BadGatewayUrl("no host in it"));
        }
        if uri.query().is_some() {
            return Err(BadGatewayUrl("a query does not belong in it"));
        }
        let port = match authority.port_u16() {
            Some(port) => port,
            None if authority.as_str() == authority.host() => 80,
            None => return Err(BadGatewayUrl("the port is not a number from 0 to 65535")),
        };
        let prefix = uri.path().trim_end_matches('/').to_owned();
        Ok(Self { host: authority.host().to_owned(), port, prefix })
    }
}

impl std::fmt::Display for GatewayUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "http://{}:{}{}", self.host, self.port, self.prefix)
    }
}

impl From<std::net::SocketAddr> for GatewayUrl {
    fn from(address: std::net::SocketAddr) -> Self {
        let host = match address {
            std::net::SocketAddr::V4(v4) => v4.ip().to_string(),
            std::net::SocketAddr::V6(v6) => format!("[{}]", v6.ip()),
        };
        Self { host, port: address.port(), prefix: String::new() }
    }
}

impl GatewayUrl {
    /// Whether what is sent there stays on this machine.
    pub(crate) fn is_this_machine(&self) -> bool {
        let host = self.bare_host();
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }

    /// The host without the brackets that an IPv6 address wears in a URL.
    fn bare_host(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }
}

/// A request to the gateway, before it has an address and a login.
#[derive(Debug)]
pub(crate) struct Call {
    /// The HTTP method.
    pub(crate) method: Method,
    /// Path below the gateway's URL, already encoded, from its `/` on.
    pub(crate) path: String,
    /// Headers besides `Host` and `Content-Length`.
    pub(crate) headers: HeaderMap,
    /// The body, whole.
    pub(crate) body: Bytes,
}

impl Call {
    /// A call without headers or body.
    pub(crate) fn new(method: Method, path: impl Into<String>) -> Self {
        Self { method, path: path.into(), headers: HeaderMap::new(), body: Bytes::new() }
    }

    /// With a value as its JSON body.
    pub(crate) fn json(mut self, value: &impl serde::Serialize) -> anyhow::Result<Self> {
        self.body = serde_json::to_vec(value)?.into();
        self.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(self)
    }
}

/// Sends one call and returns once the answer's head is here.
///
/// # Errors
/// When no HTTP answer comes at all; any status is an answer.
pub(crate) async fn send(gateway: &GatewayUrl, call: Call) -> anyhow::Result<Response<Incoming>> {
    let unreachable = || {
        format!("cannot reach the gateway at {gateway}; start it with `kernlet up`, or name another with --gateway URL")
    };
    let connect = TcpStream::connect((gateway.bare_host(), gateway.port));
    let stream =
        tokio::time::timeout(CONNECT_TIMEOUT, connect).await.with_context(unreachable)?.with_context(unreachable)?;
    stream.set_nodelay(true).with_context(unreachable)?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.with_context(unreachable)?;
    // The connection ends with the call; whatever goes wrong on it is reported by the call itself.
    tokio::spawn(connection);

    let uri = format!("{}{}", gateway.prefix, call.path);
    let mut request = Request::builder()
        .method(call.method)
        .uri(&uri)
        .body(Full::new(call.body))
        .with_context(|| format!("`{uri}` is not a path that HTTP can carry"))?;
    *request.headers_mut() = call.headers;
    let host = HeaderValue::from_str(&format!("{}:{}", gateway.host, gateway.port))
        .context("the gateway's host name has characters that HTTP cannot carry")?;
    request.headers_mut().insert(header::HOST, host);
    let agent = HeaderValue::from_static(concat!("kernlet/", env!("CARGO_PKG_VERSION")));
    request.headers_mut().entry(header::USER_AGENT).or_insert(agent);
    sender
        .send_request(request)
        .await
        .with_context(|| format!("the gateway at {gateway} took the request and gave no answer"))
}

/// Reads a whole answer into memory; for the gateway's own answers, which are small.
pub(crate) async fn collect(response: Response<Incoming>) -> anyhow::Result<(StatusCode, Bytes)> {
    let status = response.status();
    let body = response.into_body().collect().await.context("the gateway's answer broke off")?;
    Ok((status, body.to_bytes()))
}

/// Percent-encodes a text for one path segment or one query key or value: everything but RFC 3986's
/// unreserved characters.
pub(crate) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// Builds `?key=value&…` from decoded pairs; nothing for none.
pub(crate) fn query<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let encoded: Vec<String> =
        pairs.into_iter().map(|(key, value)| format!("{}={}", encode(key), encode(value))).collect();
    if encoded.is_empty() { String::new() } else { format!("?{}", encoded.join("&")) }
}

/// Runs a client's future on a runtime of its own: one thread is enough for one connection.
pub(crate) fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the network client")?
        .block_on(future)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn url(text: &str) -> GatewayUrl {
        text.parse().unwrap()
    }

    fn refusal(text: &str) -> String {
        text.parse::<GatewayUrl>().unwrap_err().to_string()
    }

    #[test]
    fn a_gateway_is_named_as_people_name_one() {
        assert_eq!(url("http://127.0.0.1:8080").to_string(), "http://127.0.0.1:8080");
        assert_eq!(url("http://127.0.0.1:8080/").to_string(), "http://127.0.0.1:8080");
        assert_eq!(url("localhost:9000").to_string(), "http://localhost:9000");
        assert_eq!(url("http://faas.example/openfaas/").to_string(), "http://faas.example:80/openfaas");
        assert_eq!(url("http://[::1]:8080").to_string(), "http://[::1]:8080");
    }

    #[test]
    fn an_https_gateway_is_refused_with_what_to_do() {
        assert!(refusal("https://faas.example").contains("does not speak TLS"));
    }

    #[test]
    fn what_is_not_a_gateway_is_refused_with_the_reason() {
        assert!(refusal("").contains("not a URL"));
        assert!(refusal("ftp://host").contains("over http"));
        assert!(refusal("http://admin:secret@host:8080").contains("--password-stdin"));
        assert!(refusal("http://host:99999").contains("port") || refusal("http://host:99999").contains("not a URL"));
        assert!(refusal("http://host/?a=b").contains("query"));
    }

    #[test]
    fn a_stored_password_goes_to_this_machine_only() {
        assert!(url("http://127.0.0.1:8080").is_this_machine());
        assert!(url("http://localhost:8080").is_this_machine());
        assert!(url("http://[::1]:8080").is_this_machine());
        assert!(!url("http://192.0.2.1:8080").is_this_machine());
        assert!(!url("http://localhost.example:8080").is_this_machine());
    }

    #[test]
    fn names_cannot_break_out_of_their_place_in_a_url() {
        assert_eq!(encode("echo-1.a_b~"), "echo-1.a_b~");
        assert_eq!(encode("../a b?&é"), "..%2Fa%20b%3F%26%C3%A9");
        assert_eq!(query([("name", "a&b"), ("tail", "-1")]), "?name=a%26b&tail=-1");
        assert_eq!(query([]), "");
    }
}

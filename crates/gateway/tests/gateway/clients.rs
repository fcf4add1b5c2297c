//! What clients meet byte for byte: one connection, its requests and its end.

use crate::overload::sample;
use crate::support::Platform;
use http::{Method, StatusCode};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

/// A client that says exactly what it is told to.
struct Raw(BufReader<TcpStream>);

/// An answer as it came.
struct Seen {
    line: String,
    fields: Vec<String>,
    body: String,
}

impl Raw {
    async fn connect(platform: &Platform) -> Raw {
        Raw(BufReader::new(TcpStream::connect(platform.client.address).await.unwrap()))
    }

    async fn say(&mut self, text: impl AsRef<[u8]>) {
        self.0.write_all(text.as_ref()).await.unwrap();
    }

    async fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).await.unwrap();
        line.trim_end().to_owned()
    }

    /// The head of an answer.
    async fn head(&mut self) -> Seen {
        let line = self.line().await;
        let mut fields = Vec::new();
        loop {
            let field = self.line().await;
            if field.is_empty() {
                return Seen { line, fields, body: String::new() };
            }
            fields.push(field);
        }
    }

    /// An answer whose body has a stated length.
    async fn answer(&mut self) -> Seen {
        let mut seen = self.head().await;
        let mut body = vec![0; seen.field("content-length").unwrap().parse().unwrap()];
        self.0.read_exact(&mut body).await.unwrap();
        seen.body = String::from_utf8(body).unwrap();
        seen
    }

    /// Everything until the gateway ends the connection.
    async fn rest(&mut self) -> String {
        let mut rest = String::new();
        self.0.read_to_string(&mut rest).await.unwrap();
        rest
    }
}

impl Seen {
    fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find_map(|field| field.strip_prefix(name)?.strip_prefix(": "))
    }
}

async fn platform() -> Platform {
    let platform = Platform::start().await;
    platform.client.deploy("echo", "reflect").await;
    platform
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_their_order() {
    let platform = platform().await;
    let mut client = Raw::connect(&platform).await;
    let call = |number: usize| {
        format!(
            "POST /function/echo/{number} HTTP/1.1\r\nhost: a\r\ncontent-length: {number}\r\n\r\n{}",
            "x".repeat(number)
        )
    };
    let chunked = "POST /function/echo/9 HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5;x=y\r\nabcde\r\n4\r\nfghi\r\n0\r\nt: x\r\n\r\n";
    let health = "GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n";
    let all: String = [call(0), call(1), health.to_owned(), call(8), chunked.to_owned(), call(10)].concat();
    client.say(all).await;
    for number in [0, 1, 0, 8, 9, 10] {
        let answer = client.answer().await;
        assert_eq!(answer.line, "HTTP/1.1 200 OK");
        if !answer.body.is_empty() {
            let words = [format!("\"uri\":\"/{number}\""), format!("\"length\":{number}")];
            assert!(words.iter().all(|word| answer.body.contains(word)), "{}", answer.body);
        }
    }
}

#[tokio::test]
async fn a_request_is_the_same_in_whatever_pieces_it_comes() {
    let platform = platform().await;
    let request = "POST /function/echo/a%20b?c HTTP/1.1\r\nHost: a\r\nX-Mine:  1 \r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    let mut client = Raw::connect(&platform).await;
    client.0.get_ref().set_nodelay(true).unwrap();
    for piece in [request.len(), 1, 2, 7, 50] {
        for piece in request.as_bytes().chunks(piece) {
            client.say(piece).await;
            tokio::task::yield_now().await;
        }
        let body = client.answer().await.body;
        for word in ["\"uri\":\"/a%20b?c\"", "[\"x-mine\",\"1\"]", "\"length\":5"] {
            assert!(body.contains(word), "{body}");
        }
    }
}

#[tokio::test]
async fn an_answer_to_head_has_its_length_and_no_body() {
    let platform = platform().await;
    let mut client = Raw::connect(&platform).await;
    for path in ["/function/echo/no-type", "/", "/function/nosuch"] {
        client.say(format!("HEAD {path} HTTP/1.1\r\nhost: a\r\n\r\n")).await;
        let head = client.head().await;
        let length: usize = head.field("content-length").unwrap().parse().unwrap();
        assert!(length > 0, "{path}");
    }
    // The next answer begins where the last head ended.
    client.say("GET /function/echo/no-type HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(client.answer().await.body, "x");
}

#[tokio::test]
async fn a_client_that_waits_for_a_word_gets_it_when_its_body_is_wanted() {
    let platform = platform().await;
    let mut client = Raw::connect(&platform).await;
    let ask =
        |path: &str| format!("POST {path} HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n");
    client.say(ask("/function/echo")).await;
    assert_eq!([client.line().await, client.line().await], ["HTTP/1.1 100 Continue", ""]);
    client.say("body").await;
    assert!(client.answer().await.body.contains("\"length\":4"));
    // Nobody wants this one; whether it is sent all the same nobody can tell, so that it is the last.
    client.say(ask("/function/nosuch")).await;
    let refused = client.answer().await;
    assert_eq!((refused.line.as_str(), refused.field("connection")), ("HTTP/1.1 404 Not Found", Some("close")));
    client.0.shutdown().await.unwrap();
    assert_eq!(client.rest().await, "");
}

#[tokio::test]
async fn a_connection_goes_on_as_the_clients_version_says() {
    let platform = platform().await;
    for (version, connection, says, goes_on) in [
        ("1.1", "x", None, true),
        ("1.1", "close", Some("close"), false),
        ("1.0", "x", Some("close"), false),
        ("1.0", "keep-alive", Some("keep-alive"), true),
    ] {
        let mut client = Raw::connect(&platform).await;
        for path in ["/function/echo", "/healthz"] {
            client.say(format!("GET {path} HTTP/{version}\r\nhost: a\r\nconnection: {connection}\r\n\r\n")).await;
            assert_eq!(client.answer().await.field("connection"), says, "{version} {connection}");
            if !goes_on {
                assert_eq!(client.rest().await, "");
                break;
            }
        }
    }
    // Who knows no chunks takes the end of the connection for the end of the body.
    let mut old = Raw::connect(&platform).await;
    old.say("POST /function/echo/pieces HTTP/1.0\r\nconnection: keep-alive\r\ncontent-length: 5\r\n\r\nwords").await;
    let head = old.head().await;
    assert_eq!((head.field("connection"), head.field("transfer-encoding")), (Some("close"), None));
    assert_eq!(old.rest().await, "words");
}

#[tokio::test]
async fn what_is_no_request_is_refused_with_the_reason() {
    let platform = platform().await;
    let many = "x: y\r\n".repeat(101);
    for (request, status, reason) in [
        ("nonsense\r\n\r\n".to_owned(), "400 Bad Request", "cannot be read"),
        (
            "GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n".to_owned(),
            "400 Bad Request",
            "Content-Length",
        ),
        (
            "GET / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n".to_owned(),
            "400 Bad Request",
            "Transfer-Encoding",
        ),
        (
            "GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n".to_owned(),
            "400 Bad Request",
            "and a",
        ),
        (format!("GET / HTTP/1.1\r\n{many}\r\n"), "431 Request Header Fields Too Large", "more header fields"),
        ("PRI * HTTP/2.0\r\n\r\n".to_owned(), "400 Bad Request", "cannot be read"),
    ] {
        let mut client = Raw::connect(&platform).await;
        client.say(request).await;
        let refused = client.answer().await;
        assert_eq!(refused.line, format!("HTTP/1.1 {status}"));
        assert_eq!(refused.field("connection"), Some("close"));
        assert!(refused.body.contains(reason), "{}", refused.body);
        client.0.shutdown().await.unwrap();
        assert_eq!(client.rest().await, "");
    }
    // A body that is none ends its request, and nothing behind it is read as one.
    let mut client = Raw::connect(&platform).await;
    client
        .say(
            "POST /function/echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nGET / HTTP/1.1\r\n\r\n",
        )
        .await;
    let refused = client.answer().await;
    assert_eq!(refused.line, "HTTP/1.1 400 Bad Request");
    client.0.shutdown().await.unwrap();
    assert_eq!(client.rest().await, "");
}

#[tokio::test]
async fn a_head_without_an_end_is_refused() {
    let platform = platform().await;
    let mut client = Raw::connect(&platform).await;
    client.say("GET / HTTP/1.1\r\nx: ").await;
    client.say(vec![b'a'; 1024 * 1024]).await;
    let refused = client.answer().await;
    assert_eq!(refused.line, "HTTP/1.1 431 Request Header Fields Too Large");
    assert!(refused.body.contains("longer than"), "{}", refused.body);
}

#[tokio::test]
async fn what_is_left_of_a_refused_upload_is_no_request() {
    let platform = platform().await;
    let mut client = Raw::connect(&platform).await;
    let inner = "GET /function/echo/no-type HTTP/1.1\r\nhost: a\r\n\r\n";
    let length = 1024 * 1024 + inner.len();
    for path in ["/function/nosuch", "/system/functions", "/nosuch", "/healthz"] {
        client.say(format!("POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n")).await;
        client.say(inner).await;
        client.say(vec![b'x'; 1024 * 1024]).await;
        let refused = client.answer().await;
        assert!(refused.line.starts_with("HTTP/1.1 4"), "{}", refused.line);
    }
    client.say(inner).await;
    assert_eq!(client.answer().await.body, "x");
}

#[tokio::test]
async fn a_client_that_hangs_up_ends_its_invocation() {
    let platform = Platform::start_with_seats(2).await;
    platform.client.deploy("echo", "reflect").await;
    let begun = "gateway_function_invocation_started{function_name=\"echo.openfaas-fn\"}";
    for _ in 0..3 {
        let before = sample(&platform.client, begun).await;
        let mut client = Raw::connect(&platform).await;
        client.say("POST /function/echo/never HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nx").await;
        while sample(&platform.client, begun).await == before {
            tokio::task::yield_now().await;
        }
        // It has the only seat that this function gets.
        let shed = platform.client.call(Method::GET, "/function/echo", &[], "").await;
        assert_eq!(shed.status, StatusCode::SERVICE_UNAVAILABLE);
        drop(client);
        while platform.client.call(Method::GET, "/function/echo", &[], "").await.status != StatusCode::OK {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn a_gateway_that_stops_lets_requests_finish_and_idle_clients_go() {
    let platform = platform().await;
    let (mut idle, mut busy) = (Raw::connect(&platform).await, Raw::connect(&platform).await);
    idle.say("GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(idle.answer().await.field("connection"), None);
    busy.say("POST /function/echo HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n").await;
    assert_eq!([busy.line().await, busy.line().await], ["HTTP/1.1 100 Continue", ""]);
    let stopping = tokio::spawn(platform.stop());
    assert_eq!(idle.rest().await, "");
    busy.say("body").await;
    let answer = busy.answer().await;
    assert_eq!((answer.line.as_str(), answer.field("connection")), ("HTTP/1.1 200 OK", Some("close")));
    assert_eq!(busy.rest().await, "");
    stopping.await.unwrap();
}

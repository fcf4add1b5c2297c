//! Resources by address, from servers on loopback: what is allowed is fetched whole, and what is not is not connected to.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::{
    fs,
    io::{self, BufRead as _, BufReader},
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use kernlet_accel::FetchConfig;
use kernlet_accel_fetch::{FetchError, fetch};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    pki_types::{PrivateKeyDer, pem::PemObject as _},
};

/// A server that answers each connection with what it has for the path, and counts them.
struct Server {
    port: u16,
    asked: Arc<AtomicUsize>,
}

type Has = Box<dyn Fn(&str) -> Vec<u8> + Send>;

fn serve(tls: Option<Arc<ServerConfig>>, has: impl Fn(&str) -> Vec<u8> + Send + 'static) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = Arc::new(AtomicUsize::new(0));
    let (count, has): (_, Has) = (Arc::clone(&asked), Box::new(has));
    thread::spawn(move || {
        for socket in listener.incoming() {
            count.fetch_add(1, Ordering::SeqCst);
            let socket = socket.unwrap();
            // A client may go away at any moment.
            let _ = match &tls {
                None => answer(socket, &has),
                Some(tls) => answer(StreamOwned::new(ServerConnection::new(Arc::clone(tls)).unwrap(), socket), &has),
            };
        }
    });
    Server { port, asked }
}

fn answer(stream: impl io::Read + io::Write, has: &Has) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut path = String::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? <= 2 {
            break;
        }
        if let Some(rest) = line.strip_prefix("GET ") {
            path = rest.split(' ').next().unwrap_or_default().to_owned();
        }
    }
    let stream = reader.get_mut();
    stream.write_all(&has(&path))?;
    stream.flush()?;
    if path == "/hangs" {
        // Until the client goes.
        let _ = stream.read(&mut [0])?;
    }
    Ok(())
}

fn whole(body: &[u8]) -> Vec<u8> {
    [format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes(), body].concat()
}

fn leads_to(location: &str) -> Vec<u8> {
    format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n").into_bytes()
}

fn allowing(allow: &[String]) -> FetchConfig {
    FetchConfig { allow: allow.to_vec(), ..FetchConfig::default() }
}

impl Server {
    fn at(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

#[test]
fn what_is_allowed_is_fetched_whole_by_its_length_or_in_chunks() {
    let server = serve(None, |path| {
        match path {
        "/models/m.onnx?v=2" => whole(b"the model"),
        "/models/chunks" => {
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nthe \r\n5;x\r\nmodel\r\n0\r\n\r\n"
                .to_vec()
        }
        "/models/empty" => whole(b""),
        _ => b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec(),
    }
    });
    let config = allowing(&[server.at("/models/")]);
    let file = fetch(&server.at("/models/m.onnx?v=2"), &config).unwrap();
    assert_eq!((file.name.as_str(), &*file.bytes), ("m.onnx", &b"the model"[..]));
    assert_eq!(&*fetch(&server.at("/models/chunks"), &config).unwrap().bytes, b"the model");
    assert!(fetch(&server.at("/models/empty"), &config).unwrap().bytes.is_empty());
    let error = fetch(&server.at("/models/other"), &config).unwrap_err();
    assert!(error.to_string().contains("404"), "{error}");
}

#[test]
fn what_is_not_allowed_is_not_connected_to_though_a_redirect_leads_there() {
    let secret = serve(None, |_| whole(b"secret"));
    let there = secret.at("/secret");
    let server = serve(None, move |path| match path {
        "/open/away" => leads_to(&there),
        "/open/here" => leads_to("/open/file"),
        "/open/out" => leads_to("/closed"),
        "/open/round" => leads_to("/open/round"),
        _ => whole(b"file"),
    });
    let config = allowing(&[server.at("/open/")]);
    assert_eq!(&*fetch(&server.at("/open/here"), &config).unwrap().bytes, b"file");
    for path in ["/open/away", "/open/out", "/closed"] {
        let error = fetch(&server.at(path), &config).unwrap_err();
        assert!(matches!(error, FetchError::NotAllowed { .. }), "{path}: {error}");
        assert!(error.to_string().contains("fetch.allow"), "{error}");
    }
    assert!(matches!(fetch(&secret.at("/secret"), &FetchConfig::default()), Err(FetchError::NotAllowed { .. })));
    assert_eq!(secret.asked(), 0);
    let before = server.asked();
    assert!(matches!(fetch(&server.at("/open/round"), &config), Err(FetchError::Answer { .. })));
    assert_eq!(server.asked() - before, 4, "it is followed three times");
}

#[test]
fn what_is_too_long_too_late_or_cut_short_is_refused() {
    let server = serve(None, |path| match path {
        "/long" => whole(&[1; 65]),
        "/lies" => b"HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551615\r\n\r\n".to_vec(),
        "/endless" => [&b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n"[..], &[1; 1000]].concat(),
        "/short" => b"HTTP/1.1 200 OK\r\nContent-Length: 60\r\n\r\nhalf".to_vec(),
        "/short-chunk" => b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhalf".to_vec(),
        "/open-end" => b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nsome".to_vec(),
        "/packed" => b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\n1".to_vec(),
        "/nonsense" => b"SSH-2.0-OpenSSH_9.6\r\n\r\n".to_vec(),
        "/head" => [b"HTTP/1.1 200 OK\r\nX: ".to_vec(), vec![b'x'; 200_000]].concat(),
        "/hangs" => b"HTTP/1.1 200 OK\r\n".to_vec(),
        _ => whole(&[1; 64]),
    });
    let config = FetchConfig { bytes: Some(64), time_ms: Some(20_000), ..allowing(&[server.at("/")]) };
    let said = |path: &str| fetch(&server.at(path), &config).unwrap_err();
    assert_eq!(fetch(&server.at("/fits"), &config).unwrap().bytes.len(), 64);
    for path in ["/long", "/lies", "/endless"] {
        assert!(matches!(said(path), FetchError::TooLarge { limit: 64, .. }), "{path}: {}", said(path));
    }
    for path in ["/short", "/short-chunk"] {
        assert!(matches!(said(path), FetchError::Connection { .. }), "{path}: {}", said(path));
    }
    for path in ["/open-end", "/packed"] {
        assert!(matches!(said(path), FetchError::Answer { .. }), "{path}: {}", said(path));
    }
    assert!(matches!(said("/nonsense"), FetchError::Head { .. }), "{}", said("/nonsense"));
    assert!(matches!(said("/head"), FetchError::Answer { .. } | FetchError::Head { .. }), "{}", said("/head"));
    let hasty = FetchConfig { time_ms: Some(200), ..config };
    let error = fetch(&server.at("/hangs"), &hasty).unwrap_err();
    assert!(matches!(error, FetchError::TimedOut { .. }), "{error}");
}

#[test]
fn a_server_has_to_have_a_certificate_of_the_authorities_for_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let authority = || {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    };
    let (ours, theirs) = (authority(), authority());
    let ca = folder.path().join("ca.crt");
    fs::write(&ca, ours.pem()).unwrap();
    let server = |name: &str, authority: &CertifiedIssuer<'static, KeyPair>| {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, authority).unwrap();
        let private = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let chain = vec![certificate.der().clone()];
        serve(Some(Arc::new(config.with_no_client_auth().with_single_cert(chain, private).unwrap())), |path| {
            if path == "/down" { leads_to("http://127.0.0.1:1/") } else { whole(b"model") }
        })
    };
    let ask = |server: &Server, path: &str| {
        let allow = vec![format!("https://localhost:{}/", server.port), "http://127.0.0.1:1/".to_owned()];
        let config = FetchConfig { ca: Some(ca.clone()), ..allowing(&allow) };
        fetch(&format!("https://localhost:{}{path}", server.port), &config)
    };
    let good = server("localhost", &ours);
    assert_eq!(&*ask(&good, "/m").unwrap().bytes, b"model");
    assert!(matches!(ask(&good, "/down"), Err(FetchError::Answer { .. })), "from https to http");
    assert!(matches!(ask(&server("elsewhere.example", &ours), "/m"), Err(FetchError::Connection { .. })));
    assert!(matches!(ask(&server("localhost", &theirs), "/m"), Err(FetchError::Connection { .. })));
    let none = FetchConfig { ca: Some(folder.path().join("none")), ..allowing(&["https://localhost/".to_owned()]) };
    let error = fetch("https://localhost/", &none).unwrap_err();
    assert!(matches!(error, FetchError::Authorities { .. } | FetchError::Connection { .. }), "{error}");
}

//! One request over one connection.
//! Called once an address. Never sends anything but the request, and believes nothing about lengths before a check.

use std::{
    fs,
    io::{self, Read, Write},
    net::{TcpStream, ToSocketAddrs as _},
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderMap, StatusCode, header};
use kernlet_accel::FetchConfig;
use kernlet_http1::{BodyLength, Chunks, ResponseHead};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};

use crate::{FetchError, authorities, url::Url};

/// Longest head of an answer.
const HEAD_MAX: usize = 64 * 1024;
/// Bytes that are read at a time.
const PIECE: usize = 64 * 1024;
/// Heads that say no more than that another comes.
const INTERIM_MAX: usize = 8;

/// What a server says.
pub(crate) enum Answer {
    /// The resource.
    Body(Vec<u8>),
    /// That it is elsewhere.
    Elsewhere(String),
}

/// A connection whose every step ends by a moment.
struct Timed {
    socket: TcpStream,
    end: Instant,
}

impl Timed {
    fn left(&self) -> io::Result<Option<Duration>> {
        let left = self.end.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(Some(left)) }
    }
}

impl Read for Timed {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.socket.set_read_timeout(self.left()?)?;
        self.socket.read(into)
    }
}

impl Write for Timed {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.socket.set_write_timeout(self.left()?)?;
        self.socket.write(from)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

/// Asks for what is at an address.
pub(crate) fn get(url: &Url, config: &FetchConfig, end: Instant) -> Result<Answer, FetchError> {
    let broken = |source: io::Error| match source.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => {
            FetchError::TimedOut { url: url.to_string(), limit: config.time() }
        }
        _ => FetchError::Connection { url: url.to_string(), source },
    };
    let socket = connect(url, end).map_err(broken)?;
    let mut stream: Box<dyn Stream> = if url.is_secure {
        let name = ServerName::try_from(url.host.clone());
        let name = name.map_err(|error| broken(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
        let session = ClientConnection::new(tls(config)?, name).map_err(|error| broken(io::Error::other(error)))?;
        Box::new(StreamOwned::new(session, socket))
    } else {
        Box::new(socket)
    };
    let (target, authority, version) = (&url.target, url.authority(), env!("CARGO_PKG_VERSION"));
    let request = format!(
        "GET {target} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: kernlet/{version}\r\nAccept: */*\r\n\
         Accept-Encoding: identity\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).and_then(|()| stream.flush()).map_err(broken)?;
    let mut bytes = Vec::new();
    let head = read_head(url, &mut *stream, &mut bytes, broken)?;
    if let Some(location) = elsewhere(&head) {
        return Ok(Answer::Elsewhere(location));
    }
    if head.status != StatusCode::OK {
        return Err(FetchError::Status { url: url.to_string(), status: head.status });
    }
    if is_encoded(&head.headers) {
        return Err(FetchError::Answer { url: url.to_string(), why: "it is compressed, which was not asked for" });
    }
    read_body(url, &mut *stream, head.body, bytes, config.bytes(), broken).map(Answer::Body)
}

fn connect(url: &Url, end: Instant) -> io::Result<Timed> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name stands for no address");
    for address in (url.host.as_str(), url.port).to_socket_addrs()? {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        match TcpStream::connect_timeout(&address, left) {
            Ok(socket) => return Ok(Timed { socket, end }),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn tls(config: &FetchConfig) -> Result<Arc<ClientConfig>, FetchError> {
    let path = authorities(config);
    let unusable = |source| FetchError::Authorities { path: path.to_owned(), source };
    let text = fs::read(path).map_err(unusable)?;
    let mut roots = RootCertStore::empty();
    // A system's file has some that are not understood.
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&text).flatten());
    if roots.is_empty() {
        return Err(unusable(io::Error::new(io::ErrorKind::InvalidData, "it holds no certificate in PEM")));
    }
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable(io::Error::other(error)))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Reads the head; leaves what came behind it in `bytes`.
fn read_head(
    url: &Url,
    stream: &mut dyn Stream,
    bytes: &mut Vec<u8>,
    broken: impl Fn(io::Error) -> FetchError,
) -> Result<ResponseHead, FetchError> {
    let (mut seen, mut interim) = (0, 0);
    loop {
        let head = ResponseHead::read(bytes, seen, false);
        match head.map_err(|source| FetchError::Head { url: url.to_string(), source })? {
            Some(head) if head.status.is_informational() && interim < INTERIM_MAX => {
                bytes.drain(..head.length);
                (seen, interim) = (0, interim + 1);
                continue;
            }
            Some(head) => {
                bytes.drain(..head.length);
                return Ok(head);
            }
            None if bytes.len() > HEAD_MAX => {
                return Err(FetchError::Answer { url: url.to_string(), why: "its head is too long" });
            }
            None => seen = bytes.len(),
        }
        if more(stream, bytes, PIECE).map_err(&broken)? == 0 {
            return Err(broken(io::ErrorKind::UnexpectedEof.into()));
        }
    }
}

/// Reads up to so many bytes more; none at the end.
fn more(stream: &mut dyn Stream, bytes: &mut Vec<u8>, most: usize) -> io::Result<usize> {
    let len = bytes.len();
    bytes.resize(len + most, 0);
    let read = loop {
        match stream.read(&mut bytes[len..]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => break read,
        }
    };
    bytes.truncate(len + *read.as_ref().unwrap_or(&0));
    read
}

fn read_body(
    url: &Url,
    stream: &mut dyn Stream,
    length: BodyLength,
    mut bytes: Vec<u8>,
    limit: u64,
    broken: impl Fn(io::Error) -> FetchError,
) -> Result<Vec<u8>, FetchError> {
    let too_large = || FetchError::TooLarge { url: url.to_string(), limit };
    let cut_short = || broken(io::Error::new(io::ErrorKind::UnexpectedEof, "the server went away in the middle"));
    match length {
        BodyLength::Known(length) => {
            let length = usize::try_from(length).ok().filter(|_| length <= limit).ok_or_else(too_large)?;
            while bytes.len() < length {
                let most = PIECE.min(length - bytes.len());
                if more(stream, &mut bytes, most).map_err(&broken)? == 0 {
                    return Err(cut_short());
                }
            }
            bytes.truncate(length);
            Ok(bytes)
        }
        BodyLength::Chunked => {
            let (mut chunks, mut body, mut at) = (Chunks::new(), Vec::new(), 0);
            loop {
                let next = &bytes[at..];
                let step = chunks.step(next);
                let step = step.map_err(|source| FetchError::Chunk { url: url.to_string(), source })?;
                body.extend_from_slice(&next[step.data]);
                at += step.taken;
                if body.len() as u64 > limit {
                    return Err(too_large());
                }
                if chunks.is_over() {
                    return Ok(body);
                }
                if step.taken == 0 {
                    bytes.drain(..at);
                    at = 0;
                    if more(stream, &mut bytes, PIECE).map_err(&broken)? == 0 {
                        return Err(cut_short());
                    }
                }
            }
        }
        BodyLength::UntilClose => {
            Err(FetchError::Answer { url: url.to_string(), why: "it does not say where it ends" })
        }
    }
}

fn elsewhere(head: &ResponseHead) -> Option<String> {
    let leads_on = matches!(head.status.as_u16(), 301 | 302 | 303 | 307 | 308);
    let location = head.headers.get(header::LOCATION).filter(|_| leads_on)?;
    location.to_str().ok().map(str::to_owned)
}

fn is_encoded(headers: &HeaderMap) -> bool {
    let encodings = headers.get_all(header::CONTENT_ENCODING);
    encodings.iter().any(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity"))
}

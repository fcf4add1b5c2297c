//! TLS with a certificate on both sides: who an agent is, and who may use it.
//! Made from PEM files by `kernlet accel agent` and by clients. Never accepts a peer without a certificate of the authority
//! that the configuration names, and speaks TLS 1.3 only.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use kernlet_accel::{TlsConfig, hex};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use sha2::{Digest as _, Sha256};

/// The files of one side.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// Certificate chain, PEM, its own first.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// The authority that peers' certificates have to be from, PEM.
    pub authority: PathBuf,
}

/// Why TLS cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Some of the files are named, and some are not.
    #[error(
        "TLS takes a certificate, its key and the authority of the other side's certificate, and not only some of them"
    )]
    Incomplete,
    /// A file cannot be read.
    #[error("cannot read {}", .0.display())]
    Read(PathBuf, #[source] io::Error),
    /// A file does not hold what it must.
    #[error("{} holds no {what} in PEM", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What it must hold.
        what: &'static str,
    },
    /// Certificate, key and authority do not fit together.
    #[error("the certificate, its key and the authority cannot be used")]
    Config(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The name cannot be an agent's.
    #[error("`{0}` is no name that a certificate can have")]
    Name(String),
    /// A client is not among those that are allowed.
    #[error("the client's certificate (SHA-256 {0}) is for none of the clients that are allowed")]
    NotAllowed(String),
}

/// An agent's TLS.
#[derive(Clone, Debug)]
pub struct ServerTls {
    config: Arc<ServerConfig>,
    /// Names that clients' certificates may be for, or `sha256:` and their fingerprints; empty: any of the authority.
    allowed: Arc<[String]>,
}

/// A client's TLS.
#[derive(Clone, Debug)]
pub struct ClientTls {
    config: Arc<ClientConfig>,
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|error| TlsError::Read(path.to_owned(), error))
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>, RootCertStore);

fn load(files: &TlsFiles) -> Result<Identity, TlsError> {
    let TlsFiles { certificate, key, authority } = files;
    let pem = |path: &Path, what| TlsError::Pem { path: path.to_owned(), what };
    let certificates = |path: &PathBuf| {
        let text = read(path)?;
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
        found.ok().filter(|found| !found.is_empty()).ok_or_else(|| pem(path, "certificate"))
    };
    let chain = certificates(certificate)?;
    let key = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|_| pem(key, "private key"))?;
    let mut roots = RootCertStore::empty();
    for root in certificates(authority)? {
        roots.add(root).map_err(|error| TlsError::Config(error.into()))?;
    }
    Ok((chain, key, roots))
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

impl ServerTls {
    /// From files. Of the clients with a certificate of the authority, `allowed` may connect: DNS names that their
    /// certificates are for, or `sha256:` and a certificate's fingerprint in hexadecimal digits; if there are none, all.
    ///
    /// # Errors
    /// [`TlsError`] names the file.
    pub fn new(files: &TlsFiles, allowed: &[String]) -> Result<Self, TlsError> {
        let wrong = |error: Box<dyn std::error::Error + Send + Sync>| TlsError::Config(error);
        let (chain, key, roots) = load(files)?;
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
        let verifier = verifier.build().map_err(|error| wrong(error.into()))?;
        let config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| wrong(error.into()))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .map_err(|error| wrong(error.into()))?;
        Ok(Self { config: Arc::new(config), allowed: allowed.to_vec().into() })
    }

    pub(crate) fn accept(&self) -> io::Result<rustls::Connection> {
        ServerConnection::new(Arc::clone(&self.config)).map(Into::into).map_err(io::Error::other)
    }

    /// Which client that is, if it may connect. Its certificate was checked in the handshake.
    pub(crate) fn identity(&self, certificates: &[CertificateDer<'_>]) -> Result<String, TlsError> {
        let own = certificates.first().ok_or_else(|| TlsError::NotAllowed("none".to_owned()))?;
        let fingerprint = fingerprint(own);
        if self.allowed.is_empty() {
            return Ok(format!("tls:sha256:{fingerprint}"));
        }
        let parsed = rustls::server::ParsedCertificate::try_from(own);
        let is_it = |allowed: &&String| match allowed.strip_prefix("sha256:") {
            Some(digits) => digits.eq_ignore_ascii_case(&fingerprint),
            None => ServerName::try_from(allowed.as_str()).is_ok_and(|name| {
                parsed.as_ref().is_ok_and(|parsed| rustls::client::verify_server_name(parsed, &name).is_ok())
            }),
        };
        let found = self.allowed.iter().find(is_it).ok_or(TlsError::NotAllowed(fingerprint.clone()))?;
        Ok(format!("tls:{found}"))
    }
}

fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    hex(&Sha256::digest(certificate))
}

impl TlsFiles {
    /// The files that a configuration names; none when it names none.
    ///
    /// # Errors
    /// [`TlsError::Incomplete`]: it names some only.
    pub fn from_config(config: &TlsConfig) -> Result<Option<Self>, TlsError> {
        match config.clone() {
            TlsConfig { certificate: None, key: None, authority: None } => Ok(None),
            TlsConfig { certificate: Some(certificate), key: Some(key), authority: Some(authority) } => {
                Ok(Some(Self { certificate, key, authority }))
            }
            _ => Err(TlsError::Incomplete),
        }
    }
}

impl ClientTls {
    /// From the files that a configuration names; none when it names none.
    ///
    /// # Errors
    /// As [`TlsFiles::from_config`] and [`ClientTls::new`].
    pub fn from_config(config: &TlsConfig) -> Result<Option<Self>, TlsError> {
        TlsFiles::from_config(config)?.as_ref().map(Self::new).transpose()
    }

    /// From files.
    ///
    /// # Errors
    /// [`TlsError`] names the file.
    pub fn new(files: &TlsFiles) -> Result<Self, TlsError> {
        let wrong = |error: rustls::Error| TlsError::Config(error.into());
        let (chain, key, roots) = load(files)?;
        let config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(wrong)?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(wrong)?;
        Ok(Self { config: Arc::new(config) })
    }

    pub(crate) fn connect(&self, host: &str) -> Result<rustls::Connection, TlsError> {
        let name = ServerName::try_from(host.to_owned()).map_err(|_| TlsError::Name(host.to_owned()))?;
        ClientConnection::new(Arc::clone(&self.config), name)
            .map(Into::into)
            .map_err(|error| TlsError::Config(error.into()))
    }
}

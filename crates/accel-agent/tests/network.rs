//! Agents behind TCP, TLS and vsock: who may connect, and that the same operations work.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::{fs, path::PathBuf, sync::Arc};

use kernlet_accel::{Config, Operation, Plugin, Resource, Runtime, TlsConfig};
use kernlet_accel_agent::{
    Address, Agent, AgentError, Bound, ClientTls, Connection, Limits, Options, Remote, RemoteError, ServerTls,
    TlsError, TlsFiles,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use support::{Probe, content, numbers};

/// Certificates of two authorities, of which the agent knows one.
struct Papers {
    folder: tempfile::TempDir,
}

type Authority = CertifiedIssuer<'static, KeyPair>;

impl Papers {
    fn new() -> (Self, Authority, Authority) {
        let papers = Self { folder: tempfile::tempdir().unwrap() };
        let (ours, theirs) = (papers.authority("ours"), papers.authority("theirs"));
        (papers, ours, theirs)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn authority(&self, name: &str) -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        fs::write(self.path(name), authority.pem()).unwrap();
        authority
    }

    /// A certificate for a name, signed by an authority; its peers are to be of `ours`.
    fn files(&self, name: &str, authority: &Authority) -> TlsFiles {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, authority).unwrap();
        let (certificate_path, key_path) = (self.path(&format!("{name}.crt")), self.path(&format!("{name}.key")));
        fs::write(&certificate_path, certificate.pem()).unwrap();
        fs::write(&key_path, key.serialize_pem()).unwrap();
        TlsFiles { certificate: certificate_path, key: key_path, authority: self.path("ours") }
    }
}

fn agent(address: &str, tls: Option<&ServerTls>) -> (Agent, Address) {
    let plugins: Vec<Arc<dyn Plugin>> = vec![Arc::new(Probe::default())];
    let agent = Agent::start(plugins, Limits::default(), Box::new(|_| {})).unwrap();
    let bound = Bound::bind(&address.parse().unwrap(), true).unwrap();
    agent.listen(bound.listener(tls).unwrap()).unwrap();
    (agent, bound.address().clone())
}

fn try_everything(connection: &Connection) {
    assert!(!connection.shares_memory());
    let session = connection.session(None).unwrap();
    session.run(Operation::Noop.abi_number(), &mut [], None).unwrap();
    let from: Vec<i32> = (0..1_000_000).collect();
    let mut to = vec![0; from.len()];
    numbers(&session, &from, &mut to).unwrap();
    assert_eq!(from, to);
    let model = session.register("model", &Resource::from_bytes(vec![b'm'; 3 << 20])).unwrap();
    assert!(content(&session, model).contains("mmm"));
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let session = &session;
            scope.spawn(move || {
                for round in 0..50 {
                    let (from, mut to) = (vec![thread * 100 + round; 10_000], vec![0; 10_000]);
                    numbers(session, &from, &mut to).unwrap();
                    assert_eq!(from, to);
                }
            });
        }
    });
}

#[test]
fn an_agent_behind_tcp_on_loopback_serves() {
    let (_agent, address) = agent("tcp://127.0.0.1:0", None);
    try_everything(&Connection::open(&address, &Options::default()).unwrap());
}

#[test]
fn an_agent_behind_tls_serves_who_has_a_certificate_and_nobody_else() {
    let (papers, ours, theirs) = Papers::new();
    let server = papers.files("localhost", &ours);
    let allowed = ["friend.example".to_owned()];
    let tls = ServerTls::new(&server, &allowed).unwrap();
    let (running, address) = agent("tls://localhost:0", Some(&tls));
    let connect = |files: &TlsFiles| {
        let tls = Some(ClientTls::new(files).unwrap());
        Connection::open(&address, &Options { tls, ..Options::default() })
    };
    try_everything(&connect(&papers.files("friend.example", &ours)).unwrap());
    // Of our authority, but not among those that are allowed.
    let error = connect(&papers.files("stranger.example", &ours)).unwrap_err();
    assert!(matches!(error, AgentError::Lost { .. } | AgentError::Connect { .. }), "{error}");
    // The right name, from another authority.
    let error = connect(&papers.files("friend.example", &theirs)).unwrap_err();
    assert!(matches!(error, AgentError::Lost { .. } | AgentError::Connect { .. }), "{error}");
    // None.
    let error = Connection::open(&address, &Options::default()).unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");
    // Plain words to a TLS port.
    let plain: Address = address.to_string().replace("tls://", "tcp://").parse().unwrap();
    assert!(Connection::open(&plain, &Options::default()).is_err());
    support::wait_until(|| running.stats().connections == 0, || format!("{:?}", running.stats()));
}

#[test]
fn a_client_refuses_an_agent_whose_certificate_is_not_for_its_name() {
    let (papers, ours, theirs) = Papers::new();
    let client = papers.files("friend.example", &ours);
    let connect = |server: &TlsFiles| {
        let tls = ServerTls::new(server, &[]).unwrap();
        let (_running, address) = agent("tls://localhost:0", Some(&tls));
        let tls = Some(ClientTls::new(&client).unwrap());
        Connection::open(&address, &Options { tls, ..Options::default() }).map(|_| ())
    };
    connect(&papers.files("localhost", &ours)).unwrap();
    assert!(connect(&papers.files("elsewhere.example", &ours)).is_err());
    assert!(connect(&papers.files("localhost", &theirs)).is_err());
}

#[test]
fn a_certificate_that_cannot_be_read_is_named() {
    let (papers, ours, _) = Papers::new();
    let good = papers.files("localhost", &ours);
    let missing = TlsFiles { key: papers.path("missing"), ..good.clone() };
    let error = ClientTls::new(&missing).unwrap_err().to_string();
    assert!(error.contains("missing"), "{error}");
    let wrong = TlsFiles { key: good.certificate.clone(), ..good };
    let error = ClientTls::new(&wrong).unwrap_err().to_string();
    assert!(error.contains("private key"), "{error}");
}

#[test]
fn a_configuration_alone_says_which_agent_and_by_which_certificate() {
    let (papers, ours, _) = Papers::new();
    let tls = ServerTls::new(&papers.files("localhost", &ours), &[]).unwrap();
    let (_by_tls, tls_address) = agent("tls://localhost:0", Some(&tls));
    let (_by_tcp, tcp_address) = agent("tcp://127.0.0.1:0", None);
    let TlsFiles { certificate, key, authority } = papers.files("friend.example", &ours);
    let tls = TlsConfig { authority: Some(authority), certificate: Some(certificate), key: Some(key) };
    let agents = [("far".to_owned(), tls_address.to_string()), ("near".to_owned(), tcp_address.to_string())];
    let config = |agent: &str, tls: &TlsConfig| Config {
        agent: Some(agent.to_owned()),
        agents: agents.clone().into(),
        tls: tls.clone(),
        ..Config::default()
    };
    for name in ["far", "near"] {
        let remote = Remote::from_config(&config(name, &tls)).unwrap().unwrap();
        let report = Runtime::new(vec![Arc::new(remote)]).session().run(Operation::Noop.abi_number(), &mut [], None);
        assert_eq!(report.unwrap().plugin, "remote");
    }
    let half = TlsConfig { key: None, ..tls.clone() };
    let error = Remote::from_config(&config("far", &half)).unwrap_err();
    assert!(matches!(error, RemoteError::Tls(TlsError::Incomplete)), "{error}");
    let error = Remote::from_config(&config("nowhere", &tls)).unwrap_err().to_string();
    assert!(error.contains("\"nowhere\", only far, near"), "{error}");
}

/// Over the loopback of the host's vsock, where it has one: that takes the module `vsock_loopback`.
#[test]
fn an_agent_behind_vsock_serves_where_the_host_has_it() {
    let bound = match Bound::bind(&"vsock://1:41234".parse().unwrap(), false) {
        Ok(bound) => bound,
        Err(error) => {
            eprintln!("skipped: this host has no vsock: {error}");
            return;
        }
    };
    let plugins: Vec<Arc<dyn Plugin>> = vec![Arc::new(Probe::default())];
    let agent = Agent::start(plugins, Limits::default(), Box::new(|_| {})).unwrap();
    agent.listen(bound.listener(None).unwrap()).unwrap();
    match Connection::open(bound.address(), &Options::default()) {
        Ok(connection) => try_everything(&connection),
        Err(error @ AgentError::Connect { .. }) => eprintln!("skipped: this host has no vsock loopback: {error}"),
        Err(error) => panic!("{error}"),
    }
}

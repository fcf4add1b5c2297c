//! Clients that may not connect to anything: who may does it for them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::{
    fs,
    io::{IoSlice, Read as _},
    mem::MaybeUninit,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use kernlet_accel::{Operation, Plugin, Runtime, Session};
use kernlet_accel_agent::{Address, Agent, Dialler, Limits, Listener, Options, Preference, Remote, dial};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use support::Probe;

/// Who answers each byte that asks with a number, and maybe a socket.
fn dialler(mut answer: impl FnMut() -> (i32, Option<OwnedFd>) + Send + 'static) -> Dialler {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    thread::spawn(move || {
        while theirs.read(&mut [0]).unwrap_or(0) == 1 {
            let (number, socket) = answer();
            let sockets: Vec<_> = socket.iter().map(|socket| socket.as_fd()).collect();
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !sockets.is_empty() {
                control.push(SendAncillaryMessage::ScmRights(&sockets));
            }
            sendmsg(&theirs, &[IoSlice::new(&number.to_le_bytes())], &mut control, SendFlags::NOSIGNAL).unwrap();
        }
    });
    Dialler::over(ours.into())
}

fn agent_at(address: &Address) -> Agent {
    let plugins: Vec<Arc<dyn Plugin>> = vec![Arc::new(Probe::default())];
    let agent = Agent::start(plugins, Limits::default(), Box::new(|_| {})).unwrap();
    let Address::Unix(path) = address else { panic!("another address") };
    agent.listen(Listener::Unix(UnixListener::bind(path).unwrap())).unwrap();
    agent
}

fn noop(session: &Session) -> Result<(), String> {
    let soon = Some(Instant::now() + Duration::from_secs(1));
    session.run(Operation::Noop.abi_number(), &mut [], soon).map(|_| ()).map_err(|error| error.message())
}

#[test]
fn a_client_gets_each_connection_from_who_may_connect_and_the_agent_again_when_it_is_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.sock");
    let address = Address::Unix(path.clone());
    let agent = agent_at(&address);
    let to = address.clone();
    let dialler = dialler(move || match dial(&to, Duration::from_secs(1)) {
        Ok(socket) => (0, Some(socket)),
        Err(error) => (error.raw_os_error().unwrap(), None),
    });
    let remote = Remote::connect_by(dialler, address.clone(), Options::default(), Preference::Always).unwrap();
    let session = Runtime::new(vec![Arc::new(remote)]).session();
    noop(&session).unwrap();
    drop(agent);
    fs::remove_file(&path).unwrap();
    // What the agent took before it was told to end, it may still do.
    let mut said = String::new();
    let is_lost = || noop(&session).map_err(|why| said = why).is_err();
    support::wait_until(is_lost, || "the agent answers though it is gone".to_owned());
    assert!(said.contains(&address.to_string()), "{said}");
    let said = noop(&session).unwrap_err();
    assert!(said.contains("no agent answers") && said.contains("No such file"), "{said}");
    let _back = agent_at(&address);
    noop(&session).unwrap();
}

#[test]
fn who_connects_is_not_believed_and_not_waited_for() {
    let address = Address::Unix("/nowhere/agent.sock".into());
    let connect = |dialler| {
        let options = Options { connect_time: Duration::from_millis(50), ..Options::default() };
        Remote::connect_by(dialler, address.clone(), options, Preference::Always).unwrap_err()
    };
    // No socket, though it says that there is one; an error of the system's; and a file in place of a socket.
    for answer in [0, 111, -1, i32::MIN] {
        let error = kernlet_accel::chain(&connect(dialler(move || (answer, None))));
        assert!(error.contains("no agent answers at unix:///nowhere/agent.sock"), "{error}");
    }
    let null = || fs::File::open("/dev/null").unwrap().into();
    connect(dialler(move || (0, Some(null()))));
    // Nobody answers, and nobody is there.
    let (silent, _there) = UnixStream::pair().unwrap();
    connect(Dialler::over(silent.into()));
    let (alone, _) = UnixStream::pair().unwrap();
    connect(Dialler::over(alone.into()));
}

//! Connects functions' watchdogs to accelerator agents: inside their jail they may not connect to anything.
//! A replica's supervisor opens a [`Switchboard`] beside its socket. Which agent a function's is, the deployment and the
//! operator say, never who asks; the gateway says nothing to agents itself.

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use std::fmt;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::sleep;

/// Pause after each connection, for whoever asks again and again.
const PAUSE: Duration = Duration::from_millis(5);
/// What is answered when the system has no number for what happened: `EHOSTUNREACH`.
const UNREACHABLE: i32 = 113;

/// The accelerator agents of the operator.
pub trait Agents: fmt::Debug + Send + Sync {
    /// Whether operations of a function that asks for the agent of this name, or for none, go to an agent.
    ///
    /// # Errors
    /// There is no such agent; says which there are, and how to have one.
    fn has(&self, name: Option<&str>) -> Result<bool, String>;

    /// Connects to that agent, and says nothing to it. May wait.
    ///
    /// # Errors
    /// It cannot be reached.
    fn dial(&self, name: Option<&str>) -> io::Result<OwnedFd>;
}

/// Answers one replica's watchdog at a socket, until it is dropped.
///
/// A byte asks for a connection. The answer is a number of four bytes, little-endian: 0 with a connected socket, or the
/// system's error.
#[derive(Debug)]
pub(crate) struct Switchboard(JoinHandle<()>);

impl Drop for Switchboard {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Switchboard {
    /// Opens one at `path` for a function that asks for the agent of this name.
    pub(crate) fn open(path: &Path, agents: Arc<dyn Agents>, name: Option<String>) -> io::Result<Switchboard> {
        let listener = UnixListener::bind(path)?;
        let name: Option<Arc<str>> = name.map(Into::into);
        Ok(Switchboard(tokio::spawn(async move {
            loop {
                match listener.accept().await {
                    // It ends with its watchdog; the next one's waits until then.
                    Ok((watchdog, _)) => while answer(&watchdog, &agents, name.as_ref()).await.is_ok() {},
                    Err(_) => sleep(PAUSE).await,
                }
            }
        })))
    }
}

async fn answer(watchdog: &UnixStream, agents: &Arc<dyn Agents>, name: Option<&Arc<str>>) -> io::Result<()> {
    let mut asked = [0];
    while read(watchdog, &mut asked).await? == 0 {}
    let (agents, name) = (Arc::clone(agents), name.cloned());
    let dialled = spawn_blocking(move || agents.dial(name.as_deref())).await.map_err(io::Error::other)?;
    let number = dialled.as_ref().map_or_else(|error| error.raw_os_error().unwrap_or(UNREACHABLE), |_| 0);
    watchdog
        .async_io(Interest::WRITABLE, || {
            let sockets: Vec<_> = dialled.iter().map(|socket| socket.as_fd()).collect();
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !sockets.is_empty() {
                control.push(SendAncillaryMessage::ScmRights(&sockets));
            }
            let bytes = number.to_le_bytes();
            Ok(sendmsg(watchdog, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)?)
        })
        .await?;
    sleep(PAUSE).await;
    Ok(())
}

/// Reads a byte; 0 where there was none after all.
async fn read(watchdog: &UnixStream, byte: &mut [u8; 1]) -> io::Result<usize> {
    watchdog.readable().await?;
    match watchdog.try_read(byte) {
        Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        read => read,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
    use super::*;
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    use std::io::{IoSliceMut, Read as _, Write as _};
    use std::os::unix::net::UnixStream as Blocking;
    use std::sync::Mutex;

    /// Gives one end of each pair, keeps the other, and has nothing for a name that it does not know.
    #[derive(Debug, Default)]
    struct Known {
        ends: Mutex<Vec<Blocking>>,
    }

    impl Agents for Known {
        fn has(&self, name: Option<&str>) -> Result<bool, String> {
            Ok(name == Some("near"))
        }

        fn dial(&self, name: Option<&str>) -> io::Result<OwnedFd> {
            if name != Some("near") {
                return Err(io::Error::from_raw_os_error(111));
            }
            let (given, kept) = Blocking::pair()?;
            self.ends.lock().unwrap().push(kept);
            Ok(given.into())
        }
    }

    fn ask(board: &mut Blocking) -> (i32, Option<OwnedFd>) {
        board.write_all(&[1]).unwrap();
        let mut number = [0; 4];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC;
        assert_eq!(recvmsg(&*board, &mut [IoSliceMut::new(&mut number)], &mut control, flags).unwrap().bytes, 4);
        let rights = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut rights) => rights.next(),
            _ => None,
        });
        (i32::from_le_bytes(number), rights)
    }

    #[test]
    fn a_watchdog_gets_sockets_to_its_functions_agent_one_after_the_other_and_so_does_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dial");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let _inside = runtime.enter();
        let known = Arc::new(Known::default());
        let board = Switchboard::open(&path, Arc::clone(&known) as Arc<dyn Agents>, Some("near".to_owned())).unwrap();
        for watchdog in 0..2 {
            let mut asking = Blocking::connect(&path).unwrap();
            for number in 0..2 {
                let (error, socket) = ask(&mut asking);
                assert_eq!(error, 0);
                let mut socket = Blocking::from(socket.unwrap());
                socket.write_all(&[watchdog * 2 + number]).unwrap();
                let mut heard = [0];
                known.ends.lock().unwrap().last_mut().unwrap().read_exact(&mut heard).unwrap();
                assert_eq!(heard, [watchdog * 2 + number]);
            }
        }
        drop(board);
        let far = folder.path().join("far");
        let _board = Switchboard::open(&far, known, Some("far".to_owned())).unwrap();
        let (error, socket) = ask(&mut Blocking::connect(&far).unwrap());
        assert_eq!((error, socket.is_some()), (111, false));
    }
}

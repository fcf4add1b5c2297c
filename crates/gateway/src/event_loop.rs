//! The gateway's event loops: one thread for each processor, each with a runtime and connections of its own.
//! The server hands every accepted connection to one of them, where its requests are served to their end, so that no
//! request is handed from thread to thread. It knows nothing of HTTP.

use crate::crowd::Guest;
use std::cell::Cell;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};

thread_local! {
    static CURRENT: Cell<Id> = const { Cell::new(Id(0)) };
}

/// Names an event loop; everything that runs outside of them has the same one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Id(usize);

impl Id {
    /// Where the caller runs.
    pub(crate) fn current() -> Id {
        CURRENT.get()
    }
}

/// A client's connection.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) stream: TcpStream,
    pub(crate) peer: SocketAddr,
    pub(crate) guest: Guest,
    /// Counts it among its event loop's, as long as it lives.
    pub(crate) place: Place,
}

/// A connection on its way to its event loop.
#[derive(Debug)]
struct Handed {
    stream: std::net::TcpStream,
    peer: SocketAddr,
    guest: Guest,
    place: Place,
}

/// A connection's place on its event loop.
#[derive(Debug)]
pub(crate) struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// All event loops. Dropped, they end soon, with whatever still runs on them.
#[derive(Debug)]
pub(crate) struct EventLoops {
    loops: Vec<EventLoop>,
    /// Each event loop holds a sender until it has drained.
    drained: tokio::sync::Mutex<mpsc::Receiver<()>>,
    end: watch::Sender<()>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct EventLoop {
    connections: mpsc::UnboundedSender<Handed>,
    count: Arc<AtomicUsize>,
}

/// The connections of one event loop, as they come; none come after the gateway was told to stop.
#[derive(Debug)]
pub(crate) struct Arrivals(mpsc::UnboundedReceiver<Handed>);

impl Arrivals {
    /// The next one.
    pub(crate) async fn next(&mut self) -> Option<Accepted> {
        loop {
            let Handed { stream, peer, guest, place } = self.0.recv().await?;
            match TcpStream::from_std(stream) {
                Ok(stream) => return Some(Accepted { stream, peer, guest, place }),
                Err(error) => tracing::warn!(%error, "A connection cannot be waited for"),
            }
        }
    }
}

impl EventLoops {
    /// Starts one for each processor. `serve` runs on each, and returns when it has drained; other tasks on the
    /// same event loop go on until the end.
    pub(crate) fn start<F: Future<Output = ()>>(
        serve: impl Fn(Arrivals) -> F + Clone + Send + 'static,
    ) -> Result<EventLoops, io::Error> {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        let (end, ended) = watch::channel(());
        let (draining, drained) = mpsc::channel(1);
        let (mut loops, mut threads) = (Vec::new(), Vec::new());
        for number in 1..=processors {
            let (connections, arrivals) = mpsc::unbounded_channel();
            let (serve, draining, mut ended) = (serve.clone(), draining.clone(), ended.clone());
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let run = move || {
                CURRENT.set(Id(number));
                runtime.block_on(async {
                    let until_drained = async {
                        serve(Arrivals(arrivals)).await;
                        drop(draining);
                        std::future::pending::<()>().await;
                    };
                    tokio::select! {
                        () = until_drained => {}
                        // An error says that the sender is gone.
                        _ = ended.changed() => {}
                    }
                });
            };
            threads.push(thread::Builder::new().name("event-loop".to_owned()).spawn(run)?);
            loops.push(EventLoop { connections, count: Arc::default() });
        }
        Ok(EventLoops { loops, drained: tokio::sync::Mutex::new(drained), end, threads })
    }

    /// Gives a connection to the event loop that has the fewest.
    pub(crate) fn hand(&self, stream: TcpStream, peer: SocketAddr, guest: Guest) -> Result<(), io::Error> {
        let stream = stream.into_std()?;
        let fewest = self.loops.iter().min_by_key(|event_loop| event_loop.count.load(Ordering::Relaxed));
        if let Some(chosen) = fewest {
            chosen.count.fetch_add(1, Ordering::Relaxed);
            // One that has ended drops the connection.
            let place = Place(Arc::clone(&chosen.count));
            let _ = chosen.connections.send(Handed { stream, peer, guest, place });
        }
        Ok(())
    }

    /// Waits until every event loop has drained.
    pub(crate) async fn drained(&self) {
        // Nothing is ever sent: this ends when the last sender is gone.
        let _ = self.drained.lock().await.recv().await;
    }

    /// Ends them all, and waits until nothing of them is left.
    pub(crate) async fn end(self) {
        let EventLoops { end, threads, .. } = self;
        drop(end);
        for thread in threads {
            let ended = tokio::task::spawn_blocking(move || thread.join()).await;
            if !matches!(ended, Ok(Ok(()))) {
                tracing::error!("An event loop had failed");
            }
        }
    }
}

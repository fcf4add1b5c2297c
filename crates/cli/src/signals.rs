//! SIGINT and SIGTERM, as an orderly stop: the first asks, the second insists.
//! Used by the subcommands that stay in the foreground: `up` and `demo`.
//! It never ends the process by itself.

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The two signals that ask a foreground program to stop.
#[derive(Debug)]
pub(crate) struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    /// Takes both signals over from their default action. Must be called inside a tokio runtime.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let handler = |kind| signal(kind).context("cannot install a signal handler");
        Ok(Self { interrupt: handler(SignalKind::interrupt())?, terminate: handler(SignalKind::terminate())? })
    }

    /// Waits for the next of the two.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

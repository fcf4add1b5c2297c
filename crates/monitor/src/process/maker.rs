//! Where the threads come from that children are traced from. Used by the driver. In a jail a thread that makes and traces
//! processes needs calls that no other one has, and has to come from one that has them: that is the maker, which the
//! watchdog starts while it starts itself. Without one, whoever wants such a thread makes it. It never traces itself.

use std::{
    io,
    sync::{Arc, OnceLock, mpsc},
    thread::{self, JoinHandle},
};

use kernlet_jail::{Role, confine};

/// Enough for what a thread that traces does: calls into the kernel, and one buffer on the heap.
const STACK: usize = 128 * 1024;

/// What such a thread does.
type Body = Box<dyn FnOnce() + Send>;

type Spawned = io::Result<JoinHandle<()>>;

/// A thread that is wanted, and whom to give it.
struct Order(Body, mpsc::SyncSender<Spawned>);

/// A host whose machines are processes. Cheap to clone; the maker ends with the last clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct ProcessHost {
    orders: Arc<OnceLock<mpsc::Sender<Order>>>,
}

impl ProcessHost {
    /// Starts the maker, if there is none.
    pub(crate) fn start_maker(&self) -> io::Result<()> {
        let (orders, received) = mpsc::channel();
        if self.orders.set(orders).is_ok() {
            thread::Builder::new().name("processes".to_owned()).stack_size(STACK).spawn(move || make(&received))?;
        }
        Ok(())
    }

    /// Starts a thread that may make processes and trace them.
    pub(crate) fn spawn(&self, body: Body) -> Spawned {
        let Some(orders) = self.orders.get() else { return spawn(body) };
        let (answer, answered) = mpsc::sync_channel(1);
        let gone = |()| io::Error::from(io::ErrorKind::BrokenPipe);
        orders.send(Order(body, answer)).map_err(|_| gone(()))?;
        answered.recv().map_err(|_| gone(()))?
    }
}

fn make(orders: &mpsc::Receiver<Order>) {
    confine(Role::Tracer);
    for Order(body, answer) in orders {
        // Who asked waits for it.
        let _ = answer.send(spawn(body));
    }
}

fn spawn(body: Body) -> Spawned {
    thread::Builder::new().name("guest".to_owned()).stack_size(STACK).spawn(body)
}

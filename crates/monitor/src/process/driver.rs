//! The thread that a child is traced from: the kernel takes requests from no other. Used by the processor, which may
//! itself be used from any thread. It does nothing but what it is handed, and takes the child with it when it ends.

use std::{
    any::Any,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::mpsc,
    thread::JoinHandle,
    time::Duration,
};

use crate::{
    crash::Cause,
    layout::Area,
    process::{
        ProcessHost, confine, process,
        tracee::{Failure, Tracee},
    },
};

type Job = Box<dyn FnOnce(&mut Tracee) + Send>;

/// A child with its thread.
#[derive(Debug)]
pub(crate) struct Driver {
    /// Taken away to end the thread.
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    handle: OwnedFd,
    clock: libc::clockid_t,
}

impl Driver {
    /// A new child, confined to these areas of the machine's memory.
    pub(crate) fn start(host: &ProcessHost, file: BorrowedFd<'_>, areas: Vec<Area>) -> Result<Self, Cause> {
        let failed = process("start the thread of a function's process");
        let file = match file.try_clone_to_owned() {
            Ok(file) => file,
            Err(error) => return Err(failed(error)),
        };
        let (jobs, received) = mpsc::channel::<Job>();
        let (answer, started) = mpsc::sync_channel(1);
        let run = move || {
            let begun = begin(&file, &areas);
            drop(file);
            let (child, answered) = match begun {
                Ok((child, handle)) => {
                    let clock = child.clock();
                    (Some(child), answer.send(Ok((handle, clock))))
                }
                Err(cause) => (None, answer.send(Err(cause))),
            };
            if let (Some(mut child), Ok(())) = (child, answered) {
                received.iter().for_each(|job| job(&mut child));
            }
        };
        let thread = Some(match host.spawn(Box::new(run)) {
            Ok(thread) => thread,
            Err(error) => return Err(failed(error)),
        });
        let (handle, clock) = started.recv().map_err(|_| gone("start a function's process"))??;
        Ok(Self { jobs: Some(jobs), thread, handle, clock })
    }

    /// Does something with the child, and waits for it. `action` is for an error's text.
    pub(crate) fn call<T: Send + 'static>(
        &self,
        action: &'static str,
        job: impl FnOnce(&mut Tracee) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Cause> {
        let (answer, answered) = mpsc::sync_channel(1);
        let job = Box::new(move |child: &mut Tracee| drop(answer.send(job(child))));
        let sent = self.jobs.as_ref().is_some_and(|jobs| jobs.send(job).is_ok());
        if !sent {
            return Err(gone(action));
        }
        answered.recv().map_err(|_| gone(action))?.map_err(|failure| failure.cause(action))
    }

    /// Processor time that the child has used; zero once it is gone.
    pub(crate) fn clock(&self) -> Duration {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the structure is ours to write; a clock that does not exist any more leaves it as it is.
        unsafe { libc::clock_gettime(self.clock, &raw mut time) };
        let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
        Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or_default())
    }

    /// The child's descriptor.
    pub(crate) fn handle(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.jobs = None;
        // It kills the child and collects its status.
        let _: Option<Result<(), Box<dyn Any + Send>>> = self.thread.take().map(JoinHandle::join);
    }
}

fn begin(file: &OwnedFd, areas: &[Area]) -> Result<(Tracee, OwnedFd), Cause> {
    let mut child = Tracee::fork().map_err(|failure| failure.cause("trace a process of its own"))?;
    let handle = child.handle().map_err(process("name a function's process"))?;
    confine::confine(&mut child, file.as_fd(), areas)
        .map_err(|failure| failure.cause("confine a function's process"))?;
    Ok((child, handle))
}

/// The thread is not there any more, which no guest can bring about.
fn gone(action: &'static str) -> Cause {
    process(action)(io::ErrorKind::BrokenPipe.into())
}

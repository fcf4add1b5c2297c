//! A watchdog's answer after its head: there already, or still to come on the connection, which it brings back at its end.
//! The proxy passes it on. It never gives out a byte beyond the answer's end.

use super::outgoing::Outgoing;
use super::{Connection, LinkError, Pool, keep};
use bytes::Bytes;
use kernlet_http1::{AnswerHead, BodyLength, Chunks};
use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

/// Longest body that is copied out of a connection's memory, in bytes, so that the connection keeps that.
const COPIED_MAX: usize = 4096;

/// A watchdog's answer after its head.
#[derive(Debug)]
pub(crate) enum Answer<'a> {
    /// All of it; `None` once it is taken, or for none.
    Whole(Option<Bytes>),
    /// Not all of it yet.
    Coming(Box<Coming<'a>>),
}

/// The rest of an answer, and the connection that brings it.
#[derive(Debug)]
pub(crate) struct Coming<'a> {
    rest: Rest,
    persists: bool,
    /// Of the request, where the watchdog answered before its end.
    outgoing: Outgoing<'a>,
    /// `None` once it is back, or lost.
    connection: Option<Connection>,
    pool: Arc<Mutex<Pool>>,
}

#[derive(Debug)]
enum Rest {
    Known(u64),
    Chunked(Chunks),
    UntilClose,
    None,
}

impl Rest {
    fn is_over(&self) -> bool {
        match self {
            Rest::Known(left) => *left == 0,
            Rest::Chunked(chunks) => chunks.is_over(),
            Rest::UntilClose => false,
            Rest::None => true,
        }
    }
}

impl<'a> Answer<'a> {
    /// The answer on a connection of which the head has been read.
    pub(super) fn new(
        head: &AnswerHead,
        mut connection: Connection,
        mut outgoing: Outgoing<'a>,
        pool: &Arc<Mutex<Pool>>,
    ) -> Answer<'a> {
        let persists = head.persists();
        let mut rest = match head.body() {
            BodyLength::Known(length) => Rest::Known(length),
            BodyLength::Chunked => Rest::Chunked(Chunks::new()),
            BodyLength::UntilClose => Rest::UntilClose,
        };
        if let Rest::Known(left) = &mut rest
            && *left <= connection.buffer.len() as u64
        {
            let data = take(&mut connection, left);
            give_back(connection, persists, &mut outgoing, pool);
            return Answer::Whole(Some(data).filter(|data| !data.is_empty()));
        }
        let pool = Arc::clone(pool);
        Answer::Coming(Box::new(Coming { rest, persists, outgoing, connection: Some(connection), pool }))
    }
}

/// As many of the bytes that have come as belong to a body of which `left` are left.
fn take(connection: &mut Connection, left: &mut u64) -> Bytes {
    let buffer = &mut connection.buffer;
    let length = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
    *left -= length as u64;
    if length > COPIED_MAX {
        return buffer.split_to(length).freeze();
    }
    let data = Bytes::copy_from_slice(&buffer[..length]);
    connection.drop_read(length);
    data
}

/// Puts a connection back, unless it still has something to do: a request that was answered before its end.
fn give_back(mut connection: Connection, persists: bool, outgoing: &mut Outgoing<'_>, pool: &Arc<Mutex<Pool>>) {
    if persists && outgoing.is_sent() && connection.buffer.is_empty() {
        connection.memory = outgoing.take_memory();
        keep(pool, connection);
    }
}

impl Coming<'_> {
    /// The answer is over.
    fn finish(&mut self) {
        if let Some(connection) = self.connection.take() {
            give_back(connection, self.persists, &mut self.outgoing, &self.pool);
        }
    }

    /// Bytes of the body that have come already.
    fn take_read(&mut self) -> Result<Option<Bytes>, LinkError> {
        let Some(connection) = &mut self.connection else { return Ok(None) };
        loop {
            if connection.buffer.is_empty() {
                return Ok(None);
            }
            match &mut self.rest {
                Rest::Known(left) => return Ok(Some(take(connection, left))),
                Rest::UntilClose => {
                    let mut all = u64::MAX;
                    return Ok(Some(take(connection, &mut all)));
                }
                Rest::None => return Ok(None),
                Rest::Chunked(chunks) => {
                    let step = chunks.step(&connection.buffer).map_err(LinkError::Chunks)?;
                    if step.taken == 0 {
                        return Ok(None);
                    }
                    if step.data.is_empty() {
                        connection.drop_read(step.taken);
                        if chunks.is_over() {
                            return Ok(None);
                        }
                    } else {
                        let mut length = step.taken as u64;
                        return Ok(Some(take(connection, &mut length)));
                    }
                }
            }
        }
    }

    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, LinkError>>> {
        loop {
            if let Some(data) = self.take_read()? {
                return Poll::Ready(Some(Ok(data)));
            }
            let Some(connection) = self.connection.as_mut().filter(|_| !self.rest.is_over()) else {
                return Poll::Ready(None);
            };
            // What is left of the request goes on meanwhile.
            if let Poll::Ready(Err(error)) = self.outgoing.poll_send(&mut connection.stream, cx) {
                return Poll::Ready(Some(Err(error)));
            }
            if ready!(connection.poll_read(cx)?) == 0 {
                let ended = matches!(self.rest, Rest::UntilClose);
                self.rest = Rest::None;
                self.connection = None;
                return Poll::Ready(if ended { None } else { Some(Err(LinkError::CutShort)) });
            }
        }
    }
}

impl Answer<'_> {
    /// The next piece of the body; `None` at its end.
    pub(crate) async fn data(&mut self) -> Option<Result<Bytes, LinkError>> {
        let coming = match self {
            Answer::Whole(data) => return data.take().map(Ok),
            Answer::Coming(coming) => coming,
        };
        let data = poll_fn(|cx| coming.poll_bytes(cx)).await;
        if matches!(data, Some(Err(_))) {
            coming.rest = Rest::None;
            coming.connection = None;
        }
        // A body of known length ends with its last byte; one in chunks is not over before its last line.
        if coming.rest.is_over() {
            coming.finish();
        }
        data
    }

    /// How long the body is, or what of it is left.
    pub(crate) fn length(&self) -> BodyLength {
        match self {
            Answer::Whole(data) => BodyLength::Known(data.as_ref().map_or(0, |data| data.len() as u64)),
            Answer::Coming(coming) => match coming.rest {
                Rest::Known(left) => BodyLength::Known(left),
                Rest::None => BodyLength::Known(0),
                Rest::Chunked(_) => BodyLength::Chunked,
                Rest::UntilClose => BodyLength::UntilClose,
            },
        }
    }
}

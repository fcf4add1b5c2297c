//! A client's connection: reads one request after the other, has each answered, and sends what comes of it. One task for
//! each connection, which does all of that by itself, in memory that it keeps.
//! Started by the server. It never reads a request before the answer to the last one is out, and never closes a connection
//! whose client may still be sending without letting it read the answer.
//!
//! ```text
//!  serve ─► wait_for_head ─► server::answer ─► send ─► rest of the body ─┐
//!             ▲  (the head, the drain, a limit, who needs the place)     │
//!             └──────────────────────────────────────────────────────────┘
//! ```

mod alarm;
mod intake;
mod reply;

pub(crate) use intake::Intake;
pub(crate) use reply::Reply;

use crate::Context;
use crate::answer;
use crate::body::{Body, Ours, Progress, Upload};
use crate::crowd::Guest;
use crate::headers::Client;
use crate::server;
use alarm::Alarm;
use bytes::Bytes;
use http::{StatusCode, Uri};
use intake::NoHead;
use kernlet_http1::{AnswerHead, BadHead, RequestHead};
use reply::Framing;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::io::{AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::time::Instant;

/// How long a connection may take to send a request's head, or stay idle between two requests.
const HEAD_TIME: Duration = Duration::from_secs(60);
/// Longest body that is copied behind its head, in bytes, so that both go in one piece.
const JOINED_MAX: usize = 4096;

/// What a connection keeps from one request to the next, for whoever answers.
#[derive(Debug)]
pub(crate) struct Desk {
    /// The head of the answer to the client.
    pub(crate) reply: Reply,
    /// The head of the watchdog's answer.
    pub(crate) answer: AnswerHead,
    /// Rings where something takes too long.
    pub(crate) alarm: Alarm,
}

/// Why a connection has no further request.
enum Over {
    /// Its client is told nothing: it has gone, or has nothing to ask.
    Quietly,
    Told(StatusCode, String),
}

/// The connection is of no more use.
struct Lost;

impl From<io::Error> for Lost {
    fn from(_: io::Error) -> Lost {
        Lost
    }
}

/// Serves a connection to its end.
pub(crate) async fn serve(stream: TcpStream, client: &Client, guest: &Guest, context: &Arc<Context>) {
    let (reader, mut writer) = stream.into_split();
    let mut intake = Intake::new(reader);
    let mut desk = Desk { reply: Reply::default(), answer: AnswerHead::default(), alarm: Alarm::new() };
    let mut head = RequestHead::default();
    let seat = guest.seat();
    let mut stop = context.stopping.clone();
    let mut leave = pin!(async {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => {}
            () = guest.has_to_go() => {}
        }
    });
    loop {
        match wait_for_head(&mut intake, &mut head, &mut desk.alarm, leave.as_mut()).await {
            Ok(()) => {}
            Err(Over::Quietly) => return,
            Err(Over::Told(status, why)) => return refuse(status, why, &mut intake, &mut writer, &mut desk).await,
        }
        let visit = seat.visit();
        let request = Served { context, client, head: &head };
        let goes_on = request.serve(&mut intake, &mut writer, &mut desk).await;
        drop(visit);
        match goes_on {
            Ok(true) if intake.linger().await => {}
            Ok(_) => return say_goodbye(&mut intake, &mut writer).await,
            Err(Lost) => return,
        }
    }
}

/// Waits for the next request's head. Until that is whole, the connection ends where the gateway does, or somebody else needs
/// its place.
async fn wait_for_head(
    intake: &mut Intake,
    head: &mut RequestHead,
    alarm: &mut Alarm,
    mut leave: Pin<&mut impl Future<Output = ()>>,
) -> Result<(), Over> {
    let (mut seen, mut due) = (0, None);
    poll_fn(|cx| {
        if let Poll::Ready(read) = intake.poll_head(head, &mut seen, cx) {
            return Poll::Ready(read.map_err(Over::from));
        }
        if leave.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(Over::Quietly));
        }
        let due = *due.get_or_insert_with(|| Instant::now() + HEAD_TIME);
        alarm.poll_until(due, cx).map(|()| Err(if intake.has_begun() { too_slow() } else { Over::Quietly }))
    })
    .await
}

fn too_slow() -> Over {
    Over::Told(
        StatusCode::REQUEST_TIMEOUT,
        format!("The request's head did not come within {HEAD_TIME:?}: send it again"),
    )
}

impl From<NoHead> for Over {
    fn from(why: NoHead) -> Over {
        let large = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        match why {
            NoHead::Gone => Over::Quietly,
            NoHead::Long => {
                Over::Told(large, "The request's head is longer than this gateway takes: send less".to_owned())
            }
            NoHead::ManyFields | NoHead::Bad(BadHead::TooManyFields) => {
                Over::Told(large, "The request has more header fields than this gateway takes: send fewer".to_owned())
            }
            NoHead::Bad(why) => Over::Told(StatusCode::BAD_REQUEST, format!("The request cannot be read: {why}")),
        }
    }
}

/// Answers what is no request, as the connection's last word.
async fn refuse(status: StatusCode, why: String, intake: &mut Intake, writer: &mut OwnedWriteHalf, desk: &mut Desk) {
    let (head, body) = answer::text(status, why).into_parts();
    desk.reply.fill(head.status, &head.headers);
    desk.reply.end(&RequestHead::default(), body.length(), false);
    if let Body::Whole(Some(data)) = &body {
        desk.reply.add_body(data);
    }
    if writer.write_all(desk.reply.bytes()).await.is_ok() && writer.shutdown().await.is_ok() {
        intake.linger_to_the_end().await;
    }
}

/// Ends a connection whose client has its last answer: after what it still sends, so that it gets to read the answer.
async fn say_goodbye(intake: &mut Intake, writer: &mut OwnedWriteHalf) {
    if writer.shutdown().await.is_ok() && !intake.is_over() {
        intake.linger_to_the_end().await;
    }
}

/// A request that is served.
struct Served<'a> {
    context: &'a Arc<Context>,
    client: &'a Client,
    head: &'a RequestHead,
}

impl Served<'_> {
    /// Has it answered, and sends the answer. Says whether the connection goes on.
    async fn serve(&self, intake: &mut Intake, writer: &mut OwnedWriteHalf, desk: &mut Desk) -> Result<bool, Lost> {
        // Only looked at where the target is not plain.
        let uri = if self.head.plain_target().is_some() {
            Uri::default()
        } else {
            self.head.target().parse().unwrap_or_default()
        };
        let progress = Progress::new(intake.is_over());
        let upload = Upload::new(intake, &progress);
        let body = {
            // In place: it is large, and would be moved into what waits for it.
            let answering = pin!(server::answer(self.context, self.client, self.head, &uri, (upload, &progress), desk));
            unless_gone(answering, writer.as_ref(), &progress).await?
        };
        // Who waited for a word that was not said may send the body all the same, or not.
        let is_clear = progress.is_whole() || !self.head.expects_continue();
        let may_go_on = self.head.persists() && is_clear && !*self.context.stopping.borrow();
        let (framing, goes_on) = desk.reply.end(self.head, body.length(), may_go_on);
        let has_body = self.head.method() != "HEAD" && kernlet_http1::may_have_body(desk.reply.status());
        let to_send = match body {
            Body::Watchdog { mut answer, _lease } => {
                send(writer, desk.reply.bytes(), &[]).await?;
                while has_body && let Some(data) = unless_gone(pin!(answer.data()), writer.as_ref(), &progress).await? {
                    // What has been sent cannot be taken back: the client sees that the answer is not whole.
                    send_piece(writer, framing, &data.map_err(|_| Lost)?).await?;
                }
                send_end(writer, framing).await?;
                return Ok(goes_on);
            }
            ours => ours.into_ours(),
        };
        // The client may read only after it has sent all, though nobody wants that any more.
        let sending = async {
            match to_send {
                Ours::Whole(data) => {
                    let data = if has_body { data } else { Bytes::new() };
                    if data.len() > JOINED_MAX {
                        return send(writer, desk.reply.bytes(), &data).await;
                    }
                    desk.reply.add_body(&data);
                    send(writer, desk.reply.bytes(), &[]).await
                }
                Ours::Pieces(mut pieces) => {
                    send(writer, desk.reply.bytes(), &[]).await?;
                    while has_body
                        && let Some(data) = unless_gone(pin!(pieces.recv()), writer.as_ref(), &progress).await?
                    {
                        send_piece(writer, framing, &data).await?;
                    }
                    send_end(writer, framing).await
                }
            }
        };
        if intake.is_over() {
            sending.await?
        } else {
            while_reading_on(sending, intake).await?
        }
        Ok(goes_on)
    }
}

/// Waits for something, unless the client is seen to hang up, which nobody can see while its request still comes.
async fn unless_gone<T>(
    mut waiting: Pin<&mut impl Future<Output = T>>,
    stream: &TcpStream,
    progress: &Progress,
) -> Result<T, Lost> {
    poll_fn(|cx| {
        if let Poll::Ready(done) = waiting.as_mut().poll(cx) {
            return Poll::Ready(Ok(done));
        }
        if progress.is_whole() {
            let mut byte = [0];
            // Anything else is the next request, which can wait.
            if let Poll::Ready(Ok(0) | Err(_)) = stream.poll_peek(cx, &mut ReadBuf::new(&mut byte)) {
                return Poll::Ready(Err(Lost));
            }
        }
        Poll::Pending
    })
    .await
}

/// Does something while what comes from the client is thrown away.
async fn while_reading_on<T>(doing: impl Future<Output = T>, intake: &mut Intake) -> T {
    let (mut doing, mut reading) = (pin!(doing), pin!(intake.discard()));
    let mut reads = true;
    poll_fn(|cx| {
        reads = reads && reading.as_mut().poll(cx).is_pending();
        doing.as_mut().poll(cx)
    })
    .await
}

/// Sends two pieces as one.
async fn send(writer: &mut OwnedWriteHalf, first: &[u8], second: &[u8]) -> Result<(), Lost> {
    if second.is_empty() {
        return Ok(writer.write_all(first).await?);
    }
    send_all(writer, [first, second, &[]]).await
}

/// Sends a piece of a body.
async fn send_piece(writer: &mut OwnedWriteHalf, framing: Framing, data: &[u8]) -> Result<(), Lost> {
    // An empty chunk would be the last one.
    if framing != Framing::Chunked || data.is_empty() {
        return Ok(writer.write_all(data).await?);
    }
    send_all(writer, [format!("{:x}\r\n", data.len()).as_bytes(), data, b"\r\n"]).await
}

/// Ends a body.
async fn send_end(writer: &mut OwnedWriteHalf, framing: Framing) -> Result<(), Lost> {
    if framing == Framing::Chunked {
        writer.write_all(b"0\r\n\r\n").await?;
    }
    Ok(())
}

async fn send_all(writer: &mut OwnedWriteHalf, pieces: [&[u8]; 3]) -> Result<(), Lost> {
    let mut slices = pieces.map(IoSlice::new);
    let mut left = &mut slices[..];
    IoSlice::advance_slices(&mut left, 0);
    while !left.is_empty() {
        match writer.write_vectored(left).await? {
            0 => return Err(Lost),
            sent => IoSlice::advance_slices(&mut left, sent),
        }
    }
    Ok(())
}

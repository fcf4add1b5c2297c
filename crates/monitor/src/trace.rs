//! Tells an observer of every hypercall of a guest: when, how long, with what arguments and what result. Used by the run
//! loop for a guest that is watched; an unwatched one costs one look at a pointer a call. It reads what a hostile guest
//! wrote through checked accesses, shows text with its control characters escaped, and never shows a body.
//!
//! ```text
//!     0.004271 +  38.2µs find_resource("model.onnx") = 1, 13963115 bytes <2.3µs>
//!     │          │       │                             │                 └ time in the monitor
//!     │          │       └ as in docs/abi.md           └ what the guest got
//!     │          └ time in the guest since it was last given the processor
//!     └ seconds since it was first watched
//! ```

use std::{
    borrow::Cow,
    fmt::{self, Write as _},
    time::{Duration, Instant},
};

use kernlet_abi::{
    Span,
    accel::{ARGS_MAX, AccelArg, AccelBatch, AccelCall, BATCH_MAX, ERROR_MAX, access},
    hypercall::{CallHead, Clock, Entropy, Exit, FindResource, Log, NextRequest, exit_reason, number, status},
    message::ResponseHead,
};
use kernlet_accel::{Dtype, Operation};

use crate::{
    crash::Cause,
    hypercall::{self, CallContext, Flow, GuestView},
    message::{Level, Request},
};

/// Bytes of a text that an event shows.
const TEXT_MAX: u64 = 256;

/// Calls of a batch that an event shows.
const CALLS_SHOWN: u64 = 8;

/// Sees what a guest does. Called on the machine's thread while the guest waits.
pub trait Observer: Send + fmt::Debug {
    /// One event, in the order in which they happen.
    fn event(&mut self, event: &Event);
}

/// Something that a guest did or that was done to it. Its text is one line without control characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Since the guest was first watched.
    pub at: Duration,
    /// What happened.
    pub what: What,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A hypercall.
    Call {
        /// Its name and arguments, such as `entropy(32)`.
        call: String,
        /// What the guest got, such as `ok`.
        result: String,
        /// Time in the guest before it.
        guest: Duration,
        /// Time in the monitor.
        monitor: Duration,
    },
    /// A request was laid into the guest's window.
    Request(String),
    /// The guest ended, and why.
    End {
        /// The cause in one sentence.
        cause: String,
        /// Time in the guest before it.
        guest: Duration,
    },
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = |duration: &Duration| duration.as_secs_f64() * 1e6;
        write!(f, "{:>12.6} ", self.at.as_secs_f64())?;
        match &self.what {
            What::Call { call, result, guest, monitor } => {
                write!(f, "+{:>8.1}µs {call} = {result} <{:.1}µs>", micros(guest), micros(monitor))
            }
            What::Request(request) => write!(f, "{:12}--- request {request} ---", ""),
            What::End { cause, guest } => write!(f, "+{:>8.1}µs +++ {cause} +++", micros(guest)),
        }
    }
}

/// A guest's observer and its clock.
#[derive(Debug)]
pub(crate) struct Trace {
    observer: Box<dyn Observer>,
    start: Instant,
    /// When the guest was last given the processor.
    resumed: Instant,
}

impl Trace {
    pub(crate) fn new(observer: Box<dyn Observer>) -> Self {
        let start = Instant::now();
        Self { observer, start, resumed: start }
    }

    pub(crate) fn into_observer(self) -> Box<dyn Observer> {
        self.observer
    }

    /// As [`hypercall::serve`].
    pub(crate) fn serve(&mut self, view: &mut GuestView, context: &mut CallContext, block: u64) -> Result<Flow, Cause> {
        let left = Instant::now();
        let guest = left.saturating_duration_since(self.resumed);
        let call = describe(view, block);
        // What describing took is the trace's own time, not the monitor's.
        let begun = Instant::now();
        let served = hypercall::serve(view, context, block);
        let monitor = begun.elapsed();
        let result = match &served {
            Ok(flow) => result(view, context, block, *flow),
            Err(_) => "?".to_owned(),
        };
        self.tell(left, What::Call { call, result, guest, monitor });
        self.resumed = Instant::now();
        served
    }

    /// A request lies in the window, and the guest goes on.
    pub(crate) fn request(&mut self, request: &Request<'_>) {
        let Request { method, path, query, headers, body, call_id } = request;
        let text = format!(
            "{} {}: {} bytes of query, {} headers, {} bytes of body, call id {}",
            printable(method),
            quoted(path),
            query.len(),
            headers.len(),
            body.len(),
            printable(call_id)
        );
        self.tell(Instant::now(), What::Request(text));
        self.resumed = Instant::now();
    }

    /// The guest has ended.
    pub(crate) fn end(&mut self, cause: &Cause) {
        let now = Instant::now();
        let guest = now.saturating_duration_since(self.resumed);
        self.tell(now, What::End { cause: printable(&cause.to_string()).into_owned(), guest });
    }

    fn tell(&mut self, at: Instant, what: What) {
        self.observer.event(&Event { at: at.saturating_duration_since(self.start), what });
    }
}

/// The call whose argument block is at `block`, as it is before it is served.
fn describe(view: &GuestView, block: u64) -> String {
    try_describe(view, block).unwrap_or_else(|| format!("hypercall({block:#x})"))
}

fn try_describe(view: &GuestView, block: u64) -> Option<String> {
    let head: CallHead = view.load("", block, true).ok()?;
    Some(match head.number {
        number::NEXT_REQUEST => {
            let call: NextRequest = view.load("", block, true).ok()?;
            format!("next_request({})", response(view, call.response))
        }
        number::LOG => {
            let call: Log = view.load("", block, true).ok()?;
            format!("log({}, {})", Level::from_abi(call.level).name(), text(view, call.message))
        }
        number::CLOCK => "clock()".to_owned(),
        number::ENTROPY => {
            let call: Entropy = view.load("", block, true).ok()?;
            format!("entropy({} bytes at {:#x})", call.buffer.len, call.buffer.offset)
        }
        number::ACCEL => {
            let call: AccelCall = view.load("", block, true).ok()?;
            accelerator_call(view, &call)
        }
        number::ACCEL_BATCH => {
            let batch: AccelBatch = view.load("", block, true).ok()?;
            let calls: Vec<_> = calls(view, &batch).map(|call| accelerator_call(view, &call)).collect();
            format!("accel_batch({})", calls.join("; "))
        }
        number::FIND_RESOURCE => {
            let call: FindResource = view.load("", block, true).ok()?;
            format!("find_resource({})", text(view, call.name))
        }
        number::EXIT => {
            let call: Exit = view.load("", block, true).ok()?;
            exit(view, &call)
        }
        number => format!("hypercall_{number}({block:#x})"),
    })
}

fn response(view: &GuestView, offset: u64) -> String {
    if offset == 0 {
        return "none".to_owned();
    }
    match view.load::<ResponseHead>("", offset, false) {
        Ok(head) => {
            format!("status {}, {} bytes of headers, {} bytes of body", head.status, head.headers.len, head.body.len)
        }
        Err(_) => format!("{offset:#x}"),
    }
}

fn exit(view: &GuestView, call: &Exit) -> String {
    let reason = match call.reason {
        exit_reason::PANIC => "panic",
        exit_reason::OUT_OF_MEMORY => "out of memory",
        exit_reason::ABI_MISMATCH => "ABI mismatch",
        exit_reason::FINISHED => "finished",
        _ => "unknown reason",
    };
    let mut shown = format!("exit({reason}, {}", text(view, call.message));
    if call.file.len > 0 {
        let _ = write!(shown, ", {}, {}:{}", text(view, call.file), call.line, call.column);
    }
    shown + ")"
}

fn accelerator_call(view: &GuestView, call: &AccelCall) -> String {
    let operation = Operation::from_abi(call.operation);
    let mut shown = operation.map_or_else(|_| format!("accel({}", call.operation), |name| format!("accel({name}"));
    for argument in arguments(view, call) {
        let _ = write!(shown, ", {}", show_argument(&argument));
    }
    if call.arg_count > ARGS_MAX {
        let _ = write!(shown, ", {} arguments", call.arg_count);
    }
    shown + ")"
}

/// The first calls of a batch, as many as a line has room for.
fn calls(view: &GuestView, batch: &AccelBatch) -> impl Iterator<Item = AccelCall> {
    let at = |index: u64| batch.calls.checked_add(index * size_of::<AccelCall>() as u64);
    let count = if batch.count > BATCH_MAX { 0 } else { u64::from(batch.count).min(CALLS_SHOWN) };
    (0..count).map_while(move |index| view.load("", at(index)?, true).ok())
}

fn arguments(view: &GuestView, call: &AccelCall) -> impl Iterator<Item = AccelArg> {
    let count = if call.arg_count > ARGS_MAX { 0 } else { u64::from(call.arg_count) };
    let at = |index| call.args.checked_add(index * size_of::<AccelArg>() as u64);
    (0..count).map_while(move |index| view.load("", at(index)?, true).ok())
}

/// An argument as `in f32[3,224,224]`, or by its size where it has no shape.
fn show_argument(argument: &AccelArg) -> String {
    let direction = match argument.access {
        access::IN => "in",
        access::OUT => "out",
        access::IN_OUT => "in-out",
        _ => "bad access",
    };
    let kind = Dtype::from_abi(argument.dtype).map_or("bad type", Dtype::name);
    match usize::try_from(argument.rank).ok().and_then(|rank| argument.dims.get(..rank)) {
        Some([]) | None => format!("{direction} {kind}({})", argument.data.len),
        Some(dims) => {
            let dims: Vec<String> = dims.iter().map(ToString::to_string).collect();
            format!("{direction} {kind}[{}]", dims.join(","))
        }
    }
}

/// What the guest finds when it goes on.
fn result(view: &GuestView, context: &CallContext, block: u64, flow: Flow) -> String {
    if let Flow::Wait { .. } = flow {
        return "waits".to_owned();
    }
    try_result(view, context, block).unwrap_or_else(|| "?".to_owned())
}

fn try_result(view: &GuestView, context: &CallContext, block: u64) -> Option<String> {
    let CallHead { number, status } = view.load("", block, true).ok()?;
    let name = status_name(status);
    Some(match number {
        number::CLOCK => {
            let call: Clock = view.load("", block, true).ok()?;
            format!("{} ns since 1970, {} ns of this machine", call.realtime_ns, call.monotonic_ns)
        }
        number::FIND_RESOURCE if status == status::OK => {
            let call: FindResource = view.load("", block, true).ok()?;
            format!("{}, {} bytes", call.id, call.size)
        }
        number::ACCEL => {
            let call: AccelCall = view.load("", block, true).ok()?;
            accelerator_result(view, context, &call, &name)
        }
        number::ACCEL_BATCH if status == status::OK => {
            let batch: AccelBatch = view.load("", block, true).ok()?;
            let names = calls(view, &batch).map(|call| status_name(call.head.status));
            names.collect::<Vec<_>>().join(", ")
        }
        _ => name.into_owned(),
    })
}

fn accelerator_result(view: &GuestView, context: &CallContext, call: &AccelCall, name: &str) -> String {
    if call.head.status != status::OK {
        let message = Span { offset: call.error.offset, len: call.error_len.min(ERROR_MAX) };
        return format!("{name} {}", text(view, message));
    }
    let mut shown = name.to_owned();
    if let Some(report) = context.accelerated {
        let took = report.elapsed.as_secs_f64() * 1e6;
        let _ = write!(shown, " by {} in {took:.1}µs, {} bytes copied", report.plugin, report.bytes_copied);
    }
    for (index, output) in (1..).zip(arguments(view, call)).filter(|(_, argument)| argument.access != access::IN) {
        let _ = write!(shown, ", argument {index}: {} of {} bytes", output.written, output.data.len);
    }
    shown
}

fn status_name(status: i32) -> Cow<'static, str> {
    Cow::Borrowed(match status {
        status::OK => "ok",
        status::ENOENT => "ENOENT",
        status::EIO => "EIO",
        status::ENOMEM => "ENOMEM",
        status::EBUSY => "EBUSY",
        status::EINVAL => "EINVAL",
        status::ERANGE => "ERANGE",
        status::ENOTSUP => "ENOTSUP",
        status::ETIMEDOUT => "ETIMEDOUT",
        other => return Cow::Owned(format!("status {other}")),
    })
}

/// Text of the guest in quotes, or where it should be.
fn text(view: &GuestView, span: Span) -> String {
    let shown = Span { len: span.len.min(TEXT_MAX), ..span };
    match view.check("", span, false).and_then(|()| view.read("", shown)) {
        Ok(bytes) => {
            let dots = if span.len > TEXT_MAX { "..." } else { "" };
            format!("{:?}{dots}", String::from_utf8_lossy(&bytes))
        }
        Err(_) => format!("{} bytes at {:#x}", span.len, span.offset),
    }
}

fn quoted(text: &str) -> String {
    format!("{text:?}")
}

/// Control characters written out.
fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return Cow::Borrowed(text);
    }
    let escaped = |character: char| match character.is_control() {
        true => character.escape_default().to_string(),
        false => character.to_string(),
    };
    Cow::Owned(text.chars().map(escaped).collect())
}

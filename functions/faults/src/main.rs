//! Misbehaves in the way that its path names, and sometimes behaves: `/` lists the paths. Called by the platform's
//! tests, to prove that no function harms another. It never does by accident what it does.
#![no_std]
#![no_main]

extern crate alloc;

mod hypercalls;
mod instructions;
mod scribble;

use alloc::{format, string::String, vec, vec::Vec};
use core::{
    hint::black_box,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use kernlet_guest::{Request, Response, accel, clock, entropy, env, function, log};

function!(misbehave, start);

/// Requests that this machine has seen.
static COUNT: AtomicU32 = AtomicU32::new(0);

/// Everything that can be asked for; what stands for a part of the path is in capitals.
const PATHS: &str = "\
/count /log/TEXT /log-and-loop/TEXT /log-flood/LINES /size/BYTES /status/CODE
/bad-header /split-header /forged-headers
/panic /oom /one-huge-allocation /stack-overflow /loop /hypercall-flood
/spin/MILLISECONDS /burn/MILLIONS /noop /digest
/instruction/NAME /hypercall/NAME /scribble /keep /find/BYTE /entropy
";

/// Takes its time where the variable `START_MS` says so, so that requests gather meanwhile.
fn start() {
    let time = env::var("START_MS").map_or(0, number);
    if time > 0 {
        spin(Duration::from_millis(time as u64));
    }
}

fn misbehave(request: &Request) -> Response<'_> {
    let count = COUNT.fetch_add(1, Ordering::Relaxed) + 1;
    let path = request.path().strip_prefix('/').unwrap_or_default();
    let (what, detail) = path.split_once('/').unwrap_or((path, ""));
    match what {
        "count" => Response::new(200).body(format!("{count}")),
        "log" => say(detail),
        "log-and-loop" => {
            say(detail);
            instructions::loop_for_ever()
        }
        "log-flood" => flood(number(detail)),
        "size" => Response::new(200).body(vec![b'x'; number(detail)]),
        "status" => Response::new(u16::try_from(number(detail)).unwrap_or(u16::MAX)).body("a body"),
        "burn" => burn(number(detail)),
        "noop" => match accel::noop() {
            Ok(()) => Response::new(200),
            Err(error) => Response::new(500).body(format!("{error}")),
        },
        "bad-header" => Response::new(200).header("not a name", "value"),
        "split-header" => Response::new(200).header("X-Split", "a\r\nSet-Cookie: stolen"),
        "forged-headers" => forged_headers(),
        "panic" => panic!("asked to panic on request {count}"),
        "oom" => use_up_memory(),
        "one-huge-allocation" => Response::new(200).body(vec![0; 1 << 40]),
        "stack-overflow" => Response::new(200).body(format!("{}", recurse(1))),
        "loop" => instructions::loop_for_ever(),
        "hypercall-flood" => hypercalls::flood(),
        "spin" => spin(Duration::from_millis(number(detail) as u64)),
        "digest" => digest(request),
        "instruction" => instructions::run(detail),
        "hypercall" => hypercalls::make(detail),
        "keep" => keep(request.body()),
        "find" => Response::new(200).body(format!("{}", scribble::count_in_memory(number(detail) as u8))),
        "entropy" => random(),
        "scribble" => scribble::over_everything(request, COUNT.as_ptr()),
        _ => Response::new(404).body(PATHS),
    }
}

fn number(text: &str) -> usize {
    text.parse().unwrap_or(0)
}

fn say(text: &str) -> Response<'static> {
    log::info!("{text}");
    Response::new(200)
}

fn flood(lines: usize) -> Response<'static> {
    let line = String::from_utf8(vec![b'x'; 1000]).unwrap_or_default();
    for _ in 0..lines {
        log::info!("{line}");
    }
    Response::new(200)
}

fn forged_headers() -> Response<'static> {
    let mut response = Response::new(200).body("whole");
    for (name, value) in [
        ("Content-Length", "1"),
        ("Transfer-Encoding", "chunked"),
        ("Connection", "close"),
        ("X-Call-Id", "forged"),
        ("X-OpenFaaS-Internal", "forged"),
        ("X-Own", "kept"),
    ] {
        response = response.header(name, value);
    }
    response
}

/// Does nothing so many million times: processor time and no exit.
fn burn(millions: usize) -> Response<'static> {
    for step in 0..millions * 1_000_000 {
        black_box(step);
    }
    Response::new(200)
}

/// Leaves copies of the body in the heap.
fn keep(body: &[u8]) -> Response<'static> {
    core::mem::forget(body.to_vec());
    black_box(body.to_vec());
    Response::new(200)
}

fn random() -> Response<'static> {
    let mut bytes = vec![0; 32];
    entropy::fill(&mut bytes);
    Response::new(200).body(bytes)
}

/// Works for so long, and looks at the clock only now and then: each look is a hypercall. Not at the monotonic clock,
/// which begins with the first request.
fn spin(time: Duration) -> Response<'static> {
    let end = clock::now() + time;
    while clock::now() < end {
        for _ in 0..100_000 {
            core::hint::spin_loop();
        }
    }
    Response::new(200)
}

/// The body, and the FNV-1a hash (64 bits) of method, path, query and body as they were seen here.
fn digest<'a>(request: &'a Request) -> Response<'a> {
    let parts = [request.method().as_bytes(), request.path().as_bytes(), request.query().as_bytes(), request.body()];
    let hash = parts
        .into_iter()
        .flatten()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    Response::new(200).header("X-Digest", &format!("{hash:016x}")).body(request.body())
}

fn use_up_memory() -> Response<'static> {
    let mut kept: Vec<Vec<u8>> = Vec::new();
    loop {
        kept.push(vec![1; 64 * 1024]);
        black_box(&kept);
    }
}

/// Never returns as long as there is a stack.
fn recurse(depth: u64) -> u64 {
    let frame = black_box([depth; 64]);
    if frame[0] == 0 { 0 } else { recurse(frame[1] + 1) + black_box(frame)[2] }
}

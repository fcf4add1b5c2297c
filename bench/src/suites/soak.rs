//! A million invocations through the gateway, each answer checked against a digest of its own request: none may be
//! wrong, and at the end the platform may hold no more than after a warm-up.

use std::{
    net::SocketAddr,
    sync::{
        Barrier,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow, ensure};
use bytes::Bytes;
use http::Method;
use serde_json::json;

use crate::{
    census::Census,
    http::{Answer, Client},
    platform::Platform,
    table::{Row, Target},
    workshop::Workshop,
};

const CLIENTS: u32 = 8;
/// What is counted, and its count.
type Part = (&'static str, fn(&Census) -> f64);

/// Invocations before the first count, at most a tenth of all.
const WARM_UP: u64 = 50_000;
/// The largest body, which is also the function's limit.
const BODY_MAX: usize = 1 << 20;

pub(super) fn run(workshop: &Workshop, invocations: u64) -> anyhow::Result<Vec<Row>> {
    workshop.faults()?;
    let mut platform = Platform::start(workshop)?;
    platform.begin_deploy("faults", "faults", &json!({ "max_inflight": CLIENTS.to_string() }))?;
    platform.wait_ready("faults")?;
    let warm_up = WARM_UP.min(invocations / 10);
    let mut wrong = load(platform.address(), warm_up)?;
    let before = settled(&platform)?;
    let begun = Instant::now();
    wrong += load(platform.address(), invocations - warm_up)?;
    let took = begun.elapsed();
    let after = settled(&platform)?;

    let growth = |of: fn(&Census) -> f64| (of(&after) / of(&before) - 1.0) * 100.0;
    let parts: [Part; 4] = [
        ("memory_percent", |census| census.pss_kib + census.page_tables_kib),
        ("descriptors_percent", |census| census.descriptors),
        ("threads_percent", |census| census.threads),
        ("vms_percent", |census| census.vms),
    ];
    let most = parts.iter().map(|(_, of)| growth(*of)).fold(f64::NEG_INFINITY, f64::max);
    let mut grown = Row::new("soak.growth_percent", most, "%", Target::AtMost(1.0));
    for (name, of) in parts {
        grown = grown.number(name, growth(of));
    }
    let grown = grown
        .number("memory_kib_after_warm_up", before.pss_kib + before.page_tables_kib)
        .number("memory_kib_at_the_end", after.pss_kib + after.page_tables_kib)
        .number("descriptors", after.descriptors)
        .number("threads", after.threads)
        .number("vms", after.vms);
    let wrong = Row::new("soak.wrong", number(wrong), "", Target::AtMost(0.0))
        .number("invocations", number(invocations))
        .number("seconds", took.as_secs_f64())
        .number("a_second", number(invocations - warm_up) / took.as_secs_f64());
    Ok(vec![wrong, grown])
}

#[allow(clippy::cast_precision_loss, reason = "no soak makes 2^52 invocations")]
fn number(value: u64) -> f64 {
    value as f64
}

/// What the platform holds once it is quiet, with as many machines as there are clients, each of which has seen the
/// largest body: however many the load happened to use last.
fn settled(platform: &Platform) -> anyhow::Result<Census> {
    let start = Barrier::new(CLIENTS as usize);
    thread::scope(|scope| {
        let client = || -> anyhow::Result<()> {
            let client = Client::connect(platform.address());
            start.wait();
            let body = Bytes::from(vec![0; BODY_MAX]);
            client?.send(Method::POST, "/function/faults/spin/300", &[], body)?.ok().map(drop)
        };
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        clients.into_iter().try_for_each(|client| client.join().map_err(|_| anyhow!("a client panicked"))?)
    })?;
    let mut last = Census::of_family(platform.pid())?;
    loop {
        // Connections end by and by.
        thread::sleep(Duration::from_millis(500));
        let now = Census::of_family(platform.pid())?;
        if (now.descriptors, now.threads) == (last.descriptors, last.threads) {
            return Ok(now);
        }
        last = now;
    }
}

/// So many invocations from clients at the same time; how many were answered wrongly or not at all.
fn load(address: SocketAddr, invocations: u64) -> anyhow::Result<u64> {
    let (next, wrong) = (AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let (next, wrong) = (&next, &wrong);
                scope.spawn(move || -> anyhow::Result<()> {
                    let mut noise = Noise(0x9e37_79b9_7f4a_7c15 ^ u64::from(client) << 32);
                    let mut connection = Client::connect(address)?;
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= invocations {
                            return Ok(());
                        }
                        if number > 0 && number.is_multiple_of(100_000) {
                            eprintln!("soak: {number} of {invocations}");
                        }
                        if let Err(error) = invoke(&mut connection, &mut noise) {
                            eprintln!("soak: invocation {number}: {error:#}");
                            wrong.fetch_add(1, Ordering::Relaxed);
                            connection = Client::connect(address)?;
                        }
                    }
                })
            })
            .collect();
        clients.into_iter().try_for_each(|client| client.join().map_err(|_| anyhow!("a client panicked"))?)
    })?;
    Ok(wrong.load(Ordering::Relaxed))
}

/// One invocation; the error says what is wrong with its answer.
fn invoke(client: &mut Client, noise: &mut Noise) -> anyhow::Result<()> {
    let (body, query) = (noise.body(), format!("n={:016x}", noise.next()));
    let expected = digest(["POST".as_bytes(), b"/digest", query.as_bytes(), &body]);
    let path = format!("/function/faults/digest?{query}");
    let Answer { headers, body: echoed, .. } = client.send(Method::POST, &path, &[], body.clone())?.ok()?;
    let found = headers.get("x-digest").context("the answer has no digest")?;
    ensure!(found.as_bytes() == expected.as_bytes(), "the answer's digest is {found:?}, not {expected}");
    ensure!(echoed == body, "the answer's body is not the request's");
    Ok(())
}

/// FNV-1a, 64 bits, as `functions/faults` has it.
fn digest(parts: [&[u8]; 4]) -> String {
    let hash = parts
        .into_iter()
        .flatten()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    format!("{hash:016x}")
}

/// Pseudo-random numbers (xorshift64*).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A body as requests have them: most are small, one in a thousand is as large as it may be.
    fn body(&mut self) -> Bytes {
        let size = match self.next() % 1000 {
            0 => BODY_MAX,
            1..=9 => self.below(256 * 1024),
            10..=99 => self.below(16 * 1024),
            _ => self.below(1024),
        };
        let mut body = Vec::with_capacity(size + 8);
        while body.len() < size {
            body.extend_from_slice(&self.next().to_le_bytes());
        }
        body.truncate(size);
        body.into()
    }

    fn below(&mut self, limit: u32) -> usize {
        let random = u32::try_from(self.next() >> 32).unwrap_or_default() % limit;
        usize::try_from(random).unwrap_or_default()
    }
}

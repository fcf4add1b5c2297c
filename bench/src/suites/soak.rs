//! A million invocations through the gateway, each answer checked against a digest of its own request: none may be
//! wrong, and the platform may not come to hold more from one to the next.
//!
//! What it holds is counted twenty times on the way, each time once it is quiet, and a line is fitted through the counts:
//! its rise over all of the way is the growth. Two counts alone, one early and one late, differ by what the last requests
//! happened to leave behind in each.

use std::{
    net::SocketAddr,
    sync::{
        Barrier,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow, bail, ensure};
use bytes::Bytes;
use http::Method;
use serde_json::json;

use crate::{
    census::Census,
    http::{Answer, Client},
    platform::Platform,
    stats::Summary,
    table::{Row, Target},
    workshop::Workshop,
};

const CLIENTS: u32 = 8;
/// What is counted, and its count.
type Part = (&'static str, fn(&Census) -> f64);

/// Invocations before the first count, at most a tenth of all.
const WARM_UP: u64 = 50_000;
/// Counts after the first one, with as many invocations between each two.
const COUNTS: u64 = 20;
/// Largest bodies, back and forth, of each client before each count.
const LARGEST: usize = 20;
/// Looks, half a second apart, at which nothing has become less any more.
const SETTLED: u32 = 5;
/// How often is looked at most.
const LOOKS_MAX: u32 = 60;
/// The largest body, which is also the function's limit.
const BODY_MAX: usize = 1 << 20;

pub(super) fn run(workshop: &Workshop, invocations: u64) -> anyhow::Result<Vec<Row>> {
    workshop.faults()?;
    let mut platform = Platform::start(workshop)?;
    platform.begin_deploy("faults", "faults", &json!({ "max_inflight": CLIENTS.to_string() }))?;
    platform.wait_ready("faults")?;
    let warm_up = WARM_UP.min(invocations / 10);
    let mut wrong = load(platform.address(), warm_up)?;
    let mut counts = vec![settled(&platform)?];
    let mut took = Duration::ZERO;
    for count in 0..COUNTS {
        let done = |count| (invocations - warm_up) * count / COUNTS;
        let begun = Instant::now();
        wrong += load(platform.address(), done(count + 1) - done(count))?;
        took += begun.elapsed();
        let now = settled(&platform)?;
        let (at, kib) = (warm_up + done(count + 1), now.pss_kib + now.page_tables_kib);
        eprintln!("soak: {at} of {invocations} invocations, {wrong} wrong, {kib} KiB");
        counts.push(now);
    }

    let parts: [Part; 4] = [
        ("memory_percent", |census| census.pss_kib + census.page_tables_kib),
        ("descriptors_percent", |census| census.descriptors),
        ("threads_percent", |census| census.threads),
        ("vms_percent", |census| census.vms),
    ];
    let growth = parts.map(|(name, of)| (name, trend(&counts.iter().map(of).collect::<Vec<_>>())));
    let most = growth.iter().map(|(_, Trend { percent, .. })| *percent).fold(f64::NEG_INFINITY, f64::max);
    let mut grown = Row::new("soak.growth_percent", most, "%", Target::AtMost(1.0));
    for (name, Trend { percent, .. }) in growth {
        grown = grown.number(name, percent);
    }
    let [(_, memory), (_, descriptors), (_, threads), (_, vms)] = growth;
    let grown = grown
        .number("counts", number(COUNTS + 1))
        .number("memory_kib", memory.middle)
        .number("memory_kib_least", memory.least)
        .number("memory_kib_most", memory.most)
        .number("descriptors", descriptors.middle)
        .number("threads", threads.middle)
        .number("vms", vms.middle);
    let wrong = Row::new("soak.wrong", number(wrong), "", Target::AtMost(0.0))
        .number("invocations", number(invocations))
        .number("seconds", took.as_secs_f64())
        .number("a_second", number(invocations - warm_up) / took.as_secs_f64());
    Ok(vec![wrong, grown])
}

/// What became of a number that was counted again and again.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Trend {
    /// The fitted line's rise from the first count to the last, in percent of where it begins.
    percent: f64,
    middle: f64,
    least: f64,
    most: f64,
}

/// By the line of Theil and Sen: its slope is the median of the slopes between each two counts, which a third of
/// outliers does not move.
fn trend(counts: &[f64]) -> Trend {
    let numbered: Vec<(f64, f64)> = (0_u32..).map(f64::from).zip(counts.iter().copied()).collect();
    let slopes = numbered.iter().enumerate().flat_map(|(index, (before, low))| {
        numbered.iter().skip(index + 1).map(move |(after, high)| (high - low) / (after - before))
    });
    let slope = Summary::of(slopes).median;
    let first = Summary::of(numbered.iter().map(|(at, count)| count - slope * at)).median;
    let last = numbered.last().map_or(0.0, |(at, _)| *at);
    Trend {
        percent: slope * last / first * 100.0,
        middle: Summary::of(counts.iter().copied()).median,
        least: counts.iter().copied().fold(f64::INFINITY, f64::min),
        most: counts.iter().copied().fold(f64::NEG_INFINITY, f64::max),
    }
}

#[allow(clippy::cast_precision_loss, reason = "no soak makes 2^52 invocations")]
fn number(value: u64) -> f64 {
    value as f64
}

/// What the platform holds once it is quiet, with as many machines as there are clients and with buffers, on every
/// connection inside, that have seen the largest body both ways: however the load happened to use them last.
fn settled(platform: &Platform) -> anyhow::Result<Census> {
    let start = Barrier::new(CLIENTS as usize);
    thread::scope(|scope| {
        let client = || -> anyhow::Result<()> {
            let client = Client::connect(platform.address());
            start.wait();
            let (mut client, body) = (client?, Bytes::from(vec![0; BODY_MAX]));
            for _ in 0..LARGEST {
                client.send(Method::POST, "/function/faults/digest", &[], body.clone())?.ok()?;
            }
            client.send(Method::POST, "/function/faults/spin/300", &[], body)?.ok().map(drop)
        };
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        clients.into_iter().try_for_each(|client| client.join().map_err(|_| anyhow!("a client panicked"))?)
    })?;
    // Connections end by and by; then memory is given back.
    let mut least = Census::of_family(platform.pid())?;
    let mut same = 0;
    for _ in 0..LOOKS_MAX {
        thread::sleep(Duration::from_millis(500));
        let now = Census::of_family(platform.pid())?;
        let is_less = now.descriptors < least.descriptors
            || now.threads < least.threads
            || now.vms < least.vms
            || now.pss_kib + now.page_tables_kib < (least.pss_kib + least.page_tables_kib) * 0.999;
        (least, same) = if is_less { (now, 0) } else { (least, same + 1) };
        if same >= SETTLED {
            return Ok(now);
        }
    }
    bail!("the platform does not become quiet")
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether the trend of counts is so many percent.
    fn is(counts: impl IntoIterator<Item = f64>, percent: f64) -> bool {
        (trend(&counts.into_iter().collect::<Vec<_>>()).percent - percent).abs() < 1e-9
    }

    #[test]
    fn what_grows_steadily_grows_by_all_of_it_and_what_stays_by_nothing() {
        let steps = || (0..=20).map(f64::from);
        assert!(is(steps().map(|_| 48_000.0), 0.0));
        assert!(is(steps().map(|step| 1000.0 + step), 2.0));
        assert!(is(steps().map(|step| 1000.0 - step), -2.0));
    }

    #[test]
    fn outliers_do_not_hide_growth_nor_make_it() {
        let steps = || (0_i32..=20).map(|step| (step, f64::from(step)));
        let off = |step: i32| if step % 5 == 0 { 300.0 } else { 0.0 };
        assert!(is(steps().map(|(step, at)| 1000.0 + at + off(step)), 2.0));
        assert!(is(steps().map(|(step, _)| 1000.0 + off(step)), 0.0));
    }
}

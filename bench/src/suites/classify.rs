//! A picture classified through gateway, watchdog and machine, in turn with the same plugin called natively; and
//! whether the picture reaches the plugin without being copied.

use std::{
    fs,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::ensure;
use bytes::Bytes;
use kernlet_accel::{Cost, Deadline, Done, Operation, Plugin, PluginError, Runtime, operation::Task};
use kernlet_accel_plugins::Rten;
use kernlet_monitor::{Request, Services, Template};

use super::invoke::NoLog;
use crate::{
    native::{self, Native},
    platform::{Platform, stage},
    stats::{Plan, Summary, in_turn},
    table::{Row, Target},
    workshop::{Workshop, picture},
};

/// Requests whose stages are looked at.
const STAGED: usize = 50;

pub(super) fn run(workshop: &Workshop) -> anyhow::Result<Vec<Row>> {
    Ok(vec![overhead(workshop)?, bytes_copied(workshop)?])
}

fn overhead(workshop: &Workshop) -> anyhow::Result<Row> {
    let picture = Bytes::from(picture()?);
    let native = Native::load()?;
    workshop.classify()?;
    let mut platform = Platform::start(workshop)?;
    platform.deploy("classify")?;

    let mut through = || {
        let answer = platform.call("classify", &[("content-type", "image/jpeg")], picture.clone())?;
        ensure!(answer.body.starts_with(b"{\"predictions\":[{"), "classify gave something else than classes");
        Ok(answer.time)
    };
    let mut directly = || native.classify(&picture);
    let plan = Plan { warm_up: 20, ..Plan::singly(Duration::from_secs(20)) };
    let [through, directly] = in_turn(plan, [&mut through, &mut directly])?;

    let ratio = through.over(&directly);
    let percent = (ratio.median - 1.0) * 100.0;
    let row = Row::new("classify.http_overhead_percent", percent, "%", Target::AtMost(5.0))
        .summary("ratio_of_each_pair", ratio)
        .summary("http_ms", through.millis())
        .summary("native_ms", directly.millis())
        .number("http_requests_per_second", through.per_second());
    with_stages(row, &mut platform, &picture)
}

/// Adds where the time of a request goes.
fn with_stages(mut row: Row, platform: &mut Platform, picture: &Bytes) -> anyhow::Result<Row> {
    let mut answers = Vec::new();
    for _ in 0..STAGED {
        answers.push(platform.call("classify", &[("x-kernlet-timing", "1")], picture.clone())?);
    }
    for (name, label) in STAGES {
        row = row.summary(label, Summary::of(answers.iter().filter_map(|answer| stage(answer, name))));
    }
    Ok(row)
}

/// The stages in the order that a request meets them, and what their self times are called here.
pub(super) const STAGES: [(&str, &str); 4] = [
    ("gateway", "gateway_self_ms"),
    ("watchdog", "watchdog_self_ms"),
    ("guest", "guest_self_ms"),
    ("accel", "accel_self_ms"),
];

/// Sees what a plugin is given, and hands it on.
#[derive(Debug)]
struct Witness {
    plugin: Rten,
    /// Where the last picture lay, and its length.
    picture: [AtomicU64; 2],
}

impl Plugin for Witness {
    fn name(&self) -> &'static str {
        "witness"
    }

    fn operations(&self) -> &[Operation] {
        self.plugin.operations()
    }

    fn cost(&self, task: &Task<'_>) -> Cost {
        self.plugin.cost(task)
    }

    fn run(&self, task: Task<'_>, deadline: Deadline) -> Result<Done, PluginError> {
        if let Task::ImageClassify(task) = &task {
            let at = task.picture.as_ptr().addr() as u64;
            self.picture[0].store(at, Ordering::Relaxed);
            self.picture[1].store(task.picture.len() as u64, Ordering::Relaxed);
        }
        self.plugin.run(task, deadline)
    }
}

/// Bytes copied between guest and plugin in one request: what the plugin says, and the picture itself unless it
/// lies in the machine's own memory when the plugin gets it.
fn bytes_copied(workshop: &Workshop) -> anyhow::Result<Row> {
    let picture = picture()?;
    let witness = Arc::new(Witness { plugin: Rten::new(), picture: [const { AtomicU64::new(0) }; 2] });
    let session = Runtime::new(vec![witness.clone() as Arc<dyn Plugin>]).session();
    native::register(&session)?;
    session.preload()?;
    let services = Services { accel: Arc::new(session), log: Arc::new(NoLog) };
    let (hypervisor, unikernel, config) = workshop.classify()?.parts()?;
    let deadline = Instant::now() + Duration::from_secs(60);
    let before = mappings()?;
    let (_template, machine) = Template::boot(&hypervisor, &unikernel, &config, services, deadline)?;
    let memory = mappings()?.into_iter().filter(|mapping| !before.contains(mapping) && len(mapping) >= config.memory);
    let memory: Vec<_> = memory.collect();
    let headers: &[(&str, &[u8])] = &[("content-type", b"image/jpeg")];
    let request = Request { method: "POST", path: "/", query: "", headers, body: &picture, call_id: "copies" };
    let (_machine, response) = machine.invoke(&request, deadline)?;
    ensure!(response.status == 200, "classify answered {}", response.status);

    let [at, seen] = [0, 1].map(|index| witness.picture[index].load(Ordering::Relaxed));
    ensure!(seen == picture.len() as u64, "the plugin got a picture of {seen} bytes");
    let in_place = memory.iter().any(|mapping| mapping.contains(&at) && at + seen <= mapping.end);
    let said = response.usage.bytes_copied;
    let copied = said + if in_place { 0 } else { seen };
    Ok(Row::new("classify.bytes_copied", count(copied), "bytes", Target::AtMost(0.0))
        .number("picture_bytes", count(seen))
        .number("picture_bytes_in_guest_memory", if in_place { count(seen) } else { 0.0 })
        .number("bytes_copied_by_plugin", count(said))
        .number("exits_per_call", f64::from(response.usage.exits)))
}

#[allow(clippy::cast_precision_loss, reason = "nothing here has 2^52 bytes")]
pub(super) fn count(bytes: u64) -> f64 {
    bytes as f64
}

/// The address ranges of this process (proc(5): `start-end perms …`, hexadecimal).
fn mappings() -> anyhow::Result<Vec<Range<u64>>> {
    let text = fs::read_to_string("/proc/self/maps")?;
    let range = |line: &str| {
        let (start, end) = line.split_whitespace().next()?.split_once('-')?;
        Some(u64::from_str_radix(start, 16).ok()?..u64::from_str_radix(end, 16).ok()?)
    };
    Ok(text.lines().filter_map(range).collect())
}

fn len(mapping: &Range<u64>) -> u64 {
    mapping.end - mapping.start
}

//! The first request to a function that was just deployed: ready, its model loaded, and without any machine yet.
//! In turn with the plugin's own time in the same state: model loaded, and nothing classified in that process.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use serde_json::json;

use super::{Probe, classify::STAGES};
use crate::{
    native::Native,
    platform::{Platform, stage},
    stats::{Plan, Summary, in_turn},
    table::{Row, Target},
    workshop::{Workshop, picture},
};

/// What the platform may add to the plugin's own time, in milliseconds.
const ALLOWANCE: f64 = 10.0;

/// Classifications of the probe after its first.
const WARM: usize = 20;

pub(super) fn run(workshop: &Workshop) -> anyhow::Result<Vec<Row>> {
    let picture = Bytes::from(picture()?);
    workshop.classify()?;
    let mut platform = Platform::start(workshop)?;
    let (mut answers, mut warm) = (Vec::new(), Vec::new());

    let mut request = || {
        platform.deploy("classify")?;
        let headers = [("content-type", "image/jpeg"), ("x-kernlet-timing", "1")];
        let answer = platform.call("classify", &headers, picture.clone())?;
        let time = answer.time;
        answers.push(answer);
        platform.remove("classify")?;
        Ok(time)
    };
    let mut plugin = || {
        let answer = Probe::FirstClassification.ask()?;
        let millis = |name: &str| answer[name].as_f64().with_context(|| format!("the probe gave no {name}"));
        warm.push(millis("warm_ms")?);
        Ok(Duration::from_secs_f64(millis("first_ms")? / 1e3))
    };
    let plan = Plan { warm_up: 1, rounds: 40, ..Plan::singly(Duration::from_secs(20)) };
    let [request, plugin] = in_turn(plan, [&mut request, &mut plugin])?;

    let (first, own, added) = (request.millis(), plugin.millis(), request.millis_beyond(&plugin));
    let mut row = Row::new("cold.first_request_ms", first.median, "ms", Target::AtMost(own.median + ALLOWANCE))
        .summary("first_request_ms", first)
        .summary("plugin_first_ms", own)
        .summary("plugin_warm_ms", Summary::of(warm))
        .summary("added_ms", added);
    for (name, label) in STAGES {
        row = row.summary(label, Summary::of(answers.iter().filter_map(|answer| stage(answer, name))));
    }
    Ok(vec![row])
}

/// The probe: loads the model, classifies once, then as often as it takes to be warm.
pub(super) fn first_classification() -> anyhow::Result<serde_json::Value> {
    let picture = picture()?;
    let start = Instant::now();
    let native = Native::load()?;
    let load = start.elapsed();
    let first = native.classify(&picture)?;
    let warm: Vec<Duration> = (0..WARM).map(|_| native.classify(&picture)).collect::<Result<_, _>>()?;
    let millis = |time: &Duration| time.as_secs_f64() * 1e3;
    let warm = Summary::of(warm.iter().map(millis)).median;
    Ok(json!({ "load_ms": millis(&load), "first_ms": millis(&first), "warm_ms": warm }))
}

//! `kernlet accel list`: plugins and their operations, here or at an agent, and why others are not there.
//! Called by people and scripts. It never runs an operation.

use std::collections::BTreeMap;
use std::sync::Arc;

use kernlet_accel::Operation;
use kernlet_accel_agent::Remote;
use kernlet_accel_plugins::{CATALOGUE, Found};
use serde::Serialize;

use super::{AgentArgs, config};
use crate::output;

/// List plugins and operations: what was found, and what was not and why
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  kernlet accel list
  kernlet accel list --json | jq -r '.[] | select(.found) | .plugin'
  kernlet accel list --agent unix:///run/kernlet/accel.sock")]
pub(crate) struct Args {
    /// Print an array of objects: plugin, found, operations, what
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    agent: AgentArgs,
}

/// One plugin.
#[derive(Debug, Serialize)]
struct Line {
    plugin: String,
    found: bool,
    operations: Vec<String>,
    /// What was found; or why it is not there, and what to do about it.
    what: String,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let lines = match args.agent.connect()? {
        Some(connection) => at_agent(connection.operations()),
        None => here()?,
    };
    if args.json {
        return output::json(&lines);
    }
    let rows: Vec<[String; 4]> = lines
        .into_iter()
        .map(|line| {
            let found = if line.found { "found" } else { "missing" };
            let shown = |text: &str| output::printable(text).into_owned();
            [shown(&line.plugin), found.to_owned(), shown(&operations(&line)), shown(&line.what)]
        })
        .collect();
    output::line(&output::table(["PLUGIN", "STATE", "OPERATIONS", "WHAT WAS FOUND, OR WHY IT IS MISSING"], &rows))
}

/// What a plugin has, in words that keep the table readable where that is everything.
fn operations(line: &Line) -> String {
    let every = CATALOGUE.iter().map(|entry| entry.operations.len()).max();
    if Some(line.operations.len()) >= every { "every operation".to_owned() } else { line.operations.join(" ") }
}

fn here() -> anyhow::Result<Vec<Line>> {
    let config = config(&[])?;
    let mut loaded = kernlet_accel_plugins::load(&config);
    if let Some(address) = &config.agent {
        match Remote::from_config(&config) {
            Ok(Some(remote)) => loaded.with(Arc::new(remote), format!("an agent at {address}")),
            Ok(None) => {}
            Err(error) => {
                output::note(&format!("the agent at {address} is of no use: {:#}", anyhow::Error::from(error)))
            }
        }
    }
    let line = |found: Found| Line {
        plugin: found.plugin.to_owned(),
        found: found.what.is_ok(),
        operations: found.operations.iter().map(ToString::to_string).collect(),
        what: found.what.unwrap_or_else(|why| why),
    };
    Ok(loaded.found.into_iter().map(line).collect())
}

/// What an agent offers, which may have operations that this version does not know.
fn at_agent(offered: &[kernlet_accel_agent::wire::Offered]) -> Vec<Line> {
    let mut plugins: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for offer in offered {
        let name = Operation::from_abi(offer.operation)
            .map_or_else(|_| format!("operation {}", offer.operation), |operation| operation.to_string());
        plugins.entry(&offer.plugin).or_default().push(name);
    }
    let line = |(plugin, operations): (&str, Vec<String>)| Line {
        plugin: plugin.to_owned(),
        found: true,
        operations,
        what: "at the agent".to_owned(),
    };
    plugins.into_iter().map(line).collect()
}

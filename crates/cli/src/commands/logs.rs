//! `kernlet logs`: what a function and its watchdog wrote.
//! Called by people and scripts. It never changes anything.

use std::time::{Duration, SystemTime};

use anyhow::{Context as _, anyhow};
use http_body_util::BodyExt as _;
use kernlet_watchdog::CrashReport;

use crate::commands::{NamespaceArgs, gateway};
use crate::credentials::LoginArgs;
use crate::functions::{LogLine, LogQuery};
use crate::{Context, client, output};

/// Show a function's log
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  kernlet logs echo
  kernlet logs classify --follow
  kernlet logs echo --since 10m --tail 20
  kernlet logs echo --json | jq -r .text")]
pub(crate) struct Args {
    /// The function
    name: String,
    /// Stay, and print new lines as they are written
    #[arg(long, short)]
    follow: bool,
    /// Only lines of the last while, such as 30s, 10m or 1h
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    since: Option<Duration>,
    /// Only so many of the last lines
    #[arg(long, value_name = "N")]
    tail: Option<u32>,
    /// Print the gateway's JSON lines as they are
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    namespace: NamespaceArgs,
    #[command(flatten)]
    login: LoginArgs,
}

pub(crate) fn run(args: &Args, context: &Context) -> anyhow::Result<()> {
    let gateway = gateway(&args.login, context)?;
    let wanted = LogQuery { follow: args.follow, since: args.since.map(time_before_now).transpose()?, tail: args.tail };
    client::block_on(async {
        let mut body = gateway.logs(&args.name, &args.namespace.namespace, &wanted).await?.into_body();
        let mut pending = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.context("the gateway stopped sending the log")?;
            pending.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
            print_whole_lines(&mut pending, args.json)?;
        }
        pending.push(b'\n');
        print_whole_lines(&mut pending, args.json)
    })
}

fn time_before_now(age: Duration) -> anyhow::Result<String> {
    let time = SystemTime::now().checked_sub(age).ok_or_else(|| anyhow!("--since reaches back before time began"))?;
    Ok(humantime::format_rfc3339_millis(time).to_string())
}

/// Prints and removes every line that is complete.
fn print_whole_lines(pending: &mut Vec<u8>, as_json: bool) -> anyhow::Result<()> {
    while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
        let line: Vec<u8> = pending.drain(..=end).collect();
        let line = line.trim_ascii();
        if line.is_empty() {
            continue;
        }
        if as_json {
            output::write(&[line, b"\n"].concat())?;
        } else {
            let line: LogLine = serde_json::from_slice(line).context("the gateway sent a log line that is not JSON")?;
            output::line(&format!(
                "{} {}",
                output::Paint::for_stdout().dim(&line.timestamp),
                output::printable(line.text.trim_end())
            ))?;
            // One that this program does not know is still in --json.
            if let Some(report) = line.report.and_then(|report| serde_json::from_value(report).ok()) {
                output::write(indented(&report).as_bytes())?;
            }
        }
    }
    Ok(())
}

/// A crash report below its line.
fn indented(report: &CrashReport) -> String {
    report.to_string().lines().map(|line| format!("    {line}\n")).collect()
}

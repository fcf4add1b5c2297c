//! Measures Kernlet: beside bare KVM, beside its own plugins called natively, beside its peers. Run by people and
//! scripts: `cargo run --release --manifest-path bench/Cargo.toml -- SUITE`. Never part of the platform itself.
//!
//! | module | duty |
//! |---|---|
//! | `suites` | what is measured, a file a suite |
//! | `stats` | taking times in turn, summing them up |
//! | `table` | rows, targets, printing |
//! | `machine` | what it was measured on |
//! | `workshop` | images and programs that are measured |
//! | `bare`, `native` | the other sides: bare KVM, a plugin without a platform |
//! | `allocations` | how often this program takes memory |
//! | `platform`, `http` | the platform as a process, and a client of it |
//! | `census` | what processes hold: memory, descriptors, threads, machines |
//! | `ring0` | whether a guest at ring 0 can use vectors here, as some peers' do |
//! | `peer`, `wrk` | plain HTTP servers to compare with, and the load on both |
//! | `process` | processor time and context switches of processes |
#![deny(unsafe_code)]

#[allow(unsafe_code, reason = "an allocator is unsafe to write")]
mod allocations;
#[allow(unsafe_code, reason = "gives a machine its memory")]
mod bare;
mod census;
mod containers;
mod http;
mod machine;
mod native;
mod peer;
mod platform;
mod process;
#[allow(unsafe_code, reason = "gives a machine its memory")]
mod ring0;
mod stats;
mod suites;
mod table;
mod workshop;
mod wrk;

use std::{io::Write as _, path::PathBuf};

use clap::{Parser, ValueEnum};

use crate::{
    machine::MachineLine,
    suites::{Probe, Suite},
    table::Row,
    workshop::Workshop,
};

/// Measure Kernlet on this machine
#[derive(Debug, Parser)]
#[command(
    name = "kernlet-bench",
    after_help = "\
Ratios are medians over pairs that were measured in turn in this run. Times depend on the machine and on what else \
runs on it: compare ratios, and times only with times of the same table."
)]
struct CommandLine {
    /// What to measure
    #[arg(value_enum, required_unless_present_any = ["list", "probe"])]
    suite: Option<Choice>,
    /// Print the figures of every suite, and measure nothing
    #[arg(long)]
    list: bool,
    /// Print one JSON object a figure instead of the table
    #[arg(long)]
    json: bool,
    /// Measure every suite so often; of each figure the middle one is shown, and all are in its details
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: u32,
    /// How many invocations the soak makes
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    invocations: u64,
    /// Measure this `kernlet` program instead of building one
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Answer for one part of a suite, in this process
    #[arg(long, value_enum, hide = true)]
    probe: Option<Probe>,
    /// The program that a probe starts for every request, or the folder that it serves in
    #[arg(long, value_name = "FILE", hide = true, requires = "probe")]
    echo: Option<PathBuf>,
}

/// One suite, or all of them.
#[derive(Clone, Copy, Debug)]
enum Choice {
    One(Suite),
    All,
}

impl ValueEnum for Choice {
    fn value_variants<'a>() -> &'a [Self] {
        const ALL: &[Choice] = &[
            Choice::One(Suite::Floor),
            Choice::One(Suite::Invoke),
            Choice::One(Suite::Rewind),
            Choice::One(Suite::Classify),
            Choice::One(Suite::AccelGuest),
            Choice::One(Suite::AccelAgent),
            Choice::One(Suite::Http),
            Choice::One(Suite::Cold),
            Choice::One(Suite::Size),
            Choice::One(Suite::Peers),
            Choice::One(Suite::Faults),
            Choice::One(Suite::Density),
            Choice::One(Suite::Scale),
            Choice::One(Suite::Soak),
            Choice::One(Suite::Solo5),
            Choice::One(Suite::Solo5Server),
            Choice::All,
        ];
        ALL
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        match self {
            Self::One(suite) => suite.to_possible_value(),
            Self::All => {
                Some(clap::builder::PossibleValue::new("all").help("All of them but the soak, one after the other"))
            }
        }
    }
}

fn main() -> anyhow::Result<()> {
    let options = CommandLine::parse();
    let mut out = std::io::stdout().lock();
    if options.list {
        for suite in Suite::value_variants() {
            for figure in suite.figures() {
                writeln!(out, "{figure}")?;
            }
        }
        return Ok(());
    }
    let workshop = Workshop::open(options.program.clone())?;
    if let Some(probe) = options.probe {
        writeln!(out, "{}", probe.run(&workshop, options.echo)?)?;
        return Ok(());
    }
    let suites = match options.suite {
        Some(Choice::One(suite)) => vec![suite],
        Some(Choice::All) | None => Suite::value_variants().iter().copied().filter(|suite| suite.is_short()).collect(),
    };
    let machine = MachineLine::read();
    let rows = measure(&suites, &options, &workshop)?;
    if options.json {
        for row in &rows {
            writeln!(out, "{}", row.to_json())?;
        }
    } else {
        write!(out, "{}", table::render(&machine.to_string(), &rows))?;
    }
    Ok(())
}

fn measure(suites: &[Suite], options: &CommandLine, workshop: &Workshop) -> anyhow::Result<Vec<Row>> {
    let mut figures: Vec<Vec<Row>> = Vec::new();
    let runs = options.runs;
    for run in 1..=runs {
        for suite in suites {
            eprintln!("measuring {suite:?}, run {run} of {runs}");
            for row in suite.run(workshop, options.invocations)? {
                match figures.iter_mut().find(|figure| figure.iter().any(|known| known.name == row.name)) {
                    Some(figure) => figure.push(row),
                    None => figures.push(vec![row]),
                }
            }
        }
    }
    Ok(figures.into_iter().filter_map(Row::middle_of).collect())
}

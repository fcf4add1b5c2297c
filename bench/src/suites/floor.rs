//! What KVM costs on this host, with nothing of ours around it: the baseline of everything else.

use std::time::Duration;

use crate::{
    bare::BareKvm,
    stats::{Plan, alone, in_turn, timed},
    table::{Row, Target},
};

/// Time for each figure.
const TIME: Duration = Duration::from_secs(4);

pub(super) fn run() -> anyhow::Result<Vec<Row>> {
    let kvm = BareKvm::open()?;
    Ok(vec![create(&kvm)?, one_exit(&kvm)?])
}

fn create(kvm: &BareKvm) -> anyhow::Result<Row> {
    // The machine goes when its time has been taken.
    let mut make = || timed(|| kvm.create()).map(|(time, _)| time);
    let create = alone(Plan::singly(TIME), &mut make)?.micros();
    Ok(Row::new("floor.create_us", create.median, "µs", Target::None).summary("create_us", create))
}

fn one_exit(kvm: &BareKvm) -> anyhow::Result<Row> {
    let (mut lean, mut usual, mut loops) = (kvm.create()?, kvm.create()?, kvm.create()?);
    let mut lean = || timed(|| lean.one_exit()).map(|(time, ())| time);
    let mut usual = || timed(|| usual.set_and_run()).map(|(time, ())| time);
    let mut loops = || timed(|| loops.resume()).map(|(time, ())| time);
    let plan = Plan { warm_up: 1000, calls: 100, ..Plan::singly(TIME) };
    let [lean, usual, loops] = in_turn(plan, [&mut lean, &mut usual, &mut loops])?;
    let one_exit = lean.micros();
    Ok(Row::new("floor.one_exit_us", one_exit.median, "µs", Target::None)
        .summary("one_exit_us", one_exit)
        .summary("with_set_regs_us", usual.micros())
        .summary("run_only_us", loops.micros()))
}

//! What a function's processes use at the moment, from `/proc`. Asked by `GET /system/function/NAME?usage=1`.
//! It never fails: a process that has just ended uses nothing.

use crate::function::Function;
use crate::wire::FunctionUsage;
use rustix::param::{clock_ticks_per_second, page_size};
use std::fs;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long processor time is watched: long enough for the kernel, which counts it in hundredths of a second.
const WATCHED: Duration = Duration::from_millis(250);

/// Watches the processes for a moment.
pub(crate) async fn of(function: &Function) -> FunctionUsage {
    let processes = function.processes();
    let began = Instant::now();
    let before: Vec<u64> = processes.iter().map(|process| ticks(*process)).collect();
    sleep(WATCHED).await;
    let elapsed = began.elapsed();
    let used = processes.iter().zip(before).map(|(process, before)| ticks(*process).saturating_sub(before));
    #[allow(clippy::cast_precision_loss, reason = "a number of ticks within a moment is small")]
    let seconds = used.sum::<u64>() as f64 / clock_ticks_per_second() as f64;
    let pages: u64 = processes.iter().map(|process| resident_pages(*process)).sum();
    FunctionUsage {
        cpu: (seconds / elapsed.as_secs_f64() * 1000.0).round(),
        total_memory_bytes: pages * page_size() as u64,
    }
}

/// User and system time of a process (proc_pid_stat(5), fields 14 and 15; the second may hold anything).
fn ticks(process: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    fields.split_ascii_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum()
}

/// Pages of a process that are in memory (proc_pid_statm(5)).
fn resident_pages(process: u32) -> u64 {
    let statm = fs::read_to_string(format!("/proc/{process}/statm")).unwrap_or_default();
    statm.split_ascii_whitespace().nth(1).and_then(|pages| pages.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_and_one_that_is_gone_uses_nothing() {
        assert!(resident_pages(std::process::id()) > 0);
        let started = ticks(std::process::id());
        let mut spun = 0_u64;
        while ticks(std::process::id()) == started {
            spun = std::hint::black_box(spun + 1);
        }
        assert_eq!((ticks(u32::MAX), resident_pages(u32::MAX)), (0, 0));
    }
}

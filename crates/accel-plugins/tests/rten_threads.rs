//! How many threads an inference of `rten` has. Alone in its process, since threads are counted.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::{
    collections::BTreeSet,
    fs,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use kernlet_accel::{Config, Runtime, Session};

/// The threads of rten's pools, and the time that each has had, in nanoseconds.
fn threads() -> BTreeSet<(u32, u64)> {
    let tasks = fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
    // Others of the process may end meanwhile.
    let is_rten = |task: &PathBuf| fs::read_to_string(task.join("comm")).is_ok_and(|name| name.starts_with("rten-"));
    let rten = tasks.filter(is_rten);
    let time = |text: String| text.split(' ').next().unwrap().parse().unwrap();
    rten.map(|task| {
        let id = task.file_name().unwrap().to_str().unwrap().parse().unwrap();
        (id, time(fs::read_to_string(task.join("schedstat")).unwrap()))
    })
    .collect()
}

/// The session of an inference that is over; the threads are there as long as it is.
fn infer(config: &Config) -> Session {
    let session = Runtime::new(kernlet_accel_plugins::built_in(config)).session();
    let model = support::mobilenet(&session);
    // A model of pictures is run once when it is loaded.
    support::load(&session, model).unwrap();
    session
}

#[test]
fn an_inference_has_as_many_threads_as_the_configuration_says() {
    let _usual = infer(&Config::default());
    let ids = |threads: &BTreeSet<(u32, u64)>| threads.iter().map(|(id, _)| *id).collect::<BTreeSet<_>>();
    let before = ids(&threads());
    let _five = infer(&Config { threads: [("rten".to_owned(), 5.try_into().unwrap())].into(), ..Config::default() });
    let end = Instant::now() + Duration::from_secs(10);
    // A thread names itself, when it is its turn.
    let new = loop {
        let new: Vec<_> = threads().into_iter().filter(|(id, _)| !before.contains(id)).collect();
        if new.len() >= 5 || Instant::now() > end {
            break new;
        }
        thread::yield_now();
    };
    assert_eq!(new.len(), 5, "{before:?} {new:?}");
    assert!(new.iter().any(|(_, time)| *time > 0), "they did the work");
}

//! What an agent promises to a client that keeps to the rules, over a unix socket with and without shared memory.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use kernlet_abi::hypercall::status;
use kernlet_accel::{Arg, Data, Dims, Dtype, Operation, Quota, RawCall, Resource, ResourceFile, ResourceKind, Runtime};
use kernlet_accel_agent::{AgentError, Connection, Limits, Options, Preference, Remote};
use zerocopy::{FromBytes as _, IntoBytes as _};

use support::{Home, content, home, home_with, in_a_minute, in_a_second, numbers, tell};

const NOOP: u32 = Operation::Noop.abi_number();

/// A connection that shares memory, then one that does not.
fn both(home: &Home) -> impl Iterator<Item = Connection> {
    let kinds: [fn(&Home) -> Connection; 2] = [Home::connect, Home::connect_by_stream];
    kinds.into_iter().map(move |connect| connect(home))
}

fn status(error: &AgentError) -> i32 {
    error.status()
}

#[test]
fn an_operation_is_carried_out_there_and_its_result_is_here() {
    let home = home();
    for connection in both(&home) {
        assert!(connection.operations().iter().any(|offered| offered.plugin == "probe" && offered.operation == NOOP));
        let session = connection.session(None).unwrap();
        let report = session.run(NOOP, &mut [], None).unwrap();
        assert_eq!((report.plugin.as_str(), report.bytes_copied), ("probe", 0));
        let from: Vec<i32> = (0..50_000).collect();
        let mut to = vec![0; from.len()];
        let copied = numbers(&session, &from, &mut to).unwrap();
        assert_eq!(from, to);
        assert_eq!(copied, 2 * 200_000, "once there and once back");
    }
}

#[test]
fn what_lies_in_shared_memory_is_not_copied() {
    let home = home();
    let connection = home.connect();
    let session = connection.session(None).unwrap();
    let mut from = connection.allocate(1 << 20).unwrap();
    let mut to = connection.allocate(1 << 20).unwrap();
    <[i32]>::mut_from_bytes(&mut from).unwrap().iter_mut().zip(0..).for_each(|(to, from)| *to = from);
    let mut args =
        [Arg::new(Data::In(&from), Dtype::I32, Dims::NONE), Arg::new(Data::Out(&mut to), Dtype::I32, Dims::NONE)];
    let report = session.run(Operation::FpgaArrayCopy.abi_number(), &mut args, None).unwrap();
    assert_eq!((report.bytes_copied, args[1].written), (0, 1 << 20));
    assert_eq!(&*from, &*to);
}

#[test]
fn an_error_has_the_status_and_the_words_of_who_found_it() {
    let home = home();
    for connection in both(&home) {
        let session = connection.session(None).unwrap();
        let mut short = [0; 3];
        let error = numbers(&session, &[1, 2, 3, 4], &mut short).unwrap_err();
        assert_eq!(status(&error), status::EINVAL, "{error}");
        assert!(error.to_string().contains("fpga-array-copy"), "{error}");
        let error = session.run(999, &mut [], None).unwrap_err();
        assert_eq!(status(&error), status::ENOTSUP);
        let error = tell(&session, b"panic", None).unwrap_err();
        assert_eq!(status(&error), status::EIO);
        assert!(error.to_string().contains("as it was told"), "{error}");
        session.run(NOOP, &mut [], None).unwrap();
    }
}

#[test]
fn resources_are_registered_found_and_taken_back() {
    let home = home();
    for connection in both(&home) {
        let session = connection.session(None).unwrap();
        let file = |name: &str, bytes: &[u8]| ResourceFile { name: name.to_owned(), bytes: bytes.into() };
        let files = vec![file("first", b"one"), file("empty", b""), file("last", b"the last one")];
        let one = session.register("model", &Resource::new(files, ResourceKind::Model)).unwrap();
        let large = vec![7; 3 << 20];
        let two = session.register("large", &Resource::from_bytes(large.clone())).unwrap();
        let empty = session.register("", &Resource::from_bytes(*b"")).unwrap();
        assert!(content(&session, one).ends_with("the last one"));
        assert!(content(&session, two).len() <= 1024, "an error's message has its limit");
        assert!(content(&session, empty).ends_with(": "));
        let stats = home.agent.stats();
        assert_eq!((stats.resources, stats.resource_bytes), (3, 15 + large.len() as u64));
        session.unregister(one).unwrap();
        assert!(content(&session, one).contains("no resource"));
        assert_eq!(status(&session.unregister(one).unwrap_err()), status::ENOENT);
        drop(session);
        home.wait_until(|stats| stats.sessions == 0 && stats.resources == 0 && stats.resource_bytes == 0);
    }
}

#[test]
fn a_resource_that_the_agent_has_is_not_sent_again() {
    let home = home();
    let connection = home.connect_by_stream();
    let session = connection.session(None).unwrap();
    let model = Resource::from_bytes(vec![1; 1 << 20]);
    let first = session.register("one", &model).unwrap();
    // The same bytes, as another process of this user would have them.
    let again = home.connect_by_stream().session(None).unwrap();
    let second = again.register("other", &Resource::from_bytes(vec![1; 1 << 20])).unwrap();
    assert_eq!(content(&session, first), content(&again, second));
    assert_eq!(status(&session.register("one", &model).unwrap_err()), status::EINVAL, "the name is taken");
}

#[test]
fn two_clients_cannot_name_each_others_sessions_or_resources() {
    let home = home();
    let (one, other) = (home.connect(), home.connect());
    let mine = one.session(None).unwrap();
    let secret = mine.register("model", &Resource::from_bytes(*b"secret")).unwrap();
    // The same numbers, which mean nothing there.
    let stranger = other.session(None).unwrap();
    assert_eq!(mine.id(), stranger.id());
    assert!(content(&stranger, secret).contains("no resource"));
    let further = one.session(None).unwrap();
    assert!(content(&further, secret).contains("no resource"), "nor does another session of one client");
    assert_eq!(status(&stranger.unregister(secret).unwrap_err()), status::ENOENT);
    drop(further);
    drop(stranger);
    assert!(content(&mine, secret).ends_with("secret"));
}

#[test]
fn calls_of_one_connection_overtake_each_other() {
    let home = home();
    for connection in both(&home) {
        let session = connection.session(None).unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| tell(&session, b"wait", None));
            home.door.wait_for(1);
            for _ in 0..10 {
                tell(&session, b"go on", None).unwrap();
            }
            assert!(!waiting.is_finished());
            home.door.open();
            waiting.join().unwrap().unwrap();
        });
        support::close(&home.door);
    }
}

#[test]
fn a_client_gets_its_timeout_in_time_though_the_agent_hangs() {
    let home = home();
    for connection in both(&home) {
        let session = connection.session(None).unwrap();
        let error = tell(&session, b"wait", Some(Instant::now() + Duration::from_millis(50))).unwrap_err();
        assert_eq!(status(&error), status::ETIMEDOUT, "{error}");
        // The connection serves on, and the slot or number of the late call does not come back too early.
        session.run(NOOP, &mut [], in_a_second()).unwrap();
        home.door.open();
        home.wait_until(|stats| stats.calls == 0);
        tell(&session, b"go on", None).unwrap();
        support::close(&home.door);
    }
}

#[test]
fn a_deadline_that_is_over_is_not_tried() {
    let home = home();
    for connection in both(&home) {
        let session = connection.session(None).unwrap();
        let error = tell(&session, b"wait", Some(Instant::now())).unwrap_err();
        assert_eq!(status(&error), status::ETIMEDOUT);
    }
}

#[test]
fn a_heavy_client_does_not_starve_a_light_one() {
    let home = home_with(Limits { workers: 1, ..Limits::default() });
    let heavy = home.connect();
    let session = Arc::new(heavy.session(None).unwrap());
    std::thread::scope(|scope| {
        for _ in 0..20 {
            let session = Arc::clone(&session);
            scope.spawn(move || tell(&session, b"wait", None));
        }
        home.door.wait_for(1);
        let light = home.connect().session(None).unwrap();
        tell(&light, b"go on", None).unwrap();
        home.door.open();
    });
}

#[test]
fn quotas_are_per_session_and_per_connection() {
    let quota = Quota { resources: 2, bytes: 100, ..Quota::default() };
    let home = home_with(Limits { session: quota, resources: 150, sessions: 2, ..Limits::default() });
    let connection = home.connect_by_stream();
    let bytes = |len: usize| Resource::from_bytes(vec![0; len]);
    let session = connection.session(None).unwrap();
    assert_eq!(status(&session.register("large", &bytes(101)).unwrap_err()), status::ENOMEM);
    session.register("a", &bytes(60)).unwrap();
    session.register("b", &bytes(40)).unwrap();
    assert_eq!(status(&session.register("c", &bytes(0)).unwrap_err()), status::ENOMEM);
    let second = connection.session(None).unwrap();
    assert_eq!(status(&second.register("a", &bytes(60)).unwrap_err()), status::ENOMEM, "of the connection");
    second.register("a", &bytes(50)).unwrap();
    assert_eq!(status(&connection.session(None).unwrap_err()), status::ENOMEM);
    drop(second);
    home.wait_until(|stats| stats.sessions == 1);
    connection.session(None).unwrap().register("a", &bytes(50)).unwrap();
}

#[test]
fn a_thousand_sessions_are_served() {
    let home = home();
    let connection = home.connect();
    let sessions: Vec<_> = (0..1000).map(|_| connection.session(None).unwrap()).collect();
    assert_eq!(home.agent.stats().sessions, 1000);
    for (session, number) in sessions.iter().zip(0_i32..) {
        let mut to = [0];
        numbers(session, &[number], &mut to).unwrap();
        assert_eq!(to, [number]);
    }
    drop(sessions);
    home.wait_until(|stats| stats.sessions == 0);
}

#[test]
fn many_threads_share_one_connection() {
    let home = home();
    for connection in both(&home) {
        let session = connection.session(None).unwrap();
        std::thread::scope(|scope| {
            for thread in 0_i32..8 {
                let session = &session;
                scope.spawn(move || {
                    for round in 0..200 {
                        let from = vec![thread * 1000 + round; 100 + usize::try_from(round).unwrap() * 200];
                        let mut to = vec![0; from.len()];
                        numbers(session, &from, &mut to).unwrap();
                        assert_eq!(from, to);
                    }
                });
            }
        });
    }
}

#[test]
fn a_connection_that_ends_gives_up_all_it_owned_though_an_operation_runs() {
    let home = home();
    for connection in both(&home) {
        let session = connection.session(None).unwrap();
        session.register("model", &Resource::from_bytes(vec![1; 1000])).unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| tell(&session, b"wait", None));
            home.door.wait_for(1);
            assert_eq!(home.agent.stats().resource_bytes, 1000);
            support::cut(&connection);
            let error = waiting.join().unwrap().unwrap_err();
            assert_eq!(status(&error), status::EIO, "{error}");
            home.wait_until(|stats| stats.connections == 0 && stats.resources == 0 && stats.resource_bytes == 0);
            assert_eq!(home.agent.stats().calls, 1, "the operation itself runs on");
            home.door.open();
            home.wait_until(|stats| stats.sessions == 0 && stats.calls == 0);
        });
        support::close(&home.door);
        assert!(connection.is_lost());
        assert_eq!(status(&session.run(NOOP, &mut [], None).unwrap_err()), status::EIO);
    }
}

#[test]
fn what_was_done_is_told_by_plugin_and_operation() {
    let home = home();
    let connection = home.connect();
    let session = connection.session(None).unwrap();
    (0..5).for_each(|_| drop(session.run(NOOP, &mut [], None).unwrap()));
    let regions = connection.profile().unwrap();
    assert_eq!(regions.iter().map(|region| (region.operation, region.count)).collect::<Vec<_>>(), [(NOOP, 5)]);
}

#[test]
fn too_much_for_the_connection_is_refused_with_the_limit() {
    let home = home_with(Limits { bytes: 1000, ..Limits::default() });
    let session = home.connect_by_stream().session(None).unwrap();
    let error = numbers(&session, &[0; 200], &mut [0; 200]).unwrap_err();
    assert_eq!(status(&error), status::ENOMEM);
    assert!(error.to_string().contains("1000"), "{error}");
    numbers(&session, &[0; 100], &mut [0; 100]).unwrap();
    let session = home.connect().session(None).unwrap();
    let error = numbers(&session, &vec![0; 1 << 20], &mut vec![0; 1 << 20]).unwrap_err();
    assert_eq!(status(&error), status::ENOMEM, "{error}");
}

#[test]
fn operations_that_are_sent_together_are_answered_one_by_one() {
    // With room for fewer calls, and fewer bytes, than a batch has.
    for limits in [Limits::default(), Limits { calls: 3, bytes: 2000, ..Limits::default() }] {
        let home = home_with(limits);
        for connection in both(&home) {
            let session = connection.session(None).unwrap();
            let from: Vec<[i32; 50]> = (0..100).map(|number| [number; 50]).collect();
            let mut to = vec![[0; 50]; 100];
            let mut args: Vec<_> = from
                .iter()
                .zip(&mut to)
                .map(|(from, to)| {
                    let arg = |data| Arg::new(data, Dtype::I32, Dims::NONE);
                    [arg(Data::In(from.as_bytes())), arg(Data::Out(to.as_mut_bytes()))]
                })
                .collect();
            let copy = Operation::FpgaArrayCopy.abi_number();
            let mut calls: Vec<_> = args.iter_mut().map(|args| RawCall { operation: copy, args }).collect();
            let mut panics = [Arg::bytes(Data::In(b"panic"))];
            calls.insert(1, RawCall { operation: Operation::OpenCv.abi_number(), args: &mut panics });
            calls.insert(2, RawCall { operation: 999, args: &mut [] });
            calls.push(RawCall { operation: NOOP, args: &mut [] });
            let outcomes = session.run_batch(&mut calls, in_a_minute());
            drop(calls);
            let failed: Vec<_> =
                (0..).zip(&outcomes).filter_map(|(at, outcome)| Some((at, outcome.as_ref().err()?))).collect();
            let statuses: Vec<(usize, i32)> = failed.iter().map(|(at, error)| (*at, status(error))).collect();
            assert_eq!((outcomes.len(), statuses), (103, vec![(1, status::EIO), (2, status::ENOTSUP)]));
            assert!(outcomes.iter().flatten().all(|report| report.plugin == "probe"));
            assert_eq!(from, to);
            assert!(session.run_batch(&mut [], None).is_empty());
            session.run(NOOP, &mut [], in_a_minute()).unwrap();
        }
    }
}

#[test]
fn operations_that_are_sent_together_are_carried_out_in_their_order_by_one_worker() {
    let home = home_with(Limits { workers: 4, ..Limits::default() });
    for connection in both(&home) {
        let session = connection.session(None).unwrap();
        let done = connection.session(None).unwrap();
        std::thread::scope(|scope| {
            let batch = scope.spawn(|| {
                let (mut wait, mut go_on) = ([Arg::bytes(Data::In(b"wait"))], [Arg::bytes(Data::In(b"go on"))]);
                let operation = Operation::OpenCv.abi_number();
                let mut calls = [RawCall { operation, args: &mut wait }, RawCall { operation, args: &mut go_on }];
                session.run_batch(&mut calls, in_a_minute()).into_iter().filter(Result::is_ok).count()
            });
            home.door.wait_for(1);
            // Others are served meanwhile, and the second is not begun before the first has ended.
            tell(&done, b"go on", in_a_minute()).unwrap();
            assert_eq!(home.agent.stats().calls, 1);
            assert!(!batch.is_finished());
            home.door.open();
            assert_eq!(batch.join().unwrap(), 2);
        });
        support::close(&home.door);
    }
}

#[test]
fn a_deadline_ends_all_of_a_batch_that_is_left() {
    let home = home();
    for connection in both(&home) {
        let session = connection.session(None).unwrap();
        let mut wait = [Arg::bytes(Data::In(b"wait"))];
        let mut calls = [
            RawCall { operation: NOOP, args: &mut [] },
            RawCall { operation: Operation::OpenCv.abi_number(), args: &mut wait },
            RawCall { operation: NOOP, args: &mut [] },
        ];
        let deadline = Instant::now() + Duration::from_millis(300);
        let outcomes = session.run_batch(&mut calls, Some(deadline));
        let failed: Vec<_> = outcomes.iter().map(|outcome| outcome.as_ref().map_or_else(status, |_| 0)).collect();
        assert_eq!(failed, [0, status::ETIMEDOUT, status::ETIMEDOUT]);
        home.door.open();
        home.wait_until(|stats| stats.calls == 0);
        session.run(NOOP, &mut [], in_a_minute()).unwrap();
        support::close(&home.door);
    }
}

#[test]
fn a_programs_batch_goes_to_an_agent_as_one() {
    let home = home();
    let remote = Remote::connect(home.address.clone(), Options::default(), Preference::Always).unwrap();
    let session = Runtime::new(vec![Arc::new(remote)]).session();
    assert!(session.takes_batches());
    let (mut one, mut other, mut short) = ([0; 3], vec![0; 50_000], [0; 1]);
    let many: Vec<i32> = (0..50_000).collect();
    let mut batch = session.batch();
    batch.noop().array_copy(&[1, 2, 3], &mut one).array_copy(&[1, 2], &mut short).array_copy(&many, &mut other);
    let outcomes = batch.run();
    let ok: Vec<_> = outcomes.iter().map(|outcome| outcome.as_ref().map(|report| report.plugin).ok()).collect();
    assert_eq!(ok, [Some("remote"), Some("remote"), None, Some("remote")]);
    assert_eq!((one, &other), ([1, 2, 3], &many));
    assert!(outcomes.iter().flatten().all(|report| report.elapsed > Duration::ZERO));
}

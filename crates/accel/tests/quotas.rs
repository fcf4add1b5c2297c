//! Promises about what a session may use at one time, and about callers that race each other.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::{
    sync::Mutex,
    sync::{
        Arc, Barrier,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    time::{Duration, Instant},
};

use kernlet_abi::{
    accel::{ModelParams, operation},
    hypercall::status,
};
use kernlet_accel::{
    AccelError, Arg, Cost, Data, Deadline, Done, Operation, Plugin, PluginError, Quota, Resource, Runtime, Session,
    operation::Task,
};
use support::session;
use zerocopy::IntoBytes as _;

/// A plugin whose operation lasts until the test lets it end, and that says what deadline it was given.
#[derive(Debug)]
struct Wait {
    begun: Mutex<Sender<Deadline>>,
    end: Mutex<Receiver<()>>,
}

impl Plugin for Wait {
    fn name(&self) -> &'static str {
        "wait"
    }

    fn operations(&self) -> &[Operation] {
        &[Operation::Noop, Operation::OnnxModelLoad]
    }

    fn cost(&self, _: &Task<'_>) -> Cost {
        Cost::nanos(1)
    }

    fn run(&self, _: Task<'_>, deadline: Deadline) -> Result<Done, PluginError> {
        self.begun.lock().unwrap().send(deadline).unwrap();
        self.end.lock().unwrap().recv().unwrap();
        deadline.check("the end")?;
        Ok(Done::default())
    }
}

/// A session on it, and the test's ends.
fn waiting(quota: Quota) -> (Arc<Session>, Receiver<Deadline>, Sender<()>) {
    let ((begun, has_begun), (let_end, end)) = (channel(), channel());
    let plugin = Arc::new(Wait { begun: Mutex::new(begun), end: Mutex::new(end) });
    (Arc::new(Runtime::new(vec![plugin]).session_with(quota)), has_begun, let_end)
}

#[test]
fn no_more_operations_run_at_a_time_than_the_quota_says() {
    let (session, has_begun, let_end) = waiting(Quota { concurrency: 2, ..Quota::default() });
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..2).map(|_| scope.spawn(|| session.run(operation::NOOP, &mut [], None))).collect();
        for _ in 0..2 {
            has_begun.recv().unwrap();
        }
        let refused = session.run(operation::NOOP, &mut [], None).unwrap_err();
        assert!(matches!(refused, AccelError::TooManyOperations { operation: "noop", max: 2 }), "{refused}");
        assert_eq!(refused.status(), status::EAGAIN);
        for _ in 0..2 {
            let_end.send(()).unwrap();
        }
        for thread in running {
            thread.join().unwrap().unwrap();
        }
    });
    // Places are given back.
    let_end.send(()).unwrap();
    session.run(operation::NOOP, &mut [], None).unwrap();
}

#[test]
fn a_place_is_given_back_however_an_operation_ends() {
    let session =
        Runtime::new(vec![Arc::new(support::Break)]).session_with(Quota { concurrency: 1, ..Quota::default() });
    for _ in 0..3 {
        let error = session.run(operation::NOOP, &mut [], None).unwrap_err();
        assert!(matches!(error, AccelError::PluginPanic { .. }), "{error}");
    }
    let none = Runtime::new(Vec::new()).session_with(Quota { concurrency: 1, ..Quota::default() });
    for _ in 0..3 {
        assert!(matches!(none.perform(Task::Noop, None), Err(AccelError::NoPlugin { .. })));
    }
}

#[test]
fn a_session_that_may_run_nothing_runs_nothing() {
    let session = session().runtime().session_with(Quota { concurrency: 0, ..Quota::default() });
    let error = session.run(operation::NOOP, &mut [], None).unwrap_err();
    assert!(matches!(error, AccelError::TooManyOperations { max: 0, .. }), "{error}");
}

#[test]
fn an_operation_has_the_nearer_of_the_callers_and_the_quotas_time() {
    let hour = Duration::from_secs(3600);
    let (session, has_begun, let_end) = waiting(Quota { operation_time: Some(hour), ..Quota::default() });
    let run = |deadline: Option<Instant>| {
        let_end.send(()).unwrap();
        session.run(operation::NOOP, &mut [], deadline).unwrap();
        has_begun.recv().unwrap().instant().unwrap()
    };
    let before = Instant::now();
    let near = before + hour / 2;
    assert_eq!(run(Some(near)), near);
    for far in [None, Some(before + 2 * hour)] {
        let given = run(far);
        assert!(given >= before + hour && given <= Instant::now() + hour);
    }
}

#[test]
fn an_operation_that_takes_longer_than_the_quota_is_ended_at_its_next_step() {
    let (session, has_begun, let_end) = waiting(Quota { operation_time: Some(Duration::ZERO), ..Quota::default() });
    // No time at all is over before it begins.
    let error = session.run(operation::NOOP, &mut [], None).unwrap_err();
    assert!(matches!(error, AccelError::DeadlinePassed { .. }), "{error}");
    let quota = Quota { operation_time: Some(Duration::from_millis(200)), ..Quota::default() };
    let session_of_little_time = session.runtime().session_with(quota);
    std::thread::scope(|scope| {
        let running = scope.spawn(|| session_of_little_time.run(operation::NOOP, &mut [], None));
        let deadline = has_begun.recv().unwrap();
        while !deadline.has_passed() {
            std::thread::yield_now();
        }
        let_end.send(()).unwrap();
        let error = running.join().unwrap().unwrap_err();
        assert_eq!(error.status(), status::ETIMEDOUT);
        assert!(error.message().contains("the end"), "{error}");
    });
}

#[test]
fn of_two_that_take_a_resource_back_one_gets_it() {
    let session = session();
    for round in 0..200 {
        let id = session.add(Resource::from_bytes(*b"once")).unwrap().get();
        let (start, got) = (Barrier::new(2), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    start.wait();
                    match session.unregister(id) {
                        Ok(resource) => {
                            assert_eq!(resource.bytes(), b"once");
                            got.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(error) => assert!(matches!(error, AccelError::UnknownResource { id: of } if of == id)),
                    }
                });
            }
        });
        assert_eq!(got.into_inner(), 1, "round {round}");
        assert!(session.resource(id).is_none());
    }
}

#[test]
fn an_id_is_never_given_to_another_resource() {
    let session = session();
    let mut last = 0;
    for _ in 0..10 {
        let id = session.register("name", Resource::from_bytes(*b"model")).unwrap().get();
        assert!(id > last);
        last = id;
        session.unregister(id).unwrap();
        assert!(session.find("name").is_none());
        let params = ModelParams { model: id, inputs: 0 };
        let mut args = [Arg::bytes(Data::In(params.as_bytes()))];
        let error = session.run(operation::ONNX_MODEL_LOAD, &mut args, None).unwrap_err();
        assert_eq!(error.status(), status::ENOENT);
    }
}

#[test]
fn what_is_taken_back_makes_room_for_another() {
    let session = Runtime::new(Vec::new()).session_with(Quota { resources: 1, bytes: 4, ..Quota::default() });
    for _ in 0..3 {
        let id = session.register("four", Resource::from_bytes(*b"1234")).unwrap();
        session.add(Resource::from_bytes(*b"")).unwrap_err();
        session.unregister(id.get()).unwrap();
    }
}

#[test]
fn an_operation_that_uses_a_resource_goes_on_when_it_is_taken_back() {
    let (session, has_begun, let_end) = waiting(Quota::default());
    let resource = Resource::from_bytes(*b"model");
    let watch = resource.watch();
    let id = session.register("model", resource).unwrap().get();
    std::thread::scope(|scope| {
        let running = scope.spawn(|| {
            let params = ModelParams { model: id, inputs: 0 };
            session.run(operation::ONNX_MODEL_LOAD, &mut [Arg::bytes(Data::In(params.as_bytes()))], None)
        });
        has_begun.recv().unwrap();
        drop(session.unregister(id).unwrap());
        assert!(!watch.is_gone(), "the operation has it");
        let_end.send(()).unwrap();
        running.join().unwrap().unwrap();
    });
    assert!(watch.is_gone());
}

#[test]
fn a_session_that_goes_takes_its_resources_along() {
    let runtime = Runtime::new(Vec::new());
    let (one, other) = (runtime.session(), runtime.session());
    let (shared, own) = (Resource::from_bytes(*b"shared"), Resource::from_bytes(*b"own"));
    let (watch_shared, watch_own) = (shared.watch(), own.watch());
    other.register("shared", shared.clone()).unwrap();
    one.register("shared", shared).unwrap();
    one.register("own", own).unwrap();
    drop(one);
    assert!(watch_own.is_gone() && !watch_shared.is_gone());
    drop(other);
    assert!(watch_shared.is_gone());
}

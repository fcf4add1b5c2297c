//! Promises about sessions: what they own, what they may register, and that no other session reaches it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::{
    io::Write as _,
    sync::Arc,
    time::{Duration, Instant},
};

use kernlet_abi::{
    accel::{ModelParams, operation},
    hypercall::status,
};
use kernlet_accel::{
    AccelError, Arg, Cost, Data, Deadline, Done, Operation, Plugin, PluginError, Quota, RESOURCE_MAX, Resource,
    Runtime, Session, operation::Task,
};
use support::{session, tell};
use zerocopy::IntoBytes as _;

/// What a session says that the resource of an id holds.
fn content(session: &Session, id: u32) -> AccelError {
    let params = ModelParams { model: id, inputs: 0 };
    session.run(operation::ONNX_MODEL_LOAD, &mut [Arg::bytes(Data::In(params.as_bytes()))], None).unwrap_err()
}

fn bytes(content: &str) -> Resource {
    Resource::from_bytes(content.as_bytes())
}

#[test]
fn two_sessions_never_see_each_others_resources() {
    let runtime = Runtime::new(vec![tell("all", &[(Operation::OnnxModelLoad, 1)])]);
    let (one, other) = (runtime.session(), runtime.session());
    let mine = one.register("mine", bytes("one's secret")).unwrap();
    let second = one.register("second", bytes("one's second secret")).unwrap();
    let theirs = other.register("theirs", bytes("other's secret")).unwrap();
    assert!(other.find("mine").is_none() && one.find("theirs").is_none());
    assert!(content(&one, mine.get()).message().ends_with("one's secret"));
    // Ids are each session's own: the same number is another resource there, or none.
    assert!(content(&other, mine.get()).message().ends_with("other's secret"));
    assert!(content(&one, theirs.get()).message().ends_with("one's secret"));
    assert_eq!(content(&other, second.get()).status(), status::ENOENT);
    for id in [0, 3, u32::MAX] {
        assert_eq!(content(&one, id).status(), status::ENOENT);
    }
}

#[test]
fn a_resource_is_found_by_its_name_with_its_size() {
    let session = session();
    let labels = session.register("labels", bytes("a\nb\n")).unwrap();
    let empty = session.register("empty", bytes("")).unwrap();
    assert_eq!(session.find("labels"), Some((labels, 4)));
    assert_eq!(session.find("empty"), Some((empty, 0)));
    assert_eq!(session.find("label"), None);
    assert_eq!((labels.get(), empty.get()), (1, 2));
}

#[test]
fn a_name_is_registered_once() {
    let session = session();
    session.register("model", bytes("one")).unwrap();
    let error = session.register("model", bytes("two")).unwrap_err();
    assert_eq!(error.status(), status::EINVAL);
    assert!(error.to_string().contains("`model`"), "{error}");
    assert_eq!(session.find("model").unwrap().1, 3);
}

#[test]
fn a_name_is_a_short_text_without_control_characters() {
    let session = session();
    for name in ["", "a\nb", "\0", &"x".repeat(256)] {
        assert_eq!(session.register(name, bytes("")).unwrap_err().status(), status::EINVAL, "{name:?}");
    }
    session.register(&"x".repeat(255), bytes("")).unwrap();
    session.register("modèle/ü v2", bytes("")).unwrap();
}

#[test]
fn a_session_registers_no_more_than_its_quota() {
    let runtime = Runtime::new(Vec::new());
    let session = runtime.session_with(Quota { resources: 2, bytes: 10, ..Quota::default() });
    session.register("six", bytes("123456")).unwrap();
    let error = session.register("five", bytes("12345")).unwrap_err();
    assert_eq!(error.status(), status::ENOMEM);
    assert!(error.to_string().contains("5 bytes") && error.to_string().contains("4 bytes left"), "{error}");
    session.register("four", bytes("1234")).unwrap();
    let error = session.register("none", bytes("")).unwrap_err();
    assert_eq!(error.status(), status::ENOMEM);
    assert!(error.to_string().contains("may have 2"), "{error}");
    // The quota is each session's own.
    runtime
        .session_with(Quota { resources: 1, bytes: 5, ..Quota::default() })
        .register("five", bytes("12345"))
        .unwrap();
}

#[test]
fn a_file_is_read_once() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"before").unwrap();
    let resource = Resource::from_file(file.path()).unwrap();
    file.write_all(b" and after").unwrap();
    assert_eq!(resource.bytes(), b"before");
    assert_eq!(resource.identity(), resource.clone().identity());
    assert_ne!(resource.identity(), Resource::from_file(file.path()).unwrap().identity());
}

#[test]
fn what_is_no_readable_file_is_no_resource() {
    let folder = tempfile::tempdir().unwrap();
    let error = Resource::from_file(folder.path()).unwrap_err();
    assert_eq!(error.status(), status::EINVAL);
    assert!(error.to_string().contains("is not a file"), "{error}");
    let missing = folder.path().join("missing.onnx");
    let error = Resource::from_file(&missing).unwrap_err();
    assert_eq!(error.status(), status::ENOENT);
    assert!(error.message().contains("missing.onnx") && error.message().contains("No such file"), "{error}");
    let huge = folder.path().join("huge");
    std::fs::File::create(&huge).unwrap().set_len(RESOURCE_MAX + 1).unwrap();
    let error = Resource::from_file(&huge).unwrap_err();
    assert_eq!(error.status(), status::ENOMEM);
}

#[test]
fn a_deadline_that_is_over_stops_an_operation_before_it_begins() {
    let error = session().run(operation::NOOP, &mut [], Some(Instant::now())).unwrap_err();
    assert!(matches!(error, AccelError::DeadlinePassed { operation: "noop" }));
    assert_eq!(error.status(), status::ETIMEDOUT);
}

#[test]
fn preloading_loads_onnx_models_only() {
    let session = session();
    session.register("labels", bytes("tench\n")).unwrap();
    session.register("empty", bytes("")).unwrap();
    session.register("almost", Resource::from_bytes([0x08, 0x08, 0x3a, 0x05, 0x00])).unwrap();
    session.register("no graph", Resource::from_bytes([0x08, 0x08])).unwrap();
    session.preload().unwrap();
    // ir_version 8, an empty graph, an opset: as little as has the outline of a model.
    session.register("model", Resource::from_bytes([0x08, 0x08, 0x3a, 0x00, 0x42, 0x00])).unwrap();
    let error = session.preload().unwrap_err();
    assert!(matches!(&error, AccelError::Preload { name, .. } if name == "model"), "{error}");
    assert_eq!(error.status(), status::EIO);
}

/// Loads a model as long as it may.
#[derive(Debug)]
struct Slow;

impl Plugin for Slow {
    fn name(&self) -> &'static str {
        "slow"
    }

    fn operations(&self) -> &[Operation] {
        &[Operation::OnnxModelLoad]
    }

    fn cost(&self, _: &Task<'_>) -> Cost {
        Cost::nanos(1)
    }

    fn run(&self, _: Task<'_>, deadline: Deadline) -> Result<Done, PluginError> {
        while !deadline.has_passed() {
            std::thread::yield_now();
        }
        deadline.check("its next layer was loaded")?;
        Ok(Done::default())
    }
}

#[test]
fn models_that_take_longer_to_load_than_they_may_are_named() {
    let session = Runtime::new(vec![Arc::new(Slow)]).session();
    session.register("model", Resource::from_bytes([0x08, 0x08, 0x3a, 0x00, 0x42, 0x00])).unwrap();
    let error = session.preload_until(Some(Instant::now() + Duration::from_millis(20))).unwrap_err();
    assert!(matches!(&error, AccelError::Preload { name, .. } if name == "model"), "{error}");
    assert_eq!(error.status(), status::ETIMEDOUT, "{}", error.message());
}

#[test]
fn preloading_without_a_plugin_for_models_does_nothing() {
    let session = Runtime::new(vec![tell("noop", &[(Operation::Noop, 1)])]).session();
    session.register("model", Resource::from_bytes([0x3a, 0x00])).unwrap();
    session.preload().unwrap();
}

#[test]
fn a_session_is_used_from_many_threads() {
    let session = Arc::new(session());
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let session = Arc::clone(&session);
            scope.spawn(move || {
                let name = format!("resource {thread}");
                let id = session.register(&name, bytes(&name)).unwrap();
                assert_eq!(session.find(&name).unwrap().0, id);
                assert!(content(&session, id.get()).message().ends_with(&name));
                session.run(operation::NOOP, &mut [], None).unwrap();
            });
        }
    });
}

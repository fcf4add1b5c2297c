//! Every accelerator operation of the guest library, asked for in a machine: what the function passes arrives, and what the
//! plugin writes comes back, on each backend.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::sync::{Arc, Mutex};

use common::{
    Function,
    everything::{Everything, LABELS, MODEL},
    in_seconds, request,
};
use kernlet_accel::{
    Answer, Cost, Deadline, Done, Operation, Plugin, PluginError, Resource, Runtime, Session, operation::Task,
};
use kernlet_monitor::{LogSink, Machine, Response, Services, Template};

/// A session with a plugin that has everything, a model and labels.
fn session() -> Session {
    let session = Runtime::new(vec![Arc::new(Everything)]).session();
    session.register("model", Resource::from_bytes(MODEL)).unwrap();
    session.register("labels", Resource::from_bytes(LABELS)).unwrap();
    session
}

/// The same with another plugin.
fn session_of(plugin: Arc<dyn Plugin>) -> Arc<Session> {
    let session = Runtime::new(vec![plugin]).session();
    session.register("model", Resource::from_bytes(MODEL)).unwrap();
    Arc::new(session)
}

/// A machine of the function that asks for operations.
fn boot(function: &Function, session: &Arc<Session>) -> Machine {
    let log: Arc<dyn LogSink> = function.log.clone();
    let services = Services { accel: Arc::clone(session), log };
    let (_, machine) =
        Template::boot(&function.hypervisor, &function.unikernel, &function.config, services, in_seconds(5)).unwrap();
    machine
}

/// What the function says about each of these operations, which one machine carries out after the other.
fn answers(machine: Machine, operations: &[&str]) -> Vec<(u16, String)> {
    let mut machine = Some(machine);
    let ask = |operation: &&str| {
        let path = format!("/{operation}");
        let asked = request(&path, b"a picture");
        let (used, Response { status, body, .. }) = machine.take().unwrap().invoke(&asked, in_seconds(5)).unwrap();
        machine = Some(used.rewind().unwrap());
        (status, String::from_utf8(body).unwrap())
    };
    operations.iter().map(ask).collect()
}

/// Each operation, and what a function that asks for it gets.
const OPERATIONS: [(&str, &str); 29] = [
    ("noop", "done"),
    // One more in each byte, and all but the last counts as written.
    ("exec", "260 [16843010, 16843011, 16843012] bbbb [1, 11, 3]"),
    ("exec-with-resource", "260 [16843010, 16843011, 16843012] bbbb [1, 11, 3]"),
    ("opencv", "260 [16843010, 16843011, 16843012] bbbb [1, 11, 3]"),
    ("image-classify", "1 0.75 goldfish, 0 0.25 tench"),
    ("image-classify-by-default", "1 0.75 , 0 0.25 "),
    ("image-detect", "image-detect of 9 bytes, model 6, labels none"),
    ("image-segment", "image-segment of 9 bytes, model 6, labels none"),
    ("image-pose", "image-pose of 9 bytes, model 15, labels none"),
    ("image-depth", "image-depth of 9 bytes, model 6, labels none"),
    ("image-resize", "[1, 2, 3, 1, 2, 3, 4, 5, 6, 4, 5, 6, 1, 2, 3, 1, 2, 3, 4, 5, 6, 4, 5, 6]"),
    ("tf-model", "[1, 2] Some([2.0, 4.0]), [1] Some([2])"),
    ("tflite-model", "[2] Some([2.0, 4.0])"),
    ("torch-model", "[2, 1] Some([2.0, 4.0])"),
    ("onnx-model", "[2] Some([2.0, 4.0]), [] Some([-2])"),
    ("onnx-model-of-any-type", "[2] Some([2.0, 4.0]), [] Some([-2]), [1] [0, 60] of type 12"),
    ("onnx-model-batch", "[2] Some([2.0, 4.0]), [1] Some([6.0])"),
    ("blas-sgemm", "[7.0, 9.0, 1.0, 13.0, 17.0]"),
    ("torch-sgemm", "[7.0, 9.0, 1.0, 13.0, 17.0]"),
    ("fpga-array-copy", "[1, -2, 2147483647]"),
    ("fpga-mmult", "[2.0, 1.0, 4.0, 3.0]"),
    ("fpga-parallel", "[4.0, 6.0] [3.0, 8.0]"),
    ("fpga-vector-add", "[4.0, 6.0]"),
    ("minmax", "-100 200 [-5.0, 3.5, 50.0, 0.0]"),
    ("generic-sgemm", "[7.0, 9.0, 1.0, 13.0, 17.0]"),
    ("generic-minmax", "-100 200 [-5.0, 3.5, 50.0]"),
    ("generic-classify", "75.000% goldfish"),
    ("profile", ""),
    ("profile-without-report", "done"),
];

#[test]
fn a_function_asks_for_every_operation_and_gets_what_the_plugin_makes_of_it() {
    for function in Function::on_each_backend("operations") {
        let asked: Vec<_> = OPERATIONS.iter().map(|(operation, _)| *operation).collect();
        let answers = answers(boot(&function, &Arc::new(session())), &asked);
        for ((operation, expected), (status, body)) in OPERATIONS.iter().zip(answers) {
            assert_eq!((status, body.as_str()), (200, *expected), "{operation}");
        }
    }
}

#[test]
fn an_operation_that_is_not_there_is_an_error_with_the_hosts_words() {
    for function in Function::on_each_backend("operations") {
        let session = Runtime::new(Vec::new()).session();
        session.register("model", Resource::from_bytes(MODEL)).unwrap();
        let machine = boot(&function, &Arc::new(session));
        let asked = ["noop", "generic-sgemm", "generic-nothing", "exec-with-resource", "onnx-model"];
        let expected = [
            "no plugin has noop; no plugin is loaded (status 95)",
            "no plugin has blas-sgemm; no plugin is loaded (status 95)",
            "there is no accelerator operation 250; use one of kernlet_abi::accel::operation (status 95)",
            "the function has no resource \"labels\" (status 2)",
            "no plugin has onnx-model-load; no plugin is loaded (status 95)",
        ];
        for (expected, answer) in expected.iter().zip(answers(machine, &asked)) {
            assert_eq!(answer, (500, (*expected).to_owned()));
        }
    }
}

#[test]
fn the_library_refuses_what_a_call_cannot_say() {
    for function in Function::on_each_backend("operations") {
        let machine = boot(&function, &Arc::new(session()));
        let asked = ["too-many-arguments", "onnx-model-uneven-batch", "onnx-model-options"];
        let [many, uneven, options] = &answers(machine, &asked)[..] else {
            panic!("three answers");
        };
        assert_eq!(options, &(500, "Onnx has no such options or names (status 22)".to_owned()));
        assert_eq!(many, &(500, "the operation got 33 arguments; the most is 32 (status 22)".to_owned()));
        assert_eq!(uneven, &(500, "the sets have different numbers of inputs or outputs (status 22)".to_owned()));
    }
}

#[test]
fn regions_of_the_guest_and_of_the_host_are_one_profile() {
    for mut function in Function::on_each_backend("operations") {
        function.config.environment.push(("VACCEL_PROFILING_ENABLED".to_owned(), "1".to_owned()));
        let session = Arc::new(session());
        session.profile().enable(true);
        let machine = boot(&function, &session);
        // The request before it was rewound away; what it recorded was handed over.
        let answers = answers(machine, &["profile-without-report", "profile", "profile"]);
        let report = |times: u64| {
            format!(
                "inner {} in order, noop (everything) {} in order, outer {times} in order, stopped {times} in order, \
                 unreported 1 in order",
                2 * times,
                2 * times,
            )
        };
        assert_eq!(answers[1..], [(200, report(1)), (200, report(2))]);
        let names: Vec<_> =
            session.profile().regions().into_iter().map(|(name, region)| (name, region.entries)).collect();
        assert_eq!(names.len(), 5, "{names:?}");
        assert!(names.contains(&("inner".to_owned(), 4)) && names.contains(&("unreported".to_owned(), 1)), "{names:?}");
    }
}

/// What the function says of a batch of each operation: the results, then a line for each.
const BATCH: &str = "[7.0, 9.0, 1.0, 13.0, 17.0] [7.0, 9.0, 1.0, 13.0, 17.0] [1, -2, 2147483647] [2.0, 1.0, 4.0, 3.0] \
[4.0, 6.0] [3.0, 8.0] [4.0, 6.0] (-100.0, 200.0) [-5.0, 50.0] [7, 7] 260 [1, 11, 3] [2] Some([2.0, 4.0])
done
done
done
argument 1 (B) of fpga-vector-add is wrong: it has 4 bytes and must have exactly 8 (status 22)
done
done
the operation got 36 arguments; the most is 32 (status 22)
done
done
done
done
done
done";

/// Does everything, and takes several operations at once, which it counts.
#[derive(Debug, Default)]
struct AtOnce(Mutex<Vec<usize>>);

impl Plugin for AtOnce {
    fn name(&self) -> &'static str {
        "at-once"
    }

    fn operations(&self) -> &[Operation] {
        Operation::ALL
    }

    fn cost(&self, task: &Task<'_>) -> Cost {
        Everything.cost(task)
    }

    fn run(&self, task: Task<'_>, deadline: Deadline) -> Result<Done, PluginError> {
        Everything.run(task, deadline)
    }

    fn batch_max(&self) -> usize {
        200
    }

    fn run_batch(&self, tasks: Vec<Task<'_>>, deadline: Deadline) -> Vec<Answer> {
        self.0.lock().unwrap().push(tasks.len());
        Everything.run_batch(tasks, deadline)
    }
}

#[test]
fn a_batch_of_operations_is_one_exit_and_each_has_its_own_outcome() {
    for function in Function::on_each_backend("operations") {
        let at_once = Arc::new(AtOnce::default());
        let plugins: [Arc<dyn Plugin>; 2] = [Arc::new(Everything), Arc::clone(&at_once) as _];
        for plugin in plugins {
            let session = session_of(plugin);
            let exits = |operation: &str| {
                let machine = boot(&function, &session);
                let path = format!("/{operation}");
                let asked = request(&path, b"");
                let (_, Response { status, body, usage, .. }) = machine.invoke(&asked, in_seconds(5)).unwrap();
                (status, String::from_utf8(body).unwrap(), usage.exits)
            };
            // Beside the one that gives the answer; the model is looked up and loaded before.
            assert_eq!(exits("batch"), (200, BATCH.to_owned(), 4));
            assert_eq!(exits("batch-of-many"), (200, "600".to_owned(), 4));
            assert_eq!(exits("batch-of-none"), (200, "[]".to_owned(), 1));
        }
        // One of its operations is wrong, and one never left the function; 600 go as 256, 256 and 88.
        assert_eq!(*at_once.0.lock().unwrap(), [11, 200, 56, 200, 56, 88]);
    }
}

//! How annotations, labels, environment and limits become one configuration, and what is said about bad ones.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use kernlet_image::{
    BlockSettings, ByteSize, CpuShare, FunctionConfig, FunctionSpec, Isolation, Namespace, Overrides, Solo5Mode,
    block_devices,
};

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn problems(pairs: &[(&str, &str)]) -> Vec<String> {
    FunctionConfig::from_annotations(&map(pairs)).unwrap_err().problems().to_vec()
}

#[test]
fn what_an_image_leaves_out_has_its_default() {
    let config = FunctionConfig::from_annotations(&map(&[("org.example", "not ours")])).unwrap();
    assert_eq!(config, FunctionConfig::default());
    assert_eq!(config.memory, ByteSize::mebibytes(32));
    assert_eq!(config.request_limit, ByteSize::mebibytes(8));
    assert_eq!(config.response_limit, ByteSize::mebibytes(8));
    assert_eq!(config.max_inflight, 16);
    assert_eq!(config.exec_timeout, Duration::from_secs(30));
    assert_eq!(config.isolation, Isolation::Rewind);
    assert_eq!((config.cpu.limit(), config.cpu_time, config.accel_time), (None, Duration::ZERO, Duration::ZERO));
    assert_eq!(config.log_rate, 500);
}

#[test]
fn an_image_can_say_everything() {
    let config = FunctionConfig::from_annotations(&map(&[
        ("dev.kernlet.abi", "1"),
        ("dev.kernlet.machine", "native"),
        ("dev.kernlet.memory", "64Mi"),
        ("dev.kernlet.isolation", "fresh"),
        ("dev.kernlet.limits.request", "1Mi"),
        ("dev.kernlet.limits.response", "2M"),
        ("dev.kernlet.limits.inflight", "0"),
        ("dev.kernlet.limits.timeout", "1m30s"),
        ("dev.kernlet.limits.cpu", "500m"),
        ("dev.kernlet.limits.cpu-time", "250ms"),
        ("dev.kernlet.limits.accel-time", "2s"),
        ("dev.kernlet.limits.log-rate", "20"),
        ("dev.kernlet.accel.operations", "sgemm, noop"),
    ]))
    .unwrap();
    assert_eq!(config.memory, ByteSize::mebibytes(64));
    assert_eq!(config.isolation, Isolation::Fresh);
    assert_eq!(config.request_limit.bytes(), 1 << 20);
    assert_eq!(config.response_limit.bytes(), 2_000_000);
    assert_eq!(config.max_inflight, 0);
    assert_eq!(config.exec_timeout, Duration::from_secs(90));
    assert_eq!(config.cpu, CpuShare::millis(500));
    assert_eq!(config.cpu_time, Duration::from_millis(250));
    assert_eq!(config.accel_time, Duration::from_secs(2));
    assert_eq!(config.log_rate, 20);
    assert_eq!(Vec::from_iter(&config.operations), ["noop", "sgemm"]);
}

#[test]
fn a_solo5_server_says_where_it_serves() {
    let default = FunctionConfig::default().solo5;
    assert_eq!(
        (default.mode, default.ipv4.to_string().as_str(), default.port),
        (Solo5Mode::Command, "10.0.0.2/24", 8080)
    );
    assert_eq!(default.arguments, "--ipv4={ipv4}");
    let said = FunctionConfig::from_annotations(&map(&[
        ("dev.kernlet.solo5.mode", "server"),
        ("dev.kernlet.solo5.ipv4", "192.168.1.1/30"),
        ("dev.kernlet.solo5.port", "80"),
        ("dev.kernlet.solo5.arguments", "{\"addr\":\"{address}\"}"),
    ]));
    let said = said.unwrap();
    assert_eq!((said.solo5.mode, said.solo5.port), (Solo5Mode::Server, 80));
    assert_eq!((said.solo5.ipv4.address().octets(), said.solo5.ipv4.prefix()), ([192, 168, 1, 1], 30));
    let stored = serde_json::to_string(&said).unwrap();
    assert_eq!(serde_json::from_str::<FunctionConfig>(&stored).unwrap(), said);
    for (key, value, why) in [
        ("mode", "Server", "use command or server"),
        ("port", "65536", "write it as 8080"),
        ("port", "+80", "write it as 8080"),
        ("ipv4", "10.0.0.2", "it says no network"),
        ("ipv4", "fe80::1/64", "it is not IPv4"),
        ("ipv4", "10.0.0.2/31", "8 to 30 bits"),
        ("ipv4", "10.0.0.2/+24", "8 to 30 bits"),
        ("ipv4", "127.0.0.1/24", "not a private one"),
        ("ipv4", "10.1.2.0/24", "the network's own"),
        ("ipv4", "10.1.2.255/24", "broadcast"),
        ("arguments", "a\nb", "no control characters"),
        ("arguments", &"x".repeat(4097), "at most 4096 bytes"),
    ] {
        let found = problems(&[(&format!("dev.kernlet.solo5.{key}"), value)]);
        assert!(found.len() == 1 && found[0].contains(why), "{key}={value}: {found:?}");
    }
}

#[test]
fn every_bad_value_is_reported_not_only_the_first() {
    let found = problems(&[
        ("dev.kernlet.memory", "12Q"),
        ("dev.kernlet.isolation", "clean"),
        ("dev.kernlet.limits.inflight", "-1"),
        ("dev.kernlet.limits.timeout", "soon"),
        ("dev.kernlet.limits.cpu", "half"),
        ("dev.kernlet.limits.cpu-time", "-1s"),
        ("dev.kernlet.limits.accel-time", "1 minute"),
        ("dev.kernlet.limits.log-rate", "1.5"),
        ("dev.kernlet.memroy", "1Mi"),
        ("dev.kernlet.abi", "7"),
        ("dev.kernlet.machine", "toaster"),
        ("dev.kernlet.accel.operations", "a b"),
    ]);
    let said = |text: &str| assert!(found.iter().any(|problem| problem.contains(text)), "{text} in {found:#?}");
    assert_eq!(found.len(), 12);
    said("dev.kernlet.memory: \"12Q\" is not a size; write it as 32Mi");
    said("dev.kernlet.isolation: \"clean\" is not an isolation mode: use rewind, fresh or reuse");
    said("dev.kernlet.limits.inflight: \"-1\" is not a number of requests");
    said("dev.kernlet.limits.timeout: \"soon\" is not a duration; write it as 30s");
    said("dev.kernlet.limits.cpu: \"half\" is not a share of processors; write it as 500m");
    said("dev.kernlet.limits.cpu-time: \"-1s\" is negative");
    said("dev.kernlet.limits.accel-time: \"1 minute\" is not a duration");
    said("dev.kernlet.limits.log-rate: \"1.5\" is not a number of log lines a second; write it as 500");
    said("dev.kernlet.memroy is unknown; known are dev.kernlet.abi, ");
    said("dev.kernlet.abi: \"7\" is another version");
    said("dev.kernlet.machine: \"toaster\" is not a machine type");
    said("dev.kernlet.accel.operations: \"a b\" is not an operation's name");
}

#[test]
fn memory_that_no_machine_can_have_is_refused_with_the_bounds() {
    for (memory, says) in
        [("1Mi", "use 4Mi to 3Gi"), ("4Gi", "use 4Mi to 3Gi"), ("10Mi", "cannot hold a request of 8Mi")]
    {
        let found = problems(&[("dev.kernlet.memory", memory)]);
        assert!(found[0].contains(says), "{found:?}");
    }
    FunctionConfig::from_annotations(&map(&[("dev.kernlet.memory", "11Mi")])).unwrap();
}

#[test]
fn a_deployment_overrides_its_image_and_openfaas_own_fields_override_annotations() {
    let image = FunctionConfig::from_annotations(&map(&[
        ("dev.kernlet.limits.request", "1Mi"),
        ("dev.kernlet.memory", "16Mi"),
    ]))
    .unwrap();
    let config = image
        .overridden_by(&Overrides {
            labels: &map(&[
                ("dev.kernlet.memory", "20Mi"),
                ("dev.kernlet.limits.timeout", "1s"),
                ("dev.kernlet.limits.cpu", "2"),
                ("app", "x"),
            ]),
            annotations: &map(&[("dev.kernlet.memory", "24Mi"), ("dev.kernlet.isolation", "fresh"), ("topic", "x")]),
            environment: &map(&[("exec_timeout", "10"), ("max_inflight", "2"), ("OTHER", "12Q")]),
            memory_limit: Some("48Mi"),
            cpu_limit: Some("1.5"),
        })
        .unwrap();
    assert_eq!(config.request_limit, ByteSize::mebibytes(1));
    assert_eq!(config.isolation, Isolation::Fresh);
    assert_eq!(config.memory, ByteSize::mebibytes(48));
    assert_eq!(config.exec_timeout, Duration::from_secs(10));
    assert_eq!(config.max_inflight, 2);
    assert_eq!(config.cpu, CpuShare::millis(1500));
}

#[test]
fn an_agent_is_asked_for_by_a_name_and_never_by_an_address() {
    let config = FunctionConfig::from_annotations(&map(&[("dev.kernlet.accel.agent", "gpu-1.lab")])).unwrap();
    assert_eq!(config.agent.as_deref(), Some("gpu-1.lab"));
    let long = "a".repeat(65);
    for address in ["tcp://127.0.0.1:22", "unix:///run/docker.sock", "/run/a", "a:1", "", &long] {
        let found = problems(&[("dev.kernlet.accel.agent", address)]);
        assert!(found[0].contains("is not an agent's name"), "{found:?}");
    }
}

#[test]
fn a_bad_override_is_reported_under_the_name_its_author_used() {
    let error = FunctionConfig::default()
        .overridden_by(&Overrides {
            labels: &map(&[("dev.kernlet.limits.request", "x")]),
            annotations: &map(&[]),
            environment: &map(&[("exec_timeout", "x"), ("max_inflight", "many")]),
            memory_limit: Some("100m"),
            cpu_limit: Some("64Mi"),
        })
        .unwrap_err();
    let starts: Vec<&str> = error.problems().iter().filter_map(|problem| problem.split(':').next()).collect();
    assert_eq!(starts, ["dev.kernlet.limits.request", "exec_timeout", "max_inflight", "limits.memory", "limits.cpu"]);
    assert!(error.to_string().contains("; "));
}

#[test]
fn a_specification_survives_its_way_to_the_watchdog() {
    let blocks = [("storage".to_owned(), "copy-on-write=1Mi,sector=4096".parse().unwrap())].into();
    let spec = FunctionSpec {
        name: "echo".parse().unwrap(),
        namespace: Namespace::default(),
        replica: 3,
        image: "echo:latest".to_owned(),
        digest: format!("sha256:{}", "0".repeat(64)),
        kernel: PathBuf::from("/k"),
        resources: vec![("model".to_owned(), PathBuf::from("/m"))],
        blocks: vec![("storage".to_owned(), PathBuf::from("/b"))],
        config: FunctionConfig { isolation: Isolation::Fresh, blocks, ..FunctionConfig::default() },
        environment: map(&[("A", "b")]),
        template: None,
    };
    let text = serde_json::to_string(&spec).unwrap();
    assert!(
        text.contains("\"memory\":\"32Mi\"") && text.contains("\"exec_timeout\":\"30s\"") && text.contains("\"fresh\"")
    );
    assert_eq!(serde_json::from_str::<FunctionSpec>(&text).unwrap(), spec);
    assert!(serde_json::from_str::<FunctionSpec>(&text.replace("\"echo\"", "\"Echo\"")).is_err());
}

#[test]
fn a_deployment_stored_before_a_limit_existed_has_its_default() {
    let stored = r#"{"memory":"64Mi","isolation":"rewind","request_limit":"1Mi","response_limit":"1Mi",
        "max_inflight":4,"exec_timeout":"10s","operations":[]}"#;
    let config: FunctionConfig = serde_json::from_str(stored).unwrap();
    let expected = FunctionConfig {
        memory: ByteSize::mebibytes(64),
        request_limit: ByteSize::mebibytes(1),
        response_limit: ByteSize::mebibytes(1),
        max_inflight: 4,
        exec_timeout: Duration::from_secs(10),
        ..FunctionConfig::default()
    };
    assert_eq!(config, expected);
}

#[test]
fn a_block_device_reads_the_same_once_it_is_written_out() {
    for (text, written) in [
        ("read-only", "read-only"),
        ("read-only,sector=4096", "read-only,sector=4096"),
        ("copy-on-write", "copy-on-write=16Mi"),
        ("copy-on-write=1Mi,sector=512", "copy-on-write=1Mi"),
        ("scratch=65536", "scratch=64Ki"),
    ] {
        let settings: BlockSettings = text.parse().unwrap();
        assert_eq!(settings.to_string(), written);
        assert_eq!(written.parse::<BlockSettings>().unwrap(), settings);
    }
    for wrong in [
        "",
        "writable",
        "scratch",
        "read-only=1",
        "scratch=x",
        "read-only,",
        "read-only,sector=513",
        "scratch=1Mi,sector=512,",
    ] {
        assert!(wrong.parse::<BlockSettings>().is_err(), "{wrong}");
    }
}

#[test]
fn every_block_device_has_its_file_and_whole_blocks() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, size: usize| {
        let path = folder.path().join(name);
        std::fs::write(&path, vec![0; size]).unwrap();
        (name.to_owned(), path)
    };
    let devices = |settings: &[(&str, &str)], files: &[(String, PathBuf)]| {
        let settings = settings.iter().map(|(name, text)| ((*name).to_owned(), text.parse().unwrap())).collect();
        block_devices(&settings, files).map_err(|error| error.problems().to_vec())
    };
    let found = devices(&[("a", "scratch=1Mi")], &[file("b", 512)]).unwrap();
    assert_eq!(found.iter().map(|device| device.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!((found[0].file.is_some(), found[1].settings), (false, BlockSettings::default()));
    let all = [("a", "read-only"), ("b", "scratch=1Mi"), ("c", "read-only,sector=1024"), ("d", "copy-on-write=1Ki")];
    let problems = devices(&all, &[file("b", 512), file("c", 1536), file("d", 512), file("e", 0)]).unwrap_err();
    for (problem, text) in problems.iter().zip([
        "block.a: read-only needs a file",
        "block.b: the image has a file for it, which scratch has not",
        "block.c: it has 1536 bytes, no whole number of blocks of 1024 bytes",
        "block.d: a machine could write 1Ki over it; the least is 4Ki",
        "block.e: it has 0 bytes, less than one block of 512",
    ]) {
        assert!(problem.contains(text), "{problem}");
    }
    assert_eq!(problems.len(), 5);
}

//! Templates in files: loaded as they were saved, or refused with the reason.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use common::{Function, MIB, in_seconds, request};
use kernlet_accel::{Resource, Runtime, Session};
use kernlet_monitor::{LoadError, Machine, MachineConfig, Template, TemplateKey, Unikernel};
use tempfile::TempDir;

/// A function whose template is in a file.
struct Saved {
    function: Function,
    accel: Session,
    folder: TempDir,
    bytes: Vec<u8>,
}

impl Saved {
    fn new(name: &str) -> Option<Self> {
        let function = Function::new(name)?;
        let (template, _) = function.template().unwrap();
        let mut saved = Self {
            function,
            accel: Runtime::new(Vec::new()).session(),
            folder: tempfile::tempdir().unwrap(),
            bytes: Vec::new(),
        };
        saved.bytes = saved.write(&template);
        Some(saved)
    }

    fn key(&self) -> TemplateKey {
        let Function { hypervisor, unikernel, config, .. } = &self.function;
        TemplateKey::new(hypervisor, unikernel, config, &self.accel, "sha256:image")
    }

    fn write(&self, template: &Template) -> Vec<u8> {
        let path = self.folder.path().join("template");
        template.save(&File::create(&path).unwrap(), &self.key()).unwrap();
        fs::read(path).unwrap()
    }

    fn load(&self) -> Template {
        self.try_load(&self.bytes).unwrap()
    }

    fn try_load(&self, bytes: &[u8]) -> Result<Template, LoadError> {
        let Function { hypervisor, unikernel, config, .. } = &self.function;
        Template::load(bytes, &self.key(), hypervisor, unikernel, config)
    }

    fn machine(&self, template: &Template) -> Machine {
        template.machine(&self.function.hypervisor, self.function.services()).unwrap()
    }
}

#[test]
fn a_loaded_template_is_the_one_that_was_saved() {
    let Some(saved) = Saved::new("faults") else { return };
    let template = saved.load();
    assert!(saved.write(&template) == saved.bytes, "saving a loaded template makes the same file");
    let mut machine = saved.machine(&template);
    machine.audit().expect("a machine of a loaded template is that template");
    for seed in 0..50_u64 {
        let body = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes().repeat(100);
        let (used, response) = machine.invoke(&request("/scribble", &body), in_seconds(10)).unwrap();
        assert!(response.body == body, "round {seed}");
        machine = used.rewind().unwrap();
        machine.audit().unwrap_or_else(|difference| panic!("round {seed}: {difference} differs from the template"));
    }
    // What the booted template's machine counts, the loaded one's counts as well.
    let (_, counted) = machine.invoke(&request("/count", b""), in_seconds(5)).unwrap();
    assert_eq!(counted.body, b"1");
}

#[test]
fn machines_of_loaded_templates_never_draw_the_same_bytes() {
    let Some(saved) = Saved::new("faults") else { return };
    let (one, other) = (saved.load(), saved.load());
    let mut drawn = BTreeSet::new();
    for template in [&one, &one, &other] {
        let mut machine = saved.machine(template);
        for _ in 0..2 {
            let (used, response) = machine.invoke(&request("/entropy", b""), in_seconds(5)).unwrap();
            assert_eq!(response.body.len(), 32);
            assert!(drawn.insert(response.body), "the same bytes twice");
            machine = used.rewind().unwrap();
        }
    }
}

#[test]
fn the_clock_of_a_loaded_template_is_the_hosts_at_each_request() {
    let Some(saved) = Saved::new("tour") else { return };
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let mut machine = saved.machine(&saved.load());
    for _ in 0..2 {
        let before = now();
        let (used, response) = machine.invoke(&request("/clock", b""), in_seconds(5)).unwrap();
        let text = String::from_utf8(response.body).unwrap();
        let (wall, since_first) = text.trim().split_once(' ').unwrap();
        let wall = Duration::from_nanos(wall.parse().unwrap());
        assert!((before..=now()).contains(&wall), "{wall:?} is not between {before:?} and now");
        let since_first = Duration::from_nanos(since_first.parse().unwrap());
        assert!(since_first <= now() - before, "the first request began {since_first:?} ago");
        machine = used.rewind().unwrap();
    }
}

#[test]
fn a_saved_template_does_not_hold_the_environment() {
    let Some(mut function) = Function::new("echo") else { return };
    function.config.environment.push(("TOKEN".to_owned(), "a-secret-that-nobody-reads".to_owned()));
    let (template, _) = function.template().unwrap();
    let accel = Runtime::new(Vec::new()).session();
    let key = TemplateKey::new(&function.hypervisor, &function.unikernel, &function.config, &accel, "");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("template");
    template.save(&File::create(&path).unwrap(), &key).unwrap();
    let bytes = fs::read(path).unwrap();
    assert!(!bytes.windows(13).any(|part| part == b"a-secret-that"));
}

#[test]
fn a_template_of_something_else_is_refused_with_what_it_is_of() {
    let Some(saved) = Saved::new("echo") else { return };
    let Function { hypervisor, unikernel, config, .. } = &saved.function;
    let refused = |unikernel: &Unikernel, config: &MachineConfig, accel: &Session, origin: &str| {
        let key = TemplateKey::new(hypervisor, unikernel, config, accel, origin);
        match Template::load(&saved.bytes[..], &key, hypervisor, unikernel, config) {
            Err(error @ LoadError::Stale { .. }) => error.to_string(),
            other => panic!("{other:?}"),
        }
    };
    let accel = |resources: &[(&str, &str)]| {
        let session = Runtime::new(Vec::new()).session();
        for (name, contents) in resources {
            session.register(name, Resource::from_bytes(contents.as_bytes())).unwrap();
        }
        session
    };
    let (none, image) = (accel(&[]), "sha256:image");
    let another = Unikernel::parse(&common::elf("tour")).unwrap();
    assert!(refused(&another, config, &none, image).contains("another unikernel"));
    let larger = MachineConfig { memory: config.memory + MIB, ..config.clone() };
    assert!(refused(unikernel, &larger, &none, image).contains("another memory size"));
    let settings = "other limits, resources or environment variables";
    for changed in [
        MachineConfig { request_limit: 1, ..config.clone() },
        MachineConfig { response_limit: 1, ..config.clone() },
        MachineConfig { environment: vec![("GREETING".to_owned(), "hullo".to_owned())], ..config.clone() },
        MachineConfig { environment: Vec::new(), ..config.clone() },
    ] {
        assert!(refused(unikernel, &changed, &none, image).contains(settings), "{changed:?}");
    }
    assert!(refused(unikernel, config, &none, "sha256:other").contains(settings));
    let key = |resources: &[(&str, &str)]| TemplateKey::new(hypervisor, unikernel, config, &accel(resources), image);
    let pair = [("model", "abc"), ("labels", "d")];
    assert!(refused(unikernel, config, &accel(&pair), image).contains(settings));
    assert_eq!(key(&pair), key(&pair));
    // Ids follow the order; a guest may have kept them.
    for other in [[("labels", "d"), ("model", "abc")], [("model", "abcd"), ("labels", "d")], [("m", "abc"), pair[1]]] {
        assert_ne!(key(&pair), key(&other), "{other:?}");
    }
}

#[test]
fn a_template_that_is_not_whole_is_refused() {
    let Some(saved) = Saved::new("echo") else { return };
    let whole = &saved.bytes;
    for len in (0..whole.len()).step_by(997).chain([whole.len() - 1]) {
        let error = saved.try_load(&whole[..len]).expect_err("cut short");
        assert!(matches!(error, LoadError::Unfinished | LoadError::Damaged { .. }), "{len} bytes: {error}");
        // As its writer leaves it until it has come to the end.
        let headless = [&[0; 176][..len.min(176)], &whole[len.min(176)..len]].concat();
        assert!(matches!(saved.try_load(&headless), Err(LoadError::Unfinished)), "{len} bytes");
    }
    for at in (0..whole.len()).step_by(499).chain(0..16).chain(176..600) {
        let mut changed = whole.clone();
        changed[at] ^= 0x10;
        assert!(saved.try_load(&changed).is_err(), "byte {at} changed");
    }
    assert!(matches!(saved.try_load(&[whole, &[0][..]].concat()), Err(LoadError::Damaged { .. })));
    assert!(saved.try_load(whole).is_ok());
}

#[test]
fn a_full_disk_is_an_error_of_saving() {
    let Some(saved) = Saved::new("echo") else { return };
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let error = saved.load().save(&full, &saved.key()).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
}

#[test]
fn a_machine_of_a_kept_shell_is_the_template() {
    let Some(saved) = Saved::new("faults") else { return };
    saved.function.hypervisor.keep_shells().unwrap();
    let template = saved.load();
    // More than are kept, on threads that did not make the shells.
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..5 {
                    let mut machine = saved.machine(&template);
                    machine.audit().expect("a new machine is the template");
                    let (_, response) = machine.invoke(&request("/count", b""), in_seconds(10)).unwrap();
                    assert_eq!(response.body, b"1");
                }
            });
        }
    });
}

//! Several processes on one store, and processes that die in the middle of an import. The child of these tests
//! is this very program, told by its environment what to do.

use std::{
    env, fs,
    path::Path,
    process::{self, Child, Command},
};

use kernlet_image::{ImageParts, Store};

use crate::forge::{Home, chain, names, reference};

const HOME: &str = "KERNLET_TEST_HOME";
const NAME: &str = "KERNLET_TEST_NAME";
const DIE_AT: &str = "KERNLET_TEST_DIE_AT";

/// How the child ends when it is told to die.
const DIED: i32 = 9;

fn child(home: &Path, name: &str, die_at: Option<usize>) -> Child {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", "processes::import_as_a_child", "--ignored", "--quiet"]);
    command.env(HOME, home).env(NAME, name).stdout(process::Stdio::null());
    if let Some(step) = die_at {
        command.env(DIE_AT, step.to_string());
    }
    command.spawn().unwrap()
}

fn parts(home: &Path, kernel: &str) -> ImageParts {
    ImageParts {
        kernel: kernel.as_bytes().to_vec(),
        resources: vec![("model".to_owned(), home.join("model"))],
        ..ImageParts::default()
    }
}

#[test]
#[ignore = "it is the child of the other tests"]
fn import_as_a_child() {
    let (Some(home), Ok(name)) = (env::var_os(HOME), env::var(NAME)) else {
        return;
    };
    let die_at: Option<usize> = env::var(DIE_AT).ok().map(|step| step.parse().unwrap());
    let home = Path::new(&home);
    let mut step = 0;
    let result = Store::open(home).unwrap().import(&reference(&name), parts(home, &name), &mut |_| {
        if die_at == Some(step) {
            // Ends the process without any cleaning up, as a kill would.
            process::exit(DIED);
        }
        step += 1;
    });
    if let Err(error) = result {
        panic!("{}", chain(&error));
    }
}

#[test]
fn processes_that_import_at_the_same_time_all_succeed() {
    let home = Home::new();
    home.file("model", &vec![1; 2_000_000]);
    let children: Vec<Child> = (0..5).map(|number| child(home.path(), &format!("image:{number}"), None)).collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let listing = home.store.list().unwrap();
    assert_eq!((listing.images.len(), listing.broken.len()), (5, 0));
    for image in listing.images {
        let unpacked = home.store.unpack(&image.reference).unwrap();
        assert_eq!(fs::read_to_string(unpacked.kernel).unwrap(), image.reference.to_string());
    }
}

#[test]
fn a_process_killed_while_importing_leaves_a_usable_store() {
    let home = Home::new();
    home.file("model", &vec![1; 1_000_000]);
    home.import("before", parts(home.path(), "before"));
    let mut died = 0;
    // The kernel is one step and the model four of them; step 5 never comes, so that child succeeds.
    for step in 0..=5 {
        let status = child(home.path(), "victim", Some(step)).wait().unwrap();
        if status.code() == Some(DIED) {
            died += 1;
            let listing = home.store.list().unwrap();
            assert_eq!((listing.images.len(), listing.broken.len()), (1, 0), "step {step}");
            assert!(!names(&home.path().join("images/tmp")).is_empty(), "step {step} left nothing to clean up");
        } else {
            assert!(status.success(), "step {step}");
        }
    }
    assert_eq!(died, 5);
    home.store.unpack(&reference("before")).unwrap();
    home.store.unpack(&reference("victim")).unwrap();
    assert!(names(&home.path().join("images/tmp")).is_empty(), "the import that succeeded has cleaned up");
    home.store.remove(&reference("victim")).unwrap();
    home.store.remove(&reference("before")).unwrap();
    assert!(names(&home.blobs()).is_empty());
}

#[test]
fn what_a_killed_process_left_is_ignored_and_then_cleaned_up() {
    let home = Home::new();
    home.import("echo", home.parts(b"kernel", &[]));
    fs::write(home.path().join("images/tmp/.tmpHalf"), b"half a blob").unwrap();
    fs::write(home.blobs().join("f".repeat(64)), b"a blob that no manifest names").unwrap();
    let half = home.path().join("unpacked/.tmp-half/resources");
    fs::create_dir_all(&half).unwrap();
    fs::write(half.join("model"), b"half a model").unwrap();

    assert_eq!(home.store.list().unwrap().images.len(), 1);
    home.store.unpack(&reference("echo")).unwrap();
    home.store.remove(&reference("echo")).unwrap();
    for folder in ["images/tmp", "images/blobs/sha256", "unpacked"] {
        assert!(names(&home.path().join(folder)).is_empty(), "{folder}");
    }
}

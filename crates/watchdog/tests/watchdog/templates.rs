//! Templates in files: one process boots the function, the next ones do not.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    thread,
};

use tempfile::TempDir;

use crate::support::{Deployment, Watchdog, kvm};

/// A folder with a place for a template.
fn place() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tour");
    (folder, path)
}

/// A watchdog of `functions/tour`, which says at `/start` when it was booted.
fn serve(template: &Path) -> Watchdog {
    let mut deployment = Deployment::tour().env("write_debug", "true");
    deployment.spec.template = Some(template.to_owned());
    deployment.serve()
}

/// When the function was booted.
fn booted(watchdog: &Watchdog) -> String {
    let answer = watchdog.get("/start");
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.text().to_owned()
}

/// The head is written last.
fn wait_for_template(path: &Path) {
    while !fs::read(path).is_ok_and(|bytes| bytes.starts_with(b"KERNLETT")) {
        thread::yield_now();
    }
}

fn log_line(watchdog: &Watchdog, words: &str) -> String {
    let line = watchdog.log_line(|line| line["text"].as_str().unwrap().contains(words));
    line["level"].as_str().unwrap().to_owned()
}

#[test]
fn a_function_that_was_booted_once_is_not_booted_by_the_next_process() {
    if !kvm() {
        return;
    }
    let (_folder, path) = place();
    let first = serve(&path);
    let at = booted(&first);
    wait_for_template(&path);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let second = serve(&path);
    assert_eq!(log_line(&second, "machines are made of the template"), "debug");
    assert_eq!(booted(&second), at);
    drop(first);
    let third = serve(&path);
    assert_eq!(booted(&third), at);
    let entropy: Vec<_> = [&second, &third, &third].iter().map(|watchdog| watchdog.get("/entropy").body).collect();
    assert!(entropy[0] != entropy[1] && entropy[1] != entropy[2] && entropy[0] != entropy[2]);
}

#[test]
fn a_saved_template_that_cannot_be_used_is_replaced() {
    if !kvm() {
        return;
    }
    let (_folder, path) = place();
    let first = serve(&path);
    let at = booted(&first);
    wait_for_template(&path);
    drop(first);
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let second = serve(&path);
    assert_eq!(log_line(&second, "the saved template is damaged"), "warn");
    let again = booted(&second);
    assert_ne!(again, at, "it was booted again");
    wait_for_template(&path);
    drop(second);
    // Another environment is another function.
    let mut deployment = Deployment::tour().env("write_debug", "true").env("NAME", "value");
    deployment.spec.template = Some(path.clone());
    let third = deployment.serve();
    assert_eq!(log_line(&third, "the saved template is of other limits"), "info");
    assert_ne!(booted(&third), again);
    assert_eq!(third.get("/env/NAME").text().trim(), "value");
    wait_for_template(&path);
    drop(third);
    // What its writer never finished.
    fs::write(&path, [0; 4096]).unwrap();
    let fourth = serve(&path);
    assert_eq!(log_line(&fourth, "was not written to its end"), "info");
    booted(&fourth);
}

#[test]
fn a_template_that_cannot_be_saved_costs_no_request() {
    if !kvm() {
        return;
    }
    let (folder, path) = place();
    let watchdog = serve(&folder.path().join("missing").join("tour"));
    assert_eq!(log_line(&watchdog, "the template cannot be saved"), "warn");
    booted(&watchdog);
    // Nor does a file that is none, or another's behind a link.
    fs::create_dir(&path).unwrap();
    let watchdog = serve(&path);
    assert_eq!(log_line(&watchdog, "the saved template cannot be read"), "warn");
    booted(&watchdog);
    let (link, target) = (folder.path().join("link"), folder.path().join("target"));
    fs::write(&target, "another's").unwrap();
    std::os::unix::fs::symlink(&target, &link).unwrap();
    let watchdog = serve(&link);
    assert_eq!(log_line(&watchdog, "the saved template cannot be read"), "warn");
    booted(&watchdog);
    wait_for_template(&link);
    assert_eq!(fs::read(&target).unwrap(), b"another's");
}

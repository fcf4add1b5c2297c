//! The main job, as a stranger meets it: one command, and a photograph has its labels.
//! Labels and probabilities are held against `models/expected.tsv`. It never looks inside the platform.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::io::{BufRead as _, BufReader, Read};
use std::process::{Child, Command, Stdio};

use common::{Platform, home, kernlet, kvm_is_usable, picture, root, stdout, succeeded};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// How far a probability may be from the reference's.
const TOLERANCE: f64 = 0.02;

/// A line of `models/expected.tsv`: a picture and its five likeliest labels.
struct Expected {
    picture: String,
    top: Vec<(u64, String, f64)>,
}

fn expected() -> Vec<Expected> {
    let table = std::fs::read_to_string(root().join("models/expected.tsv")).unwrap();
    let pictures: Vec<Expected> = table.lines().skip(1).map(parse_line).collect();
    assert_eq!(pictures.len(), 3);
    pictures
}

fn parse_line(line: &str) -> Expected {
    let mut cells = line.split('\t');
    let picture = cells.next().unwrap().strip_prefix("pictures/").unwrap().to_owned();
    let cells: Vec<&str> = cells.collect();
    let top =
        cells.chunks_exact(3).map(|cell| (cell[0].parse().unwrap(), cell[1].to_owned(), cell[2].parse().unwrap()));
    Expected { picture, top: top.collect() }
}

/// Holds an answer of `classify` against the reference: the top label is equal, every probability near.
#[track_caller]
fn agrees(answer: &Value, expected: &Expected) {
    let predictions = answer["predictions"].as_array().unwrap();
    assert_eq!(predictions.len(), 5, "{answer}");
    let (class, label, _) = &expected.top[0];
    assert_eq!(
        (predictions[0]["class"].as_u64(), predictions[0]["label"].as_str()),
        (Some(*class), Some(label.as_str())),
        "{answer}"
    );
    for (class, label, probability) in &expected.top {
        let found = predictions.iter().find(|prediction| prediction["class"].as_u64() == Some(*class));
        // A label below the tolerance may have lost its place to a neighbour.
        let found = found.map_or(0.0, |prediction| prediction["probability"].as_f64().unwrap());
        assert!(
            (found - probability).abs() <= TOLERANCE,
            "{}: {label} is {found}, expected {probability}",
            expected.picture
        );
    }
}

#[test]
fn the_demo_classifies_its_picture_and_shows_where_the_time_went() {
    if !kvm_is_usable() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let shown = stdout(&succeeded(kernlet().arg("demo").arg("--home").arg(home.path()).output().unwrap()));
    let cat = &expected()[0];
    let first_label = shown.lines().find(|line| line.contains('%')).unwrap();
    assert!(first_label.contains(&cat.top[0].1), "{shown}");
    let percent: f64 = first_label.split('%').next().unwrap().trim().parse().unwrap();
    assert!((percent / 100.0 - cat.top[0].2).abs() <= TOLERANCE, "{shown}");
    assert_eq!(shown.lines().filter(|line| line.contains(" %  ")).count(), 5, "{shown}");
    for stage in ["gateway", "watchdog", "guest", "accelerator"] {
        let line = shown
            .lines()
            .find(|line| line.trim_start().starts_with(stage))
            .unwrap_or_else(|| panic!("no {stage} in\n{shown}"));
        let times: Vec<f64> = line.split_whitespace().skip(1).map(|time| time.parse().unwrap()).collect();
        assert_eq!(times.len(), 2, "{shown}");
        assert!(times.iter().all(|time| *time > 0.0), "{shown}");
    }
    assert!(shown.contains("hello, unikernel"), "{shown}");
    assert!(shown.contains("curl --data-binary @models/pictures/cat.jpg http://127.0.0.1:"), "{shown}");
}

/// Starts the demo and reads what it prints, on stdout or stderr, until a line begins with `until`.
fn demo_until(mut command: Command, stderr: bool, until: &str) -> (Child, Vec<String>) {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let (read, other): (Box<dyn Read + Send>, Box<dyn Read + Send>) =
        if stderr { (Box::new(err), Box::new(out)) } else { (Box::new(out), Box::new(err)) };
    std::thread::spawn(move || std::io::copy(&mut BufReader::new(other), &mut std::io::sink()));
    let mut lines = BufReader::new(read).lines();
    let mut seen = Vec::new();
    while seen.last().is_none_or(|line: &String| !line.starts_with(until)) {
        seen.push(lines.next().unwrap_or_else(|| panic!("no {until:?} in {seen:#?}")).unwrap());
    }
    std::thread::spawn(move || lines.for_each(drop));
    (child, seen)
}

#[test]
fn a_demo_that_is_kept_stays_up_until_it_is_told_to_stop() {
    if !kvm_is_usable() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let mut command = kernlet();
    command.args(["demo", "--keep", "--home"]).arg(home.path());
    let (mut demo, seen) = demo_until(command, false, "  faas-cli login");
    let stays = seen.iter().find(|line| line.starts_with("the platform stays up at ")).unwrap();
    let url = stays.split_whitespace().find(|word| word.starts_with("http://")).unwrap();
    let listed = kernlet().args(["list", "--gateway", url, "--home"]).arg(home.path()).output().unwrap();
    assert_eq!(stdout(&succeeded(listed)).lines().count(), 3);
    kill_process(Pid::from_child(&demo), Signal::INT).unwrap();
    assert_eq!(demo.wait().unwrap().code(), Some(0));
}

#[test]
fn an_interrupted_demo_leaves_nothing_behind() {
    if !kvm_is_usable() {
        return;
    }
    let temporary = tempfile::tempdir().unwrap();
    let mut command = kernlet();
    command.arg("demo").env("TMPDIR", temporary.path());
    let (mut demo, _) = demo_until(command, true, "build functions/classify ...");
    kill_process(Pid::from_child(&demo), Signal::INT).unwrap();
    assert_eq!(demo.wait().unwrap().code(), Some(1));
    assert_eq!(std::fs::read_dir(temporary.path()).unwrap().count(), 0);
}

#[test]
fn every_picture_gets_the_labels_of_the_reference() {
    if !kvm_is_usable() {
        return;
    }
    let home = home();
    let platform = Platform::start(home.path());
    platform.deploy("classify");
    for expected in expected() {
        let output =
            platform.command().args(["invoke", "classify", "--body"]).arg(picture(&expected.picture)).output().unwrap();
        let answer: Value = serde_json::from_slice(&succeeded(output).stdout).unwrap();
        agrees(&answer, &expected);
    }
}

#[test]
fn classify_answers_in_text_when_asked_for_text() {
    if !kvm_is_usable() {
        return;
    }
    let home = home();
    let platform = Platform::start(home.path());
    platform.deploy("classify");
    let output = platform
        .command()
        .args(["invoke", "classify", "--header", "Accept: text/plain", "--body"])
        .arg(picture("coffee.jpg"))
        .output()
        .unwrap();
    let text = stdout(&succeeded(output));
    assert!(text.contains("espresso") && serde_json::from_str::<Value>(&text).is_err(), "{text}");
}

//! The program as people and scripts type it: exit codes, streams, tables, JSON, completions.
//! It never needs a function to run, except where the subcommand is about one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::process::Stdio;

use common::{Platform, failed, home, kernlet, kvm_is_usable, stderr, stdout, succeeded};
use serde_json::Value;

#[test]
fn help_names_every_subcommand_the_environment_and_the_exit_codes() {
    let help = stdout(&succeeded(kernlet().arg("--help").output().unwrap()));
    let subcommands = [
        "demo",
        "up",
        "build",
        "images",
        "rmi",
        "run",
        "deploy",
        "list",
        "describe",
        "invoke",
        "logs",
        "scale",
        "remove",
        "doctor",
        "completions",
    ];
    for part in subcommands.iter().chain(&["KERNLET_HOME", "OPENFAAS_URL", "NO_COLOR", "Exit codes:", "Examples:"]) {
        assert!(help.contains(part), "{part} is not in\n{help}");
    }
}

#[test]
fn a_wrong_command_line_ends_with_exit_code_2() {
    for args in [
        &["frobnicate"][..],
        &["deploy", "x"],
        &["list", "--gateway", "https://faas.example"],
        &["invoke", "x", "--path", "no-slash"],
    ] {
        let output = kernlet().args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
    }
    let refused = stderr(&kernlet().args(["list", "--gateway", "https://faas.example"]).output().unwrap());
    assert!(refused.contains("does not speak TLS"), "{refused}");
}

#[test]
fn a_gateway_that_is_not_there_is_named_with_what_to_do() {
    // Bound and dropped: a port that nobody listens on.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{port}");
    let said = failed(&kernlet().args(["list", "--gateway", &url]).output().unwrap());
    assert!(said.contains(&url) && said.contains("kernlet up"), "{said}");
}

#[test]
fn wrong_credentials_are_refused_with_what_to_do() {
    let home = tempfile::tempdir().unwrap();
    let platform = Platform::start(home.path());
    let said = failed(&platform.run_with_input(["list", "--username", "admin", "--password-stdin"], b"wrong\n"));
    assert!(said.contains("--password-stdin"), "{said}");
    let said = failed(&platform.run_with_input(["list", "--password-stdin"], b""));
    assert!(said.contains("stdin has no password"), "{said}");
}

#[test]
fn an_empty_platform_lists_nothing_in_words_that_scripts_understand() {
    let home = tempfile::tempdir().unwrap();
    let platform = Platform::start(home.path());
    assert_eq!(stdout(&succeeded(platform.run(["list"]))), "NAME  IMAGE  INVOCATIONS  READY\n");
    assert_eq!(stdout(&succeeded(platform.run(["list", "--json"]))), "[]\n");
    assert_eq!(stdout(&succeeded(platform.run(["images", "--json"]))), "[]\n");
}

#[test]
fn a_log_level_that_is_none_is_refused_with_the_levels() {
    let home = tempfile::tempdir().unwrap();
    let mut command = kernlet();
    command.env("KERNLET_LOG", "a=b=c").args(["up", "--listen", "127.0.0.1:0", "--home"]).arg(home.path());
    let said = failed(&command.output().unwrap());
    assert!(said.contains("KERNLET_LOG") && said.contains("debug"), "{said}");
}

#[test]
fn a_reader_that_closes_early_is_no_error() {
    let mut child =
        kernlet().args(["completions", "bash"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""));
}

#[test]
fn completions_exist_for_every_common_shell() {
    for shell in ["bash", "zsh", "fish"] {
        let script = stdout(&succeeded(kernlet().args(["completions", shell]).output().unwrap()));
        assert!(script.contains("kernlet") && script.contains("invoke"), "{shell}");
        for option in ["scratch", "copy-on-write", "block-sector-size", "gdb-at"] {
            assert!(script.contains(option), "{shell}: {option}");
        }
    }
}

#[test]
fn doctor_says_what_it_found_and_what_follows() {
    let home = tempfile::tempdir().unwrap();
    let output = kernlet().args(["doctor", "--json", "--home"]).arg(home.path()).output().unwrap();
    let checks: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    assert!(checks.len() > 3, "{checks:?}");
    for check in &checks {
        for key in ["name", "state", "found", "consequence"] {
            assert!(check[key].as_str().is_some_and(|text| !text.is_empty()), "{check}");
        }
    }
    for name in ["cargo", "gdb"] {
        assert!(checks.iter().any(|check| check["name"] == name), "{name}: {checks:?}");
    }
    let failed = checks.iter().any(|check| check["state"] == "failed");
    assert_eq!(output.status.code(), Some(i32::from(failed)));
    if kvm_is_usable() {
        assert!(!failed, "{checks:?}");
    }
}

#[test]
fn doctor_says_which_layers_of_the_jail_hold() {
    let home = tempfile::tempdir().unwrap();
    let output = kernlet().args(["doctor", "--json", "--home"]).arg(home.path()).output().unwrap();
    let checks: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    for layer in [
        "rlimits",
        "network namespace",
        "ipc namespaces",
        "mount namespace",
        "pid namespace",
        "uid of its own",
        "no capabilities",
        "no_new_privs",
        "no new code",
        "landlock",
        "seccomp",
        "control group",
    ] {
        let check = checks.iter().find(|check| check["name"] == format!("jail: {layer}")).expect(layer);
        let (state, found) = (check["state"].as_str().unwrap(), check["found"].as_str().unwrap());
        match state {
            "ok" => assert!(found.starts_with("holds"), "{check}"),
            // A layer that is lacking keeps no function from running.
            "warning" => assert!(found.starts_with("does not hold: "), "{check}"),
            _ => panic!("{check}"),
        }
    }
}

#[test]
fn images_are_built_listed_and_removed() {
    let home = home();
    let run = |args: &[&str]| kernlet().args(args).arg("--home").arg(home.path()).output().unwrap();
    let listed: Vec<Value> = serde_json::from_slice(&succeeded(run(&["images", "--json"])).stdout).unwrap();
    let references: Vec<&str> = listed.iter().filter_map(|image| image["reference"].as_str()).collect();
    assert_eq!(references, ["classify:latest", "echo:latest", "faults:latest", "sgemm:latest", "tour:latest"]);
    assert!(
        listed.iter().all(
            |image| image["digest"].as_str().unwrap().starts_with("sha256:") && image["size"].as_u64().unwrap() > 0
        )
    );

    succeeded(run(&["rmi", "echo:latest", "classify", "faults", "sgemm", "tour"]));
    assert_eq!(stdout(&succeeded(run(&["images"]))), "IMAGE  DIGEST  SIZE\n");
    let said = failed(&run(&["rmi", "echo"]));
    assert!(said.contains("echo:latest"), "{said}");
}

#[test]
fn a_function_lives_through_all_its_subcommands() {
    if !kvm_is_usable() {
        return;
    }
    let home = home();
    let platform = Platform::start(home.path());
    let deployed = succeeded(platform.run([
        "deploy",
        "echo",
        "--image",
        "echo:latest",
        "--env",
        "GREETING=hi",
        "--label",
        "team=blue",
    ]));
    assert_eq!(stdout(&deployed), format!("{}/function/echo.openfaas-fn\n", platform.url()));

    let echoed = succeeded(platform.run_with_input(["invoke", "echo"], b"over stdin"));
    assert_eq!(stdout(&echoed), "over stdin");
    let timed = succeeded(platform.run_with_input(["invoke", "echo", "--timing"], b"x"));
    for stage in ["gateway", "watchdog", "guest", "accelerator"] {
        assert!(stderr(&timed).contains(stage) && !stderr(&timed).contains("not reported"), "{}", stderr(&timed));
    }

    let described = stdout(&succeeded(platform.run(["describe", "echo"])));
    for part in ["echo:latest", "1 of 1 replicas", "GREETING=hi", "team=blue"] {
        assert!(described.contains(part), "{part} is not in\n{described}");
    }
    assert!(stdout(&succeeded(platform.run(["list"]))).lines().nth(1).unwrap().starts_with("echo  echo:latest  2"));
    succeeded(platform.run(["logs", "echo", "--since", "10m", "--tail", "5"]));
    succeeded(platform.run(["scale", "echo", "0"]));
    succeeded(platform.run(["scale", "echo", "1"]));
    succeeded(platform.run(["remove", "echo"]));
    let said = failed(&platform.run(["describe", "echo"]));
    assert!(said.contains("echo"), "{said}");
}

//! The C API as C programs meet it: the tests in `tests/c`, compiled with the system's compiler against the headers and
//! the library, as they are, with AddressSanitizer, and under valgrind; and what the library exports.
//! A tool that is missing is named, and is a failure where `KERNLET_REQUIRE_NATIVE=1`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

use std::{
    collections::BTreeSet,
    env, fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpListener,
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{Arc, LazyLock},
};

use kernlet_accel_agent::{Agent, Limits, Listener};
use kernlet_accel_plugins::Noop;
use tempfile::TempDir;

/// What most tests start with: no library of the host's is opened, so that what is found is ours.
const NOOP: &[(&str, &str)] = &[("VACCEL_PLUGINS", "noop")];

/// The tests, each with the variables that it wants.
const PROGRAMS: &[(&str, &[(&str, &str)])] = &[
    ("layout", NOOP),
    ("args", NOOP),
    ("blobs", NOOP),
    ("config", NOOP),
    ("profiling", &[("VACCEL_PLUGINS", "noop"), ("VACCEL_PROFILING_ENABLED", "1"), ("VACCEL_LOG_LEVEL", "3")]),
    ("tensors", NOOP),
    ("resources", NOOP),
    ("sessions", NOOP),
    ("operations", NOOP),
    ("own", NOOP),
    ("dummies", NOOP),
    ("plugins", NOOP),
    ("stress", NOOP),
];

/// `third_party.c` as several plugins.
const PLUGINS: &[(&str, &[&str])] = &[
    ("third", &[]),
    ("minor", &["-DNAME=\"minor\"", "-DBUILT_FOR=\"v0.7.9-12-abc\"", "-DTYPE=VACCEL_PLUGIN_TORCH", "-DONLY_NOOP"]),
    ("major", &["-DNAME=\"major\"", "-DBUILT_FOR=\"1.0.0\"", "-DONLY_NOOP"]),
    ("noversion", &["-DBUILT_FOR=\"zero\""]),
    ("noname", &["-DNO_NAME"]),
    ("noinit", &["-DNO_INIT"]),
    ("fails", &["-DINIT_RETURNS=VACCEL_ENODEV"]),
    ("remote", &["-DNAME=\"remote\"", "-DREMOTE", "-DONLY_NOOP"]),
];

const CRATE: &str = env!("CARGO_MANIFEST_DIR");

/// A folder with the library installed, and the plugins.
struct Installed {
    folder: TempDir,
}

static INSTALLED: LazyLock<Installed> = LazyLock::new(|| {
    let folder = TempDir::new().unwrap();
    // The tests' own program lies beside the library.
    let library = env::current_exe().unwrap().with_file_name("libvaccel.so");
    succeed(Command::new(crate_path("install.sh")).arg(folder.path()).arg(library));
    let installed = Installed { folder };
    for (name, flags) in PLUGINS {
        let output = installed.plugins().join(format!("lib{name}.so"));
        fs::create_dir_all(installed.plugins()).unwrap();
        let mut cc = installed.cc("third_party", &output);
        succeed(cc.args(["-shared", "-fPIC", "-Wno-unused-function"]).args(*flags).arg("-lvaccel"));
    }
    installed
});

impl Installed {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn plugins(&self) -> PathBuf {
        self.path("plugins")
    }

    /// The compiler, told to compile a test.
    fn cc(&self, source: &str, output: &Path) -> Command {
        let mut cc = Command::new("cc");
        cc.args(["-std=gnu11", "-g", "-O1", "-Wall", "-Wextra", "-Werror", "-Wno-deprecated-declarations"]);
        cc.arg("-I").arg(self.path("include")).arg("-L").arg(self.path("lib"));
        cc.arg(crate_path("tests/c").join(format!("{source}.c"))).arg("-o").arg(output);
        cc
    }

    /// Compiles a test.
    fn compile(&self, name: &str, kind: &str, flags: &[&str]) -> PathBuf {
        let program = self.path(&format!("{name}.{kind}"));
        succeed(self.cc(name, &program).args(flags).args(["-lvaccel", "-lm", "-ldl", "-lpthread"]));
        program
    }

    /// Runs a program in a folder of its own, in which nothing of the library's may stay.
    fn run(&self, command: &mut Command, variables: &[(&str, &str)]) -> Output {
        let folder = TempDir::new_in(self.folder.path()).unwrap();
        let temporary = folder.path().join("tmp");
        fs::create_dir(&temporary).unwrap();
        command.env("LD_LIBRARY_PATH", self.path("lib")).env("TMPDIR", &temporary).env_remove("XDG_RUNTIME_DIR");
        for (name, _) in env::vars().filter(|(name, _)| name.starts_with("VACCEL_")) {
            command.env_remove(name);
        }
        command.envs(variables.iter().copied());
        let models = crate_path("../../models");
        let output = command.args([folder.path(), &self.plugins(), &models]).output().unwrap();
        let left: Vec<_> = fs::read_dir(&temporary).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(left.is_empty(), "{command:?} left {left:?} behind");
        output
    }
}

fn crate_path(name: &str) -> PathBuf {
    Path::new(CRATE).join(name)
}

/// Runs a tool that has to succeed.
fn succeed(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}\n{}", output.status, said(&output));
    output
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Whether a tool is there. Without it the test says so and does nothing, unless it must be there.
fn is_there(tool: &str, test: &mut Command) -> bool {
    let there = test.output().is_ok_and(|output| output.status.success());
    let required = env::var_os("KERNLET_REQUIRE_NATIVE").is_some_and(|value| value == "1");
    assert!(there || !required, "{tool} is missing; scripts/install-deps.sh --checks installs it");
    if !there {
        eprintln!("NOT TESTED: {tool} is missing");
    }
    there
}

/// Runs every test; says which failed and what they said.
fn run_all(run: impl Fn(&str, &[(&str, &str)]) -> Output) {
    let mut failed = String::new();
    for (name, variables) in PROGRAMS {
        let output = run(name, variables);
        if !output.status.success() {
            failed += &format!("{name}: {}\n{}\n", output.status, said(&output));
        }
    }
    assert!(failed.is_empty(), "{failed}");
}

#[test]
fn every_c_test_passes() {
    run_all(|name, variables| {
        let program = INSTALLED.compile(name, "plain", &[]);
        INSTALLED.run(Command::new(program).env("ALL_PLUGINS", "1"), variables)
    });
}

#[test]
fn a_c_program_uses_an_agent_by_configuration_alone() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("agent.sock");
    let agent = Agent::start(vec![Arc::new(Noop::dummy())], Limits::default(), Box::new(|_| {})).unwrap();
    agent.listen(Listener::Unix(UnixListener::bind(&path).unwrap())).unwrap();
    let address = format!("unix://{}", path.display());
    let config = folder.path().join("accel.toml");
    fs::write(&config, format!("agent = \"near\"\n[agents]\nnear = \"{address}\"\n")).unwrap();
    let program = INSTALLED.compile("dummies", "agent", &[]);
    let run = |variable| INSTALLED.run(&mut Command::new(&program), &[("TEST_PLUGINS", "libvaccel-rpc.so"), variable]);
    for variable in [("VACCEL_RPC_ADDRESS", address.as_str()), ("KERNLET_ACCEL_CONFIG", config.to_str().unwrap())] {
        let output = run(variable);
        assert!(output.status.success(), "{}\n{}", output.status, said(&output));
    }
    drop(agent);
    let output = run(("VACCEL_RPC_ADDRESS", &address));
    assert!(!output.status.success() && said(&output).contains("plugin remote cannot be loaded"), "{}", said(&output));
}

/// Answers every connection to a port of loopback; what is asked for below `/open/` is there, but for `missing`.
fn serve() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let mut reader = BufReader::new(socket.unwrap());
            let mut lines = reader.by_ref().lines().map_while(Result::ok).take_while(|line| !line.is_empty());
            let asked = lines.next().unwrap_or_default();
            lines.for_each(drop);
            let (status, body) = if asked.contains("/open/model") { ("200 OK", "the model") } else { ("404 No", "") };
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            reader.get_mut().write_all(answer.as_bytes()).unwrap();
        }
    });
    port
}

#[test]
fn a_c_program_registers_resources_by_address_as_far_as_the_operator_allows() {
    let url = format!("http://127.0.0.1:{}", serve());
    let folder = TempDir::new().unwrap();
    let config = folder.path().join("accel.toml");
    fs::write(&config, format!("plugins = [\"noop\"]\n[fetch]\nallow = [\"{url}/open/\"]\n")).unwrap();
    let program = INSTALLED.compile("fetched", "plain", &[]);
    let variables = [("KERNLET_ACCEL_CONFIG", config.to_str().unwrap()), ("TEST_URL", url.as_str())];
    let output = INSTALLED.run(&mut Command::new(program), &variables);
    assert!(output.status.success(), "{}\n{}", output.status, said(&output));
}

#[test]
fn every_c_test_passes_under_address_sanitizer() {
    let probe = INSTALLED.path("probe");
    let mut cc = INSTALLED.cc("layout", &probe);
    if !is_there("AddressSanitizer", cc.args(["-fsanitize=address,undefined", "-lvaccel"])) {
        return;
    }
    run_all(|name, variables| {
        let program = INSTALLED.compile(name, "asan", &["-fsanitize=address,undefined", "-fno-sanitize-recover"]);
        // Sizes that no memory has are asked for on purpose.
        let options = "allocator_may_return_null=1:detect_leaks=1:detect_stack_use_after_return=1";
        INSTALLED.run(Command::new(program).env("ASAN_OPTIONS", options), variables)
    });
}

#[test]
fn every_c_test_passes_under_valgrind() {
    if !is_there("valgrind", Command::new("valgrind").arg("--version")) {
        return;
    }
    run_all(|name, variables| {
        let program = INSTALLED.compile(name, "valgrind", &[]);
        let mut valgrind = Command::new("valgrind");
        valgrind.args(["--quiet", "--error-exitcode=99", "--leak-check=full", "--errors-for-leak-kinds=definite"]);
        // It is tens of times slower: fewer rounds, and no inference.
        valgrind.arg(program).env("STRESS_ROUNDS", "5").env("NO_INFERENCE", "1");
        INSTALLED.run(&mut valgrind, variables)
    });
}

#[test]
fn the_library_exports_the_functions_of_the_list_and_nothing_else() {
    let output = succeed(Command::new("nm").args(["-D", "--defined-only"]).arg(INSTALLED.path("lib/libvaccel.so")));
    let exported: BTreeSet<_> =
        said(&output).lines().filter_map(|line| Some(line.split(' ').next_back()?.to_owned())).collect();
    let mut wanted = public_functions();
    assert_eq!(wanted.len(), 265);
    // What vAccel's examples read files with, and slog's functions, which its headers refer to.
    let others = ["config_get", "config_set", "destroy", "disable", "enable", "init", "print", "version"];
    wanted.extend(others.map(|name| format!("slog_{name}")));
    wanted.insert("fs_file_read".to_owned());
    let (missing, more): (Vec<_>, Vec<_>) =
        (wanted.difference(&exported).collect(), exported.difference(&wanted).collect());
    assert!(missing.is_empty() && more.is_empty(), "missing: {missing:?}, too many: {more:?}");
}

#[test]
fn every_function_of_the_list_is_called_by_a_c_test() {
    let mut called = BTreeSet::new();
    for (name, _) in PROGRAMS {
        let program = INSTALLED.compile(name, "symbols", &[]);
        let output = succeed(Command::new("nm").args(["-D", "--undefined-only"]).arg(program));
        called.extend(said(&output).lines().filter_map(|line| Some(line.split_whitespace().next_back()?.to_owned())));
    }
    let wanted = public_functions();
    let untested: Vec<_> = wanted.difference(&called).collect();
    assert!(untested.is_empty(), "{untested:?}");
}

#[test]
fn every_header_compiles_alone_in_c_and_all_in_cpp() {
    let include = crate_path("include");
    let mut headers = Vec::new();
    let mut folders = vec![include.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { headers.push(path) }
        }
    }
    assert!(headers.len() > 25, "{headers:?}");
    for header in headers {
        let mut cc = Command::new("cc");
        cc.args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-I"]).arg(&include);
        succeed(cc.arg("-include").arg(header).args(["-x", "c", "/dev/null"]));
    }
    if is_there("g++", Command::new("c++").arg("--version")) {
        let program = INSTALLED.path("headers");
        let mut cpp = Command::new("c++");
        cpp.args(["-std=c++17", "-Wall", "-Wextra", "-Werror", "-I"]).arg(&include);
        cpp.arg(crate_path("tests/c/headers.cpp")).arg("-L").arg(INSTALLED.path("lib"));
        succeed(cpp.arg("-lvaccel").arg("-o").arg(&program));
        let output = INSTALLED.run(&mut Command::new(program), &[]);
        assert!(output.status.success(), "{}", said(&output));
    }
}

#[test]
fn the_example_says_what_is_in_a_picture() {
    let program = INSTALLED.path("classify");
    // What pkg-config would say, for who has it not.
    let described = fs::read_to_string(INSTALLED.path("lib/pkgconfig/vaccel.pc")).unwrap();
    assert!(
        described.contains("Version: 0.8.0\n") && described.contains("Libs: -L${libdir} -lvaccel\n"),
        "{described}"
    );
    let mut cc = Command::new("cc");
    cc.args(["-Wall", "-Wextra", "-Werror"]).arg(crate_path("examples/classify.c")).arg("-o").arg(&program);
    succeed(cc.arg("-I").arg(INSTALLED.path("include")).arg("-L").arg(INSTALLED.path("lib")).arg("-lvaccel"));
    let models = crate_path("../../models");
    let mut classify = Command::new(&program);
    classify.env("LD_LIBRARY_PATH", INSTALLED.path("lib")).env("VACCEL_LOG_LEVEL", "4");
    classify.arg(models.join("pictures/cat.jpg")).arg(models.join("mobilenet_v2_fp16w.onnx"));
    let output = succeed(classify.arg(models.join("imagenet_classes.txt")));
    let stdout = String::from_utf8(output.stdout).unwrap();
    // The log is on standard error: the answer is the program's alone.
    assert!(
        stdout.starts_with("classification tags: ") && stdout.ends_with("\n") && stdout.lines().count() == 1,
        "{stdout}"
    );
    assert!(stdout.contains("% ") && stdout.contains("cat"), "{stdout}");
}

#[test]
fn a_library_that_cannot_start_does_not_end_the_process() {
    let program = INSTALLED.compile("sessions", "nostart", &[]);
    let output = INSTALLED.run(&mut Command::new(program), &[("VACCEL_LOG_LEVEL", "99999999999999999999")]);
    // The test's own first condition failed, after the library said why.
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("vaccel_is_initialized()"), "{}", said(&output));
}

fn public_functions() -> BTreeSet<String> {
    fs::read_to_string(crate_path("functions.txt")).unwrap().lines().map(str::to_owned).collect()
}

//! `kernlet doctor`: what this machine can do for Kernlet, what follows from it, and what to do about it.
//! Called by people whose first command failed, and by scripts. It never changes the machine; its
//! test machine and test file are gone when it ends.

use std::net::{Ipv4Addr, TcpListener};
use std::process::{Command, ExitCode, Stdio};

use kernlet_jail::cgroup::{CgroupLimits, Cgroups};
use kernlet_jail::{Layer, Machines};
use kernlet_monitor::{Probe, ProbeState};
use serde::Serialize;

use crate::home::Home;
use crate::output::Paint;
use crate::{Context, output};

/// Check whether this machine can run functions, and say what to do when it cannot
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  kernlet doctor
  kernlet doctor --json | jq '.[] | select(.state != \"ok\")'

Exit codes:
  0  functions can run here
  1  they cannot: what failed says why
  2  the command line is wrong")]
pub(crate) struct Args {
    /// Print an array of objects: name, state (ok, warning, failed, untried), found, consequence
    #[arg(long)]
    json: bool,
}

/// How a capability stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// As it should be.
    Ok,
    /// Something is lacking that functions do not need in order to run.
    Warning,
    /// Functions cannot run.
    Failed,
    /// Something before it failed.
    Untried,
}

/// One capability: what was found, and what follows from it.
#[derive(Clone, Debug, Serialize)]
struct Check {
    name: String,
    state: State,
    found: String,
    consequence: &'static str,
}

impl Check {
    fn new(name: impl Into<String>, state: State, found: impl Into<String>, consequence: &'static str) -> Self {
        Self { name: name.into(), state, found: found.into(), consequence }
    }
}

pub(crate) fn run(args: &Args, context: &Context) -> anyhow::Result<ExitCode> {
    let probes = kernlet_monitor::probe();
    let kvm_works = probes.iter().any(|probe| probe.name == "KVM" && probe.state == ProbeState::Works);
    let mut checks: Vec<Check> = probes.into_iter().map(from_probe).collect();
    checks.extend(check_jail(if kvm_works { Machines::Kvm } else { Machines::Processes }));
    checks.push(check_cgroups());
    checks.push(check_cargo());
    checks.push(check_gdb());
    checks.push(check_home(&context.home()?));
    checks.push(check_port());
    if args.json {
        output::json(&checks)?
    } else {
        print(&checks)?
    }
    let works = checks.iter().all(|check| check.state != State::Failed);
    Ok(if works { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(checks: &[Check]) -> anyhow::Result<()> {
    let paint = Paint::for_stdout();
    let width = checks.iter().map(|check| check.name.chars().count()).max().unwrap_or_default();
    for Check { name, state, found, consequence } in checks {
        let mark = match state {
            State::Ok => paint.green("ok     "),
            State::Warning => paint.yellow("warning"),
            State::Failed => paint.red("FAILED "),
            State::Untried => paint.yellow("untried"),
        };
        output::line(&format!("{mark}  {name:<width$}  {found}"))?;
        output::line(&format!("         {:width$}  {}", "", paint.dim(consequence)))?;
    }
    Ok(())
}

fn from_probe(probe: Probe) -> Check {
    let state = match probe.state {
        ProbeState::Works => State::Ok,
        ProbeState::Fails => State::Failed,
        ProbeState::Replaced => State::Warning,
        ProbeState::Untried => State::Untried,
    };
    Check::new(probe.name, state, probe.detail, probe.consequence)
}

/// Enters, in a throw-away process, the jail of a watchdog with such machines, which those of this host are.
fn check_jail(machines: Machines) -> Vec<Check> {
    let report = match kernlet_jail::probe(machines) {
        Ok(report) => report,
        Err(error) => {
            let found = format!("{:#}", anyhow::Error::from(error));
            return vec![Check::new("jail", State::Warning, found, JAIL_CONSEQUENCE)];
        }
    };
    let held = report.held().iter().map(|(layer, detail)| {
        let found = if detail.is_empty() { "holds".to_owned() } else { format!("holds: {detail}") };
        (*layer, State::Ok, found)
    });
    let lost = report.lost().iter().map(|lost| (lost.layer, State::Warning, format!("does not hold: {}", lost.why)));
    let mut layers: Vec<_> = held.chain(lost).collect();
    layers.sort_by_key(|(layer, ..)| *layer);
    let check = |(layer, state, found): (Layer, State, String)| Check {
        name: format!("jail: {layer}"),
        state,
        found,
        consequence: match state {
            State::Ok => layer.keeps_from(),
            _ => layer.lost_means(),
        },
    };
    layers.into_iter().map(check).collect()
}

const JAIL_CONSEQUENCE: &str =
    "watchdogs say at their start which layers of their jail hold; --jail required insists on all";

/// Makes a control group and takes it away again.
fn check_cgroups() -> Check {
    let name = "jail: control group";
    let made = Cgroups::open("kernlet-doctor").and_then(|cgroups| {
        let limits = CgroupLimits { memory: 1 << 30, threads: 64 };
        cgroups.make("probe", &limits).map(drop)
    });
    match made {
        Ok(()) => {
            Check::new(name, State::Ok, "holds: memory and threads", "one function cannot take all memory of the host")
        }
        Err(error) => Check::new(
            name,
            State::Warning,
            format!("does not hold: {:#}", anyhow::Error::from(error)),
            "each machine has its limit, but nothing limits the memory of all machines of a function together",
        ),
    }
}

/// Whether a program that some commands start, or people beside them, is there.
fn check_program(name: &'static str, with: &'static str, without: &'static str) -> Check {
    match Command::new(name).arg("--version").stdin(Stdio::null()).output() {
        Ok(ran) if ran.status.success() => {
            let version = String::from_utf8_lossy(&ran.stdout).lines().next().unwrap_or_default().trim().to_owned();
            Check::new(name, State::Ok, version, with)
        }
        Ok(ran) => Check::new(name, State::Warning, format!("`{name} --version` ended with {}", ran.status), without),
        Err(error) => Check::new(name, State::Warning, format!("{name} does not start: {error}"), without),
    }
}

fn check_cargo() -> Check {
    check_program(
        "cargo",
        "`kernlet build` can compile functions",
        "images that are built already run; `kernlet build` and `kernlet demo` need Rust: see https://rustup.rs",
    )
}

fn check_gdb() -> Check {
    check_program(
        "gdb",
        "functions can be debugged (`kernlet run --gdb`), Solo5 guests too (`solo5-hvt --gdb`), and their cores looked at",
        "functions run; to debug one (`kernlet run --gdb`, `solo5-hvt --gdb` and `--dumpcore`), install gdb",
    )
}

fn check_home(home: &Home) -> Check {
    let name = "home";
    let shown = home.path().display();
    // A home that is not there yet is made in the nearest folder above it that is.
    let there = home.path().ancestors().find(|folder| folder.is_dir()).unwrap_or(home.path());
    match tempfile::tempfile_in(there) {
        Ok(_) => Check::new(
            name,
            State::Ok,
            format!("{shown} is writable"),
            "images, state, logs and the password are kept there",
        ),
        Err(error) => Check::new(
            name,
            State::Failed,
            format!("{shown} is not writable: {error}"),
            "nothing can be kept; name another folder with --home DIR or KERNLET_HOME",
        ),
    }
}

fn check_port() -> Check {
    const PORT: u16 = 8080;
    let name = "port 8080";
    match TcpListener::bind((Ipv4Addr::LOCALHOST, PORT)) {
        Ok(_) => Check::new(name, State::Ok, "free", "`kernlet up` can listen where OpenFaaS's clients look first"),
        Err(error) => Check::new(
            name,
            State::Warning,
            format!("not free: {error}"),
            "if that is not Kernlet itself, use `kernlet up --listen 127.0.0.1:9080` and OPENFAAS_URL",
        ),
    }
}

//! Solo5's tenders: `kernlet solo5-hvt` and `kernlet solo5-spt`, also where `kernlet` is called by these names, and programs
//! of these names. Arguments, output and exit codes are those that people, scripts and container runtimes know; `--ring`,
//! `--accel` and `--accel-resource` are ours. It needs no platform.
#![forbid(unsafe_code)]

use std::{
    env,
    ffi::{OsStr, OsString},
    fs::{File, OpenOptions},
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::{
        fd::IntoRawFd as _,
        unix::ffi::{OsStrExt as _, OsStringExt as _},
    },
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use kernlet_accel::Session;
use kernlet_jail::{Jail, Layer, Mode};
pub use kernlet_monitor::solo5::Target;
use kernlet_monitor::solo5::{
    ABI_VERSION, AttachError, BootError, Config, Console, ConsoleError, Core, CoreDump, DeviceKind, Devices, End,
    Extension, FileBlock, Halted, Image, MEMORY_MAX, Machine, Ring, attach_net, exit_on_signals, ignore_broken_pipes,
    spt::{self, SptError},
};
use kernlet_monitor::{Debugger, Hypervisor, StopAt};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode as FsMode, OFlags},
    stdio::{stderr, stdin, stdout},
};

/// Longest name of a device, in bytes.
const NAME_MAX: usize = 67;

/// Longest name of an interface, in bytes.
const INTERFACE_MAX: usize = 19;

/// Exit status of a tender that fails itself.
const FAILURE: u8 = 1;

/// Memory of a guest where nobody says how much, in bytes.
const MEMORY: u64 = 512 << 20;

/// Opens what a guest may have of accelerators, with these files as resources by their names. It is the program's that has them:
/// plugins take longer to load than a short guest to run.
pub type OpenAccelerators = fn(&[(String, String)]) -> Result<Arc<Session>, Box<dyn std::error::Error>>;

/// All of a tender's program, without accelerators: its exit status. It does what matters here of Rust's own start, which
/// takes a fifth of all the time that an empty program does.
#[must_use]
pub fn main(target: Target) -> u8 {
    if open_standard_streams().is_err() {
        return FAILURE;
    }
    ignore_broken_pipes();
    let mut arguments = env::args_os();
    let own = arguments.next().unwrap_or_default();
    let name = Path::new(&own).file_name().and_then(OsStr::to_str).unwrap_or(target.tender());
    tend(target, name, &arguments.collect::<Vec<_>>(), None)
}

/// A process may be started with standard streams that are closed, and nothing else is to come in their place.
fn open_standard_streams() -> io::Result<()> {
    let (input, output, error) = (stdin(), stdout(), stderr());
    let mut streams = [&input, &output, &error].map(|stream| PollFd::new(stream, PollFlags::empty()));
    poll(&mut streams, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
    for _ in streams.iter().filter(|stream| stream.revents().contains(PollFlags::NVAL)) {
        // The lowest descriptor that is free, which is the next of these.
        let _stays_open = rustix::fs::open(c"/dev/null", OFlags::RDWR, FsMode::empty())?.into_raw_fd();
    }
    Ok(())
}

/// The tender that this process is to be, if it is one: by its own name, or by its first argument.
#[must_use]
pub fn called(accelerators: OpenAccelerators) -> Option<ExitCode> {
    let mut arguments = env::args_os();
    let own = arguments.next()?;
    let name = Path::new(&own).file_name()?.to_str()?;
    if let Some(target) = target(name) {
        return Some(run(target, name, &arguments.collect::<Vec<_>>(), Some(accelerators)));
    }
    let target = target(arguments.next()?.to_str()?)?;
    Some(run(target, target.tender(), &arguments.collect::<Vec<_>>(), Some(accelerators)))
}

fn target(name: &str) -> Option<Target> {
    // Dumping cores and waiting for gdb are a program of its own elsewhere.
    let name = name.strip_suffix("-debug").filter(|name| *name == Target::Hvt.tender()).unwrap_or(name);
    [Target::Hvt, Target::Spt].into_iter().find(|target| target.tender() == name)
}

/// Runs a tender under this name with these arguments, until its guest has ended.
#[must_use]
pub fn run(target: Target, program: &str, arguments: &[OsString], accelerators: Option<OpenAccelerators>) -> ExitCode {
    tend(target, program, arguments, accelerators).into()
}

fn tend(target: Target, program: &str, arguments: &[OsString], accelerators: Option<OpenAccelerators>) -> u8 {
    let tender = Tender { program: program.to_owned(), target, accelerators };
    tender.run(arguments).unwrap_or_else(|failed| {
        tender.say(&failed);
        FAILURE
    })
}

/// Why a tender ends with status 1.
enum Failed {
    /// For this reason.
    Because(String),
    /// It says so itself, without its name.
    Said(String),
    /// For this reason, and the usage is shown.
    Usage(Option<String>),
}

impl Failed {
    fn because(error: &dyn std::error::Error) -> Self {
        let causes = std::iter::successors(error.source(), |error| error.source());
        Self::Because(causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}")))
    }
}

struct Tender {
    program: String,
    target: Target,
    accelerators: Option<OpenAccelerators>,
}

/// What the options say.
struct Options {
    memory: u64,
    ring: Ring,
    executable_heap: bool,
    devices: Devices,
    accelerators: Accelerators,
    /// Where a core is dumped.
    core: Option<PathBuf>,
    /// Whether a debugger is waited for, and on which port.
    gdb: bool,
    gdb_port: u16,
}

/// What the guest is given of accelerators, which a stock tender has not.
#[derive(Default)]
struct Accelerators {
    wanted: bool,
    /// Names and files.
    resources: Vec<(String, String)>,
}

impl Accelerators {
    /// Whether an option is about them.
    fn option(&mut self, text: &str) -> bool {
        if text == "--accel" {
            self.wanted = true;
            return true;
        }
        let resource = text.strip_prefix("--accel-resource:").and_then(|rest| rest.split_once('='));
        let Some((name, path)) = resource.filter(|(name, path)| !name.is_empty() && !path.is_empty()) else {
            return false;
        };
        self.wanted = true;
        self.resources.push((name.to_owned(), path.to_owned()));
        true
    }

    /// The extension, if it is wanted and can be had here.
    fn open(&self, opens: Option<OpenAccelerators>) -> Result<Option<Extension>, Failed> {
        if !self.wanted {
            return Ok(None);
        }
        let Some(open) = opens else {
            return Err(Failed::Because(
                "there are no accelerators in this program; `kernlet solo5-hvt` has them".to_owned(),
            ));
        };
        let session = open(&self.resources).map_err(|error| Failed::because(&*error))?;
        Ok(Some(Extension { session, requests: false }))
    }
}

/// Where a debugger is waited for when nobody says otherwise.
const GDB_PORT: u16 = 1234;

impl Tender {
    fn warn(&self, text: &str) {
        // Nobody is left to tell if this fails.
        let _ = writeln!(io::stderr(), "{}: {text}", self.program);
    }

    fn say(&self, failed: &Failed) {
        match failed {
            Failed::Because(text) => text.lines().for_each(|line| self.warn(line)),
            Failed::Said(text) => drop(writeln!(io::stderr(), "{text}")),
            Failed::Usage(text) => {
                if let Some(text) = text {
                    self.warn(text);
                }
                let _ = write!(io::stderr(), "{}", self.usage());
            }
        }
    }

    fn usage(&self) -> String {
        let (core, more, modules) = match self.target {
            Target::Hvt => (
                "  [ --ring=auto ] (0, 3 or auto: run the guest at ring 0, or at ring 3 with its privileged instructions \
                 carried out)\n  [ --accel ] (give the guest accelerators, as the environment configures them)\n  \
                 [ --accel-resource:NAME=PATH ] (the same, with the file at PATH as resource NAME)\n",
                "gdb dumpcore ",
                "    --gdb (optional flag for running in a gdb debug session)\n    \
                     [ --gdb-port=1234 ] (port to use) \n    \
                     --dumpcore=DIR (enable guest core dump on abort/trap)\n",
            ),
            Target::Spt => (
                "",
                "",
                "    --x-exec-heap (make the heap executable). WARNING: This option is dangerous and not recommended as it \
                 makes the heap and stack executable.\n",
            ),
        };
        format!(
            "usage: {} [ CORE OPTIONS ] [ MODULE OPTIONS ] [ -- ] KERNEL [ ARGS ]\n\
             KERNEL is the filename of the unikernel to run.\n\
             ARGS are optional arguments passed to the unikernel.\n\
             Core options:\n  \
               [ --mem=512 ] (guest memory in MB)\n    \
                 --help (display this help)\n    \
                 --version (display version information)\n\
             {core}Compiled-in modules: core {more}block net \n\
             Compiled-in module options:\n\
             {modules}    \
                 --block:NAME=PATH (attach block device/file at PATH as block storage NAME)\n  \
               [ --block-sector-size:NAME=SECTORSIZE ] (set sector size for block device NAME; must be a power of two \
               greater than or equal 512)\n    \
                 --net:NAME=IFACE | @NN (attach tap at IFACE or at fd @NN as network NAME)\n  \
               [ --net-mac:NAME=HWADDR ] (set HWADDR for network NAME)\n",
            self.program
        )
    }

    fn run(&self, arguments: &[OsString]) -> Result<u8, Failed> {
        let is_option = |argument: &&OsString| argument.as_bytes().first() == Some(&b'-');
        let mut options = arguments.iter().take_while(is_option).take_while(|option| *option != "--").count();
        for option in &arguments[..options] {
            match option.to_str() {
                Some("--help") => return Err(Failed::Usage(None)),
                Some("--version") => {
                    let version = env!("CARGO_PKG_VERSION");
                    let text =
                        format!("{} tender, version v{version} (kernlet)\nABI version {ABI_VERSION}", self.program);
                    return Ok(if writeln!(io::stderr(), "{text}").is_ok() { 0 } else { FAILURE });
                }
                _ => {}
            }
        }
        let given = &arguments[..options];
        if arguments.get(options).is_some_and(|argument| argument == "--") {
            options += 1;
        }
        let kernel = arguments.get(options).ok_or_else(|| Failed::Usage(Some("Missing KERNEL operand".to_owned())))?;
        let name = kernel.to_string_lossy();
        let in_kernel = |error: &dyn std::fmt::Display| Failed::Because(format!("{name}: {error}"));

        let bytes = read_kernel(kernel)
            .map_err(|error| Failed::Because(format!("{name}: Could not open: {}", plain(&error))))?;
        let image = Image::parse(bytes, self.target).map_err(|error| in_kernel(&error))?;
        let chosen = self.options(given, &image)?;
        let Options { memory, ring, executable_heap, devices, accelerators, core, gdb, gdb_port } = chosen;
        if self.target == Target::Spt {
            let command_line = arguments[options + 1..].join(OsStr::new(" ")).into_vec();
            return match spt::run(&image, devices, &command_line, memory, executable_heap) {
                Ok(never) => match never {},
                Err(SptError::Image(error)) => Err(in_kernel(&error)),
                Err(SptError::Devices(error)) => Err(not_attached(&error)),
                Err(error) => Err(Failed::because(&error)),
            };
        }
        exit_on_signals(&self.program);
        let memory = self.memory(memory)?;
        let core = core.map(|folder| CoreDump::into_folder(&folder)).transpose();
        let core = core.map_err(|error| Failed::because(&error))?;
        let hypervisor = Hypervisor::open_once().map_err(|error| Failed::because(&error))?;
        let command_line = arguments[options + 1..].join(OsStr::new(" ")).into_vec();
        let (config, extension) = (Config { memory, ring }, accelerators.open(self.accelerators)?);
        let boot = if core.is_some() { Machine::boot } else { Machine::boot_once };
        let machine = boot(&hypervisor, &image, devices, &command_line, config, extension);
        let mut machine = machine.map_err(|error| match error {
            BootError::Image(error) => in_kernel(&error),
            BootError::Devices(error) => not_attached(&error),
            error => Failed::because(&error),
        })?;
        if gdb {
            machine.debug(Box::new(Debugger::new(self.wait_for_gdb(gdb_port, kernel)?, StopAt::Entry)));
        }
        // All that it needs is open, but for a core's file. What the host does not permit, a stock tender would not have
        // either.
        let layers = [Layer::NoNewPrivileges, Layer::Landlock];
        let layers = if core.is_some() { &layers[..1] } else { &layers[..] };
        let _ = Jail::plan(Mode::BestEffort).only(layers).enter();
        let ended = machine.run(&mut Stdout, None);
        let status = ended.as_ref().ok().map(|halted| halted.status.to_le_bytes()[0]);
        machine.end_debugging(status);
        if let (Ok(halted), Some(core)) = (&ended, core)
            && halted.gave_up()
        {
            self.dump_core(&core, &mut machine, halted);
        }
        match ended {
            Ok(halted) => Ok(halted.status.to_le_bytes()[0]),
            Err(End::Fatal { text }) => Err(Failed::Said(text)),
            Err(error) => Err(Failed::because(&error)),
        }
    }

    /// Waits until a debugger has connected, of this host only.
    fn wait_for_gdb(&self, port: u16, kernel: &OsStr) -> Result<TcpStream, Failed> {
        let failed =
            |error: io::Error| Failed::Because(format!("GDB: Cannot listen on port {port}: {}", plain(&error)));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(failed)?;
        let port = listener.local_addr().map_err(failed)?.port();
        self.warn("Waiting for a debugger. Connect to it like this:");
        self.warn(&format!("\tgdb --ex=\"target remote localhost:{port}\" {}", kernel.to_string_lossy()));
        let (connection, from) = listener.accept().map_err(failed)?;
        self.warn(&format!("Connection from debugger at {}", from.ip()));
        Ok(connection)
    }

    /// What goes wrong is said, and changes nothing about how the guest has ended.
    fn dump_core(&self, core: &CoreDump, machine: &mut Machine, halted: &Halted) {
        let (file, path) = match core.create(std::process::id()) {
            Ok(made) => made,
            Err(error) => return self.warn(&format!("dumpcore: open: {}", plain(&error))),
        };
        self.warn(&format!("dumpcore: dumping guest core to: {}", path.display()));
        match machine.dump_core(halted, &file) {
            Ok(Core { dumped, total }) => {
                self.warn(&format!("dumpcore: dumped {dumped} pages of total {total} pages"));
            }
            Err(error) => {
                self.warn(&format!("dumpcore: {}", plain(&error)));
                self.warn("dumpcore: error(s) dumping core, file may be incomplete");
            }
        }
    }

    fn options(&self, given: &[OsString], image: &Image) -> Result<Options, Failed> {
        let devices = Devices::new(image.manifest());
        let mut options = Options {
            memory: MEMORY,
            ring: Ring::Auto,
            executable_heap: false,
            devices,
            accelerators: Accelerators::default(),
            core: None,
            gdb: false,
            gdb_port: GDB_PORT,
        };
        let is_hvt = self.target == Target::Hvt;
        for option in given {
            let text = option.to_str().unwrap_or_default();
            let known = if let Some(memory) = text.strip_prefix("--mem=") {
                options.memory = parse_memory(memory)?;
                true
            } else if self.target == Target::Spt && text.starts_with("--x-exec-heap") {
                self.warn(
                    "WARNING: The use of --x-exec-heap is dangerous and not recommended as it makes the heap and stack \
                     executable.",
                );
                options.executable_heap = true;
                true
            } else if is_hvt && text == "--gdb" {
                options.gdb = true;
                true
            } else if let Some(port) = text.strip_prefix("--gdb-port=").filter(|_| is_hvt) {
                let malformed = || Failed::Because("Malformed argument to --gdb-port".to_owned());
                options.gdb_port = port.parse().map_err(|_| malformed())?;
                true
            } else if let Some(folder) = option.as_bytes().strip_prefix(b"--dumpcore=").filter(|_| is_hvt) {
                options.core = Some(PathBuf::from(OsStr::from_bytes(folder)));
                true
            } else if let Some(ring) = text.strip_prefix("--ring=").filter(|_| is_hvt) {
                options.ring = ring.parse().map_err(|error| Failed::because(&error))?;
                true
            } else if self.target == Target::Hvt && options.accelerators.option(text) {
                true
            } else {
                self.device_option(text, &mut options.devices)?
            };
            if !known {
                return Err(Failed::Usage(Some(format!("Invalid option: `{}'", option.to_string_lossy()))));
            }
        }
        Ok(options)
    }

    /// Whether an option is right; what is wrong with one is said.
    fn device_option(&self, text: &str, devices: &mut Devices) -> Result<bool, Failed> {
        let Some((kind, name, value)) = split_device_option(text) else { return Ok(false) };
        let done = match kind {
            "--block" => {
                if let Err(error) = devices.declared(name, DeviceKind::Block) {
                    Err(error)
                } else {
                    devices.attach_block(name, Box::new(open_block(value)?))
                }
            }
            // The tender takes its value as a number of 16 bits, whatever it is.
            "--block-sector-size" => match value.parse::<u64>() {
                Ok(size) => {
                    let [low, high, ..] = size.to_le_bytes();
                    devices.set_block_size(name, u16::from_le_bytes([low, high]))
                }
                Err(_) => return Ok(false),
            },
            "--net" => {
                let interface = value.get(..value.len().min(INTERFACE_MAX)).unwrap_or(value);
                if let Err(error) = devices.declared(name, DeviceKind::Net) {
                    Err(error)
                } else {
                    match attach_net(interface) {
                        Ok(device) => devices.attach_net(name, Box::new(device)),
                        Err(error) => {
                            self.warn(&format!("Could not attach interface: {interface}: {}", plain(&error)));
                            return Ok(false);
                        }
                    }
                }
            }
            "--net-mac" => match parse_mac(value) {
                Some(mac) => devices.set_mac(name, mac),
                None => return Ok(false),
            },
            _ => return Ok(false),
        };
        if let Err(error) = &done {
            self.warn(&error.to_string());
        }
        Ok(done.is_ok())
    }

    /// The memory that a guest gets for what was asked for.
    fn memory(&self, asked: u64) -> Result<u64, Failed> {
        let memory = Config::round_memory(asked);
        if memory != asked {
            self.warn(&format!("adjusting memory to {memory} bytes"));
        }
        if memory > MEMORY_MAX {
            return Err(Failed::because(&BootError::Memory { memory }));
        }
        Ok(memory)
    }
}

fn not_attached(error: &AttachError) -> Failed {
    let more = match error {
        AttachError::Missing(_) => "\nAll declared devices must be attached. See --help for syntax.",
        _ => "",
    };
    Failed::Because(format!("{error}{more}"))
}

/// What the guest prints, as it comes.
struct Stdout;

impl Console for Stdout {
    fn write(&mut self, bytes: &[u8]) -> Result<(), ConsoleError> {
        let mut left = bytes;
        while !left.is_empty() {
            let written = rustix::io::retry_on_intr(|| rustix::io::write(stdout(), left));
            left = left.get(written.map_err(io::Error::from)?..).unwrap_or_default();
        }
        Ok(())
    }
}

/// `KIND:NAME=VALUE`.
fn split_device_option(text: &str) -> Option<(&str, &str, &str)> {
    let (kind, rest) = text.split_once(':')?;
    let (name, value) = rest.split_once('=')?;
    let right = (1..=NAME_MAX).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
    // A value ends where there is a space, and begins after such as there are.
    let value = value.split_ascii_whitespace().next()?;
    right.then_some((kind, name, value))
}

/// Reads a file to where its bytes stay: a unikernel has megabytes, and to copy them takes longer than to run a short one.
fn read_kernel(path: &OsStr) -> io::Result<Arc<[u8]>> {
    let mut file = File::open(path)?;
    let size = usize::try_from(file.metadata()?.len()).unwrap_or_default();
    let mut bytes: Arc<[u8]> = std::iter::repeat_n(0, size).collect();
    match Arc::get_mut(&mut bytes) {
        Some(room) if size > 0 => file.read_exact(room)?,
        // A pipe, say.
        _ => {
            let mut all = Vec::new();
            file.read_to_end(&mut all)?;
            return Ok(all.into());
        }
    }
    Ok(bytes)
}

fn open_block(path: &str) -> Result<FileBlock, Failed> {
    let opened = OpenOptions::new().read(true).write(true).open(path);
    let file: File =
        opened.map_err(|error| Failed::Because(format!("Could not open block device: {path}: {}", plain(&error))))?;
    FileBlock::new(file)
        .map_err(|error| Failed::Because(format!("{path}: Could not determine capacity: {}", plain(&error))))
}

/// Megabytes; what follows the digits is let be.
fn parse_memory(text: &str) -> Result<u64, Failed> {
    let digits = text.len() - text.trim_start_matches(|letter: char| letter.is_ascii_digit()).len();
    let megabytes = text[..digits].parse::<u64>().ok().filter(|memory| *memory > 0);
    let bytes = megabytes.map(|memory| memory.saturating_mul(1 << 20));
    bytes.ok_or_else(|| Failed::Because("Malformed argument to --mem".to_owned()))
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts.next().filter(|part| (1..=2).contains(&part.len()))?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

/// An error in the words of C's library.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn an_option_of_a_device_names_it_by_letters_and_digits() {
        assert_eq!(split_device_option("--block:disk1=a=b:c d"), Some(("--block", "disk1", "a=b:c")));
        for wrong in ["--block:=a", "--block:a-b=c", "--block:a", "--block", "--block:a=", "--mem=1"] {
            assert_eq!(split_device_option(wrong), None, "{wrong}");
        }
        assert_eq!(split_device_option(&format!("--net:{}=t", "n".repeat(68))), None);
    }

    #[test]
    fn an_address_is_six_bytes() {
        assert_eq!(parse_mac("02:00:0:ff:aA:1"), Some([2, 0, 0, 255, 170, 1]));
        for wrong in ["", "02:00:00:00:00", "02:00:00:00:00:00:00", "02:00:00:00:00:100", "g:0:0:0:0:0"] {
            assert_eq!(parse_mac(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn memory_is_a_number_of_megabytes() {
        assert_eq!(parse_memory("32").ok(), Some(32 << 20));
        assert_eq!(parse_memory("3x").ok(), Some(3 << 20));
        for wrong in ["", "0", "x", "-1"] {
            assert!(parse_memory(wrong).is_err(), "{wrong}");
        }
    }
}

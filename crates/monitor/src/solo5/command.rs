//! Functions whose program is a Solo5 unikernel that does one thing and halts: the request's body becomes its command
//! line, and what it prints becomes the response. Used by [`crate::program`], always at CPL 3.
//!
//! Its template is taken when it first does something that depends on the request: when it looks at its command line,
//! which until then is not mapped, or makes a hypercall. What bindings do before that, descriptor tables and all, is done
//! once a function and not once a request. What they print for operators goes to the function's log.
//!
//! A guest that knows of the extension can have the request as bytes and hand over the response so. Where the function's
//! environment says that it does, its command line is the same for all requests, and the template is taken when it asks.

use std::{
    fs::File,
    io::{self, BufReader, Read},
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

use kernlet_abi::hypercall::LOG_MESSAGE_MAX;

use super::{
    Config, Console, ConsoleError, Devices, Disk, End, Image,
    clock::Clock,
    extension::{Exchange, Extension},
    layout::{Layout, write_command_line},
    machine::{BootError, COMMAND_LINE_MAX, Halted, Machine, Stopped, Trap, Until, kvm_host},
    processor::{CpuState, Ring},
    saved::Saved,
};
use crate::{
    backtrace::{Found, Frame},
    crash::{Cause, CodeAddress, Crash},
    debugger::Debugger,
    elf::Unikernel,
    hypervisor::Hypervisor,
    layout::MachineConfig,
    limits::Limits,
    memory::FrozenMemory,
    message::{Level, Request, Response, Services, Usage},
    processor::{Fault, Registers},
    report::{FaultDetail, LastLines, Report, RequestSummary},
    saved::{LoadError, TemplateKey},
};

/// Environment variable of a function: what of its bindings' own messages it is to print.
const LOG: &str = "solo5_log";

/// Environment variable of a function: how a request's body becomes a command line.
const ARGUMENTS: &str = "solo5_arguments";

/// What bindings print beside what the guest does, at the beginning of a line.
const BINDINGS: &str = "Solo5:";

/// What bindings print at the start, before any of these.
pub(super) const BANNER: [&str; 4] = [
    "            |      ___|",
    "  __|  _ \\  |  _ \\ __ \\",
    "\\__ \\ (   | | (   |  ) |",
    "____/\\___/ _|\\___/____/",
];

/// Bytes of a line of the log.
#[allow(clippy::cast_possible_truncation, reason = "some kilobytes")]
const LINE_MAX: usize = LOG_MESSAGE_MAX as usize;

/// How a request's body becomes a command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arguments {
    /// As it is where no word of it could be an option or ends a quotation, as one quoted word elsewhere.
    Safe,
    /// As it is.
    Raw,
    /// As one quoted word.
    Quoted,
    /// Not at all: the guest asks for it.
    None,
}

impl Arguments {
    /// Until when a guest runs before it depends on a request.
    fn until(self) -> Until {
        if self == Self::None { Until::Asked } else { Until::Request }
    }

    /// The command line that a template has.
    fn first_line(self, words: &str) -> &[u8] {
        if self == Self::None { words.as_bytes() } else { &[] }
    }
}

/// The clean state of a function's machines. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Template {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    memory: FrozenMemory,
    cpu: CpuState,
    layout: Layout,
    image: Image,
    /// Its block devices as the template has them.
    disks: Vec<(String, Disk)>,
    /// The same file, for the names of its functions.
    symbols: Unikernel,
    clock: Clock,
    response_limit: u64,
    /// Words for the bindings, with a space behind.
    words: String,
    arguments: Arguments,
}

/// A machine whose guest is about to look at its command line.
#[derive(Debug)]
pub struct CommandMachine {
    /// Boxed, as the whole is handed from state to state at every request.
    machine: Box<Machine>,
    template: Template,
    services: Services,
    last_lines: LastLines,
    began: Instant,
}

/// A machine whose guest has halted.
#[derive(Debug)]
pub struct UsedCommand {
    machine: CommandMachine,
}

/// What a guest prints, up to what a response may have, and apart from it what its bindings do.
#[derive(Debug)]
struct Output<'a> {
    /// The request, once there is one.
    request: Option<&'a Request<'a>>,
    /// What the guest hands over.
    response: Response,
    answered: bool,
    printed: Vec<u8>,
    limit: u64,
    bindings: Vec<u8>,
}

impl<'a> Output<'a> {
    fn new(request: Option<&'a Request<'a>>, limit: u64) -> Self {
        let (response, printed, bindings) = (Response::default(), Vec::new(), Vec::new());
        Self { request, response, answered: false, printed, limit, bindings }
    }
}

impl Console for Output<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), ConsoleError> {
        // Bindings print a line at a time, and nothing of the guest's with it.
        let line = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        let is_banner = BANNER.iter().any(|banner| banner.as_bytes() == line);
        if is_banner || bytes.starts_with(BINDINGS.as_bytes()) {
            let fits = !is_banner && self.bindings.len() + bytes.len() <= LOG_ROOM;
            self.bindings.extend_from_slice(if fits { bytes } else { &[] });
            return Ok(());
        }
        if (self.printed.len() + bytes.len()) as u64 > self.limit {
            return Err(ConsoleError::Full { limit: self.limit });
        }
        self.printed.extend_from_slice(bytes);
        Ok(())
    }

    fn exchange(&mut self) -> Option<Exchange<'_>> {
        let Self { request, response, answered, limit, .. } = self;
        Some(Exchange { request: (*request)?, response, limit: *limit, answered })
    }
}

/// Bytes that bindings may print beside a response, and a guest beside one that it hands over; what is more is lost.
pub(super) const LOG_ROOM: usize = 64 * 1024;

/// What a body is answered with that no command line can hold.
const ZERO_BYTE: &[u8] =
    b"the request's body has a zero byte, which no command line can have; a function that takes its \
    body by the call for it says so with solo5_arguments=none\n";

/// Gives texts to the log, line by line.
fn log(services: &Services, call_id: &str, texts: &[&[u8]], last_lines: &mut LastLines) {
    for text in texts {
        let text = text.get(..LOG_ROOM).unwrap_or(text);
        for line in String::from_utf8_lossy(text).lines() {
            let line = &line[..line.floor_char_boundary(LINE_MAX)];
            let level = if line.contains("ABORT") || line.contains("trap:") { Level::Error } else { Level::Info };
            last_lines.push(level, line);
            services.log.line(call_id, level, line);
        }
    }
}

impl Template {
    /// Boots a machine and runs its guest until it depends on a request. The machine is the template's first.
    ///
    /// # Errors
    /// The machine cannot be made, or the guest ended or overran `deadline` before.
    pub fn boot(
        hypervisor: &Hypervisor,
        image: &Image,
        config: &MachineConfig,
        services: Services,
        deadline: Instant,
    ) -> Result<(Self, CommandMachine), Box<Crash>> {
        Self::boot_debugged(hypervisor, image, config, services, deadline, None)
    }

    /// As [`Self::boot`], with somebody who debugs the machine from its first instruction, and afterwards.
    ///
    /// # Errors
    /// As [`Self::boot`].
    pub fn boot_debugged(
        hypervisor: &Hypervisor,
        image: &Image,
        config: &MachineConfig,
        services: Services,
        deadline: Instant,
        debugger: Option<Box<Debugger>>,
    ) -> Result<(Self, CommandMachine), Box<Crash>> {
        let began = Instant::now();
        let symbols = Unikernel::of_symbols(image.bytes());
        let cause = |cause| Crash::new(cause, Usage::default());
        let (words, arguments) = settings(&config.environment);
        let size = Config { memory: config.memory, ring: Ring::Three };
        let extension = Extension { session: Arc::clone(&services.accel), requests: true };
        let devices = image.devices(&[]).map_err(|error| cause(boot_cause(error.into())))?;
        let booted = Machine::boot(hypervisor, image, devices, arguments.first_line(&words), size, Some(extension));
        let mut machine = booted.map_err(|error| cause(boot_cause(error)))?;
        let hides = arguments != Arguments::None;
        if hides {
            let Machine { processor, memory, layout, .. } = &mut machine;
            processor.hide_command_line(memory, layout, true).map_err(cause)?;
        }
        if let Some(debugger) = debugger {
            machine.debug(debugger);
        }
        // It prints nothing before it looks at its command line or makes a hypercall.
        let mut output = Output::new(None, LOG_ROOM as u64);
        let stopped = machine.run_until(&mut output, Some(deadline), arguments.until());
        log(&services, "", &[&output.bindings, &output.printed], &mut LastLines::default());
        let at = machine.processor.instruction_pointer();
        let failed = |end| Crash::new(cause_of(end, &symbols, at, deadline, began, Duration::ZERO), Usage::default());
        let in_call = match stopped.map_err(failed)? {
            Stopped::AtCommandLine => false,
            Stopped::AtHypercall | Stopped::ByLink => true,
            Stopped::Halted(Halted { status, .. }) => return Err(failed(End::NoRequest { status })),
        };
        let Machine { processor, memory, layout, devices, .. } = &mut machine;
        if hides {
            processor.hide_command_line(memory, layout, false).map_err(cause)?;
        }
        let clock = Clock::of(processor).map_err(cause)?;
        let (frozen, cpu) = processor.freeze(memory, in_call).map_err(cause)?;
        let inner = Inner {
            memory: frozen,
            cpu,
            layout: layout.clone(),
            image: image.clone(),
            disks: devices.freeze(),
            symbols,
            clock,
            response_limit: config.response_limit,
            words,
            arguments,
        };
        let template = Self { inner: Arc::new(inner) };
        let command = CommandMachine::new(machine, template.clone(), services);
        Ok((template, command))
    }

    /// A template that an earlier process saved under this key.
    ///
    /// # Errors
    /// The file is of something else, is damaged, or cannot be put into memory; then [`Self::boot`] is the way.
    pub fn load(
        file: impl Read,
        key: &TemplateKey,
        hypervisor: &Hypervisor,
        image: &Image,
        config: &MachineConfig,
    ) -> Result<Self, LoadError> {
        kvm_host(hypervisor).map_err(boot_cause)?;
        let (words, arguments) = settings(&config.environment);
        let shape = Saved::new(image, config.memory, arguments.first_line(&words))?;
        let (memory, cpu, moment) = shape.read(BufReader::with_capacity(64 * 1024, file), key)?;
        let inner = Inner {
            memory,
            cpu,
            layout: shape.layout,
            image: image.clone(),
            disks: Vec::new(),
            symbols: Unikernel::of_symbols(image.bytes()),
            clock: Clock::loaded(&moment),
            response_limit: config.response_limit,
            words,
            arguments,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Writes the template to an empty file, for [`Self::load`].
    ///
    /// # Errors
    /// The file cannot be written, or the guest has written to its disks before it depended on a request.
    pub fn save(&self, file: &File, key: &TemplateKey) -> io::Result<()> {
        let Inner { memory, cpu, image, disks, words, arguments, clock, .. } = &*self.inner;
        if disks.iter().any(|(_, disk)| disk.is_written()) {
            return Err(io::Error::other("its guest writes to its block devices at the start"));
        }
        let shape =
            Saved::new(image, self.inner.layout.memory, arguments.first_line(words)).map_err(io::Error::other)?;
        shape.write(file, key, memory, cpu, clock.taken())
    }

    /// Another machine, in exactly the template's state.
    ///
    /// # Errors
    /// KVM or the host cannot give another machine.
    pub fn machine(&self, hypervisor: &Hypervisor, services: Services) -> Result<CommandMachine, Box<Crash>> {
        let cause = |cause| Crash::new(cause, Usage::default());
        let Inner { memory, cpu, layout, image, disks, clock, .. } = &*self.inner;
        let devices = image.devices(disks).and_then(Devices::complete);
        let devices = devices.map_err(|error| cause(boot_cause(error.into())))?;
        let mut machine = Machine::from_template(hypervisor, memory, cpu, layout.clone(), devices).map_err(cause)?;
        machine.extension = Some(Extension { session: Arc::clone(&services.accel), requests: true });
        clock.set(&mut machine.processor).map_err(cause)?;
        Ok(CommandMachine::new(machine, self.clone(), services))
    }
}

/// The longest body of a function with this environment, in bytes: what fits a command line, where it becomes one.
#[must_use]
pub fn body_max(environment: &[(String, String)]) -> u64 {
    match settings(environment) {
        (_, Arguments::None) => u64::MAX,
        (words, _) => (COMMAND_LINE_MAX - words.len()) as u64,
    }
}

/// Words for the bindings, and how a body becomes a command line.
pub(super) fn settings(environment: &[(String, String)]) -> (String, Arguments) {
    let value = |name| environment.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str());
    let level = value(LOG).filter(|level| ["quiet", "error", "warn", "info", "debug"].contains(level));
    let arguments = match value(ARGUMENTS) {
        Some("raw") => Arguments::Raw,
        Some("quoted") => Arguments::Quoted,
        Some("none") => Arguments::None,
        _ => Arguments::Safe,
    };
    (format!("--solo5:{} ", level.unwrap_or("quiet")), arguments)
}

impl Arguments {
    /// The command line for a body.
    fn of(self, body: &[u8]) -> Vec<u8> {
        let is_option = |word: &[u8]| word.starts_with(b"-");
        let is_plain = !body.iter().any(|byte| matches!(byte, b'"' | b'\'' | b'\\'))
            && !body.split(u8::is_ascii_whitespace).any(is_option);
        if self == Self::None {
            return Vec::new();
        }
        if self == Self::Raw || (self == Self::Safe && is_plain) {
            return body.to_vec();
        }
        // As argument parsers of unikernels take it: MirageOS's, and shells'.
        let escaped = body.iter().flat_map(|byte| match byte {
            b'"' | b'\\' => vec![b'\\', *byte],
            byte => vec![*byte],
        });
        [b'"'].into_iter().chain(escaped).chain([b'"']).collect()
    }
}

impl CommandMachine {
    fn new(machine: Machine, template: Template, services: Services) -> Self {
        Self { machine: Box::new(machine), template, services, last_lines: LastLines::default(), began: Instant::now() }
    }

    /// The machine, under these limits from now on.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.machine.limits = limits;
        self
    }

    /// Lets the guest answer a request. A machine that crashes is consumed.
    ///
    /// # Errors
    /// How the guest ended, unless it halted with status 0.
    pub fn invoke_into(
        mut self,
        request: &Request<'_>,
        deadline: Instant,
        response: &mut Response,
    ) -> Result<UsedCommand, Box<Crash>> {
        self.began = Instant::now();
        self.machine.usage = Usage { bytes_in: request.body.len() as u64, ..Usage::default() };
        response.headers = crate::Headers::default();
        response.body.clear();
        if self.template.inner.arguments != Arguments::None && request.body.contains(&0) {
            // Where a command line ends. Nothing has run, so the machine is as clean as before.
            response.status = 400;
            response.body.extend_from_slice(ZERO_BYTE);
            response.usage = self.usage();
            return Ok(UsedCommand { machine: self });
        }
        match self.run(request, deadline, response) {
            Ok(()) => {
                self.machine.usage.bytes_out = response.body.len() as u64;
                response.usage = self.usage();
                Ok(UsedCommand { machine: self })
            }
            Err(ended) => {
                let (cause, trap) = *ended;
                Err(self.crash(cause, trap, request))
            }
        }
    }

    fn run(
        &mut self,
        request: &Request<'_>,
        deadline: Instant,
        response: &mut Response,
    ) -> Result<(), Box<(Cause, Option<Trap>)>> {
        let template = Arc::clone(&self.template.inner);
        self.machine.has_request = true;
        if template.arguments != Arguments::None {
            let mut line = template.words.clone().into_bytes();
            line.extend(template.arguments.of(request.body));
            let (size, window) = (line.len() as u64, COMMAND_LINE_MAX as u64);
            let written = write_command_line(&self.machine.memory, &line);
            written.map_err(|_| Box::new((Cause::RequestTooLarge { size, window }, None)))?;
        }
        let limit = template.response_limit;
        let mut output = Output::new(Some(request), limit);
        // Kept for their allocation, whichever it will be.
        let kept = if template.arguments == Arguments::None { &mut output.response.body } else { &mut output.printed };
        *kept = mem::take(&mut response.body);
        let ran = self.machine.run(&mut output, Some(deadline));
        let printed = mem::take(&mut output.printed);
        if output.answered {
            *response = mem::take(&mut output.response);
            self.log(request.call_id, &[&output.bindings, &printed]);
        } else {
            (response.status, response.body) = (200, printed);
            self.log(request.call_id, &[&output.bindings]);
        }
        let at = self.machine.processor.instruction_pointer();
        let paused = self.machine.usage.paused;
        let halted = ran.map_err(|end| match end {
            End::Console(ConsoleError::Full { .. }) => {
                Box::new((Cause::ResponseTooLarge { size: limit.saturating_add(1), limit }, None))
            }
            end => Box::new((cause_of(end, &template.symbols, at, deadline, self.began, paused), None)),
        })?;
        let status = halted.status;
        if status == 0 {
            return Ok(());
        }
        let trap = self.machine.trap(&halted);
        let failures = self.last_lines.iter().filter(|(level, _)| *level == Level::Error);
        let said = failures.last().map(|(_, text)| text.clone()).unwrap_or_default();
        Err(Box::new((Cause::Exited { status, said }, trap)))
    }

    /// Gives what was printed beside the response to the log, and keeps the last of it.
    fn log(&mut self, call_id: &str, texts: &[&[u8]]) {
        self.last_lines.clear();
        log(&self.services, call_id, texts, &mut self.last_lines);
    }

    fn usage(&mut self) -> Usage {
        let Machine { processor, memory, usage, .. } = &mut *self.machine;
        let pages = u32::try_from(processor.dirty_pages(memory)).unwrap_or(u32::MAX);
        Usage { wall: self.began.elapsed(), pages, ..*usage }
    }

    /// Ends the machine, and tells its debugger, if there is one, that all went well.
    pub fn finish(mut self) {
        self.machine.end_debugging(Some(0));
    }

    fn crash(mut self, cause: Cause, trap: Option<Trap>, request: &Request<'_>) -> Box<Crash> {
        self.machine.end_debugging(None);
        let (symbols, request) = (&self.template.inner.symbols, RequestSummary::of(request));
        let report = report(&mut self.machine, symbols, &self.last_lines, trap, Some(request));
        let usage = self.usage();
        Crash::with_report(cause, usage, Some(report))
    }

    /// Compares the machine with its template, bit for bit.
    ///
    /// # Errors
    /// What differs first; or KVM did not show it.
    pub fn audit(&mut self) -> Result<(), String> {
        let Inner { memory: template, cpu, .. } = &*self.template.inner;
        let Machine { processor, memory, devices, .. } = &mut *self.machine;
        if !devices.are_clean() {
            return Err("a block device".to_owned());
        }
        match (memory.first_difference(template), processor.first_difference(cpu)) {
            (Ok(Some(address)), _) => Err(format!("memory at {address:#x}")),
            (_, Ok(Some(register))) => Err(register.to_owned()),
            (Ok(None), Ok(None)) => Ok(()),
            (Err(_), _) => Err("memory cannot be compared".to_owned()),
            (_, Err(cause)) => Err(cause.to_string()),
        }
    }
}

impl UsedCommand {
    /// Makes the machine equal to its template again.
    ///
    /// # Errors
    /// The machine is lost because KVM or the host did not do its part.
    pub fn rewind(mut self) -> Result<CommandMachine, Box<Crash>> {
        let Machine { processor, memory, devices, .. } = &mut *self.machine.machine;
        devices.rewind();
        let template = &self.machine.template.inner;
        match processor.rewind(memory, &template.memory, &template.cpu) {
            Ok(()) => Ok(self.machine),
            Err(cause) => Err(Crash::new(cause, Usage::default())),
        }
    }
}

/// In what state a guest has ended.
pub(super) fn report(
    machine: &mut Machine,
    symbols: &Unikernel,
    last_lines: &LastLines,
    trap: Option<Trap>,
    request: Option<RequestSummary>,
) -> Report {
    // After a trap, those that bindings kept; the others are their own by now.
    let registers = trap.map_or_else(
        || machine.processor.registers(&machine.memory),
        |Trap { rip, rsp, rflags, .. }| Registers { rip, rsp, rflags, ..Registers::default() },
    );
    let fault = trap.map(|trap| FaultDetail::from(fault(machine, last_lines, trap)));
    let at = CodeAddress::new(registers.rip, symbols);
    let backtrace = vec![Frame { at, found: Found::Processor }];
    Report { registers, fault, backtrace, last_lines: last_lines.iter().cloned().collect(), request }
}

/// The exception that a guest's trap was. Bindings say its name, and not its number.
fn fault(machine: &Machine, last_lines: &LastLines, trap: Trap) -> Fault {
    const NAMES: [&str; 20] = [
        "#DE", "#DB", "#NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", "#9", "#TS", "#NP", "#SS", "#GP", "#PF", "#15",
        "#MF", "#AC", "#MC", "#XM",
    ];
    let named = |text: &str| NAMES.iter().position(|name| text.contains(&format!("type={name} ")));
    let vector = last_lines.iter().find_map(|(_, text)| named(text)).and_then(|vector| u8::try_from(vector).ok());
    // Without a name: an address that was touched is a page fault's.
    let unnamed = if machine.processor.faulted_at(trap.cr2) { Fault::PAGE_FAULT } else { Fault::PROTECTION };
    Fault { vector: vector.unwrap_or(unnamed), error_code: trap.error_code, at: trap.rip, address: trap.cr2 }
}

pub(super) fn boot_cause(error: BootError) -> Cause {
    match error {
        BootError::Host(cause) => cause,
        error => Cause::Solo5Boot(Box::new(error)),
    }
}

/// The end of a guest in a function's terms.
pub(super) fn cause_of(
    end: End,
    symbols: &Unikernel,
    at: u64,
    deadline: Instant,
    began: Instant,
    paused: Duration,
) -> Cause {
    let at = CodeAddress::new(at, symbols);
    match end {
        End::Host(cause) => cause,
        End::Timeout => Cause::Timeout { limit: deadline.saturating_duration_since(began), paused, at },
        End::Call(cause) => cause,
        End::CpuTime { limit } => Cause::CpuTime { limit, at },
        end => Cause::Solo5(Box::new(end)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_that_could_be_options_becomes_one_quoted_word() {
        let safe = |body: &str| String::from_utf8_lossy(&Arguments::Safe.of(body.as_bytes())).into_owned();
        for plain in ["", "hello", "hello world\n", "a=b c-d", "ünïcode"] {
            assert_eq!(safe(plain), plain);
        }
        assert_eq!(safe("--solo5:debug"), "\"--solo5:debug\"");
        assert_eq!(safe("a -l *:debug"), "\"a -l *:debug\"");
        assert_eq!(safe("a\n--ipv4=1.2.3.4/24"), "\"a\n--ipv4=1.2.3.4/24\"");
        assert_eq!(safe("say \"hi\\\""), "\"say \\\"hi\\\\\\\"\"");
        assert_eq!(Arguments::Raw.of(b"--x \""), b"--x \"");
        assert_eq!(Arguments::Quoted.of(b"hello"), b"\"hello\"");
    }

    #[test]
    fn bindings_are_told_to_be_quiet_unless_the_function_says_otherwise() {
        let words = |pairs: &[(&str, &str)]| {
            let pairs: Vec<_> = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            settings(&pairs)
        };
        assert_eq!(words(&[]), ("--solo5:quiet ".to_owned(), Arguments::Safe));
        assert_eq!(
            words(&[("solo5_log", "debug"), ("solo5_arguments", "raw")]),
            ("--solo5:debug ".to_owned(), Arguments::Raw)
        );
        assert_eq!(words(&[("solo5_log", "debug --x")]).0, "--solo5:quiet ");
    }
}

//! Functions whose program is a Solo5 unikernel that serves HTTP by itself: each request goes to it over a connection of its
//! own, on a link that ends in this process. Used by `program`, always at CPL 3.
//!
//! Its template is taken when it serves and waits: it has accepted a connection of the host's on its port, has ended it
//! after the host did, and then waits for packets, of which there are none. No byte of a request exists then. A request
//! meets that machine, with a TCP/IP stack of the host's that knows nothing of the one before.
//!
//! | module | duty |
//! |---|---|
//! | `link` | the host's end: frames, TCP, whose answer is whole |
//! | `message` | HTTP/1.1: a request as bytes, bytes as an answer |
//! | `shared` | one machine that serves many at once |

#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod link;
mod message;
mod shared;

use std::{
    fs::File,
    io::{self, BufReader, Read},
    mem,
    net::{Ipv4Addr, SocketAddrV4},
    sync::Arc,
    time::{Duration, Instant},
};

use kernlet_abi::hypercall::LOG_MESSAGE_MAX;

pub(crate) use self::link::{Link, Plug, Waited};
use self::{
    link::{Addresses, GUEST_MAC, Outcome},
    message::{Answer, encode},
    shared::Current,
};
use super::{
    Config, Console, ConsoleError, DeviceKind, Devices, Disk, End, Image,
    clock::Clock,
    command::{BANNER, LOG_ROOM, boot_cause, cause_of, report, settings},
    device::Attached,
    extension::Extension,
    layout::Layout,
    machine::{BootError, Halted, Machine, Stopped, Trap, Until, kvm_host},
    processor::{CpuState, Ring},
    saved::{Moment, Saved},
};
use crate::{
    crash::{Cause, CodeAddress, Crash},
    elf::Unikernel,
    hypervisor::Hypervisor,
    layout::MachineConfig,
    limits::Limits,
    memory::FrozenMemory,
    message::{Level, Request, Response, Services, Usage},
    report::{LastLines, RequestSummary},
    saved::{self, LoadError, TemplateKey},
};

/// A unikernel and where it serves.
#[derive(Clone, Debug)]
pub struct Server {
    /// The unikernel.
    pub image: Image,
    /// Where it serves, and how it is told.
    pub serve: Serve,
}

/// Where a unikernel serves, and how it is told.
#[derive(Clone, Debug)]
pub struct Serve {
    /// Its IPv4 address.
    pub address: Ipv4Addr,
    /// Bits of the address that its network has in common: 1 to 30.
    pub prefix: u8,
    /// The port on which it serves HTTP.
    pub port: u16,
    /// Its command line. `{ipv4}` in it becomes the address with the prefix, `{address}`, `{prefix}`, `{port}` and
    /// `{gateway}`, the host's own address, what they say.
    pub arguments: String,
    /// One machine serves all requests, several at once, and keeps its state.
    pub shares: bool,
}

impl Serve {
    /// The host's address: the network's first that is not the guest's.
    fn host(&self) -> Ipv4Addr {
        let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(u32::MAX);
        let network = u32::from(self.address) & mask;
        let first = Ipv4Addr::from(network.saturating_add(1));
        if first == self.address { Ipv4Addr::from(network.saturating_add(2)) } else { first }
    }

    fn addresses(&self) -> Addresses {
        Addresses { guest: self.address, host: self.host(), prefix: self.prefix, port: self.port }
    }

    fn command_line(&self, words: &str) -> String {
        let values = [
            ("{ipv4}", format!("{}/{}", self.address, self.prefix)),
            ("{address}", self.address.to_string()),
            ("{prefix}", self.prefix.to_string()),
            ("{gateway}", self.host().to_string()),
            ("{port}", self.port.to_string()),
        ];
        values.iter().fold(format!("{words}{}", self.arguments), |line, (name, value)| line.replace(name, value))
    }
}

impl Server {
    pub(crate) fn network_devices(&self) -> usize {
        self.networks().count()
    }

    fn networks(&self) -> impl Iterator<Item = &str> {
        let nets = self.image.manifest().entries().filter(|(_, entry)| entry.kind() == Some(DeviceKind::Net));
        nets.map(|(_, entry)| entry.name())
    }

    /// The devices of a machine whose disks are these, with this link as its network.
    fn devices(&self, link: &Arc<Link>, disks: &[(String, Disk)]) -> Result<Devices, BootError> {
        let mut networks = self.networks();
        let (Some(name), None) = (networks.next(), networks.next()) else {
            return Err(BootError::NetworkDevices { count: self.network_devices() });
        };
        let mut devices = self.image.devices(disks)?;
        devices.attach_link(name, Arc::clone(link))?;
        devices.set_mac(name, GUEST_MAC)?;
        Ok(devices)
    }
}

impl Server {
    /// What of its templates is in a file.
    fn saved(&self, memory: u64, command_line: &str) -> Result<Saved, Cause> {
        let devices = self.devices(&Link::new(self.serve.addresses()), &[]).map_err(boot_cause)?;
        Saved::with_devices(&self.image, devices, memory, command_line.into(), false)
    }
}

/// The clean state of a server's machines. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Template {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    memory: FrozenMemory,
    cpu: CpuState,
    layout: Layout,
    /// What the guest was given at the start.
    command_line: String,
    server: Server,
    /// What its block devices held.
    disks: Vec<(String, Disk)>,
    /// The same file, for the names of its functions.
    symbols: Unikernel,
    response_limit: u64,
    /// Where the structure of the call is in which it waits.
    waits_at: u32,
    /// Where its frames go.
    guest: [u8; 6],
    clock: Clock,
    hypervisor: Hypervisor,
    /// The machine that serves all, where one does.
    current: Current,
}

/// A machine whose guest waits for packets, or a place at one that serves many.
#[derive(Debug)]
pub enum ServerMachine {
    /// A machine for one request at a time.
    Own(OwnMachine),
    /// A place at the machine that serves all.
    Place(shared::Place),
}

/// A machine that has answered.
#[derive(Debug)]
pub enum UsedServer {
    /// It is as the request left it.
    Own(OwnMachine),
    /// The same place again.
    Place(shared::Place),
}

/// A machine for one request at a time.
#[derive(Debug)]
pub struct OwnMachine {
    engine: Engine,
    template: Template,
    services: Services,
}

/// A machine and what belongs to it, but for its template, which may hold it itself.
#[derive(Debug)]
struct Engine {
    /// Boxed, as the whole is handed from state to state at every request.
    machine: Box<Machine>,
    link: Arc<Link>,
    last_lines: LastLines,
    began: Instant,
}

impl Template {
    /// Boots a machine and runs its guest until it serves and waits. The machine is the template's first.
    ///
    /// # Errors
    /// The machine cannot be made, or the guest ended or did not serve before `deadline`.
    pub fn boot(
        hypervisor: &Hypervisor,
        server: &Server,
        config: &MachineConfig,
        services: Services,
        deadline: Instant,
    ) -> Result<(Self, ServerMachine), Box<Crash>> {
        let began = Instant::now();
        let cause = |cause| Crash::new(cause, Usage::default());
        let link = Link::new(server.serve.addresses());
        let line = server.serve.command_line(&settings(&config.environment).0);
        let size = Config { memory: config.memory, ring: Ring::Three };
        let extension = Extension { session: Arc::clone(&services.accel), requests: false };
        let booted = server.devices(&link, &[]).and_then(|devices| {
            Machine::boot(hypervisor, &server.image, devices, line.as_bytes(), size, Some(extension))
        });
        let mut machine = booted.map_err(|error| cause(boot_cause(error)))?;
        let symbols = Unikernel::of_symbols(server.image.bytes());
        let mut last_lines = LastLines::default();
        link.probe();
        let mut lines = Lines::new("", &services, &mut last_lines);
        let ran = machine.run_until(&mut lines, Some(deadline), Until::Halt);
        lines.finish();
        let ended = match ran {
            Ok(Stopped::ByLink) => None,
            Err(End::Timeout) => Some((not_serving(server, &link, &mut machine, &symbols, began), None)),
            ran => Some(ending(ran, &mut machine, &symbols, &last_lines, (began, deadline))),
        };
        if let Some((why, trap)) = ended {
            let report = report(&mut machine, &symbols, &last_lines, trap, None);
            return Err(Crash::with_report(why, machine.usage, Some(report)));
        }
        let guest = link.guest_mac();
        link.reset(guest);
        let inner = Self::freeze(&mut machine, server, hypervisor, guest, config.response_limit).map_err(cause)?;
        let template = Self { inner: Arc::new(Inner { symbols, command_line: line, ..inner }) };
        let engine = Engine::new(machine, link);
        let first = if server.serve.shares {
            template.inner.current.set(engine);
            ServerMachine::Place(shared::Place::new(template.clone(), services))
        } else {
            ServerMachine::Own(OwnMachine { engine, template: template.clone(), services })
        };
        Ok((template, first))
    }

    fn freeze(
        machine: &mut Machine,
        server: &Server,
        hypervisor: &Hypervisor,
        guest: [u8; 6],
        response_limit: u64,
    ) -> Result<Inner, Cause> {
        let Machine { processor, memory, layout, devices, waits_at, .. } = machine;
        let waits_at = waits_at.ok_or(Cause::Shutdown)?;
        let clock = Clock::of(processor)?;
        // Behind its call, which is answered when there is a frame for it.
        let (frozen, cpu) = processor.freeze(memory, false)?;
        Ok(Inner {
            memory: frozen,
            cpu,
            layout: layout.clone(),
            command_line: String::new(),
            server: server.clone(),
            disks: devices.freeze(),
            symbols: Unikernel::of_symbols(server.image.bytes()),
            response_limit,
            waits_at,
            guest,
            clock,
            hypervisor: hypervisor.clone(),
            current: Current::default(),
        })
    }

    /// A template that an earlier process saved under this key.
    ///
    /// # Errors
    /// The file is of something else, is damaged, or cannot be put into memory; then [`Self::boot`] is the way.
    pub fn load(
        file: impl Read,
        key: &TemplateKey,
        hypervisor: &Hypervisor,
        server: &Server,
        config: &MachineConfig,
    ) -> Result<Self, LoadError> {
        kvm_host(hypervisor).map_err(boot_cause)?;
        let command_line = server.serve.command_line(&settings(&config.environment).0);
        let shape = server.saved(config.memory, &command_line)?;
        let (memory, cpu, moment) = shape.read(BufReader::with_capacity(64 * 1024, file), key)?;
        let Moment { waits_at, guest, .. } = moment;
        let waits_at = u32::try_from(waits_at).map_err(|_| saved::damaged("its guest waits nowhere"))?;
        let [guest @ .., _, _] = guest;
        let inner = Inner {
            memory,
            cpu,
            layout: shape.layout,
            command_line,
            server: server.clone(),
            disks: Vec::new(),
            symbols: Unikernel::of_symbols(server.image.bytes()),
            response_limit: config.response_limit,
            waits_at,
            guest,
            clock: Clock::loaded(&moment),
            hypervisor: hypervisor.clone(),
            current: Current::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Writes the template to an empty file, for [`Self::load`].
    ///
    /// # Errors
    /// The file cannot be written, the guest has written to its disks at the start, or frames are on their way in it.
    pub fn save(&self, file: &File, key: &TemplateKey) -> io::Result<()> {
        let Inner { memory, cpu, server, disks, waits_at, guest, clock, .. } = &*self.inner;
        if disks.iter().any(|(_, disk)| disk.is_written()) {
            return Err(io::Error::other("its guest writes to its block devices at the start"));
        }
        let [a, b, c, d, e, f] = *guest;
        let moment = Moment { waits_at: u64::from(*waits_at), guest: [a, b, c, d, e, f, 0, 0], ..clock.taken() };
        let shape = server.saved(self.inner.layout.memory, &self.inner.command_line).map_err(io::Error::other)?;
        shape.write(file, key, memory, cpu, moment)
    }

    /// Another machine, in exactly the template's state; or another place at the machine that serves all.
    ///
    /// # Errors
    /// KVM or the host cannot give another machine.
    pub fn machine(&self, hypervisor: &Hypervisor, services: Services) -> Result<ServerMachine, Box<Crash>> {
        if self.inner.server.serve.shares {
            // What comes from a file is tried before anybody relies on it.
            if self.inner.clock.is_loaded() && self.inner.current.is_empty() {
                self.inner.current.set(self.engine(hypervisor, &services)?);
            }
            return Ok(ServerMachine::Place(shared::Place::new(self.clone(), services)));
        }
        Ok(ServerMachine::Own(OwnMachine {
            engine: self.engine(hypervisor, &services)?,
            template: self.clone(),
            services,
        }))
    }

    fn engine(&self, hypervisor: &Hypervisor, services: &Services) -> Result<Engine, Box<Crash>> {
        let cause = |cause| Crash::new(cause, Usage::default());
        let Inner { memory, cpu, layout, server, disks, waits_at, guest, clock, .. } = &*self.inner;
        let link = Link::new(server.serve.addresses());
        link.reset(*guest);
        let devices = server.devices(&link, disks).and_then(|devices| Ok(devices.complete()?));
        let devices: Attached = devices.map_err(|error| cause(boot_cause(error)))?;
        let mut machine = Machine::from_template(hypervisor, memory, cpu, layout.clone(), devices).map_err(cause)?;
        machine.waits_at = Some(*waits_at);
        machine.extension = Some(Extension { session: Arc::clone(&services.accel), requests: false });
        clock.set(&mut machine.processor).map_err(cause)?;
        Ok(Engine::new(machine, link))
    }
}

impl ServerMachine {
    /// The machine, under these limits from now on.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        match self {
            Self::Own(mut own) => {
                own.engine.machine.limits = limits;
                Self::Own(own)
            }
            Self::Place(place) => Self::Place(place.with_limits(limits)),
        }
    }

    /// Lets the guest answer a request. A machine that crashes is consumed.
    ///
    /// # Errors
    /// How the guest ended, or what is wrong with its answer.
    pub fn invoke_into(
        self,
        request: &Request<'_>,
        deadline: Instant,
        response: &mut Response,
    ) -> Result<UsedServer, Box<Crash>> {
        Ok(match self {
            Self::Own(own) => UsedServer::Own(own.invoke_into(request, deadline, response)?),
            Self::Place(place) => UsedServer::Place(place.invoke_into(request, deadline, response)?),
        })
    }

    /// Compares a machine with its template, bit for bit.
    ///
    /// # Errors
    /// What differs first; or KVM did not show it; or it is one that keeps its state.
    pub fn audit(&mut self) -> Result<(), String> {
        match self {
            Self::Own(own) => own.audit(),
            Self::Place(_) => Err("a machine that serves many keeps its state".to_owned()),
        }
    }
}

impl UsedServer {
    /// Makes the machine equal to its template again, with a link on which nothing has been; one that serves many is
    /// as it is.
    ///
    /// # Errors
    /// The machine is lost because KVM or the host did not do its part.
    pub fn rewind(self) -> Result<ServerMachine, Box<Crash>> {
        match self {
            Self::Own(own) => Ok(ServerMachine::Own(own.rewind()?)),
            Self::Place(place) => Ok(ServerMachine::Place(place)),
        }
    }
}

impl Engine {
    fn new(machine: Machine, link: Arc<Link>) -> Self {
        Self { machine: Box::new(machine), link, last_lines: LastLines::default(), began: Instant::now() }
    }

    fn usage(&mut self) -> Usage {
        let Machine { processor, memory, usage, .. } = &mut *self.machine;
        let pages = u32::try_from(processor.dirty_pages(memory)).unwrap_or(u32::MAX);
        Usage { wall: self.began.elapsed(), pages, ..*usage }
    }

    /// Runs the guest for a request, until whoever drives its link has what he wants.
    fn run(&mut self, call_id: &str, services: &Services, bytes_in: u64, deadline: Instant) -> Result<Stopped, End> {
        self.machine.usage = Usage { bytes_in, ..Usage::default() };
        self.last_lines.clear();
        let mut lines = Lines::new(call_id, services, &mut self.last_lines);
        let ran = self.machine.run_until(&mut lines, Some(deadline), Until::Halt);
        lines.finish();
        ran
    }

    /// The end of a guest that did not answer a request.
    fn crash(&mut self, (cause, trap): Failure, symbols: &Unikernel, request: &Request<'_>) -> Box<Crash> {
        let summary = Some(RequestSummary::of(request));
        let report = report(&mut self.machine, symbols, &self.last_lines, trap, summary);
        Crash::with_report(cause, self.usage(), Some(report))
    }
}

impl OwnMachine {
    fn invoke_into(
        mut self,
        request: &Request<'_>,
        deadline: Instant,
        response: &mut Response,
    ) -> Result<Self, Box<Crash>> {
        let (engine, template) = (&mut self.engine, &self.template.inner);
        engine.began = Instant::now();
        let bytes = match encode(request, template.server.serve.address) {
            Ok(bytes) => bytes,
            // Nothing has run, so the machine is as clean as before.
            Err(why) => {
                cannot_be_sent(why, response);
                return Ok(self);
            }
        };
        let call = engine.link.call(bytes, Answer::new(request.method, template.response_limit));
        engine.link.drive(Some(call));
        let ran = engine.run(request.call_id, &self.services, request.body.len() as u64, deadline);
        let answered = match ran {
            Ok(Stopped::ByLink) => {
                let outcome = engine.link.outcome(call).map(|(outcome, _)| outcome);
                answer_of(outcome, response).map_err(|cause| (cause, None))
            }
            ran => {
                Err(ending(ran, &mut engine.machine, &template.symbols, &engine.last_lines, (engine.began, deadline)))
            }
        };
        match answered {
            Ok(()) => {
                response.usage = Usage { bytes_out: response.body.len() as u64, ..engine.usage() };
                Ok(self)
            }
            Err(failure) => Err(engine.crash(failure, &template.symbols, request)),
        }
    }

    fn rewind(mut self) -> Result<Self, Box<Crash>> {
        let template = &self.template.inner;
        let Engine { machine, link, .. } = &mut self.engine;
        let Machine { processor, memory, devices, waits_at, .. } = &mut **machine;
        devices.rewind();
        link.reset(template.guest);
        *waits_at = Some(template.waits_at);
        match processor.rewind(memory, &template.memory, &template.cpu) {
            Ok(()) => Ok(self),
            Err(cause) => Err(Crash::new(cause, Usage::default())),
        }
    }

    fn audit(&mut self) -> Result<(), String> {
        let Inner { memory: template, cpu, guest, waits_at, .. } = &*self.template.inner;
        let Engine { machine, link, .. } = &mut self.engine;
        let Machine { processor, memory, devices, waits_at: own, .. } = &mut **machine;
        if !devices.are_clean() {
            return Err("a block device".to_owned());
        }
        if *own != Some(*waits_at) || !link.is_clean(*guest) {
            return Err("the link".to_owned());
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

/// Why there is no answer, and the trap that it was, if it was one.
type Failure = (Cause, Option<Trap>);

/// The answer to a request that cannot be sent to any server.
fn cannot_be_sent(why: &str, response: &mut Response) {
    *response = Response { status: 400, ..Response::default() };
    response.body.extend_from_slice(format!("the request cannot be sent to the function's server: {why}\n").as_bytes());
}

/// Puts what came of a call into a response.
fn answer_of(outcome: Option<Outcome>, response: &mut Response) -> Result<(), Cause> {
    match outcome {
        Some(Outcome::Answered(answer)) => Ok(answer.finish(response)?),
        Some(Outcome::Bad(error)) => Err(error.into()),
        None => Err(Cause::BadResponse { why: "there was no connection to its server".to_owned() }),
    }
}

/// Why a guest that was to answer stopped otherwise.
fn ending(
    ran: Result<Stopped, End>,
    machine: &mut Machine,
    symbols: &Unikernel,
    last_lines: &LastLines,
    (began, deadline): (Instant, Instant),
) -> Failure {
    let at = machine.processor.instruction_pointer();
    match ran {
        Err(end) => (cause_of(end, symbols, at, deadline, began, machine.usage.paused), None),
        Ok(Stopped::Halted(Halted { status: 0, .. })) => (Cause::Finished, None),
        Ok(Stopped::Halted(halted)) => {
            let trap = machine.trap(&halted);
            let failures = last_lines.iter().filter(|(level, _)| *level == Level::Error);
            let said = failures.last().map(|(_, text)| text.clone()).unwrap_or_default();
            (Cause::Exited { status: halted.status, said }, trap)
        }
        Ok(_) => (Cause::Shutdown, None),
    }
}

fn not_serving(server: &Server, link: &Link, machine: &mut Machine, symbols: &Unikernel, began: Instant) -> Cause {
    let at = CodeAddress::new(machine.processor.registers(&machine.memory).rip, symbols);
    let address = SocketAddrV4::new(server.serve.address, server.serve.port);
    // As long as it was given, but for what it takes to be stopped.
    let limit = Duration::from_millis(u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX));
    Cause::NotServing { address, limit, why: link.silence(), at }
}

/// Longest line of a log, in bytes.
#[allow(clippy::cast_possible_truncation, reason = "some thousand")]
const LINE_MAX: usize = LOG_MESSAGE_MAX as usize;

/// What a guest prints, a line at a time, for the function's log.
struct Lines<'a> {
    call_id: &'a str,
    services: &'a Services,
    last_lines: &'a mut LastLines,
    line: Vec<u8>,
    /// Bytes that are still taken; what is more is lost.
    room: usize,
}

impl<'a> Lines<'a> {
    fn new(call_id: &'a str, services: &'a Services, last_lines: &'a mut LastLines) -> Self {
        Self { call_id, services, last_lines, line: Vec::new(), room: LOG_ROOM }
    }

    fn tell(&mut self) {
        let line = mem::take(&mut self.line);
        let text = String::from_utf8_lossy(&line);
        if text.trim().is_empty() || BANNER.contains(&&*text) {
            return;
        }
        let failed = text.contains("ABORT") || text.contains("trap:");
        let level = if failed { Level::Error } else { Level::Info };
        self.last_lines.push(level, &text);
        self.services.log.line(self.call_id, level, &text);
    }

    fn finish(mut self) {
        self.tell();
    }
}

impl Console for Lines<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), ConsoleError> {
        let bytes = &bytes[..bytes.len().min(self.room)];
        self.room -= bytes.len();
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ends) = part.strip_suffix(b"\n").map_or((part, false), |text| (text, true));
            for piece in text.chunks(LINE_MAX) {
                if self.line.len() + piece.len() > LINE_MAX {
                    self.tell();
                }
                self.line.extend_from_slice(piece);
            }
            if ends {
                self.tell();
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serve(address: [u8; 4], prefix: u8, arguments: &str) -> Serve {
        Serve { address: address.into(), prefix, port: 8080, arguments: arguments.to_owned(), shares: false }
    }

    #[test]
    fn the_host_has_the_first_address_that_is_not_the_guests() {
        let host = |address, prefix| serve(address, prefix, "").host().octets();
        assert_eq!(host([10, 0, 0, 2], 24), [10, 0, 0, 1]);
        assert_eq!(host([10, 0, 0, 1], 24), [10, 0, 0, 2]);
        assert_eq!(host([172, 16, 5, 9], 12), [172, 16, 0, 1]);
        assert_eq!(host([192, 168, 1, 6], 30), [192, 168, 1, 5]);
    }

    #[test]
    fn a_guest_is_told_its_address_as_its_command_line_has_it() {
        let line = |arguments| serve([10, 0, 0, 2], 24, arguments).command_line("--solo5:quiet ");
        assert_eq!(line("--ipv4={ipv4}"), "--solo5:quiet --ipv4=10.0.0.2/24");
        assert_eq!(
            line("{\"addr\":\"{address}\",\"mask\":\"{prefix}\",\"gw\":\"{gateway}\"} {port} {x}"),
            "--solo5:quiet {\"addr\":\"10.0.0.2\",\"mask\":\"24\",\"gw\":\"10.0.0.1\"} 8080 {x}"
        );
    }
}

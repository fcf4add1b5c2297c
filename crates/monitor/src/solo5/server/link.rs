//! The host's end of the link to a guest that serves: a TCP/IP stack in this process, whose frames go to the guest and come
//! from it by its own hypercalls. No tap, no socket, no thread: it moves when the guest sends, receives or waits.
//! Used by a server's machine, and by its run loop as a device. It trusts no frame, and holds no more than some hundred.
//!
//! ```text
//!  guest ── net_write, ring ──► Link::send ──► stack ──► answers
//!        ◄── net_read, ring ─── Link::receive ◄─ stack ◄── requests
//!        ── poll ─────────────► Link::wait: until there is a frame, the time is over, or whoever drives has what he wants
//! ```
//!
//! Acknowledgements are made when the guest looks for frames and not for each frame that it sends, so that one tells of all.

use std::{
    collections::VecDeque,
    io, mem,
    net::Ipv4Addr,
    os::fd::BorrowedFd,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use smoltcp::{
    iface::{Config, Interface, PollResult, SocketHandle, SocketSet},
    phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken},
    socket::tcp::{Socket, SocketBuffer, State},
    time::Instant as StackTime,
    wire::{EthernetAddress, HardwareAddress, IpAddress, IpCidr, IpEndpoint},
};

use super::message::{Answer, BadAnswer};
use crate::solo5::device::NetDevice;

/// Largest packet in a frame, as guests are told.
const MTU: u16 = 1500;

/// Bytes of an Ethernet header.
const HEADER: usize = 14;

/// Frames that wait for the guest; what is more has to come again.
pub(super) const WAITING_MAX: usize = 256;

/// Room for what a connection sends and receives.
const WINDOW: usize = 65_535;

/// Ports of the host's that probes come from, and those that requests do: no request comes from one that a guest may still
/// remember from before its template.
const PROBE_PORTS: (u16, u16) = (32_768, 33_791);
const CALL_PORTS: (u16, u16) = (34_816, 65_535);

/// How long a guest that reads frames may leave a probe unanswered before another one is sent.
const SILENCE: Duration = Duration::from_millis(100);

/// How long is waited after a connection that was refused, at first and at most.
const PAUSE: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// How long a guest has to end its side of a probe before that is cut off.
const CLOSING: Duration = Duration::from_millis(250);

/// Connections whose answers are read and that have not ended yet; of more, the oldest is cut off.
const LINGERING_MAX: usize = 64;

/// The shortest time that is slept at once.
const NAP: Duration = Duration::from_micros(100);

/// The two ends of a link. Nobody else is on it, so they are the same everywhere.
pub(super) const HOST_MAC: [u8; 6] = [0x02, 0x4b, 0x4c, 0, 0, 0x01];
pub(super) const GUEST_MAC: [u8; 6] = [0x02, 0x4b, 0x4c, 0, 0, 0x02];

/// Where a guest serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Addresses {
    pub(super) guest: Ipv4Addr,
    pub(super) host: Ipv4Addr,
    /// Bits that they have in common.
    pub(super) prefix: u8,
    pub(super) port: u16,
}

/// What a wait ended with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waited {
    /// There is a frame.
    Frame,
    /// The time is over.
    Late,
    /// The guest is to be stopped.
    Stop,
}

/// What came of a request.
#[derive(Debug)]
pub(super) enum Outcome {
    Answered(Box<Answer>),
    Bad(BadAnswer),
}

/// What a thread that waits for an answer is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Look at what came of its call.
    Over,
    /// Run the guest.
    Drive,
    /// Give up.
    Late,
}

/// A call that nobody waits for any more.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct GivenUp {
    /// The guest has been sent some of it.
    pub(super) begun: bool,
    /// What it has used of a processor.
    pub(super) cpu: Duration,
}

/// The host's end of a link. The guest's is [`Plug`].
#[derive(Debug)]
pub(crate) struct Link {
    inside: Mutex<Inside>,
    /// There is a new request, or one that is over, or nobody drives.
    changed: Condvar,
    epoch: Instant,
}

/// A link as a guest's network device.
#[derive(Debug)]
pub(crate) struct Plug(pub(crate) Arc<Link>);

struct Inside {
    addresses: Addresses,
    /// Where frames for the guest go.
    guest: [u8; 6],
    /// Where the last packet of the guest's came from.
    source: [u8; 6],
    stack: Option<Stack>,
    probe: Option<Probe>,
    /// A probe was refused.
    refused: bool,
    calls: Vec<Call>,
    /// Connections that are over for us, in their order.
    lingering: VecDeque<SocketHandle>,
    /// The call whose thread runs the guest.
    driver: Option<u64>,
    next_call: u64,
    next_port: u16,
}

impl std::fmt::Debug for Inside {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inside").field("probe", &self.probe).field("calls", &self.calls.len()).finish_non_exhaustive()
    }
}

/// A request on its connection.
struct Call {
    id: u64,
    socket: SocketHandle,
    request: Vec<u8>,
    sent: usize,
    answer: Option<Answer>,
    outcome: Option<Outcome>,
    /// Its part of what the guest has used of a processor while others drove it.
    cpu: Duration,
}

/// How far the first connection to a guest is, by which its template is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Probe {
    Asking {
        socket: SocketHandle,
        since: Instant,
        pause: Duration,
    },
    Pausing {
        until: Instant,
        pause: Duration,
    },
    Closing {
        socket: SocketHandle,
        since: Instant,
    },
    /// The guest serves.
    Over,
}

/// A TCP/IP stack with its frames.
struct Stack {
    interface: Interface,
    wire: Wire,
    sockets: SocketSet<'static>,
}

/// Frames on their way.
#[derive(Default)]
struct Wire {
    to_guest: VecDeque<Vec<u8>>,
    from_guest: Option<Vec<u8>>,
}

impl Link {
    pub(super) fn new(addresses: Addresses) -> Arc<Self> {
        let inside = Inside {
            addresses,
            guest: GUEST_MAC,
            source: GUEST_MAC,
            stack: None,
            probe: None,
            refused: false,
            calls: Vec::new(),
            lingering: VecDeque::new(),
            driver: None,
            next_call: 0,
            next_port: 0,
        };
        Arc::new(Self { inside: Mutex::new(inside), changed: Condvar::new(), epoch: Instant::now() })
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        // A panic of the stack ends the machine; what it leaves is only dropped.
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn time(&self, now: Instant) -> StackTime {
        StackTime::from_micros(i64::try_from(now.saturating_duration_since(self.epoch).as_micros()).unwrap_or(i64::MAX))
    }

    /// Begins to ask whether the guest serves.
    pub(super) fn probe(&self) {
        self.lock().ask(Instant::now(), self.time(Instant::now()), PAUSE);
    }

    /// Where a guest that serves gets its frames.
    pub(super) fn guest_mac(&self) -> [u8; 6] {
        self.lock().guest
    }

    /// Forgets all connections and frames; frames for the guest go there from now on.
    pub(super) fn reset(&self, guest: [u8; 6]) {
        let mut inside = self.lock();
        (inside.guest, inside.source) = (guest, guest);
        (inside.stack, inside.probe, inside.driver) = (None, None, None);
        inside.calls.clear();
        inside.lingering.clear();
    }

    /// Whether nothing is on its way or remembered.
    pub(super) fn is_clean(&self, guest: [u8; 6]) -> bool {
        let inside = self.lock();
        inside.stack.is_none() && inside.probe.is_none() && inside.calls.is_empty() && inside.guest == guest
    }

    /// Connects to the guest for a request; gives the call's number.
    pub(super) fn call(&self, request: Vec<u8>, answer: Answer) -> u64 {
        let now = Instant::now();
        let mut inside = self.lock();
        let id = inside.call(self.time(now), request, answer);
        self.changed.notify_all();
        id
    }

    /// What came of a call, if it is over. It is forgotten then.
    pub(super) fn outcome(&self, id: u64) -> Option<(Outcome, Duration)> {
        let mut inside = self.lock();
        let index = inside.calls.iter().position(|call| call.id == id && call.outcome.is_some())?;
        let Call { socket, outcome, cpu, .. } = inside.calls.swap_remove(index);
        inside.linger(socket, false);
        outcome.map(|outcome| (outcome, cpu))
    }

    /// Forgets a call, whose connection is cut off.
    pub(super) fn give_up(&self, id: u64) -> GivenUp {
        let mut inside = self.lock();
        let Some(index) = inside.calls.iter().position(|call| call.id == id) else { return GivenUp::default() };
        let Call { socket, sent, cpu, .. } = inside.calls.swap_remove(index);
        inside.linger(socket, true);
        GivenUp { begun: sent > 0, cpu }
    }

    /// Waits until a call is over, or this thread is to run the guest for it, or the time is over.
    pub(super) fn turn(&self, id: u64, until: Instant) -> Turn {
        let mut inside = self.lock();
        loop {
            if inside.calls.iter().all(|call| call.id != id || call.outcome.is_some()) {
                return Turn::Over;
            }
            if inside.driver.is_none() {
                inside.driver = Some(id);
                return Turn::Drive;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Turn::Late;
            }
            (inside, _) = self.changed.wait_timeout(inside, left).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Says whose thread runs the guest from now on.
    pub(super) fn drive(&self, driver: Option<u64>) {
        self.lock().driver = driver;
        self.changed.notify_all();
    }

    /// Whether the guest is to be stopped: whoever drives has his answer.
    pub(crate) fn stops(&self) -> bool {
        self.lock().stops()
    }

    /// Shares out what the guest has used of a processor between the calls that are under way; gives the driver's part.
    pub(crate) fn charge(&self, took: Duration) -> Duration {
        let mut inside = self.lock();
        let driver = inside.driver;
        let calls = u32::try_from(inside.calls.len()).unwrap_or(u32::MAX);
        if calls < 2 {
            return took;
        }
        let part = took / calls;
        for call in inside.calls.iter_mut().filter(|call| Some(call.id) != driver) {
            call.cpu += part;
        }
        part
    }

    /// A frame from the guest.
    pub(super) fn send(&self, frame: &[u8]) {
        let now = Instant::now();
        let mut inside = self.lock();
        if inside.take_frame(frame, now, self.time(now)) {
            self.changed.notify_all();
        }
    }

    /// The next frame for the guest. What does not fit is lost.
    pub(super) fn receive(&self, to: &mut [u8]) -> Option<usize> {
        let now = Instant::now();
        let mut inside = self.lock();
        if !inside.has_frame() && inside.look(now, self.time(now)) {
            self.changed.notify_all();
        }
        let frame = inside.stack.as_mut()?.wire.to_guest.pop_front()?;
        let len = frame.len().min(to.len());
        to[..len].copy_from_slice(&frame[..len]);
        Some(len)
    }

    /// Frames that wait for the guest.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn waiting(&self) -> usize {
        self.lock().stack.as_ref().map_or(0, |stack| stack.wire.to_guest.len())
    }

    /// The guest has nothing to do until there is a frame, or until then.
    pub(crate) fn wait(&self, until: Option<Instant>) -> Waited {
        let mut inside = self.lock();
        loop {
            let now = Instant::now();
            if inside.look(now, self.time(now)) {
                self.changed.notify_all();
            }
            if inside.stops() || inside.is_served() {
                return Waited::Stop;
            }
            if inside.has_frame() {
                return Waited::Frame;
            }
            if until.is_some_and(|until| now >= until) {
                return Waited::Late;
            }
            let own = inside.next(now, self.time(now));
            let Some(end) = own.into_iter().chain(until).min() else {
                inside = self.changed.wait(inside).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let time = end.saturating_duration_since(now).max(NAP);
            (inside, _) = self.changed.wait_timeout(inside, time).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Why a probe has had no success yet.
    pub(super) fn silence(&self) -> &'static str {
        let inside = self.lock();
        match inside.probe {
            Some(Probe::Closing { .. } | Probe::Over) => {
                "it does not wait for packets (with solo5_yield) after a connection"
            }
            _ if inside.refused => "it refuses connections to that port",
            _ => "nothing answers at that address",
        }
    }
}

impl Inside {
    /// A stack without a connection, in the place of what was there.
    fn renew(&mut self, time: StackTime) -> &mut Stack {
        let Addresses { host, prefix, .. } = self.addresses;
        let mut wire = Wire::default();
        let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress(HOST_MAC)));
        config.random_seed = random();
        let mut interface = Interface::new(config, &mut wire, time);
        // There is room for one.
        interface.update_ip_addrs(|addresses| addresses.extend([IpCidr::new(IpAddress::Ipv4(host), prefix)]));
        self.lingering.clear();
        self.stack.insert(Stack { interface, wire, sockets: SocketSet::new(Vec::new()) })
    }

    fn connect(&mut self, port: u16) -> Option<SocketHandle> {
        let Addresses { guest, port: to, .. } = self.addresses;
        let stack = self.stack.as_mut()?;
        let mut socket = Socket::new(SocketBuffer::new(vec![0; WINDOW]), SocketBuffer::new(vec![0; WINDOW]));
        socket.set_ack_delay(None);
        socket.set_nagle_enabled(false);
        let remote = IpEndpoint::new(IpAddress::Ipv4(guest), to);
        // It needs an address and a port, which there are.
        let connected = socket.connect(stack.interface.context(), remote, port);
        let handle = stack.sockets.add(socket);
        connected.ok().map(|()| handle)
    }

    fn ask(&mut self, now: Instant, time: StackTime, pause: Duration) {
        self.renew(time);
        let port = random_port(PROBE_PORTS);
        self.probe = match self.connect(port) {
            Some(socket) => Some(Probe::Asking { socket, since: now, pause }),
            None => Some(Probe::Pausing { until: now + pause, pause }),
        };
    }

    fn call(&mut self, time: StackTime, request: Vec<u8>, answer: Answer) -> u64 {
        if self.stack.is_none() {
            let (guest, addresses) = (self.guest, self.addresses);
            self.renew(time).know(time, guest, addresses);
            self.next_port = random_port(CALL_PORTS);
        }
        self.next_port = if self.next_port == CALL_PORTS.1 { CALL_PORTS.0 } else { self.next_port + 1 };
        self.next_call += 1;
        let id = self.next_call;
        let Some(socket) = self.connect(self.next_port) else { return id };
        let call = Call { id, socket, request, sent: 0, answer: Some(answer), outcome: None, cpu: Duration::ZERO };
        self.calls.push(call);
        id
    }

    fn has_frame(&self) -> bool {
        self.stack.as_ref().is_some_and(|stack| !stack.wire.to_guest.is_empty())
    }

    fn stops(&self) -> bool {
        let Some(driver) = self.driver else { return false };
        self.calls.iter().all(|call| call.id != driver || call.outcome.is_some())
    }

    /// The guest has accepted and ended a connection, and waits.
    fn is_served(&self) -> bool {
        self.probe == Some(Probe::Over) && !self.has_frame()
    }

    /// Whether a call is over by it.
    fn take_frame(&mut self, frame: &[u8], now: Instant, time: StackTime) -> bool {
        let Some(stack) = &mut self.stack else { return false };
        if !(HEADER..=HEADER + usize::from(MTU)).contains(&frame.len()) {
            return false;
        }
        if frame[12..HEADER] == [8, 0] && frame[6] & 1 == 0 {
            self.source.copy_from_slice(&frame[6..12]);
        }
        stack.wire.from_guest = Some(frame.to_vec());
        let _ = stack.interface.poll_ingress_single(time, &mut stack.wire, &mut stack.sockets);
        // Where there was no room for an answer to it, it was not looked at, and is lost.
        stack.wire.from_guest = None;
        self.advance(now, time)
    }

    /// Does what is due: sends what can be sent, and reads what came. Whether a call is over by it.
    fn look(&mut self, now: Instant, time: StackTime) -> bool {
        let before = self.advance(now, time);
        self.egress(time);
        // What can only be done once that is out.
        self.advance(now, time) || before
    }

    fn egress(&mut self, time: StackTime) {
        let Some(stack) = &mut self.stack else { return };
        stack.interface.poll_maintenance(time);
        // Each round sends a frame a socket at most, and there is no room for endless ones.
        while stack.interface.poll_egress(time, &mut stack.wire, &mut stack.sockets) != PollResult::None {}
        let sockets = &mut stack.sockets;
        let is_over = |socket: &Socket<'_>| matches!(socket.state(), State::Closed | State::TimeWait);
        self.lingering.retain(|handle| {
            let over = is_over(sockets.get::<Socket<'_>>(*handle));
            if over {
                sockets.remove(*handle);
            }
            !over
        });
    }

    fn advance(&mut self, now: Instant, time: StackTime) -> bool {
        self.advance_probe(now, time);
        let Some(stack) = &mut self.stack else { return false };
        let under_way = self.calls.iter_mut().filter(|call| call.outcome.is_none());
        under_way.fold(false, |over, call| {
            call.advance(stack.sockets.get_mut::<Socket<'_>>(call.socket));
            over | call.outcome.is_some()
        })
    }

    fn advance_probe(&mut self, now: Instant, time: StackTime) {
        let has_frame = self.has_frame();
        let Some(stack) = &mut self.stack else { return };
        match self.probe {
            Some(Probe::Asking { socket, since, pause }) => {
                let connection = stack.sockets.get_mut::<Socket<'_>>(socket);
                match connection.state() {
                    State::Established | State::CloseWait => {
                        connection.close();
                        self.guest = self.source;
                        self.probe = Some(Probe::Closing { socket, since: now });
                    }
                    State::Closed => {
                        self.refused = true;
                        self.probe = Some(Probe::Pausing { until: now + pause, pause: (pause * 2).min(PAUSE_MAX) });
                    }
                    // Unread frames are no silence.
                    _ if !has_frame && now >= since + SILENCE => self.ask(now, time, pause),
                    _ => {}
                }
            }
            Some(Probe::Pausing { until, pause }) if now >= until => self.ask(now, time, pause),
            Some(Probe::Closing { socket, since }) => {
                let connection = stack.sockets.get_mut::<Socket<'_>>(socket);
                if matches!(connection.state(), State::Closed | State::TimeWait) {
                    self.probe = Some(Probe::Over);
                } else if now >= since + CLOSING {
                    connection.abort();
                }
            }
            Some(Probe::Pausing { .. } | Probe::Over) | None => {}
        }
    }

    /// Ends a connection whose answer is read or of no interest any more.
    fn linger(&mut self, handle: SocketHandle, cut: bool) {
        let Some(stack) = &mut self.stack else { return };
        let socket = stack.sockets.get_mut::<Socket<'_>>(handle);
        if cut {
            socket.abort()
        } else {
            socket.close()
        }
        self.lingering.push_back(handle);
        if self.lingering.len() > LINGERING_MAX
            && let Some(oldest) = self.lingering.front()
        {
            // It is gone when it has told the guest.
            stack.sockets.get_mut::<Socket<'_>>(*oldest).abort();
        }
    }

    /// When there is something to do though the guest does nothing.
    fn next(&mut self, now: Instant, time: StackTime) -> Option<Instant> {
        let of_probe = match self.probe {
            Some(Probe::Asking { since, .. }) => Some(since + SILENCE),
            Some(Probe::Pausing { until, .. }) => Some(until),
            Some(Probe::Closing { since, .. }) => Some(since + CLOSING),
            Some(Probe::Over) | None => None,
        };
        let stack = self.stack.as_mut()?;
        let delay = stack.interface.poll_at(time, &stack.sockets).map(|at| {
            let micros = u64::try_from(at.total_micros().saturating_sub(time.total_micros())).unwrap_or_default();
            now + Duration::from_micros(micros)
        });
        of_probe.into_iter().chain(delay).min()
    }
}

impl Call {
    fn advance(&mut self, socket: &mut Socket<'_>) {
        if self.sent < self.request.len() && socket.can_send() {
            // It can send, so that this does not fail.
            self.sent += socket.send_slice(&self.request[self.sent..]).unwrap_or_default();
        }
        while socket.can_recv() {
            let Some(answer) = &mut self.answer else { return };
            let took = socket.recv(|bytes| (bytes.len(), answer.take(bytes)));
            match took {
                Ok(Ok(false)) => {}
                Ok(Ok(true)) => return self.answered(),
                Ok(Err(bad)) => return self.outcome = Some(Outcome::Bad(bad)),
                Err(_) => break,
            }
        }
        match socket.state() {
            State::CloseWait | State::LastAck | State::Closing | State::TimeWait => {
                match self.answer.as_ref().map(Answer::end) {
                    Some(Ok(())) => self.answered(),
                    Some(Err(bad)) => self.outcome = Some(Outcome::Bad(bad)),
                    None => {}
                }
            }
            State::Closed => {
                let why = if self.sent == 0 { "it refused the connection" } else { "it cut off the connection" };
                self.outcome = Some(Outcome::Bad(BadAnswer::Not(why.to_owned())));
            }
            _ => {}
        }
    }

    fn answered(&mut self) {
        self.outcome = self.answer.take().map(|answer| Outcome::Answered(Box::new(answer)));
    }
}

impl Stack {
    /// Knows where the guest is, without asking: by an answer that the guest gave before its template was made.
    fn know(&mut self, time: StackTime, guest: [u8; 6], addresses: Addresses) {
        let Addresses { guest: from, host: to, .. } = addresses;
        let answer = [
            &HOST_MAC[..],
            &guest,
            // ARP for Ethernet and IPv4: a reply (RFC 826).
            &[8, 6, 0, 1, 8, 0, 6, 4, 0, 2],
            &guest,
            &from.octets(),
            &HOST_MAC,
            &to.octets(),
        ];
        self.wire.from_guest = Some(answer.concat());
        let _ = self.interface.poll_ingress_single(time, &mut self.wire, &mut self.sockets);
        self.wire.from_guest = None;
    }
}

impl NetDevice for Plug {
    fn mtu(&self) -> u16 {
        MTU
    }

    fn receive(&mut self, to: &mut [u8]) -> io::Result<Option<usize>> {
        Ok(self.0.receive(to))
    }

    fn send(&mut self, frame: &[u8]) -> io::Result<()> {
        self.0.send(frame);
        Ok(())
    }

    fn ready(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

struct FromGuest(Vec<u8>);

struct ToGuest<'a>(&'a mut VecDeque<Vec<u8>>);

impl RxToken for FromGuest {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for ToGuest<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        self.0.push_back(frame);
        result
    }
}

impl Device for Wire {
    type RxToken<'a> = FromGuest;
    type TxToken<'a> = ToGuest<'a>;

    fn receive(&mut self, _time: StackTime) -> Option<(FromGuest, ToGuest<'_>)> {
        if self.to_guest.len() >= WAITING_MAX {
            return None;
        }
        let frame = mem::take(&mut self.from_guest)?;
        Some((FromGuest(frame), ToGuest(&mut self.to_guest)))
    }

    fn transmit(&mut self, _time: StackTime) -> Option<ToGuest<'_>> {
        (self.to_guest.len() < WAITING_MAX).then_some(ToGuest(&mut self.to_guest))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = HEADER + usize::from(MTU);
        capabilities
    }
}

/// Sequence numbers and ports need no more than to be others each time.
fn random() -> u64 {
    let mut bytes = [0; 8];
    // Without entropy, the clock's.
    if getrandom::fill(&mut bytes).is_err() {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        return u64::from(since.subsec_nanos()) << 32 | since.as_secs();
    }
    u64::from_ne_bytes(bytes)
}

fn random_port((first, last): (u16, u16)) -> u16 {
    let offset = random() % (u64::from(last - first) + 1);
    first + u16::try_from(offset).unwrap_or_default()
}

//! One function and everything its machines share: unikernel, limits, accelerator session, log.
//! Opened by the watchdog's server and, without HTTP, by benchmarks. It never speaks HTTP itself.

use std::{
    collections::BTreeMap,
    env,
    fs::{self, File},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use kernlet_abi::accel::{PROFILING_VARIABLES, says_yes};
use kernlet_accel::{Plugin, Region, Resource, Runtime, Session};
use kernlet_accel_plugins::default_plugins;
use kernlet_image::{
    BlockAccess, BlockDevice, BlockSettings, FunctionConfig, FunctionSpec, Isolation, Solo5Config, Solo5Mode,
    block_devices,
};
use kernlet_jail::{Role, confine};
use kernlet_monitor::{
    Backend, CpuBucket, Crash, Hypervisor, Level, Limits, MachineConfig, Program, ProgramMachine, ProgramTemplate,
    Services, TemplateKey,
    solo5::{Disk, server::Serve},
};

use crate::{
    error::{InvokeError, WatchdogError},
    limit::{Inflight, TimeLimit},
    log::Log,
    metering,
    pool::Pool,
    preload::Preload,
    report::CrashReport,
    saved::{self, Destination, Saved, Wanted},
    worker::Worker,
};

/// Stack of a thread on which guests run, in bytes: accelerator plugins run on it. Committed as it is used.
pub(crate) const MACHINE_STACK: usize = 2 * 1024 * 1024;

/// A function, ready to make machines. Its models are being loaded in the background from the start.
///
/// Dropping it ends its idle machines at once and the busy ones after their request.
#[derive(Debug)]
pub struct Function {
    shared: Arc<Shared>,
    pool: Arc<Pool>,
}

impl Drop for Function {
    fn drop(&mut self) {
        self.pool.close();
    }
}

/// What all machines of a function have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) name: Arc<str>,
    pub(crate) hypervisor: Hypervisor,
    pub(crate) program: Program,
    pub(crate) machine: MachineConfig,
    pub(crate) services: Services,
    /// Loaded at the start, or booted by the first that needs a machine.
    template: Mutex<Option<Held>>,
    pub(crate) isolation: Isolation,
    pub(crate) limit: TimeLimit,
    /// Of processor and accelerator time.
    limits: Limits,
    pub(crate) inflight: Inflight,
    pub(crate) preload: Arc<Preload>,
    pub(crate) log: Log,
}

/// What the machines of a function are made of.
#[derive(Debug)]
pub struct Parts {
    /// The function's program.
    pub program: Program,
    /// Sizes and environment of a machine.
    pub machine: MachineConfig,
    /// The accelerators as the function sees them, with its resources. Models are not loaded yet.
    pub accel: Arc<Session>,
}

impl Parts {
    /// Reads a function's files.
    ///
    /// # Errors
    /// The unikernel or a resource cannot be used.
    pub fn read(spec: &FunctionSpec) -> Result<Self, WatchdogError> {
        Self::read_with(spec, default_plugins())
    }

    /// The same with other plugins than those that need nothing.
    ///
    /// # Errors
    /// As [`Parts::read`].
    pub fn read_with(spec: &FunctionSpec, plugins: Vec<Arc<dyn Plugin>>) -> Result<Self, WatchdogError> {
        let config = &spec.config;
        let accel = register_resources(spec, plugins)?;
        let mut environment = spec.environment.clone();
        let (variable, profiling) = profiling(&environment, |name| env::var(name).ok());
        accel.profile().enable(profiling);
        if profiling {
            // The guest has to know as well, be it only the watchdog's own environment that says so.
            environment.entry(variable.to_owned()).or_insert_with(|| "1".to_owned());
        }
        let environment: Vec<(String, String)> = environment.into_iter().collect();
        let program = with_disks(read_program(spec)?, spec)?;
        let machine = MachineConfig {
            memory: config.memory.bytes(),
            request_limit: config.request_limit.bytes().min(program.request_max(&environment)),
            response_limit: config.response_limit.bytes(),
            environment,
        };
        Ok(Self { program, machine, accel: Arc::new(accel) })
    }
}

/// A function's template.
#[derive(Debug)]
struct Held {
    template: ProgramTemplate,
    /// It comes from a file, and no machine has been made of it yet.
    untried: bool,
}

/// All that a function needs of the host's files and devices, so that nothing has to be opened afterwards.
#[derive(Debug)]
pub(crate) struct Opened {
    hypervisor: Hypervisor,
    parts: Parts,
    template: Option<Held>,
    destination: Option<Destination>,
}

impl Opened {
    /// What machines will be made of: never [`Backend::Auto`].
    pub(crate) fn backend(&self) -> Backend {
        self.hypervisor.backend()
    }

    /// Opens the hypervisor, reads the function's files, and loads its template or takes the place for it.
    /// Starts no thread.
    pub(crate) fn open(
        spec: &FunctionSpec,
        backend: Backend,
        plugins: Vec<Arc<dyn Plugin>>,
        log: &Log,
    ) -> Result<Self, WatchdogError> {
        let hypervisor = Hypervisor::choose(backend)?;
        let parts = Parts::read_with(spec, plugins)?;
        let (template, destination) = saved_template(spec, &hypervisor, &parts, log);
        Ok(Self { hypervisor, parts, template, destination })
    }
}

impl Function {
    /// Reads the function's files, opens the hypervisor, and begins to load its models and, where none is saved, to
    /// boot its template. Keeps no machine yet.
    ///
    /// # Errors
    /// There is no usable KVM, or the unikernel or a resource cannot be used.
    pub fn open(spec: &FunctionSpec, log: &Log) -> Result<Self, WatchdogError> {
        Self::start(Opened::open(spec, Backend::Kvm, default_plugins(), log)?, spec, log)
    }

    /// Begins to load the models and to boot the template of a function whose files are open.
    pub(crate) fn start(opened: Opened, spec: &FunctionSpec, log: &Log) -> Result<Self, WatchdogError> {
        let Opened { hypervisor, parts: Parts { program, machine, accel }, template, destination } = opened;
        // A fresh machine for every request is too many for one thread to keep up with: it would only be in the way.
        if spec.config.isolation != Isolation::Fresh || hypervisor.backend() == Backend::Process {
            hypervisor.keep_shells().map_err(|source| WatchdogError::System {
                action: "start the thread that prepares machines",
                source,
            })?;
        }
        let name: Arc<str> = spec.name.to_string().into();
        let told = log.clone();
        let preload = Preload::start(Arc::clone(&name), Arc::clone(&accel), move |why| {
            told.watchdog("", Level::Error, &format!("models could not be loaded, so no request is served: {why}"));
        })?;
        let config = &spec.config;
        let boots = template.is_none();
        let shared = Arc::new(Shared {
            inflight: Inflight::new(Arc::clone(&name), config),
            name,
            hypervisor,
            program,
            machine,
            services: Services { accel, log: Arc::new(log.clone()) },
            template: Mutex::new(template),
            isolation: config.isolation,
            limit: TimeLimit::of_function(config.exec_timeout),
            limits: limits(config),
            preload,
            log: log.clone(),
        });
        if boots {
            let preparing = Arc::clone(&shared);
            thread::Builder::new()
                .name("template".to_owned())
                .stack_size(MACHINE_STACK)
                .spawn(move || {
                    confine(Role::Machine);
                    preparing.prepare(destination);
                })
                .map_err(|source| WatchdogError::System {
                    action: "start the thread that boots the template",
                    source,
                })?;
        }
        Ok(Self { pool: Pool::new(Arc::clone(&shared)), shared })
    }

    /// Something that invokes the function on the calling thread, on a machine of its own.
    #[must_use]
    pub fn worker(&self) -> Worker {
        Worker::new(Arc::clone(&self.shared))
    }

    /// Whether the function's models are loaded and another request may enter.
    ///
    /// # Errors
    /// Why a request would be refused now.
    pub fn ready(&self) -> Result<(), InvokeError> {
        self.shared.preload.ready()?;
        if self.shared.inflight.is_full() { Err(self.shared.inflight.saturated()) } else { Ok(()) }
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    pub(crate) fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }
}

impl Shared {
    /// Boots the template before the first request needs it, once the models that its initialisation may use are
    /// loaded, and saves it. What fails here is logged, and tried again by the first request.
    fn prepare(&self, destination: Option<Destination>) {
        let deadline = self.limit.deadline(Instant::now());
        if self.preload.wait(deadline).is_err() {
            return;
        }
        if let Err(crash) = self.new_machine(deadline) {
            self.crashed("", self.limit, crash);
        }
        let template = self.held().as_ref().map(|held| held.template.clone());
        if let (Some(template), Some(destination)) = (template, destination) {
            destination.save(&template, &self.log);
        }
    }

    /// Says what each region of the function's profile took, if it has one, as vAccel says it.
    pub(crate) fn log_profile(&self) {
        for (name, Region { entries, total, .. }) in self.services.accel.profile().regions() {
            let text = format!("[prof] {name}: total_time: {} nsec nr_entries: {entries}", total.as_nanos());
            self.log.watchdog("", Level::Info, &text);
        }
    }

    fn held(&self) -> MutexGuard<'_, Option<Held>> {
        self.template.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A pristine machine under the function's limits. The first one takes the time that the function needs to
    /// initialise; others wait for it and are made of its template.
    pub(crate) fn new_machine(&self, deadline: Instant) -> Result<ProgramMachine, Box<Crash>> {
        Ok(self.make_machine(deadline)?.with_limits(self.limits.clone()))
    }

    fn make_machine(&self, deadline: Instant) -> Result<ProgramMachine, Box<Crash>> {
        let mut held = self.held();
        let services = self.services.clone();
        match &mut *held {
            Some(Held { template, untried: false }) => {
                let template = template.clone();
                drop(held);
                return template.machine(&self.hypervisor, services);
            }
            Some(Held { template, untried }) => match template.machine(&self.hypervisor, services.clone()) {
                Ok(machine) => {
                    *untried = false;
                    return Ok(machine);
                }
                Err(crash) => {
                    let text =
                        format!("no machine can be made of the saved template, so the function is booted: {crash}");
                    self.log.watchdog("", Level::Warn, &text);
                }
            },
            None => {}
        }
        let (template, machine) =
            ProgramTemplate::boot(&self.hypervisor, &self.program, &self.machine, services, deadline)?;
        *held = Some(Held { template, untried: false });
        Ok(machine)
    }

    /// Names the end of a machine, and logs it.
    pub(crate) fn crashed(&self, call_id: &str, limit: TimeLimit, crash: Box<Crash>) -> InvokeError {
        let report = CrashReport::of(&crash);
        let error = InvokeError::from_crash(&self.name, limit, crash);
        self.log.invocation(call_id, Level::Error, &error.message(), &metering::record(&error.usage()));
        if let Some(report) = report {
            self.log.report(call_id, &report);
        }
        error
    }
}

/// The template that an earlier process saved, or where the one that is booted goes, if anywhere.
fn saved_template(
    spec: &FunctionSpec,
    hypervisor: &Hypervisor,
    Parts { program, machine, accel }: &Parts,
    log: &Log,
) -> (Option<Held>, Option<Destination>) {
    // Of the others, registers are in a form that no file has.
    let (Some(path), Backend::Kvm) = (&spec.template, hypervisor.backend()) else {
        return (None, None);
    };
    let Some(key) = TemplateKey::of_program(hypervisor, program, machine, accel, &spec.digest) else {
        return (None, None);
    };
    match saved::open(path, Wanted { key: &key, hypervisor, program, machine }, log) {
        Saved::Loaded(template) => (Some(Held { template, untried: true }), None),
        Saved::Missing(destination) => (None, destination),
    }
}

fn limits(config: &FunctionConfig) -> Limits {
    let bounded = |time: Duration| (!time.is_zero()).then_some(time);
    Limits {
        cpu_time: bounded(config.cpu_time),
        accel_time: bounded(config.accel_time),
        share: config.cpu.limit().map(|millis| Arc::new(CpuBucket::new(millis))),
    }
}

fn read_program(spec: &FunctionSpec) -> Result<Program, WatchdogError> {
    let function = spec.name.to_string();
    let file = match fs::read(&spec.kernel) {
        Ok(file) => file,
        Err(source) => return Err(WatchdogError::ReadKernel { function, path: spec.kernel.clone(), source }),
    };
    let program = Program::parse(&file).and_then(|program| match spec.config.solo5.mode {
        Solo5Mode::Command => Ok(program),
        Solo5Mode::Server => program.into_server(serve(&spec.config)),
    });
    program.map_err(|source| WatchdogError::Kernel { function, source })
}

/// Where a Solo5 unikernel serves that does so by itself.
fn serve(config: &FunctionConfig) -> Serve {
    let Solo5Config { ipv4, port, arguments, .. } = &config.solo5;
    Serve {
        address: ipv4.address(),
        prefix: ipv4.prefix(),
        port: *port,
        arguments: arguments.clone(),
        shares: config.isolation == Isolation::Reuse,
    }
}

/// The block devices of a function's machines, their files open.
///
/// # Errors
/// A file cannot be opened.
pub fn open_disks(devices: &[BlockDevice]) -> io::Result<Vec<(String, Disk)>> {
    let open = |device: &BlockDevice| {
        let BlockDevice { name, file, settings: BlockSettings { access, sector } } = device;
        let open = || File::open(file.as_deref().ok_or(io::ErrorKind::NotFound)?);
        let disk = match access {
            BlockAccess::ReadOnly => Disk::read_only(open()?)?,
            BlockAccess::CopyOnWrite(room) => Disk::copy_on_write(open()?, room.bytes())?,
            BlockAccess::Scratch(size) => Disk::scratch(size.bytes()),
        };
        Ok((name.clone(), disk.with_sector(*sector)))
    };
    devices.iter().map(open).collect()
}

/// The function's program with its block devices.
fn with_disks(program: Program, spec: &FunctionSpec) -> Result<Program, WatchdogError> {
    type Refused = Box<dyn std::error::Error + Send + Sync>;
    let disks = block_devices(&spec.config.blocks, &spec.blocks).map_err(Refused::from);
    let disks = disks.and_then(|devices| Ok(open_disks(&devices)?));
    let program = disks.and_then(|disks| Ok(program.with_disks(disks)?));
    program.map_err(|source| WatchdogError::Disks { function: spec.name.to_string(), source })
}

/// Whether the function's operations are recorded, and which variable says so: the function's environment, else the
/// watchdog's own.
fn profiling(environment: &BTreeMap<String, String>, own: impl Fn(&str) -> Option<String>) -> (&'static str, bool) {
    let set = |name: &&'static str| Some((*name, says_yes(&environment.get(*name).cloned()?)));
    let own = |name: &&'static str| Some((*name, says_yes(&own(name)?)));
    let found = PROFILING_VARIABLES.iter().find_map(set).or_else(|| PROFILING_VARIABLES.iter().find_map(own));
    found.unwrap_or((PROFILING_VARIABLES[0], false))
}

fn register_resources(spec: &FunctionSpec, plugins: Vec<Arc<dyn Plugin>>) -> Result<Session, WatchdogError> {
    let session = Runtime::new(plugins).session();
    for (name, path) in &spec.resources {
        let registered = Resource::from_file(path).and_then(|resource| session.register(name, resource));
        registered.map_err(|source| WatchdogError::Resource {
            function: spec.name.to_string(),
            name: name.clone(),
            source: Box::new(source),
        })?;
    }
    Ok(session)
}

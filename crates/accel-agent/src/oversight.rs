//! What the plugins of an agent are doing: watched, timed, and written down where a supervisor finds it when they crash.
//! Wraps the plugins that an agent is given. Never changes what they do.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use kernlet_accel::{Cost, Deadline, Done, Kinds, Operation, Plugin, PluginError, operation::Task};

use crate::{link::lock, memory::SharedMemory, wire::Region};

/// Operations that are written down at a time.
const RECORDS: usize = 64;
/// Bytes of a record: a length, then a text.
const RECORD: usize = 128;
/// Bytes of the memory that is written to.
pub(crate) const BLACK_BOX: usize = RECORDS * RECORD;
/// How often operations that are late are looked for.
const LOOK: Duration = Duration::from_millis(50);

/// What is told of an operation that overran its deadline.
pub(crate) type Alarm = Box<dyn Fn(&str) + Send + Sync>;

/// Watches over all plugins of an agent.
pub(crate) struct Oversight {
    running: Mutex<Running>,
    changed: Condvar,
    black_box: Option<SharedMemory>,
    regions: Mutex<BTreeMap<(&'static str, u32), Region>>,
}

#[derive(Default)]
struct Running {
    operations: HashMap<u64, Watched>,
    next: u64,
    free: Vec<usize>,
    closed: bool,
}

struct Watched {
    what: String,
    deadline: Instant,
    told: bool,
}

impl std::fmt::Debug for Oversight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Oversight").field("running", &lock(&self.running).operations.len()).finish_non_exhaustive()
    }
}

impl Oversight {
    /// Watches, and writes down what runs into the black box if there is one.
    pub(crate) fn new(black_box: Option<SharedMemory>) -> Arc<Self> {
        let running = Running { free: (0..RECORDS).collect(), ..Running::default() };
        Arc::new(Self { running: Mutex::new(running), changed: Condvar::new(), black_box, regions: Mutex::default() })
    }

    /// Raises an alarm about each operation that is not done this long after its deadline.
    pub(crate) fn watch(self: &Arc<Self>, grace: Duration, alarm: Alarm) -> io::Result<()> {
        let this = Arc::clone(self);
        let watch = move || {
            let mut running = lock(&this.running);
            while !running.closed {
                if running.operations.is_empty() {
                    running = this.changed.wait(running).unwrap_or_else(PoisonError::into_inner);
                    continue;
                }
                let now = Instant::now();
                let mut late = Vec::new();
                for watched in running.operations.values_mut() {
                    if !watched.told && now.saturating_duration_since(watched.deadline) > grace {
                        watched.told = true;
                        late.push(watched.what.clone());
                    }
                }
                drop(running);
                late.iter().for_each(|what| alarm(what));
                thread::sleep(LOOK);
                running = lock(&this.running);
            }
        };
        thread::Builder::new().name("accel-oversight".to_owned()).spawn(watch).map(|_| ())
    }

    pub(crate) fn close(&self) {
        lock(&self.running).closed = true;
        self.changed.notify_all();
    }

    /// What was done so far.
    pub(crate) fn regions(&self) -> Vec<Region> {
        lock(&self.regions).values().cloned().collect()
    }

    /// A plugin under this oversight.
    pub(crate) fn over(self: &Arc<Self>, plugin: Arc<dyn Plugin>) -> Arc<dyn Plugin> {
        Arc::new(Overseen { plugin, oversight: Arc::clone(self) })
    }

    fn begin(&self, plugin: &'static str, operation: Operation, deadline: Option<Instant>) -> Under<'_> {
        let mut running = lock(&self.running);
        let record = self.black_box.is_some().then(|| running.free.pop()).flatten();
        let watched = deadline.map(|deadline| {
            let id = running.next;
            running.next += 1;
            let what = format!("plugin {plugin} carried out {operation}");
            running.operations.insert(id, Watched { what, deadline, told: false });
            if running.operations.len() == 1 {
                self.changed.notify_all();
            }
            id
        });
        drop(running);
        if let (Some(record), Some(black_box)) = (record, &self.black_box) {
            write_record(black_box, record, plugin, operation);
        }
        Under { oversight: self, record, watched }
    }

    fn add(&self, plugin: &'static str, operation: Operation, time: Duration, copied: u64) {
        let mut regions = lock(&self.regions);
        let operation = operation.abi_number();
        let region = regions.entry((plugin, operation)).or_insert_with(|| Region {
            operation,
            count: 0,
            nanos: 0,
            copied: 0,
            plugin: plugin.to_owned(),
        });
        region.count += 1;
        region.nanos = region.nanos.saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
        region.copied = region.copied.saturating_add(copied);
    }
}

/// An operation while it runs.
struct Under<'a> {
    oversight: &'a Oversight,
    record: Option<usize>,
    watched: Option<u64>,
}

impl Drop for Under<'_> {
    fn drop(&mut self) {
        if let (Some(record), Some(black_box)) = (self.record, &self.oversight.black_box) {
            // Within it, as all records are.
            let _ = black_box.write(record * RECORD, &[0]);
        }
        if self.record.is_none() && self.watched.is_none() {
            return;
        }
        let mut running = lock(&self.oversight.running);
        running.free.extend(self.record);
        if let Some(watched) = self.watched {
            running.operations.remove(&watched);
        }
    }
}

/// A length byte, the plugin's name, a zero byte and the operation's name.
fn write_record(black_box: &SharedMemory, record: usize, plugin: &str, operation: Operation) {
    let mut bytes = [0; RECORD];
    let mut len = 0;
    let text = plugin.bytes().take(60).chain([0]).chain(operation.name().bytes()).take(RECORD - 1);
    for (to, from) in bytes.iter_mut().skip(1).zip(text) {
        *to = from;
        len += 1;
    }
    bytes[0] = len;
    // Within it, as all records are.
    let _ = black_box.write(record * RECORD, &bytes);
}

/// What ran when the process that wrote it ended, in words; empties it.
pub(crate) fn read_black_box(black_box: &SharedMemory) -> Vec<String> {
    let mut found = Vec::new();
    for record in 0..RECORDS {
        let mut bytes = [0; RECORD];
        let Some(()) = black_box.read(record * RECORD, &mut bytes) else { continue };
        let len = usize::from(bytes[0]).min(RECORD - 1);
        let text = String::from_utf8_lossy(&bytes[1..=len]);
        if let Some((plugin, operation)) = text.split_once('\0').filter(|_| len > 0) {
            found.push(format!("plugin {plugin} carried out {operation}"));
        }
        let _ = black_box.write(record * RECORD, &[0]);
    }
    found.sort();
    found.dedup();
    found
}

/// A plugin that is watched.
#[derive(Debug)]
struct Overseen {
    plugin: Arc<dyn Plugin>,
    oversight: Arc<Oversight>,
}

impl Plugin for Overseen {
    fn name(&self) -> &'static str {
        self.plugin.name()
    }

    fn operations(&self) -> &[Operation] {
        self.plugin.operations()
    }

    fn cost(&self, task: &Task<'_>) -> Cost {
        self.plugin.cost(task)
    }

    fn calibrate(&self) {
        self.plugin.calibrate();
    }

    fn kinds(&self) -> Kinds {
        self.plugin.kinds()
    }

    fn run(&self, task: Task<'_>, deadline: Deadline) -> Result<Done, PluginError> {
        let (name, operation) = (self.plugin.name(), task.operation());
        let _under = self.oversight.begin(name, operation, deadline.instant());
        let start = Instant::now();
        let done = self.plugin.run(task, deadline)?;
        self.oversight.add(name, operation, start.elapsed(), done.bytes_copied);
        Ok(done)
    }
}

/// Counts up, from one.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn next(&self) -> u64 {
        self.0.fetch_add(1, Relaxed) + 1
    }
}

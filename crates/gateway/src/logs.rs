//! The functions' logs: two capped files a function, and everyone who follows them live.
//! Replicas hand lines in; `/system/logs` reads them. One thread does all the writing.
//! It never makes a writer wait: when the disk is slower than a flood, lines are dropped and counted.

use crate::lines::Entry;
use crate::time;
use crate::wire::LogLine;
use bytes::Bytes;
use serde::Deserialize;
use std::borrow::Cow;
use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::SystemTime;
use tokio::sync::broadcast;

/// Most bytes in one of a function's two log files; with the older one full too, 8 MiB of log are kept.
const FILE_MAX: u64 = 4 * 1024 * 1024;
/// Lines that may wait for the writing thread, over all functions. At 16 KiB a line, 16 MiB at worst.
const WAITING_MAX: usize = 1024;
/// Lines that a follower may be behind before it misses some.
const FOLLOWER_BEHIND_MAX: usize = 256;

/// The logs of all functions.
#[derive(Debug)]
pub(crate) struct Logs {
    folder: PathBuf,
    sender: SyncSender<Message>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

/// One function's log.
#[derive(Debug)]
pub(crate) struct FunctionLog {
    files: Arc<Files>,
    sender: SyncSender<Message>,
}

/// What the writing thread is told.
#[derive(Debug)]
enum Message {
    Line { files: Arc<Files>, instance: Arc<str>, entry: Entry },
    End,
}

/// A function's files and followers.
#[derive(Debug)]
struct Files {
    name: String,
    namespace: String,
    newest: PathBuf,
    older: PathBuf,
    /// Lines that were not even handed to the writing thread.
    dropped: AtomicU64,
    open: Mutex<Open>,
}

#[derive(Debug)]
struct Open {
    /// `None` until the first line, and after removal.
    file: Option<File>,
    length: u64,
    /// `None` after removal: a replica that is still ending can no longer bring the files back.
    followers: Option<broadcast::Sender<Bytes>>,
}

/// Which lines of a log are wanted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filter {
    /// Only this replica's.
    pub(crate) instance: Option<String>,
    /// Only from this moment on.
    pub(crate) since: Option<SystemTime>,
    /// Only so many of the latest; `None` is all.
    pub(crate) tail: Option<usize>,
}

/// What a log held at one moment, and every line after that moment: none twice, none missed.
#[derive(Debug)]
pub(crate) struct Reading {
    /// The files, oldest first, each with the length it had.
    files: Vec<(File, u64)>,
    /// The lines that come after. `None` after the function's removal.
    pub(crate) later: Option<broadcast::Receiver<Bytes>>,
}

impl Logs {
    /// Starts the writing thread; files go to `<home>/logs/NAMESPACE/NAME.ndjson`.
    pub(crate) fn start(home: &Path) -> io::Result<Logs> {
        let (sender, receiver) = sync_channel(WAITING_MAX);
        let writer = thread::Builder::new().name("logs".into()).spawn(move || write_all(&receiver))?;
        Ok(Logs { folder: home.join("logs"), sender, writer: Mutex::new(Some(writer)) })
    }

    /// The log of a function, going on where its files end.
    pub(crate) fn function(&self, name: &str, namespace: &str) -> FunctionLog {
        let folder = self.folder.join(namespace);
        let followers = broadcast::channel(FOLLOWER_BEHIND_MAX).0;
        let files = Files {
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            newest: folder.join(format!("{name}.ndjson")),
            // A function's name has no dot, so no other function's file is called this.
            older: folder.join(format!("{name}.1.ndjson")),
            dropped: AtomicU64::new(0),
            open: Mutex::new(Open { file: None, length: 0, followers: Some(followers) }),
        };
        FunctionLog { files: Arc::new(files), sender: self.sender.clone() }
    }

    /// Waits until everything handed in so far is written, and ends the writing thread.
    pub(crate) fn finish(&self) {
        let Some(writer) = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        // An error says that the thread has failed, and so does `join`.
        let _ = self.sender.send(Message::End);
        if writer.join().is_err() {
            tracing::error!("The thread that writes the functions' logs had failed");
        }
    }
}

impl FunctionLog {
    /// Hands a line to the writing thread, or drops it where too many wait already.
    pub(crate) fn add(&self, instance: &Arc<str>, entry: Entry) {
        let line = Message::Line { files: Arc::clone(&self.files), instance: Arc::clone(instance), entry };
        if self.sender.try_send(line).is_err() {
            self.files.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Opens the log as it is now. Touches the disk.
    pub(crate) fn open(&self) -> io::Result<Reading> {
        let open = self.files.lock();
        let mut files = Vec::new();
        for path in [&self.files.older, &self.files.newest] {
            match File::open(path) {
                Ok(file) => {
                    let length = file.metadata()?.len();
                    files.push((file, length));
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Reading { files, later: open.followers.as_ref().map(broadcast::Sender::subscribe) })
    }

    /// Deletes the files and lets every follower go. Touches the disk.
    pub(crate) fn remove(&self) {
        let mut open = self.files.lock();
        open.file = None;
        open.followers = None;
        for path in [&self.files.older, &self.files.newest] {
            if let Err(error) = fs::remove_file(path)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(path = %path.display(), %error, "A removed function's log file cannot be deleted");
            }
        }
    }
}

impl Reading {
    /// The lines that the filter wants, each with its newline. Touches the disk.
    pub(crate) fn lines(&mut self, filter: &Filter) -> io::Result<VecDeque<Bytes>> {
        let mut wanted = VecDeque::new();
        for (file, length) in &mut self.files {
            let mut content = Vec::new();
            (&*file).take(*length).read_to_end(&mut content)?;
            let content = Bytes::from(content);
            for line in content.split_inclusive(|byte| *byte == b'\n') {
                if !filter.wants(line) {
                    continue;
                }
                wanted.push_back(content.slice_ref(line));
                if filter.tail.is_some_and(|tail| wanted.len() > tail) {
                    wanted.pop_front();
                }
            }
        }
        Ok(wanted)
    }
}

impl Filter {
    /// Whether a line (whatever `tail` says) is one of those asked for. What is no whole line never is.
    pub(crate) fn wants(&self, line: &[u8]) -> bool {
        #[derive(Deserialize)]
        struct Facts<'a> {
            #[serde(borrow)]
            instance: Cow<'a, str>,
            #[serde(borrow)]
            timestamp: Cow<'a, str>,
        }
        let Ok(facts) = serde_json::from_slice::<Facts<'_>>(line) else { return false };
        self.instance.as_deref().is_none_or(|instance| instance == facts.instance)
            && self.since.is_none_or(|since| time::parse(&facts.timestamp).is_some_and(|moment| moment >= since))
    }
}

fn write_all(receiver: &Receiver<Message>) {
    while let Ok(Message::Line { files, instance, entry }) = receiver.recv() {
        files.write_counting_dropped(&instance, entry);
    }
}

impl Files {
    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_counting_dropped(&self, instance: &str, entry: Entry) {
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            let text = format!("{dropped} log lines were dropped: they came faster than they can be written");
            self.write(instance, Entry::now("warn", &text));
        }
        self.write(instance, entry);
    }

    fn write(&self, instance: &str, entry: Entry) {
        let line = LogLine {
            name: self.name.clone(),
            namespace: self.namespace.clone(),
            instance: instance.to_owned(),
            timestamp: entry.timestamp,
            text: entry.text,
            report: entry.report,
        };
        let Ok(mut line) = serde_json::to_vec(&line) else { return };
        line.push(b'\n');
        let mut open = self.lock();
        if open.followers.is_none() {
            return;
        }
        if let Err(error) = self.append(&mut open, &line) {
            open.file = None;
            tracing::warn!(path = %self.newest.display(), %error, "A line of a function's log cannot be written");
        }
        if let Some(followers) = &open.followers {
            // An error says that nobody follows.
            let _ = followers.send(Bytes::from(line));
        }
    }

    fn append(&self, open: &mut Open, line: &[u8]) -> io::Result<()> {
        let added = line.len() as u64;
        if open.file.is_some() && open.length + added > FILE_MAX {
            open.file = None;
            fs::rename(&self.newest, &self.older)?;
        }
        let file = match &mut open.file {
            Some(file) => file,
            None => {
                let file = self.open_for_writing()?;
                open.length = file.metadata()?.len();
                open.file.insert(file)
            }
        };
        file.write_all(line)?;
        open.length += added;
        Ok(())
    }

    fn open_for_writing(&self) -> io::Result<File> {
        if let Some(folder) = self.newest.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut file = OpenOptions::new().create(true).append(true).open(&self.newest)?;
        // A machine that lost its power may have left half a line: end it, so that the next one stands alone.
        if file.metadata()?.len() > 0 {
            file.write_all(b"\n")?;
        }
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
    use super::*;
    use crate::lines::Weight;

    fn entry(text: &str) -> Entry {
        Entry { timestamp: time::now(), text: text.to_owned(), weight: Weight::Plain, report: None }
    }

    fn texts(lines: impl IntoIterator<Item = Bytes>) -> Vec<String> {
        lines.into_iter().map(|line| serde_json::from_slice::<LogLine>(&line).unwrap().text).collect()
    }

    /// Writes the lines and waits until they are on disk.
    fn write(home: &Path, lines: impl IntoIterator<Item = Entry>) -> FunctionLog {
        let logs = Logs::start(home).unwrap();
        let log = logs.function("echo", "openfaas-fn");
        for line in lines {
            log.files.write("echo-1", line);
        }
        log
    }

    #[test]
    fn lines_survive_the_gateway_and_are_read_in_their_order() {
        let home = tempfile::tempdir().unwrap();
        write(home.path(), [entry("one"), entry("two")]);
        let log = write(home.path(), [entry("three")]);
        let lines = log.open().unwrap().lines(&Filter::default()).unwrap();
        assert_eq!(texts(lines), ["one", "two", "three"]);
    }

    #[test]
    fn everything_handed_in_is_written_before_the_logs_finish() {
        let home = tempfile::tempdir().unwrap();
        let logs = Logs::start(home.path()).unwrap();
        let log = logs.function("echo", "openfaas-fn");
        let instance: Arc<str> = "echo-1".into();
        for number in 0..100 {
            log.add(&instance, entry(&number.to_string()));
        }
        logs.finish();
        let content = fs::read_to_string(home.path().join("logs/openfaas-fn/echo.ndjson")).unwrap();
        assert_eq!(content.lines().count(), 100);
    }

    #[test]
    fn the_filter_takes_the_tail_the_instance_and_the_moment() {
        let home = tempfile::tempdir().unwrap();
        let old = Entry { timestamp: "2020-01-01T00:00:00Z".into(), ..entry("old") };
        let log = write(home.path(), [old, entry("one"), entry("two")]);
        log.files.write("echo-2", entry("other"));
        let read = |filter: Filter| texts(log.open().unwrap().lines(&filter).unwrap());
        assert_eq!(read(Filter { tail: Some(2), ..Filter::default() }), ["two", "other"]);
        assert_eq!(read(Filter { tail: Some(0), ..Filter::default() }), [""; 0]);
        assert_eq!(read(Filter { instance: Some("echo-2".into()), ..Filter::default() }), ["other"]);
        let since = time::parse("2021-01-01T00:00:00Z");
        assert_eq!(read(Filter { since, ..Filter::default() }), ["one", "two", "other"]);
    }

    #[test]
    fn a_flood_keeps_two_files_of_bounded_size() {
        let home = tempfile::tempdir().unwrap();
        let log = write(home.path(), []);
        let text = "x".repeat(16 * 1024);
        for _ in 0..800 {
            log.files.write("echo-1", entry(&text));
        }
        let folder = home.path().join("logs/openfaas-fn");
        let sizes: Vec<u64> =
            fs::read_dir(folder).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).collect();
        assert_eq!(sizes.len(), 2);
        assert!(sizes.iter().all(|size| *size <= FILE_MAX), "{sizes:?}");
        assert!(!log.open().unwrap().lines(&Filter::default()).unwrap().is_empty());
    }

    #[test]
    fn a_follower_gets_every_later_line_exactly_once() {
        let home = tempfile::tempdir().unwrap();
        let log = write(home.path(), [entry("before")]);
        let mut reading = log.open().unwrap();
        log.files.write("echo-1", entry("after"));
        assert_eq!(texts(reading.lines(&Filter::default()).unwrap()), ["before"]);
        let mut later = reading.later.unwrap();
        assert_eq!(texts([later.try_recv().unwrap()]), ["after"]);
        assert!(later.try_recv().is_err());
    }

    #[test]
    fn a_removed_functions_log_is_gone_and_stays_gone() {
        let home = tempfile::tempdir().unwrap();
        let log = write(home.path(), [entry("before")]);
        let mut later = log.open().unwrap().later.unwrap();
        log.remove();
        log.files.write("echo-1", entry("too late"));
        assert!(matches!(later.try_recv(), Err(broadcast::error::TryRecvError::Closed)));
        assert_eq!(fs::read_dir(home.path().join("logs/openfaas-fn")).unwrap().count(), 0);
    }

    #[test]
    fn dropped_lines_are_counted_in_the_log() {
        let home = tempfile::tempdir().unwrap();
        let log = write(home.path(), []);
        log.files.dropped.store(7, Ordering::Relaxed);
        log.files.write_counting_dropped("echo-1", entry("next"));
        let lines = texts(log.open().unwrap().lines(&Filter::default()).unwrap());
        assert!(lines[0].contains("7 log lines were dropped"), "{lines:?}");
        assert_eq!(lines[1], "next");
    }

    #[test]
    fn half_a_line_left_by_a_power_cut_spoils_no_other() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("logs/openfaas-fn");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("echo.ndjson"), "{\"name\":\"ec").unwrap();
        let log = write(home.path(), [entry("whole")]);
        assert_eq!(texts(log.open().unwrap().lines(&Filter::default()).unwrap()), ["whole"]);
    }
}

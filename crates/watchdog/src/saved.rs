//! The function's template in a file, so that the next process of the function need not boot it.
//! Used by [`crate::Function`] when it is opened: everything that needs a path happens there, so that the process may
//! give up its file system afterwards. A file that cannot be used or written costs a boot, and never a request.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use kernlet_accel::chain;
use kernlet_monitor::{Hypervisor, Level, LoadError, MachineConfig, Program, ProgramTemplate, TemplateKey};
use rustix::fs::OFlags;

use crate::log::Log;

/// What a template is to be of, and what is needed to load one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    pub(crate) key: &'a TemplateKey,
    pub(crate) hypervisor: &'a Hypervisor,
    pub(crate) program: &'a Program,
    pub(crate) machine: &'a MachineConfig,
}

/// What a file gave.
#[derive(Debug)]
pub(crate) enum Saved {
    /// The template.
    Loaded(ProgramTemplate),
    /// None yet: this is where it goes. Nothing, where that cannot be written.
    Missing(Option<Destination>),
}

/// A new file of this process's own, to which the template goes once it is booted.
#[derive(Debug)]
pub(crate) struct Destination {
    file: File,
    path: PathBuf,
    key: TemplateKey,
}

/// Loads the template from a file, or takes the file's place. The file is opened for reading only, so that a process
/// that a function got hold of later cannot change what the next one starts from.
pub(crate) fn open(path: &Path, wanted: Wanted<'_>, log: &Log) -> Saved {
    let shown = path.display();
    match load(path, wanted) {
        Ok(Some(template)) => {
            log.watchdog("", Level::Debug, &format!("machines are made of the template in {shown}"));
            return Saved::Loaded(template);
        }
        Ok(None) => {}
        Err(error) => {
            let level = if error.is_fault() { Level::Warn } else { Level::Info };
            log.watchdog("", level, &format!("{} ({shown}); the function is booted", chain(&error)));
        }
    }
    match create(path) {
        Ok(file) => Saved::Missing(Some(Destination { file, path: path.to_owned(), key: wanted.key.clone() })),
        // Another replica that starts now was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Saved::Missing(None),
        Err(error) => {
            let text = format!("the template cannot be saved in {shown}, so every start boots the function: {error}");
            log.watchdog("", Level::Warn, &text);
            Saved::Missing(None)
        }
    }
}

fn load(path: &Path, wanted: Wanted<'_>) -> Result<Option<ProgramTemplate>, LoadError> {
    let Wanted { key, hypervisor, program, machine } = wanted;
    // A link could lead to another function's file; a pipe would wait for its other end.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(LoadError::Read(error)),
    };
    if !file.metadata().map_err(LoadError::Read)?.is_file() {
        return Err(LoadError::Read(io::Error::other("it is not a file")));
    }
    ProgramTemplate::load(file, key, hypervisor, program, machine).map(Some)
}

/// A file of its own: who still has the old one open, or still writes it, keeps that.
fn create(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

impl Destination {
    /// Writes the template and closes the file. Half a file, as a full disk leaves it, is none to who reads it.
    pub(crate) fn save(self, template: &ProgramTemplate, log: &Log) {
        if let Err(error) = template.save(&self.file, &self.key) {
            let shown = self.path.display();
            let text = format!("the template could not be saved in {shown}, so the next start boots it again: {error}");
            log.watchdog("", Level::Warn, &text);
        }
    }
}

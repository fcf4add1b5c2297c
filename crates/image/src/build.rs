//! From a function's folder to the parts of its image: runs cargo and reads what the package says about itself.
//! Called by the CLI. It stores nothing, and it leaves what cargo has built as it is.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    fs,
    io::{self, BufRead, BufReader, Read},
    panic,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    thread,
};

use serde::Deserialize;
use serde_json::Value;

use crate::{
    BlockDevice, ConfigError, ImageParts,
    config::{annotations_from_metadata, annotations_of_solo5},
};

/// Annotations that OCI defines for an image's name and version.
const TITLE: &str = "org.opencontainers.image.title";
const VERSION: &str = "org.opencontainers.image.version";

/// A function that has been built.
#[derive(Clone, Debug)]
pub struct Built {
    /// Name of the cargo package; a good name for the image.
    pub package: String,
    /// What its image is made from.
    pub parts: ImageParts,
}

/// Why a function was not built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// There is no cargo package.
    #[error("{} has no Cargo.toml; name the folder of a function, for example functions/echo", .0.display())]
    NoManifest(PathBuf),
    /// Cargo cannot be started.
    #[error("cannot run {}; install Rust from https://rustup.rs, or set CARGO to where cargo is", program.display())]
    NoCargo {
        /// The program that was to be run.
        program: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Cargo does not understand the manifest.
    #[error("cargo cannot read {}: {}", manifest.display(), said)]
    Manifest {
        /// The manifest.
        manifest: PathBuf,
        /// Cargo's own words.
        said: String,
    },
    /// Cargo describes the package in a way that is not understood.
    #[error("cargo's description of {} cannot be read; this program needs cargo 1.95 or newer", manifest.display())]
    Description {
        /// The manifest.
        manifest: PathBuf,
        /// Why not.
        #[source]
        source: serde_json::Error,
    },
    /// The manifest is a workspace's only.
    #[error("{} is a workspace without a package of its own; name the folder of one of its members: {}", manifest.display(), members.join(", "))]
    NotAPackage {
        /// The manifest.
        manifest: PathBuf,
        /// Names of its members.
        members: Vec<String>,
    },
    /// It is not clear which program is the function.
    #[error("package {package} has {} programs; a function has one, or one with the package's name", count)]
    Programs {
        /// The package.
        package: String,
        /// How many programs it has.
        count: usize,
    },
    /// The package's metadata table is wrong.
    #[error("{} is wrong", manifest.display())]
    Metadata {
        /// The manifest.
        manifest: PathBuf,
        /// In what.
        #[source]
        source: ConfigError,
    },
    /// A resource that the package names is not there.
    #[error("{} names a resource {name:?} that is not a file: {}", manifest.display(), path.display())]
    Resource {
        /// The manifest.
        manifest: PathBuf,
        /// Name of the resource.
        name: String,
        /// Where it should be.
        path: PathBuf,
    },
    /// Cargo failed.
    #[error("cargo could not build {package} ({status}); its messages say why")]
    Failed {
        /// The package.
        package: String,
        /// How cargo ended.
        status: ExitStatus,
    },
    /// Cargo's output or the program that it made cannot be read.
    #[error("cannot read {what}")]
    Read {
        /// What could not be read.
        what: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Cargo was content but named no program.
    #[error("cargo built {package} but named no program; run `cargo build --release` in {} to see why", folder.display())]
    NoProgram {
        /// The package.
        package: String,
        /// Its folder.
        folder: PathBuf,
    },
}

/// Builds the function in `folder`, a cargo package, and gives the parts of its image.
///
/// `progress` gets cargo's messages line by line.
pub fn build(folder: &Path, progress: &mut dyn FnMut(&str)) -> Result<Built, BuildError> {
    let package = Package::read(folder)?;
    let program = package.compile(progress)?;
    let kernel = fs::read(&program)
        .map_err(|source| BuildError::Read { what: format!("the unikernel {}", program.display()), source })?;
    let Package { name, resources, annotations, .. } = package;
    Ok(Built { package: name, parts: ImageParts { kernel, resources, annotations, ..ImageParts::default() } })
}

/// The parts of an image of a Solo5 unikernel for hvt, as it is, with these block devices.
#[must_use]
pub fn of_solo5(name: &str, kernel: Vec<u8>, devices: Vec<BlockDevice>) -> Built {
    let settings = devices.iter().map(|device| (device.name.clone(), device.settings)).collect();
    let mut annotations = annotations_of_solo5(&settings);
    annotations.insert(TITLE.to_owned(), name.to_owned());
    let blocks = devices.into_iter().filter_map(|device| Some((device.name, device.file?))).collect();
    Built { package: name.to_owned(), parts: ImageParts { kernel, blocks, annotations, ..ImageParts::default() } }
}

/// The parts of `cargo metadata`'s answer that matter here.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<MetadataPackage>,
}

#[derive(Deserialize)]
struct MetadataPackage {
    name: String,
    version: String,
    manifest_path: PathBuf,
    targets: Vec<Target>,
    /// `[package.metadata]`, or null.
    metadata: Value,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

/// One line of `cargo build --message-format=json`.
#[derive(Deserialize)]
struct Message {
    reason: String,
    executable: Option<PathBuf>,
    target: Option<Target>,
}

/// A function's package, everything about it checked but that it compiles.
#[derive(Debug)]
struct Package {
    name: String,
    folder: PathBuf,
    program: String,
    resources: Vec<(String, PathBuf)>,
    annotations: BTreeMap<String, String>,
}

impl Package {
    fn read(folder: &Path) -> Result<Self, BuildError> {
        let no_manifest = |_| BuildError::NoManifest(folder.to_owned());
        let folder = folder.canonicalize().map_err(no_manifest)?;
        let manifest = folder.join("Cargo.toml");
        fs::metadata(&manifest).map_err(no_manifest)?;
        let metadata = metadata(&manifest)?;
        let members: Vec<String> = metadata.packages.iter().map(|package| package.name.clone()).collect();
        let package = metadata.packages.into_iter().find(|package| package.manifest_path == manifest);
        let Some(package) = package else {
            return Err(BuildError::NotAPackage { manifest, members });
        };
        let program = program(&package)?;
        let (settings, files) = settings(&package.metadata)
            .map_err(|source| BuildError::Metadata { manifest: manifest.clone(), source })?;
        let mut annotations = annotations_from_metadata(&settings)
            .map_err(|source| BuildError::Metadata { manifest: manifest.clone(), source })?;
        annotations.insert(TITLE.to_owned(), package.name.clone());
        annotations.insert(VERSION.to_owned(), package.version);
        let mut resources = Vec::new();
        for (name, path) in files {
            let path = folder.join(path);
            if !path.is_file() {
                return Err(BuildError::Resource { manifest, name, path });
            }
            resources.push((name, path));
        }
        Ok(Self { name: package.name, folder, program, resources, annotations })
    }

    /// Runs cargo and returns where the program is.
    fn compile(&self, progress: &mut dyn FnMut(&str)) -> Result<PathBuf, BuildError> {
        let cargo = cargo();
        let mut child = Command::new(&cargo)
            .args(["build", "--release", "--message-format=json-render-diagnostics", "--bin", &self.program])
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|source| BuildError::NoCargo { program: cargo.into(), source })?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let (program, messages) = thread::scope(|scope| {
            let program = scope.spawn(|| stdout.map_or(Ok(None), |stdout| find_program(stdout, &self.program)));
            let messages = stderr.map_or(Ok(()), |stderr| forward(stderr, progress));
            (program.join().unwrap_or_else(|panicked| panic::resume_unwind(panicked)), messages)
        });
        let unreadable = |source| BuildError::Read { what: "what cargo says".to_owned(), source };
        let status = child.wait().map_err(unreadable)?;
        if !status.success() {
            return Err(BuildError::Failed { package: self.name.clone(), status });
        }
        messages.map_err(unreadable)?;
        let no_program = || BuildError::NoProgram { package: self.name.clone(), folder: self.folder.clone() };
        program.map_err(unreadable)?.ok_or_else(no_program)
    }
}

/// The cargo that runs us, or else the first in `PATH`.
fn cargo() -> OsString {
    env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

fn metadata(manifest: &Path) -> Result<Metadata, BuildError> {
    let cargo = cargo();
    let output = Command::new(&cargo)
        .args(["metadata", "--no-deps", "--format-version=1", "--manifest-path"])
        .arg(manifest)
        .stdin(Stdio::null())
        .output()
        .map_err(|source| BuildError::NoCargo { program: cargo.into(), source })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(BuildError::Manifest { manifest: manifest.to_owned(), said });
    }
    serde_json::from_slice(&output.stdout)
        .map_err(|source| BuildError::Description { manifest: manifest.to_owned(), source })
}

/// Name of the package's only program, or of the one that is called as the package.
fn program(package: &MetadataPackage) -> Result<String, BuildError> {
    let programs: Vec<&str> = package
        .targets
        .iter()
        .filter(|target| target.kind.iter().any(|kind| kind == "bin"))
        .map(|target| target.name.as_str())
        .collect();
    match programs.as_slice() {
        [only] => Ok((*only).to_owned()),
        several if several.contains(&package.name.as_str()) => Ok(package.name.clone()),
        _ => Err(BuildError::Programs { package: package.name.clone(), count: programs.len() }),
    }
}

/// Settings as text and resources, each by its key.
type Settings = (BTreeMap<String, String>, BTreeMap<String, String>);

/// Takes `[package.metadata.kernlet]` apart.
fn settings(metadata: &Value) -> Result<Settings, ConfigError> {
    let mut settings = BTreeMap::new();
    let mut resources = BTreeMap::new();
    let mut problems = Vec::new();
    let table = match metadata.get("kernlet") {
        None | Some(Value::Null) => return Ok((settings, resources)),
        Some(Value::Object(table)) => table,
        Some(_) => {
            return Err(ConfigError::new(vec!["package.metadata.kernlet is not a table".to_owned()]));
        }
    };
    for (key, value) in table {
        match (key.as_str(), value) {
            ("resources", Value::Object(files)) => {
                for (name, path) in files {
                    match path.as_str() {
                        Some(path) => _ = resources.insert(name.clone(), path.to_owned()),
                        None => problems.push(format!("package.metadata.kernlet.resources.{name} is not a path")),
                    }
                }
            }
            ("resources", _) => problems.push("package.metadata.kernlet.resources is not a table of paths".to_owned()),
            _ => match text(value) {
                Some(text) => _ = settings.insert(key.clone(), text),
                None => {
                    problems.push(format!("package.metadata.kernlet.{key} is not a text, a number or a list of texts"))
                }
            },
        }
    }
    if problems.is_empty() { Ok((settings, resources)) } else { Err(ConfigError::new(problems)) }
}

/// A setting's value as an annotation would write it.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Array(items) => {
            let items: Option<Vec<&str>> = items.iter().map(Value::as_str).collect();
            items.map(|items| items.join(","))
        }
        _ => None,
    }
}

/// Reads cargo's JSON messages to the end and returns the program called `name`.
fn find_program(stdout: impl Read, name: &str) -> io::Result<Option<PathBuf>> {
    let mut found = None;
    for line in BufReader::new(stdout).lines() {
        // Lines that are no message of cargo's come from whatever a build script runs.
        let Ok(message) = serde_json::from_str::<Message>(&line?) else {
            continue;
        };
        let ours = message.reason == "compiler-artifact"
            && message.target.is_some_and(|target| target.name == name && target.kind.iter().any(|kind| kind == "bin"));
        if ours {
            found = message.executable.or(found);
        }
    }
    Ok(found)
}

/// Passes on each line; what is not UTF-8 in it becomes a replacement character.
fn forward(stderr: impl Read, progress: &mut dyn FnMut(&str)) -> io::Result<()> {
    let mut reader = BufReader::new(stderr);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? > 0 {
        progress(String::from_utf8_lossy(&line).trim_end());
        line.clear();
    }
    Ok(())
}

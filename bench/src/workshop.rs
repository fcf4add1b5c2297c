//! Makes what is measured: images of the example functions in a store of this run's own, and the `kernlet` program.
//! Used by the suites; everything is made when it is first needed and gone at the end. Never measures anything.

use std::{
    cell::OnceCell,
    collections::BTreeMap,
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, ensure};
use kernlet_image::{FunctionSpec, ImageInfo, Namespace, Reference, Store, Unpacked, build::build};
use kernlet_monitor::{Hypervisor, MachineConfig, Unikernel};
use serde::Deserialize;
use tempfile::TempDir;

/// A function's image.
#[derive(Debug)]
pub(crate) struct Image {
    name: &'static str,
    /// What the store says about it.
    pub(crate) info: ImageInfo,
    unpacked: Unpacked,
}

impl Image {
    /// As the gateway would have a watchdog run it.
    pub(crate) fn spec(&self) -> anyhow::Result<FunctionSpec> {
        let Unpacked { digest, kernel, resources, blocks, config } = self.unpacked.clone();
        Ok(FunctionSpec {
            name: self.name.parse()?,
            namespace: Namespace::default(),
            replica: 0,
            image: self.info.reference.to_string(),
            digest,
            kernel,
            resources,
            blocks,
            config,
            environment: BTreeMap::new(),
            template: None,
        })
    }

    /// What a machine is made of, without a watchdog.
    pub(crate) fn parts(&self) -> anyhow::Result<(Hypervisor, Unikernel, MachineConfig)> {
        let elf = fs::read(&self.unpacked.kernel)?;
        let config = &self.unpacked.config;
        let config = MachineConfig {
            memory: config.memory.bytes(),
            request_limit: config.request_limit.bytes(),
            response_limit: config.response_limit.bytes(),
            environment: Vec::new(),
        };
        Ok((Hypervisor::open()?, Unikernel::parse(&elf)?, config))
    }
}

/// The run's own folder, and what was made so far.
#[derive(Debug)]
pub(crate) struct Workshop {
    home: TempDir,
    echo: OnceCell<Image>,
    classify: OnceCell<Image>,
    pages: OnceCell<Image>,
    faults: OnceCell<Image>,
    offload: OnceCell<Image>,
    program: OnceCell<PathBuf>,
    tenders: OnceCell<PathBuf>,
    static_echo: OnceCell<PathBuf>,
}

impl Workshop {
    /// An empty one; with a `kernlet` program, that one is measured, and none is built.
    pub(crate) fn open(program: Option<PathBuf>) -> anyhow::Result<Self> {
        let home = tempfile::Builder::new().prefix("kernlet-bench-").tempdir()?;
        Ok(Self {
            home,
            echo: OnceCell::new(),
            classify: OnceCell::new(),
            pages: OnceCell::new(),
            faults: OnceCell::new(),
            offload: OnceCell::new(),
            program: program.map_or_else(OnceCell::new, OnceCell::from),
            tenders: OnceCell::new(),
            static_echo: OnceCell::new(),
        })
    }

    /// The folder of images, and of everything that a platform keeps.
    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    /// `functions/echo`: any body back.
    pub(crate) fn echo(&self) -> anyhow::Result<&Image> {
        get_or_make(&self.echo, || self.image("echo"))
    }

    /// `functions/classify`: a picture in, its labels out.
    pub(crate) fn classify(&self) -> anyhow::Result<&Image> {
        get_or_make(&self.classify, || self.image("classify"))
    }

    /// `functions/pages`: writes to as many pages as it is told.
    pub(crate) fn pages(&self) -> anyhow::Result<&Image> {
        get_or_make(&self.pages, || self.image("pages"))
    }

    /// `functions/faults`: does what its path says.
    pub(crate) fn faults(&self) -> anyhow::Result<&Image> {
        get_or_make(&self.faults, || self.image("faults"))
    }

    /// `functions/offload`: runs an accelerator operation as often as it is told.
    pub(crate) fn offload(&self) -> anyhow::Result<&Image> {
        get_or_make(&self.offload, || self.image("offload"))
    }

    /// The `kernlet` program, as people get it.
    pub(crate) fn program(&self) -> anyhow::Result<&Path> {
        get_or_make(&self.program, build_program).map(PathBuf::as_path)
    }

    /// The folder of the tenders as programs of their own, `solo5-hvt` and `solo5-spt`, static.
    pub(crate) fn tenders(&self) -> anyhow::Result<&Path> {
        get_or_make(&self.tenders, build_tenders).map(PathBuf::as_path)
    }

    /// A static program, as small as they get, that writes what it reads.
    pub(crate) fn static_echo(&self) -> anyhow::Result<&Path> {
        get_or_make(&self.static_echo, || build_static_echo(self.home())).map(PathBuf::as_path)
    }

    /// A guest of `functions/solo5`, for hvt.
    pub(crate) fn solo5_guest(&self, name: &str) -> anyhow::Result<PathBuf> {
        self.solo5_guest_for("hvt", name)
    }

    /// A guest of `functions/solo5`, for one of the tenders.
    pub(crate) fn solo5_guest_for(&self, target: &str, name: &str) -> anyhow::Result<PathBuf> {
        let folder = self.home().join("solo5");
        let script = root().join("functions/solo5/build.sh");
        let status = Command::new("sh").arg(script).arg(target).arg(&folder).arg(name).status();
        ensure!(status.context("sh cannot be run")?.success(), "functions/solo5/{name}.c cannot be built; install gcc");
        Ok(folder.join(format!("{name}.{target}")))
    }

    /// A static program of this C source.
    pub(crate) fn static_program(&self, name: &str, source: &str) -> anyhow::Result<PathBuf> {
        build_static(self.home(), name, source)
    }

    fn image(&self, name: &'static str) -> anyhow::Result<Image> {
        eprintln!("building the image {name}");
        let built = build(&root().join("functions").join(name), &mut |_| {})?;
        let store = Store::open(self.home())?;
        let reference: Reference = name.parse()?;
        let info = store.import(&reference, built.parts, &mut |_| {})?;
        Ok(Image { name, info, unpacked: store.unpack(&reference)? })
    }
}

fn get_or_make<T>(cell: &OnceCell<T>, make: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<&T> {
    if let Some(made) = cell.get() {
        return Ok(made);
    }
    let made = make()?;
    Ok(cell.get_or_init(|| made))
}

/// The checkout.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A file of the demo.
pub(crate) fn model_file(name: &str) -> PathBuf {
    root().join("models").join(name)
}

/// ONNX Runtime's library, where the checkout's own script has installed it.
pub(crate) fn onnxruntime_of_the_checkout() -> Option<PathBuf> {
    let names = |folder: &Path| fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    let folders = names(&root().join("target/native/lib")).map(|folder| folder.join("site-packages/onnxruntime/capi"));
    let is_it = |path: &PathBuf| path.to_string_lossy().contains("/libonnxruntime.so.");
    folders.flat_map(|folder| names(&folder).collect::<Vec<_>>()).find(is_it)
}

/// The picture that is classified.
pub(crate) fn picture() -> anyhow::Result<Vec<u8>> {
    let path = model_file("pictures/cat.jpg");
    fs::read(&path).with_context(|| format!("{} cannot be read", path.display()))
}

/// One line of `cargo build --message-format=json`.
#[derive(Deserialize)]
struct Message {
    executable: Option<PathBuf>,
}

fn build_program() -> anyhow::Result<PathBuf> {
    eprintln!("building the program kernlet");
    let cargo = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let output = Command::new(cargo)
        .args(["build", "--release", "--bin", "kernlet", "--message-format=json-render-diagnostics"])
        .current_dir(root())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cargo cannot be run; install Rust from https://rustup.rs")?;
    ensure!(output.status.success(), "cargo could not build kernlet ({}); its messages say why", output.status);
    let messages = output.stdout.split(|byte| *byte == b'\n');
    let mut programs = messages.filter_map(|line| serde_json::from_slice::<Message>(line).ok()?.executable);
    programs.next_back().context("cargo built kernlet and did not say where it is")
}

/// As `just tenders` builds them.
fn build_tenders() -> anyhow::Result<PathBuf> {
    const TRIPLE: &str = "x86_64-unknown-linux-gnu";
    eprintln!("building the tenders");
    let cargo = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let status = Command::new(cargo)
        .args(["build", "--profile", "tender", "-p", "kernlet-tender", "--target", TRIPLE, "--target-dir", "target/static"])
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .current_dir(root())
        .stdin(Stdio::null())
        .status()
        .context("cargo cannot be run; install Rust from https://rustup.rs")?;
    ensure!(status.success(), "cargo could not build the tenders ({status}); its messages say why");
    Ok(root().join("target/static").join(TRIPLE).join("tender"))
}

/// The other side of "a process for each request": nothing that a faster language could leave out.
const STATIC_ECHO: &str = "\
#include <unistd.h>
int main(void) {
    static char buffer[65536];
    ssize_t length;
    while ((length = read(0, buffer, sizeof buffer)) > 0)
        for (ssize_t at = 0, written; at < length; at += written)
            if ((written = write(1, buffer + at, length - at)) < 0)
                return 1;
    return length < 0;
}
";

fn build_static_echo(folder: &Path) -> anyhow::Result<PathBuf> {
    build_static(folder, "static-echo", STATIC_ECHO)
}

fn build_static(folder: &Path, name: &str, text: &str) -> anyhow::Result<PathBuf> {
    let (source, program) = (folder.join(format!("{name}.c")), folder.join(name));
    fs::write(&source, text)?;
    let output = Command::new("gcc")
        .args(["-O2", "-static", "-o"])
        .args([&program, &source])
        .output()
        .context("gcc cannot be run; install it (Debian: apt install gcc libc6-dev)")?;
    ensure!(
        output.status.success(),
        "gcc could not build a static program: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(program)
}

//! `kernlet build`: compiles a function's folder and puts its image into the store.
//! Called by people, scripts and `demo`. It never deploys what it built.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use kernlet_image::build::{BuildError, Built};
use kernlet_image::{
    BlockDevice, BlockSettings, FunctionConfig, ImageInfo, Progress, Reference, Store, block_devices, is_block_name,
};
use kernlet_monitor::Program;

use crate::Context;
use crate::commands::key_value;
use crate::output::{self, Step};

/// Build a function's folder into an image
///
/// The folder is a Rust crate that links `kernlet-guest`; `cargo` must be on the PATH. Files that the
/// function wants at run time (models, labels) and its settings come from `[package.metadata.kernlet]`
/// in its Cargo.toml. A file in place of the folder is a Solo5 unikernel (hvt) that is built already.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  kernlet build functions/echo
  kernlet build functions/classify -t classify:v1
  kernlet build hello.hvt -t hello
  kernlet build classify.hvt --resource model=mobilenet.onnx --resource labels=labels.txt
  kernlet build server.hvt -t server --annotation dev.kernlet.solo5.mode=server
  kernlet build shop.hvt --block goods=goods.img --scratch basket=16Mi")]
pub(crate) struct Args {
    /// The function's folder, or a Solo5 unikernel
    dir: PathBuf,
    /// Name of the image [default: the package's name, with the tag latest]
    #[arg(long, short, value_name = "NAME[:TAG]")]
    tag: Option<Reference>,
    /// Annotation of the image, in place of what it would have (may be repeated)
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    annotation: Vec<(String, String)>,
    #[command(flatten)]
    beside: BesideArgs,
}

/// What goes with a Solo5 unikernel that is built already; a folder says it in its `Cargo.toml`.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct BesideArgs {
    /// File that a Solo5 unikernel's accelerator operations know by NAME (may be repeated)
    #[arg(long = "resource", value_name = "NAME=FILE", value_parser = key_value)]
    resources: Vec<(String, String)>,
    #[command(flatten)]
    blocks: BlockArgs,
}

/// What the block devices of a Solo5 unikernel are made of.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Block devices of a Solo5 unikernel")]
pub(crate) struct BlockArgs {
    /// File of a block device, which requests read and do not write (may be repeated)
    #[arg(long, value_name = "NAME=FILE", value_parser = key_value)]
    block: Vec<(String, String)>,
    /// Let each request write up to SIZE over the file of a block device; the next one finds the file again
    #[arg(long, value_name = "NAME=SIZE", value_parser = key_value)]
    copy_on_write: Vec<(String, String)>,
    /// Block device of SIZE zeroes, which each request writes for itself (may be repeated)
    #[arg(long, value_name = "NAME=SIZE", value_parser = key_value)]
    scratch: Vec<(String, String)>,
    /// Bytes of a block device's block, a power of two from 512 to 32768 [default: 512]
    #[arg(long, value_name = "NAME=BYTES", value_parser = key_value)]
    block_sector_size: Vec<(String, String)>,
}

impl BlockArgs {
    fn is_empty(&self) -> bool {
        self.block.is_empty() && self.scratch.is_empty() && self.copy_on_write.is_empty()
    }

    /// The devices, with their files where these are now.
    fn devices(&self) -> anyhow::Result<Vec<BlockDevice>> {
        let mut words: BTreeMap<&str, String> = BTreeMap::new();
        let mut files: Vec<(String, PathBuf)> = Vec::new();
        for (name, file) in &self.block {
            if files.iter().any(|(other, _)| other == name) {
                bail!("--block {name} is there twice; a device has one file");
            }
            files.push((name.clone(), PathBuf::from(file)));
            words.insert(name, "read-only".to_owned());
        }
        for (name, size) in &self.scratch {
            if words.insert(name, format!("scratch={size}")).is_some() {
                bail!("the block device {name} is there twice; it has a file or scratch space");
            }
        }
        for (name, size) in &self.copy_on_write {
            match words.get_mut(name.as_str()) {
                Some(word) if word == "read-only" => *word = format!("copy-on-write={size}"),
                _ => bail!("--copy-on-write {name} needs --block {name}=FILE, the file that is written over"),
            }
        }
        for (name, bytes) in &self.block_sector_size {
            match words.get_mut(name.as_str()) {
                Some(word) => *word = format!("{word},sector={bytes}"),
                None => bail!("--block-sector-size {name} is of no block device; name it with --block or --scratch"),
            }
        }
        let mut settings = BTreeMap::new();
        for (name, word) in words {
            if !is_block_name(name) {
                bail!("{name:?} is not the name of a block device; use 1 to 67 letters and digits");
            }
            let parsed = word.parse::<BlockSettings>().map_err(|why| anyhow!("block device {name}: {why}"))?;
            settings.insert(name.to_owned(), parsed);
        }
        Ok(block_devices(&settings, &files)?)
    }
}

pub(crate) fn run(args: &Args, context: &Context) -> anyhow::Result<()> {
    let store = Store::open(context.home()?.path())?;
    let image = build(&store, &args.dir, args.tag.clone(), &args.beside, &args.annotation)?;
    output::line(&image.reference.to_string())
}

/// Builds and imports, showing how far it is; the image is named after the package unless it has a name.
pub(super) fn build(
    store: &Store,
    dir: &Path,
    tag: Option<Reference>,
    beside: &BesideArgs,
    annotations: &[(String, String)],
) -> anyhow::Result<ImageInfo> {
    let step = Step::start(format!("build {}", dir.display()));
    let Built { package, mut parts } = compile(&step, dir, &beside.blocks)?;
    if dir.is_dir() && !beside.resources.is_empty() {
        bail!("{} is a folder: its resources are in its Cargo.toml, --resource goes with a file", dir.display());
    }
    for (name, file) in &beside.resources {
        if parts.resources.iter().any(|(other, _)| other == name) {
            bail!("--resource {name} is there twice; give each a name of its own");
        }
        parts.resources.push((name.clone(), file.into()));
    }
    parts.annotations.extend(annotations.iter().cloned());
    FunctionConfig::from_annotations(&parts.annotations).context("the image cannot have these annotations")?;
    let name = tag
        .map_or_else(|| package.parse(), Ok)
        .with_context(|| format!("package {package} does not name an image; name it with -t NAME:TAG"))?;
    let mut show = |progress: Progress<'_>| {
        step.at(format!(
            "storing {}: {} of {}",
            progress.part,
            output::bytes(progress.done),
            output::bytes(progress.total)
        ));
    };
    let image = store.import(&name, parts, &mut show)?;
    step.done(&format!("{}, {}", image.reference, output::bytes(image.size)));
    Ok(image)
}

/// A unikernel that somebody else has built.
fn prebuilt(file: &Path, blocks: &BlockArgs) -> anyhow::Result<Built> {
    let kernel = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let program =
        match Program::parse(&kernel).with_context(|| format!("{} is no program for functions", file.display()))? {
            program @ (Program::Solo5(_) | Program::Solo5Server(_)) => program,
            Program::Native(_) => {
                bail!("{} is a unikernel of the guest library; name the folder that it is built from", file.display())
            }
        };
    let devices = blocks.devices()?;
    let disks = kernlet_watchdog::open_disks(&devices)?;
    program
        .with_disks(disks)
        .with_context(|| format!("{} cannot have these block devices (--block, --scratch)", file.display()))?;
    let name = file.file_stem().unwrap_or_default().to_string_lossy();
    Ok(kernlet_image::build::of_solo5(&name, kernel, devices))
}

/// Runs cargo; its messages pass by, and stay to be read when it fails.
fn compile(step: &Step, dir: &Path, blocks: &BlockArgs) -> anyhow::Result<Built> {
    if dir.is_file() {
        return prebuilt(dir, blocks);
    }
    if !blocks.is_empty() {
        bail!("{} is a folder: block devices go with the file of a Solo5 unikernel", dir.display());
    }
    let mut messages = Vec::new();
    let mut show = |line: &str| {
        step.at(line.trim());
        messages.push(line.to_owned());
    };
    let built = kernlet_image::build::build(dir, &mut show);
    if let Err(BuildError::Failed { .. }) = &built {
        step.print(&messages.join("\n"));
    }
    built.with_context(|| format!("cannot build {}", dir.display()))
}

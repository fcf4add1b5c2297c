//! `kernlet build`: compiles a function's folder and puts its image into the store.
//! Called by people, scripts and `demo`. It never deploys what it built.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use kernlet_image::build::{BuildError, Built};
use kernlet_image::{ImageInfo, Progress, Reference, Store};
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
  kernlet build classify.hvt --resource model=mobilenet.onnx --resource labels=labels.txt")]
pub(crate) struct Args {
    /// The function's folder, or a Solo5 unikernel
    dir: PathBuf,
    /// Name of the image [default: the package's name, with the tag latest]
    #[arg(long, short, value_name = "NAME[:TAG]")]
    tag: Option<Reference>,
    /// File that a Solo5 unikernel's accelerator operations know by NAME (may be repeated)
    #[arg(long = "resource", value_name = "NAME=FILE", value_parser = key_value)]
    resources: Vec<(String, String)>,
}

pub(crate) fn run(args: &Args, context: &Context) -> anyhow::Result<()> {
    let store = Store::open(context.home()?.path())?;
    let resources: Vec<_> = args.resources.iter().map(|(name, file)| (name.clone(), file.into())).collect();
    let image = build(&store, &args.dir, args.tag.clone(), resources)?;
    output::line(&image.reference.to_string())
}

/// Builds and imports, showing how far it is; the image is named after the package unless it has a name.
pub(super) fn build(
    store: &Store,
    dir: &Path,
    tag: Option<Reference>,
    resources: Vec<(String, PathBuf)>,
) -> anyhow::Result<ImageInfo> {
    let step = Step::start(format!("build {}", dir.display()));
    if dir.is_dir() && !resources.is_empty() {
        bail!("{}: a folder's resources are in its Cargo.toml; --resource is for a Solo5 unikernel", dir.display());
    }
    let Built { package, mut parts } = compile(&step, dir)?;
    for (name, file) in resources {
        if parts.resources.iter().any(|(other, _)| *other == name) {
            bail!("there are two resources named {name}; give each a name of its own");
        }
        parts.resources.push((name, file));
    }
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
fn prebuilt(file: &Path) -> anyhow::Result<Built> {
    let kernel = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    match Program::parse(&kernel).with_context(|| format!("{} is no program for functions", file.display()))? {
        Program::Solo5(_) => {}
        Program::Native(_) => {
            bail!("{} is a unikernel of the guest library; name the folder that it is built from", file.display())
        }
    }
    let name = file.file_stem().unwrap_or_default().to_string_lossy();
    Ok(kernlet_image::build::of_solo5(&name, kernel))
}

/// Runs cargo; its messages pass by, and stay to be read when it fails.
fn compile(step: &Step, dir: &Path) -> anyhow::Result<Built> {
    if dir.is_file() {
        return prebuilt(dir);
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

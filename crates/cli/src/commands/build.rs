//! `kernlet build`: compiles a function's folder and puts its image into the store.
//! Called by people, scripts and `demo`. It never deploys what it built.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use kernlet_image::build::{BuildError, Built};
use kernlet_image::{ImageInfo, Progress, Reference, Store};

use crate::Context;
use crate::output::{self, Step};

/// Build a function's folder into an image
///
/// The folder is a Rust crate that links `kernlet-guest`; `cargo` must be on the PATH. Files that the
/// function wants at run time (models, labels) and its settings come from `[package.metadata.kernlet]`
/// in its Cargo.toml.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  kernlet build functions/echo
  kernlet build functions/classify -t classify:v1")]
pub(crate) struct Args {
    /// The function's folder
    dir: PathBuf,
    /// Name of the image [default: the package's name, with the tag latest]
    #[arg(long, short, value_name = "NAME[:TAG]")]
    tag: Option<Reference>,
}

pub(crate) fn run(args: &Args, context: &Context) -> anyhow::Result<()> {
    let store = Store::open(context.home()?.path())?;
    let image = build(&store, &args.dir, args.tag.clone())?;
    output::line(&image.reference.to_string())
}

/// Builds and imports, showing how far it is; the image is named after the package unless it has a name.
pub(super) fn build(store: &Store, dir: &Path, tag: Option<Reference>) -> anyhow::Result<ImageInfo> {
    let step = Step::start(format!("build {}", dir.display()));
    let Built { package, parts } = compile(&step, dir)?;
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

/// Runs cargo; its messages pass by, and stay to be read when it fails.
fn compile(step: &Step, dir: &Path) -> anyhow::Result<Built> {
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

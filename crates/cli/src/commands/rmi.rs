//! `kernlet rmi`: removes images from the store, and the blobs that nothing else needs.
//! Called by people and scripts. It never stops a function that runs from the image.

use kernlet_image::{Reference, Store};

use crate::{Context, output};

/// Remove images from the store
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  kernlet rmi echo:latest
  kernlet rmi echo classify:v1")]
pub(crate) struct Args {
    /// The images, as `kernlet images` shows them
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<Reference>,
}

pub(crate) fn run(args: &Args, context: &Context) -> anyhow::Result<()> {
    let store = Store::open(context.home()?.path())?;
    for image in &args.images {
        let removed = store.remove(image)?;
        output::line(&format!("removed {image}, {} freed", output::bytes(removed.freed)))?;
    }
    Ok(())
}

//! `kernlet images`: the images in the store, as a table or as JSON.
//! Called by people and scripts. It never changes the store.

use std::process::ExitCode;

use kernlet_image::{ImageInfo, Listing, Store};

use crate::{Context, output};

/// List the images in the store
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  kernlet images
  kernlet images --json | jq -r '.[].reference'")]
pub(crate) struct Args {
    /// Print an array of objects: reference, digest, size, created, resources, blocks, annotations
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args, context: &Context) -> anyhow::Result<ExitCode> {
    let Listing { images, broken } = Store::open(context.home()?.path())?.list()?;
    if args.json {
        output::json(&images)?;
    } else {
        let rows: Vec<[String; 3]> = images.iter().map(row).collect();
        output::line(&output::table(["IMAGE", "DIGEST", "SIZE"], &rows))?;
    }
    let all_readable = broken.is_empty();
    for error in broken {
        output::print_error(&error.into());
    }
    Ok(if all_readable { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn row(image: &ImageInfo) -> [String; 3] {
    /// `sha256:` and as many digits as tell images apart.
    const SHOWN: usize = "sha256:".len() + 12;
    [image.reference.to_string(), image.digest.chars().take(SHOWN).collect(), output::bytes(image.size)]
}

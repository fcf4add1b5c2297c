//! `kernlet scale`: sets how many replicas a function has.
//! Called by people and scripts. It never waits for the replicas to be ready.

use crate::commands::{NamespaceArgs, gateway};
use crate::credentials::LoginArgs;
use crate::{Context, client, output};

/// Set how many replicas a function has
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  kernlet scale echo 0      stop it; its deployment stays
  kernlet scale echo 1")]
pub(crate) struct Args {
    /// The function
    name: String,
    /// How many replicas
    replicas: u32,
    #[command(flatten)]
    namespace: NamespaceArgs,
    #[command(flatten)]
    login: LoginArgs,
}

pub(crate) fn run(args: &Args, context: &Context) -> anyhow::Result<()> {
    let gateway = gateway(&args.login, context)?;
    client::block_on(gateway.scale(&args.name, &args.namespace.namespace, args.replicas))?;
    output::line(&format!("scaled {} to {}", args.name, args.replicas))
}

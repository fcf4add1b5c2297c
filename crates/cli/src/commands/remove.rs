//! `kernlet remove`: stops functions and forgets their deployments.
//! Called by people and scripts. It never removes an image: `kernlet rmi` does.

use crate::commands::{NamespaceArgs, gateway};
use crate::credentials::LoginArgs;
use crate::{Context, client, output};

/// Remove functions; their images stay
#[derive(Debug, clap::Args)]
#[command(
    visible_alias = "rm",
    after_long_help = "\
Examples:
  kernlet remove echo
  kernlet remove echo classify"
)]
pub(crate) struct Args {
    /// The functions
    #[arg(required = true)]
    names: Vec<String>,
    #[command(flatten)]
    namespace: NamespaceArgs,
    #[command(flatten)]
    login: LoginArgs,
}

pub(crate) fn run(args: &Args, context: &Context) -> anyhow::Result<()> {
    let gateway = gateway(&args.login, context)?;
    client::block_on(async {
        for name in &args.names {
            gateway.remove(name, &args.namespace.namespace).await?;
            output::line(&format!("removed {name}"))?;
        }
        Ok(())
    })
}

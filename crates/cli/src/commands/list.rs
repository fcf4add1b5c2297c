//! `kernlet list`: the functions that are deployed, as a table or as the gateway's JSON.
//! Called by people and scripts. It never changes anything.

use crate::commands::{NamespaceArgs, gateway};
use crate::credentials::LoginArgs;
use crate::functions::{FunctionStatus, decode};
use crate::{Context, client, output};

/// List deployed functions
#[derive(Debug, clap::Args)]
#[command(
    visible_alias = "ls",
    after_long_help = "\
Examples:
  kernlet list
  kernlet list --json | jq -r '.[].name'"
)]
pub(crate) struct Args {
    /// Print the gateway's own JSON: an array of OpenFaaS FunctionStatus objects
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    namespace: NamespaceArgs,
    #[command(flatten)]
    login: LoginArgs,
}

pub(crate) fn run(args: &Args, context: &Context) -> anyhow::Result<()> {
    let gateway = gateway(&args.login, context)?;
    let listed = client::block_on(gateway.list(&args.namespace.namespace))?;
    if args.json {
        return output::json(&listed);
    }
    let functions: Vec<FunctionStatus> = decode(listed)?;
    let rows: Vec<[String; 4]> = functions.iter().map(row).collect();
    output::line(&output::table(["NAME", "IMAGE", "INVOCATIONS", "READY"], &rows))
}

fn row(function: &FunctionStatus) -> [String; 4] {
    [
        function.name.clone(),
        function.image.clone(),
        format!("{:.0}", function.invocation_count),
        format!("{}/{}", function.available_replicas, function.replicas),
    ]
}

//! `kernlet deploy`: runs an image as a function, or updates a function that is there.
//! Called by people and scripts. It never builds the image: `kernlet build` does.

use std::time::Duration;

use crate::commands::{NamespaceArgs, gateway, key_value};
use crate::credentials::LoginArgs;
use crate::functions::{Deployment, Limits};
use crate::{Context, client, output};

/// Deploy a function from an image, or update it
///
/// The image must be in the store of the gateway's home (see `kernlet build`, `kernlet images`).
/// Settings come from the image's `dev.kernlet.*` annotations; annotations and labels given here override
/// them, and so do the environment variables `exec_timeout` and `max_inflight`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  kernlet deploy echo --image echo:latest
  kernlet deploy classify --image classify --memory 128Mi --env exec_timeout=10s
  kernlet deploy echo --image echo --annotation dev.kernlet.limits.response=1Mi")]
pub(crate) struct Args {
    /// Name of the function: lower-case letters, digits and `-`, at most 63 (RFC 1123)
    name: String,
    /// Image to run, as `kernlet images` shows it
    #[arg(long, value_name = "REF")]
    image: String,
    /// Environment variable for the function (may be repeated)
    #[arg(long, short, value_name = "KEY=VALUE", value_parser = key_value)]
    env: Vec<(String, String)>,
    /// Label (may be repeated)
    #[arg(long, short, value_name = "KEY=VALUE", value_parser = key_value)]
    label: Vec<(String, String)>,
    /// Annotation (may be repeated)
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    annotation: Vec<(String, String)>,
    /// Memory of one machine, such as 64Mi [default: what the image says]
    #[arg(long, value_name = "SIZE")]
    memory: Option<String>,
    /// Wait until the function takes requests (the default)
    #[arg(long, overrides_with = "no_wait")]
    wait: bool,
    /// Return as soon as the gateway has accepted the deployment
    #[arg(long)]
    no_wait: bool,
    /// Longest wait
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = humantime::parse_duration)]
    timeout: Duration,
    #[command(flatten)]
    namespace: NamespaceArgs,
    #[command(flatten)]
    login: LoginArgs,
}

pub(crate) fn run(args: Args, context: &Context) -> anyhow::Result<()> {
    let gateway = gateway(&args.login, context)?;
    let deployment = Deployment {
        service: args.name,
        image: args.image,
        namespace: args.namespace.namespace,
        env_vars: args.env.into_iter().collect(),
        labels: args.label.into_iter().collect(),
        annotations: args.annotation.into_iter().collect(),
        limits: args.memory.map(|memory| Limits { memory }),
    };
    let step = output::Step::start(format!("deploy {}", deployment.service));
    client::block_on(async {
        gateway.deploy(&deployment).await?;
        if args.no_wait {
            return Ok(());
        }
        step.at("waiting for a replica");
        gateway.wait_ready(&deployment.service, &deployment.namespace, args.timeout).await
    })?;
    step.done(if args.no_wait { "accepted" } else { "ready" });
    output::line(&format!(
        "{}/function/{}.{}",
        context.gateway,
        client::encode(&deployment.service),
        client::encode(&deployment.namespace)
    ))
}

//! `kernlet describe`: everything the gateway says about one function.
//! Called by people and scripts. It never changes anything.

use std::collections::BTreeMap;

use crate::commands::{NamespaceArgs, gateway};
use crate::credentials::LoginArgs;
use crate::functions::{FunctionStatus, decode};
use crate::{Context, client, output};

/// Show one function: image, replicas, invocations, memory, settings
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  kernlet describe echo
  kernlet describe echo --json | jq .availableReplicas")]
pub(crate) struct Args {
    /// The function
    name: String,
    /// Print the gateway's own JSON: an OpenFaaS FunctionStatus object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    namespace: NamespaceArgs,
    #[command(flatten)]
    login: LoginArgs,
}

pub(crate) fn run(args: &Args, context: &Context) -> anyhow::Result<()> {
    let gateway = gateway(&args.login, context)?;
    let described = client::block_on(gateway.describe(&args.name, &args.namespace.namespace))?;
    if args.json {
        return output::json(&described);
    }
    let function: FunctionStatus = decode(described)?;
    let url = format!("{}/function/{}", context.gateway, qualified(&function));
    let width = 14;
    let text: Vec<String> =
        facts(&function, url).iter().map(|(name, value)| format!("{name:<width$}{value}")).collect();
    output::line(&text.join("\n"))
}

/// The name as it stands in a URL: the default namespace goes without saying.
fn qualified(function: &FunctionStatus) -> String {
    match function.namespace.as_str() {
        "" | crate::functions::DEFAULT_NAMESPACE => function.name.clone(),
        namespace => format!("{}.{namespace}", function.name),
    }
}

fn facts(function: &FunctionStatus, url: String) -> Vec<(&'static str, String)> {
    let mut facts = vec![
        ("Name", function.name.clone()),
        ("Namespace", function.namespace.clone()),
        ("Image", function.image.clone()),
        ("Ready", format!("{} of {} replicas", function.available_replicas, function.replicas)),
        ("Invocations", format!("{:.0}", function.invocation_count)),
        ("URL", url),
    ];
    facts.extend(function.created_at.clone().map(|time| ("Created", time)));
    if let Some(usage) = function.usage {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a size to show; `as` saturates")]
        let memory = usage.total_memory_bytes as u64;
        facts.push(("Memory", output::bytes(memory)));
        facts.push(("CPU", format!("{:.0}m", usage.cpu)));
    }
    facts.extend(pairs("Environment", function.env_vars.as_ref()));
    facts.extend(pairs("Labels", function.labels.as_ref()));
    facts.extend(pairs("Annotations", function.annotations.as_ref()));
    facts
}

/// One line a pair, the heading on the first only.
fn pairs(heading: &'static str, pairs: Option<&BTreeMap<String, String>>) -> Vec<(&'static str, String)> {
    let lines = pairs.into_iter().flatten().enumerate();
    lines.map(|(index, (key, value))| (if index == 0 { heading } else { "" }, format!("{key}={value}"))).collect()
}

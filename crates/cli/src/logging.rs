//! Where the platform's own reports go: stderr, one line each, as much as `KERNLET_LOG` asks for.
//! Called once by the subcommands that run a part of the platform. It never carries functions' logs.

use anyhow::Context as _;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Starts reporting; `level` is what is reported when `KERNLET_LOG` does not say.
pub(crate) fn start(level: LevelFilter) -> anyhow::Result<()> {
    let wanted = std::env::var("KERNLET_LOG").ok().filter(|text| !text.is_empty());
    let filter = match wanted {
        None => Targets::new().with_default(level),
        Some(text) => text.parse().with_context(|| {
            format!(
                "KERNLET_LOG is {text:?}; expected a level such as debug, or CRATE=LEVEL such as kernlet_gateway=trace"
            )
        })?,
    };
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false).with_target(false);
    tracing_subscriber::registry().with(lines).with(filter).init();
    Ok(())
}

//! Finds the gateway's user name and password: given on the command line, in the environment, or in
//! the home of a gateway on this machine. Used by every subcommand that calls `/system/*`.
//! It never sends a password found in a home to another machine.

use std::io::Read;

use anyhow::{Context as _, bail};
use base64::Engine as _;

use crate::client::GatewayUrl;
use crate::home::Home;

/// Options of the subcommands that must log in.
#[derive(Debug, clap::Args)]
pub(crate) struct LoginArgs {
    /// User name for the gateway [default: the one in <home>/auth, else admin]
    #[arg(long, env = "OPENFAAS_USER", value_name = "NAME", hide_env_values = true)]
    username: Option<String>,
    /// Read the gateway's password from the first line of stdin
    ///
    /// Without it the password is OPENFAAS_PASSWORD, else, for a gateway on this machine, the one
    /// in <home>/auth/basic-auth-password.
    #[arg(long)]
    password_stdin: bool,
}

/// The user that the gateway creates for itself.
const DEFAULT_USER: &str = "admin";

/// A user name and password for HTTP basic authentication.
#[derive(Clone)]
pub(crate) struct Credentials {
    user: String,
    password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

impl Credentials {
    /// What to log in with, or `None` where nothing is known: the gateway then says whether it minds.
    pub(crate) fn find(args: &LoginArgs, home: &Home, gateway: &GatewayUrl) -> anyhow::Result<Option<Self>> {
        let named_user = args.username.clone();
        if args.password_stdin {
            let user = named_user.unwrap_or_else(|| DEFAULT_USER.into());
            return Ok(Some(Self { user, password: password_from_stdin()? }));
        }
        if let Some(password) = std::env::var("OPENFAAS_PASSWORD").ok().filter(|password| !password.is_empty()) {
            return Ok(Some(Self { user: named_user.unwrap_or_else(|| DEFAULT_USER.into()), password }));
        }
        if !gateway.is_this_machine() {
            return Ok(None);
        }
        Ok(Self::in_home(home)?.map(|found| Self { user: named_user.unwrap_or(found.user), password: found.password }))
    }

    /// The credentials that the gateway of this home generated, if it ever ran.
    pub(crate) fn in_home(home: &Home) -> anyhow::Result<Option<Self>> {
        let password_file = home.password_file();
        let password = match std::fs::read_to_string(&password_file) {
            Ok(text) => text.trim_end().to_owned(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(error).with_context(|| {
                    format!(
                        "cannot read the gateway's password in {}; run this as the user who runs the gateway, or give --password-stdin",
                        password_file.display()
                    )
                });
            }
        };
        let user = std::fs::read_to_string(home.user_file())
            .map_or_else(|_| DEFAULT_USER.into(), |text| text.trim_end().to_owned());
        Ok(Some(Self { user, password }))
    }

    /// The value of the `Authorization` header (RFC 7617).
    pub(crate) fn header(&self) -> String {
        let pair = format!("{}:{}", self.user, self.password);
        format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
    }
}

fn password_from_stdin() -> anyhow::Result<String> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).context("cannot read the password from stdin")?;
    let password = text.lines().next().unwrap_or_default();
    if password.is_empty() {
        bail!(
            "--password-stdin was given, and stdin has no password; pipe it in, as in `kernlet list --password-stdin < FILE`"
        );
    }
    Ok(password.to_owned())
}

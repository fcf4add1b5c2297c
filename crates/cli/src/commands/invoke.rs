//! `kernlet invoke`: sends one request to a function and streams its answer to stdout.
//! Called by people and scripts. It never sends the gateway's credentials along.

use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use http_body_util::BodyExt as _;

use crate::commands::{NamespaceArgs, key_value};
use crate::functions::{Gateway, Invocation};
use crate::timing::{self, StageTimes};
use crate::{Context, client, output};

/// Call a function: body from stdin or a file, answer on stdout
///
/// Any status outside 200 to 299 is a failure: the answer goes to stderr, after its status, and the exit
/// code is 1.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  echo hello | kernlet invoke echo
  kernlet invoke classify --body cat.jpg --content-type image/jpeg
  kernlet invoke classify --body cat.jpg --header 'Accept: text/plain' --timing
  kernlet invoke echo --method GET --path /headers --query verbose=1

Exit codes:
  0  the function answered with a status from 200 to 299
  1  it answered with another, or not at all
  2  the command line is wrong")]
pub(crate) struct Args {
    /// The function
    name: String,
    /// HTTP method
    #[arg(long, short = 'X', default_value = "POST")]
    method: Method,
    /// Path below the function, from its `/` on
    #[arg(long, value_name = "PATH", value_parser = function_path)]
    path: Option<String>,
    /// Query parameter (may be repeated)
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    query: Vec<(String, String)>,
    /// Request header (may be repeated)
    #[arg(long, short = 'H', value_name = "NAME: VALUE", value_parser = request_header)]
    header: Vec<(HeaderName, HeaderValue)>,
    /// Content type of the body
    #[arg(long, value_name = "TYPE", default_value = "text/plain")]
    content_type: HeaderValue,
    /// File to send; `-` is stdin [default: stdin, or nothing for GET, HEAD and OPTIONS]
    #[arg(long, short, value_name = "FILE")]
    body: Option<PathBuf>,
    /// Say on stderr where the time went: gateway, watchdog, guest, accelerator
    #[arg(long)]
    timing: bool,
    #[command(flatten)]
    namespace: NamespaceArgs,
}

pub(crate) fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let body = read_body(args.body.as_deref(), &args.method)?;
    let mut headers = HeaderMap::new();
    if !body.is_empty() {
        headers.insert(header::CONTENT_TYPE, args.content_type);
    }
    if args.timing {
        headers.insert(timing::REQUEST_HEADER, HeaderValue::from_static("1"));
    }
    for (name, value) in args.header {
        headers.insert(name, value);
    }
    let invocation = Invocation {
        name: args.name,
        namespace: args.namespace.namespace,
        method: args.method,
        path: args.path.unwrap_or_default(),
        query: args.query,
        headers,
        body,
    };
    let gateway = Gateway::new(context.gateway.clone(), None);
    client::block_on(call(&gateway, invocation, args.timing))
}

async fn call(gateway: &Gateway, invocation: Invocation, show_timing: bool) -> anyhow::Result<ExitCode> {
    let name = invocation.name.clone();
    let response = gateway.invoke(invocation).await?;
    let status = response.status();
    let times = StageTimes::from_headers(response.headers());
    if !status.is_success() {
        let (_, body) = client::collect(response).await?;
        let said = String::from_utf8_lossy(&body).trim_end().to_owned();
        bail!("`{name}` answered {status}{}{said}", if said.is_empty() { "" } else { ": " });
    }
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        let frame = frame.with_context(|| format!("the answer of `{name}` broke off"))?;
        if let Some(data) = frame.data_ref() {
            output::write(data)?;
        }
    }
    if show_timing {
        print_times(&times);
    }
    Ok(ExitCode::SUCCESS)
}

fn print_times(times: &StageTimes) {
    for (stage, time) in times.stages() {
        let shown = time.map_or_else(|| "not reported".to_owned(), |time| format!("{time:>9.3} ms"));
        output::note(&format!("{stage:<12}{shown}"));
    }
    if let Some(exits) = times.exits {
        output::note(&format!("{:<12}{exits:>9}", "exits"));
    }
}

/// The whole body; methods that usually have none read stdin only when told to.
pub(super) fn read_body(file: Option<&Path>, method: &Method) -> anyhow::Result<Bytes> {
    match file {
        Some(path) if path != Path::new("-") => {
            let bytes = std::fs::read(path)
                .with_context(|| format!("cannot read the request's body from {}", path.display()))?;
            return Ok(bytes.into());
        }
        None if [Method::GET, Method::HEAD, Method::OPTIONS].contains(method) => {
            return Ok(Bytes::new());
        }
        _ => {}
    }
    if std::io::stdin().is_terminal() {
        output::note("reading the request's body from the terminal; Ctrl-D ends it");
    }
    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes).context("cannot read the request's body from stdin")?;
    Ok(bytes.into())
}

pub(super) fn function_path(text: &str) -> Result<String, String> {
    let parsed = text.parse::<http::uri::PathAndQuery>();
    let is_path = text.starts_with('/') && parsed.is_ok_and(|parsed| parsed.query().is_none());
    if is_path {
        Ok(text.to_owned())
    } else {
        Err("expected a path such as /headers, percent-encoded, without a query (see --query)".to_owned())
    }
}

pub(super) fn request_header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let parsed =
        text.split_once(':').and_then(|(name, value)| Some((name.trim().parse().ok()?, value.trim().parse().ok()?)));
    parsed.ok_or_else(|| "expected 'NAME: VALUE'".to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_path_that_would_change_the_request_is_refused() {
        assert_eq!(function_path("/a%20b").unwrap(), "/a%20b");
        for bad in ["", "headers", "/a b", "/a?b=c", "/a\r\nX: y"] {
            assert!(function_path(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_header_is_written_as_people_write_one() {
        let (name, value) = request_header("Accept: text/plain").unwrap();
        assert_eq!((name.as_str(), value.to_str().unwrap()), ("accept", "text/plain"));
        assert!(request_header("Accept").is_err());
        assert!(request_header("a b: c").is_err());
    }
}

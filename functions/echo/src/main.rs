//! Gives any body back; `/headers` shows the request's headers, one a line.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::vec::Vec;

use kernlet_guest::{Request, Response, function};

function!(echo);

fn echo(request: &Request) -> Response<'_> {
    if request.path() == "/headers" {
        return Response::new(200).header("Content-Type", "text/plain; charset=utf-8").body(headers(request));
    }
    let echo = Response::ok(request.body());
    match request.header("Content-Type") {
        Some(kind) => echo.header("Content-Type", kind),
        None => echo,
    }
}

fn headers(request: &Request) -> Vec<u8> {
    let mut lines = Vec::new();
    for (name, value) in request.headers() {
        for part in [name.as_bytes(), b": ", value, b"\n"] {
            lines.extend_from_slice(part);
        }
    }
    lines
}

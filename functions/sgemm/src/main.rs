//! Multiplies matrices: POST A (m×k) and then B (k×n) as little-endian 32-bit floats, row by row, to
//! `?m=…&n=…&k=…`; the answer is C = AB (m×n) in the same form.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::{format, string::String, vec, vec::Vec};

use kernlet_guest::{
    Request, Response,
    accel::{self, Sgemm},
    function, log,
};
use zerocopy::{FromBytes, IntoBytes};

function!(sgemm);

/// Largest dimension of a matrix.
const MAX: u64 = 4096;

fn sgemm(request: &Request) -> Response<'_> {
    let (m, n, k) = match sizes(request) {
        Ok(sizes) => sizes,
        Err(error) => return text(400, error),
    };
    let needed = 4 * k * (m + n);
    let Ok(numbers) = <[f32]>::ref_from_bytes(request.body()) else {
        return text(400, "the body is not a whole number of 32-bit floats\n".into());
    };
    if request.body().len() != needed {
        let got = request.body().len();
        return text(400, format!("A ({m}×{k}) and B ({k}×{n}) are {needed} bytes, the body has {got}\n"));
    }
    let (a, b) = numbers.split_at(m * k);
    let mut c: Vec<f32> = vec![0.0; m * n];
    let (rows, columns, inner) = (m as i64, n as i64, k as i64);
    let params = Sgemm { m: rows, n: columns, k: inner, lda: inner, ldb: columns, ldc: columns, alpha: 1.0, beta: 0.0 };
    match accel::sgemm(&params, a, b, &mut c) {
        Ok(()) => Response::new(200).header("Content-Type", "application/octet-stream").body(c.as_bytes().to_vec()),
        Err(error) => {
            log::error!("{error}");
            text(500, format!("{error}\n"))
        }
    }
}

fn sizes(request: &Request) -> Result<(usize, usize, usize), String> {
    let size = |name| match request.parameter(name).map(str::parse::<u64>) {
        Some(Ok(size @ 1..=MAX)) => Ok(size as usize),
        _ => Err(format!("{name} is a number from 1 to {MAX}, such as ?m=64&n=64&k=64\n")),
    };
    Ok((size("m")?, size("n")?, size("k")?))
}

fn text(status: u16, body: String) -> Response<'static> {
    Response::new(status).header("Content-Type", "text/plain; charset=utf-8").body(body)
}

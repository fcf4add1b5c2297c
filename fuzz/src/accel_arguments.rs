//! Raw arguments of an accelerator operation, as any transport may hand them over.

use kernlet_abi::accel::access;
use kernlet_accel::{Arg, Data, Dims, Dtype};

use crate::{cursor::Cursor, touch::session};

/// Bytes of each buffer; an argument is part of one.
const BUFFER: usize = 512;

/// Most arguments given; one more than there may be.
const ARGS_MAX: usize = 33;

/// An argument as the bytes describe it.
struct Described<'a> {
    access: u32,
    dtype: Dtype,
    custom: u32,
    dims: Dims,
    start: usize,
    contents: &'a [u8],
    len: usize,
}

fn describe<'a>(cursor: &mut Cursor<'a>) -> Option<Described<'a>> {
    let kind = cursor.u8();
    let rank = usize::from(kind >> 5);
    let dtype = Dtype::from_abi(u32::from(cursor.u8())).ok()?;
    let sizes: Vec<u64> = (0..rank).map(|_| cursor.u64()).collect();
    let dims = Dims::new(&sizes).ok()?;
    let custom = if dtype == Dtype::Custom { cursor.u32() } else { 0 };
    let start = usize::from(kind >> 2 & 7);
    let contents = cursor.short();
    let len = if cursor.u8() == 0 { contents.len() } else { usize::from(cursor.u8()) };
    Some(Described { access: u32::from(kind & 3), dtype, custom, dims, start, contents, len })
}

/// Whatever the arguments are, an operation is refused or gets what lies in them; nothing is written beyond them.
pub fn accel_arguments(data: &[u8]) {
    is_carried_out(data);
}

/// Whether the operation is carried out.
pub(crate) fn is_carried_out(data: &[u8]) -> bool {
    let mut cursor = Cursor::new(data);
    let operation = match cursor.u8() {
        number @ 0..=31 => u32::from(number),
        number @ 32..=38 => 0x100 + u32::from(number - 32),
        _ => cursor.u32(),
    };
    let mut described = Vec::new();
    while !cursor.is_empty() && described.len() < ARGS_MAX {
        match describe(&mut cursor) {
            Some(argument) => described.push(argument),
            None => return false,
        }
    }
    // Of 64-bit words, so that an argument's alignment is what its start says.
    let mut buffers = vec![[0_u64; BUFFER / 8]; described.len()];
    let mut args: Vec<Arg<'_>> = buffers
        .iter_mut()
        .zip(&described)
        .map(|(buffer, argument)| {
            let bytes = zerocopy::IntoBytes::as_mut_bytes(buffer.as_mut_slice());
            let bytes = &mut bytes[argument.start..][..argument.len];
            let given = argument.contents.len().min(bytes.len());
            bytes[..given].copy_from_slice(&argument.contents[..given]);
            let data = match argument.access {
                access::OUT => Data::Out(bytes),
                access::IN_OUT => Data::InOut(bytes),
                _ => Data::In(bytes),
            };
            let mut arg = Arg::new(data, argument.dtype, argument.dims);
            arg.custom = argument.custom;
            arg
        })
        .collect();
    let outcome = session().run(operation, &mut args, None);
    for arg in &args {
        assert!(arg.written <= arg.data.len() as u64, "{} of {} bytes written", arg.written, arg.data.len());
        assert!(outcome.is_ok() || arg.written == 0);
        assert!(arg.written == 0 || !matches!(arg.data, Data::In(_)));
        // What was said to be of any type has one once a model has written it.
        assert!(
            arg.written == 0 || arg.dtype != Dtype::Any || operation != kernlet_abi::accel::operation::ONNX_MODEL_RUN
        );
    }
    if let Err(error) = &outcome {
        assert!(error.status() > 0 && !error.message().is_empty());
    }
    outcome.is_ok()
}

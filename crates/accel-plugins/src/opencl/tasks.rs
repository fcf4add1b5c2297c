//! The plugin's tasks as kernels: upload, run, download.
//! Called by the plugin. Never begins what the device has no memory for, and writes no result before it is complete.
#![allow(unsafe_code, reason = "kernels are run with arguments that are checked here")]

use kernlet_accel::{
    Deadline, Done, PluginError,
    operation::{Parallel, Resize, Sgemm},
};
use opencl3::error_codes::{CL_MEM_OBJECT_ALLOCATION_FAILURE, CL_OUT_OF_HOST_MEMORY, CL_OUT_OF_RESOURCES, ClError};

use super::device::{Argument, Function, Items, OpenDevice};

/// Copies an array over the device.
pub(super) fn copy(device: &OpenDevice, from: &[i32], to: &mut [i32], deadline: Deadline) -> Result<Done, PluginError> {
    let Some(_) = begin(device, &[size_of_val(from), size_of_val(to)])? else {
        return Ok(Done::default());
    };
    let count = from.len().min(to.len());
    let turn = device.turn();
    deadline.check("the array was copied")?;
    let (source, target) = (turn.upload(from).map_err(failed)?, turn.room(count).map_err(failed)?);
    let arguments = [Argument::Ints(&source), Argument::Ints(&target), Argument::Ulong(count as u64)];
    // SAFETY: the kernel reads and writes `count` integers, which both buffers have.
    unsafe { turn.run(Function::Copy, &arguments, Items::Elements(count)) }.map_err(failed)?;
    turn.download(&target, to).map_err(lost)?;
    Ok(copied(&[size_of_val(from), size_of_val(to)]))
}

/// Adds element by element.
pub(super) fn add(
    device: &OpenDevice,
    a: &[f32],
    b: &[f32],
    sum: &mut [f32],
    deadline: Deadline,
) -> Result<Done, PluginError> {
    let sizes = [size_of_val(a), size_of_val(b), size_of_val(sum)];
    let Some(_) = begin(device, &sizes)? else {
        return Ok(Done::default());
    };
    let count = a.len().min(b.len()).min(sum.len());
    let turn = device.turn();
    deadline.check("the arrays were added")?;
    let (of_a, of_b) = (turn.upload(a).map_err(failed)?, turn.upload(b).map_err(failed)?);
    let of_sum = turn.room(count).map_err(failed)?;
    let arguments =
        [Argument::Floats(&of_a), Argument::Floats(&of_b), Argument::Floats(&of_sum), Argument::Ulong(count as u64)];
    // SAFETY: the kernel reads and writes `count` numbers, which all buffers have.
    unsafe { turn.run(Function::Add, &arguments, Items::Elements(count)) }.map_err(failed)?;
    turn.download(&of_sum, sum).map_err(lost)?;
    Ok(copied(&sizes))
}

/// Adds and multiplies element by element.
pub(super) fn add_multiply(device: &OpenDevice, task: Parallel<'_>, deadline: Deadline) -> Result<Done, PluginError> {
    let Parallel { a, b, sum, product, .. } = task;
    let sizes = [size_of_val(a), size_of_val(b), size_of_val(sum), size_of_val(product)];
    let Some(_) = begin(device, &sizes)? else {
        return Ok(Done::default());
    };
    let count = a.len().min(b.len()).min(sum.len()).min(product.len());
    let turn = device.turn();
    deadline.check("the arrays were added and multiplied")?;
    let (of_a, of_b) = (turn.upload(a).map_err(failed)?, turn.upload(b).map_err(failed)?);
    let (of_sum, of_product) = (turn.room(count).map_err(failed)?, turn.room(count).map_err(failed)?);
    let arguments = [
        Argument::Floats(&of_a),
        Argument::Floats(&of_b),
        Argument::Floats(&of_sum),
        Argument::Floats(&of_product),
        Argument::Ulong(count as u64),
    ];
    // SAFETY: the kernel reads and writes `count` numbers, which all buffers have.
    unsafe { turn.run(Function::AddMultiply, &arguments, Items::Elements(count)) }.map_err(failed)?;
    turn.download(&of_sum, sum).map_err(lost)?;
    turn.download(&of_product, product).map_err(lost)?;
    Ok(copied(&sizes))
}

/// Bytes that a product's matrices take together.
pub(super) const fn bytes_of(task: &Sgemm<'_>) -> u64 {
    let (a, b, c) = task.layouts();
    4 * ((a.rows() * a.columns()) as u64 + (b.rows() * b.columns()) as u64 + 2 * (c.rows() * c.columns()) as u64)
}

/// C = αAB + βC.
pub(super) fn sgemm(device: &OpenDevice, mut task: Sgemm<'_>, deadline: Deadline) -> Result<Done, PluginError> {
    let (alpha, beta) = task.factors();
    let (a, b, c) = task.matrices();
    let (m, n, k) = (c.layout().rows(), c.layout().columns(), a.layout().columns());
    if m == 0 || n == 0 {
        return Ok(Done::default());
    }
    // BLAS reads neither A nor B then, so that what is not finite there does not matter; a buffer cannot be empty.
    let nothing = alpha == 0.0 || k == 0;
    let (a_elements, b_elements) = if nothing { (&[0.0][..], &[0.0][..]) } else { (a.elements(), b.elements()) };
    let (alpha, k) = if nothing { (0.0, 0) } else { (alpha, k) };
    let dense = m.checked_mul(n).ok_or_else(|| PluginError::declined("the product has too many elements"))?;
    let sizes = [size_of_val(a_elements), size_of_val(b_elements), dense.saturating_mul(size_of::<f32>())];
    begin(device, &sizes)?;
    let (columns, stride) = (c.layout().columns(), c.layout().stride());
    let turn = device.turn();
    deadline.check("the product was computed")?;
    let of_a = turn.upload(a_elements).map_err(failed)?;
    let of_b = turn.upload(b_elements).map_err(failed)?;
    // C without the gaps between its rows, which nobody may write.
    let mut result = vec![0.0_f32; dense];
    let mut bytes_copied = copied(&sizes).bytes_copied;
    if beta != 0.0 {
        for (to, from) in result.chunks_mut(columns).zip(c.elements_mut().chunks(stride)) {
            to.copy_from_slice(from.get(..columns).unwrap_or_default());
        }
        bytes_copied += size_of_val(result.as_slice()) as u64;
    }
    let of_c = if beta == 0.0 { turn.room(dense) } else { turn.upload_to_write(&result) }.map_err(failed)?;
    let arguments = [
        Argument::Ulong(m as u64),
        Argument::Ulong(n as u64),
        Argument::Ulong(k as u64),
        Argument::Float(alpha),
        Argument::Floats(&of_a),
        Argument::Ulong(a.layout().stride() as u64),
        Argument::Floats(&of_b),
        Argument::Ulong(b.layout().stride() as u64),
        Argument::Float(beta),
        Argument::Floats(&of_c),
    ];
    // SAFETY: the kernel reads the rows of A and B, which the constructor of Matrix has found within their elements, or
    // none where k is zero; and it reads and writes m * n numbers of C, which its buffer has.
    unsafe { turn.run(Function::Sgemm, &arguments, Items::Tiles { rows: m, columns: n }) }.map_err(failed)?;
    turn.download(&of_c, &mut result).map_err(lost)?;
    for (to, from) in c.elements_mut().chunks_mut(stride).zip(result.chunks(columns)) {
        if let Some(row) = to.get_mut(..columns) {
            row.copy_from_slice(from);
        }
    }
    Ok(Done { bytes_copied: bytes_copied + size_of_val(result.as_slice()) as u64 })
}

/// Resizes a picture.
pub(super) fn resize(device: &OpenDevice, task: Resize<'_>, deadline: Deadline) -> Result<Done, PluginError> {
    let Resize { size, channels, from, to_size, to, .. } = task;
    let sizes = [from.len(), to.len()];
    begin(device, &sizes)?;
    let pixels = to.len() / channels.max(1) as usize;
    let turn = device.turn();
    deadline.check("the picture was resized")?;
    let (source, target) = (turn.upload(from).map_err(failed)?, turn.room(to.len()).map_err(failed)?);
    let arguments = [
        Argument::Bytes(&source),
        Argument::Uint(size.0),
        Argument::Uint(size.1),
        Argument::Bytes(&target),
        Argument::Uint(to_size.0),
        Argument::Uint(to_size.1),
        Argument::Uint(channels),
    ];
    // SAFETY: the constructor of Resize has found as many bytes on both sides as the sizes say; the kernel reads pixels
    // of the one and writes each of the other once.
    unsafe { turn.run(Function::Resize, &arguments, Items::Elements(pixels)) }.map_err(failed)?;
    turn.download(&target, to).map_err(lost)?;
    Ok(copied(&sizes))
}

/// Goes on if the device has room for buffers of these sizes, in bytes; `None` when there is nothing to do.
fn begin(device: &OpenDevice, sizes: &[usize]) -> Result<Option<()>, PluginError> {
    let description = &device.description;
    let total = sizes.iter().fold(0_u64, |total, &size| total.saturating_add(size as u64));
    if let Some(&largest) = sizes.iter().max()
        && (largest as u64 > description.buffer_max || total > description.memory)
    {
        return Err(PluginError::declined(format!("{} has no memory for {total} bytes", description.name)));
    }
    Ok((!sizes.contains(&0)).then_some(()))
}

fn copied(sizes: &[usize]) -> Done {
    Done { bytes_copied: sizes.iter().map(|&size| size as u64).sum() }
}

/// Why a result did not come back.
#[expect(clippy::needless_pass_by_value, reason = "it is what map_err gives")]
fn lost(error: ClError) -> PluginError {
    PluginError::failed(format!("the device computed and its result cannot be had: {error}"))
}

/// Why the device did not do it. Nothing was written yet, so that another plugin may where its memory is full.
#[expect(clippy::needless_pass_by_value, reason = "it is what map_err gives")]
fn failed(error: ClError) -> PluginError {
    match error.0 {
        CL_MEM_OBJECT_ALLOCATION_FAILURE | CL_OUT_OF_RESOURCES | CL_OUT_OF_HOST_MEMORY => {
            PluginError::declined(format!("the device has no memory left: {error}"))
        }
        _ => PluginError::failed(error.to_string()),
    }
}

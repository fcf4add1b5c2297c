//! The tensors, buffers, nodes and statuses of TensorFlow's, TensorFlow Lite's and PyTorch's operations.
//! Made by C programs and by the plugins that run models. A tensor frees only memory that it owns.

use std::{
    ffi::{c_int, c_void},
    mem::MaybeUninit,
    ptr::{self, NonNull},
};

use crate::{
    errno::{EINVAL, Result},
    memory,
    pointer::{Items, Out, Text, out},
    types::{Buffer, Flag, Tensor, TfNode, TfStatus},
};

impl<Rank, Dim> Tensor<Rank, Dim> {
    /// Frees what it owns.
    pub(crate) fn free(&mut self) {
        if self.owned.get() {
            // SAFETY: owned data is malloc's and the tensor's.
            unsafe { memory::free(self.data) };
        }
        // SAFETY: dimensions are malloc's and the tensor's.
        unsafe { memory::free_field(&mut self.dims) };
        (self.data, self.size, self.owned) = (ptr::null_mut(), 0, Flag::NO);
    }
}

impl<Rank: Copy + Default + TryInto<usize>, Dim: Copy> Tensor<Rank, Dim> {
    /// A tensor without data, of these dimensions, or of zeroes where they are not said.
    fn new(rank: Rank, dims: Items<'_, Dim>, data_type: u32) -> Result<Self> {
        let count = rank.try_into().ok().filter(|&count| count > 0).ok_or(EINVAL)?;
        let dims = if dims.is_null() {
            memory::array(count)?
        } else {
            // SAFETY: C gave the rank with the dimensions.
            memory::copy_array(unsafe { dims.slice(count) }?)?
        };
        Ok(Self { data: ptr::null_mut(), size: 0, owned: Flag::NO, nr_dims: rank, dims, data_type })
    }

    /// Gives it memory of its own.
    pub(crate) fn allocate(&mut self, size: usize) -> Result {
        if size > 0 {
            self.data = memory::zeroed(size)?.as_ptr();
            (self.size, self.owned) = (size, Flag::YES);
        }
        Ok(())
    }

    fn release(&mut self) {
        self.free();
        self.nr_dims = Rank::default();
    }

    fn set_data(&mut self, data: *mut c_void, size: usize) {
        if self.owned.get() && !self.data.is_null() {
            warn!("the tensor's data is replaced, and is now its caller's to free");
        }
        (self.data, self.size, self.owned) = (data, size, Flag::NO);
    }

    fn take_data(&mut self) -> (*mut c_void, usize) {
        self.owned = Flag::NO;
        (std::mem::replace(&mut self.data, ptr::null_mut()), std::mem::take(&mut self.size))
    }
}

/// The seven functions of each kind of tensor.
macro_rules! tensors {
    ($($name:ident: $rank:ty, $dim:ty;)*) => {$(
        mod $name {
            use super::*;

            type This = Tensor<$rank, $dim>;

            #[unsafe(export_name = concat!("vaccel_", stringify!($name), "_tensor_init"))]
            extern "C" fn init(tensor: Out<'_, This>, rank: $rank, dims: Items<'_, $dim>, data_type: u32) -> c_int {
                crate::api::status(|| write(out(tensor)?, Tensor::new(rank, dims, data_type)))
            }

            #[unsafe(export_name = concat!("vaccel_", stringify!($name), "_tensor_release"))]
            extern "C" fn release(tensor: Option<&mut This>) -> c_int {
                crate::api::status(|| { tensor.ok_or(EINVAL)?.release(); Ok(()) })
            }

            #[unsafe(export_name = concat!("vaccel_", stringify!($name), "_tensor_new"))]
            extern "C" fn new(tensor: Out<'_, *mut This>, rank: $rank, dims: Items<'_, $dim>, data_type: u32) -> c_int {
                crate::api::status(|| memory::new(tensor, |tensor| write(tensor, Tensor::new(rank, dims, data_type))))
            }

            #[unsafe(export_name = concat!("vaccel_", stringify!($name), "_tensor_allocate"))]
            extern "C" fn allocate(
                tensor: Out<'_, *mut This>,
                rank: $rank,
                dims: Items<'_, $dim>,
                data_type: u32,
                size: usize,
            ) -> c_int {
                let made = || -> Result<This> {
                    let mut made = Tensor::new(rank, dims, data_type)?;
                    made.allocate(size).inspect_err(|_| made.release())?;
                    Ok(made)
                };
                crate::api::status(|| memory::new(tensor, |tensor| write(tensor, made())))
            }

            #[unsafe(export_name = concat!("vaccel_", stringify!($name), "_tensor_delete"))]
            extern "C" fn delete(tensor: Option<NonNull<This>>) -> c_int {
                crate::api::status(|| memory::delete(tensor, |tensor| { tensor.release(); Ok(()) }))
            }

            #[unsafe(export_name = concat!("vaccel_", stringify!($name), "_tensor_set_data"))]
            extern "C" fn set_data(tensor: Option<&mut This>, data: *mut c_void, size: usize) -> c_int {
                crate::api::status(|| { tensor.ok_or(EINVAL)?.set_data(data, size); Ok(()) })
            }

            #[unsafe(export_name = concat!("vaccel_", stringify!($name), "_tensor_take_data"))]
            extern "C" fn take_data(
                tensor: Option<&mut This>,
                data: Out<'_, *mut c_void>,
                size: Out<'_, usize>,
            ) -> c_int {
                crate::api::status(|| {
                    let (tensor, data, size) = (tensor.ok_or(EINVAL)?, out(data)?, out(size)?);
                    hand_over(tensor.take_data(), data, size);
                    Ok(())
                })
            }
        }
    )*};
}

tensors! {
    tf: c_int, i64;
    tflite: c_int, i32;
    torch: i64, i64;
}

impl Buffer {
    fn release(&mut self) {
        // SAFETY: a buffer's data is malloc's and the buffer's.
        unsafe { memory::free(self.data) };
        *self = Self { data: ptr::null_mut(), size: 0 };
    }
}

/// The five functions of each kind of buffer.
macro_rules! buffers {
    ($($name:ident as $module:ident;)*) => {$(
        mod $module {
            use super::*;

            #[unsafe(export_name = concat!("vaccel_", stringify!($name), "_buffer_init"))]
            extern "C" fn init(buffer: Out<'_, Buffer>, data: *mut c_void, size: usize) -> c_int {
                crate::api::status(|| write(out(buffer)?, Ok(Buffer { data, size })))
            }

            #[unsafe(export_name = concat!("vaccel_", stringify!($name), "_buffer_release"))]
            extern "C" fn release(buffer: Option<&mut Buffer>) -> c_int {
                crate::api::status(|| { buffer.ok_or(EINVAL)?.release(); Ok(()) })
            }

            #[unsafe(export_name = concat!("vaccel_", stringify!($name), "_buffer_new"))]
            extern "C" fn new(buffer: Out<'_, *mut Buffer>, data: *mut c_void, size: usize) -> c_int {
                crate::api::status(|| memory::new(buffer, |buffer| write(buffer, Ok(Buffer { data, size }))))
            }

            #[unsafe(export_name = concat!("vaccel_", stringify!($name), "_buffer_delete"))]
            extern "C" fn delete(buffer: Option<NonNull<Buffer>>) -> c_int {
                crate::api::status(|| memory::delete(buffer, |buffer| { buffer.release(); Ok(()) }))
            }

            #[unsafe(export_name = concat!("vaccel_", stringify!($name), "_buffer_take_data"))]
            extern "C" fn take_data(
                buffer: Option<&mut Buffer>,
                data: Out<'_, *mut c_void>,
                size: Out<'_, usize>,
            ) -> c_int {
                crate::api::status(|| {
                    let (buffer, data, size) = (buffer.ok_or(EINVAL)?, out(data)?, out(size)?);
                    let taken = std::mem::replace(buffer, Buffer { data: ptr::null_mut(), size: 0 });
                    hand_over((taken.data, taken.size), data, size);
                    Ok(())
                })
            }
        }
    )*};
}

buffers! {
    tf as tf_buffer;
    torch as torch_buffer;
}

impl TfNode {
    fn new(name: Text<'_>, id: c_int) -> Result<Self> {
        Ok(Self { name: memory::copy_text(name.required()?)?, id })
    }

    fn release(&mut self) {
        // SAFETY: a node's name is malloc's and the node's.
        unsafe { memory::free(self.name) };
        *self = Self { name: ptr::null_mut(), id: -1 };
    }
}

impl TfStatus {
    fn new(code: u8, message: Text<'_>) -> Result<Self> {
        Ok(Self { code, message: memory::copy_text(message.required()?)? })
    }

    fn release(&mut self) {
        // SAFETY: a status's message is malloc's and the status's.
        unsafe { memory::free(self.message) };
        *self = Self { code: 0, message: ptr::null_mut() };
    }
}

api! {
    fn vaccel_tf_node_init(node: Out<'_, TfNode>, name: Text<'_>, id: c_int) {
        write(out(node)?, TfNode::new(name, id))
    }

    fn vaccel_tf_node_release(node: Option<&mut TfNode>) {
        node.ok_or(EINVAL)?.release();
        Ok(())
    }

    fn vaccel_tf_node_new(node: Out<'_, *mut TfNode>, name: Text<'_>, id: c_int) {
        memory::new(node, |node| write(node, TfNode::new(name, id)))
    }

    fn vaccel_tf_node_delete(node: Option<NonNull<TfNode>>) {
        memory::delete(node, |node| {
            node.release();
            Ok(())
        })
    }

    fn vaccel_tf_status_init(status: Out<'_, TfStatus>, code: u8, message: Text<'_>) {
        write(out(status)?, TfStatus::new(code, message))
    }

    fn vaccel_tf_status_release(status: Option<&mut TfStatus>) {
        status.ok_or(EINVAL)?.release();
        Ok(())
    }

    fn vaccel_tf_status_new(status: Out<'_, *mut TfStatus>, code: u8, message: Text<'_>) {
        memory::new(status, |status| write(status, TfStatus::new(code, message)))
    }

    fn vaccel_tf_status_delete(status: Option<NonNull<TfStatus>>) {
        memory::delete(status, |status| {
            status.release();
            Ok(())
        })
    }
}

fn write<T>(place: &mut MaybeUninit<T>, made: Result<T>) -> Result {
    place.write(made?);
    Ok(())
}

fn hand_over(
    (data, size): (*mut c_void, usize),
    data_place: &mut MaybeUninit<*mut c_void>,
    size_place: &mut MaybeUninit<usize>,
) {
    data_place.write(data);
    size_place.write(size);
}

//! The device that the plugin uses, its queue and its compiled kernels.
//! Made when the plugin is opened; called for every task. Never gives a kernel an argument of another type than it has,
//! or a buffer that is shorter than what it reads and writes.
#![allow(unsafe_code, reason = "OpenCL is a C interface")]

use std::{
    ffi::c_void,
    fmt, ptr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use opencl3::{
    command_queue::CommandQueue,
    context::Context,
    device::{
        CL_DEVICE_TYPE_ACCELERATOR, CL_DEVICE_TYPE_ALL, CL_DEVICE_TYPE_CPU, CL_DEVICE_TYPE_GPU, Device, get_all_devices,
    },
    error_codes::{ClError, DLOPEN_RUNTIME_LOAD_FAILED},
    kernel::Kernel,
    memory::{Buffer, CL_MEM_READ_ONLY, CL_MEM_READ_WRITE, ClMem as _},
    program::Program,
    types::CL_BLOCKING,
};

/// What devices there are for, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    /// A graphics card with memory of its own.
    Discrete,
    /// An accelerator that is no graphics card.
    Accelerator,
    /// Graphics within the processor.
    Integrated,
    /// The processor itself.
    Cpu,
}

/// What is known of a device before it is used.
#[derive(Clone, Debug)]
pub(super) struct Description {
    pub(super) name: String,
    pub(super) class: Class,
    /// Compute units times megahertz.
    pub(super) speed: u64,
    /// Longest buffer, in bytes.
    pub(super) buffer_max: u64,
    /// Memory, in bytes.
    pub(super) memory: u64,
}

/// A device, ready.
pub(super) struct OpenDevice {
    pub(super) description: Description,
    context: Context,
    /// One task at a time: kernels keep their arguments from one call to the next.
    turn: Mutex<Work>,
}

struct Work {
    queue: CommandQueue,
    copy: Kernel,
    add: Kernel,
    add_multiply: Kernel,
    sgemm: Kernel,
    resize: Kernel,
}

/// The kernels there are.
#[derive(Clone, Copy, Debug)]
pub(super) enum Function {
    Copy,
    Add,
    AddMultiply,
    Sgemm,
    Resize,
}

/// Work items of a group of the one-dimensional kernels, and of each side of sgemm's.
const GROUP: usize = 64;
const SGEMM_SIDE: usize = 16;
const SGEMM_TILE: usize = 64;

impl OpenDevice {
    /// Opens the best device there is, and compiles the kernels for it.
    pub(super) fn open() -> Result<Self, String> {
        let ids = get_all_devices(CL_DEVICE_TYPE_ALL).map_err(|error| match error.0 {
            DLOPEN_RUNTIME_LOAD_FAILED => "found no libOpenCL.so.1".to_owned(),
            _ => format!("found no device ({error})"),
        })?;
        let devices: Vec<_> = ids.into_iter().map(Device::new).collect();
        let described: Vec<_> = devices.iter().filter_map(|device| Some((device, describe(device).ok()?))).collect();
        let mut reasons = Vec::new();
        for (device, description) in in_order(described) {
            let name = description.name.clone();
            match Self::new(device, description) {
                Ok(opened) => return Ok(opened),
                Err(reason) => reasons.push(format!("{name} cannot be used: {reason}")),
            }
        }
        Err(if reasons.is_empty() { "found no device".to_owned() } else { reasons.join("; ") })
    }

    fn new(device: &Device, description: Description) -> Result<Self, String> {
        let text = |error: ClError| error.to_string();
        let group = device.max_work_group_size().map_err(text)?;
        if group < SGEMM_SIDE * SGEMM_SIDE {
            return Err(format!("its groups have at most {group} work items"));
        }
        let context = Context::from_device(device).map_err(text)?;
        // SAFETY: the device is the context's.
        let queue = unsafe { CommandQueue::create(&context, device.id(), 0) }.map_err(text)?;
        let program = Program::create_and_build_from_source(&context, include_str!("kernels.cl"), "")?;
        let kernel = |name| Kernel::create(&program, name).map_err(text);
        let work = Work {
            queue,
            copy: kernel("copy_int")?,
            add: kernel("add")?,
            add_multiply: kernel("add_multiply")?,
            sgemm: kernel("sgemm")?,
            resize: kernel("resize")?,
        };
        Ok(Self { description, context, turn: Mutex::new(work) })
    }

    /// Waits until nobody else uses it.
    pub(super) fn turn(&self) -> Turn<'_> {
        Turn { context: &self.context, work: self.turn.lock().unwrap_or_else(PoisonError::into_inner) }
    }
}

impl fmt::Debug for OpenDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenDevice").field("description", &self.description).finish_non_exhaustive()
    }
}

fn describe(device: &Device) -> Result<Description, ClError> {
    let class = match device.dev_type()? {
        kind if kind & CL_DEVICE_TYPE_GPU != 0 && !device.host_unified_memory().unwrap_or(false) => Class::Discrete,
        kind if kind & CL_DEVICE_TYPE_GPU != 0 => Class::Integrated,
        kind if kind & CL_DEVICE_TYPE_ACCELERATOR != 0 => Class::Accelerator,
        kind if kind & CL_DEVICE_TYPE_CPU != 0 => Class::Cpu,
        _ => Class::Accelerator,
    };
    Ok(Description {
        name: device.name()?.trim().to_owned(),
        class,
        speed: u64::from(device.max_compute_units()?).saturating_mul(u64::from(device.max_clock_frequency()?)),
        buffer_max: device.max_mem_alloc_size()?,
        memory: device.global_mem_size()?,
    })
}

/// The best class first, of each the fastest.
fn in_order<T>(mut devices: Vec<(T, Description)>) -> Vec<(T, Description)> {
    devices.sort_by_key(|(_, description)| (description.class, std::cmp::Reverse(description.speed)));
    devices
}

/// The device, for one task.
pub(super) struct Turn<'d> {
    context: &'d Context,
    work: MutexGuard<'d, Work>,
}

/// An argument of a kernel. Buffers carry how many elements a kernel may reach.
pub(super) enum Argument<'b> {
    Floats(&'b Buffer<f32>),
    Ints(&'b Buffer<i32>),
    Bytes(&'b Buffer<u8>),
    Ulong(u64),
    Uint(u32),
    Float(f32),
}

/// An argument as the library takes it.
enum Raw {
    Memory(*mut c_void),
    Four([u8; 4]),
    Eight([u8; 8]),
}

/// How many work items a kernel is run by.
#[derive(Clone, Copy, Debug)]
pub(super) enum Items {
    /// At least one for each element.
    Elements(usize),
    /// Those of a matrix of this many rows and columns.
    Tiles { rows: usize, columns: usize },
}

impl Turn<'_> {
    /// A copy of `elements` on the device, to be read there.
    pub(super) fn upload<T>(&self, elements: &[T]) -> Result<Buffer<T>, ClError> {
        let mut buffer = self.buffer(elements.len(), CL_MEM_READ_ONLY)?;
        // SAFETY: the buffer has as many elements, and the call returns when they were copied.
        unsafe { self.work.queue.enqueue_write_buffer(&mut buffer, CL_BLOCKING, 0, elements, &[]) }?;
        Ok(buffer)
    }

    /// The same, to be written there as well.
    pub(super) fn upload_to_write<T>(&self, elements: &[T]) -> Result<Buffer<T>, ClError> {
        let mut buffer = self.room(elements.len())?;
        // SAFETY: the buffer has as many elements, and the call returns when they were copied.
        unsafe { self.work.queue.enqueue_write_buffer(&mut buffer, CL_BLOCKING, 0, elements, &[]) }?;
        Ok(buffer)
    }

    /// Room for so many elements on the device.
    pub(super) fn room<T>(&self, count: usize) -> Result<Buffer<T>, ClError> {
        self.buffer(count, CL_MEM_READ_WRITE)
    }

    fn buffer<T>(&self, count: usize, flags: u64) -> Result<Buffer<T>, ClError> {
        // SAFETY: no memory of the host's is given to it.
        unsafe { Buffer::create(self.context, flags, count, ptr::null_mut()) }
    }

    /// Waits for what was begun and copies a buffer's content.
    pub(super) fn download<T>(&self, buffer: &Buffer<T>, elements: &mut [T]) -> Result<(), ClError> {
        // SAFETY: the buffer was made for as many elements, and the call returns when they were copied.
        unsafe { self.work.queue.enqueue_read_buffer(buffer, CL_BLOCKING, 0, elements, &[]) }.map(drop)
    }

    /// Begins a kernel. `arguments` are all of the kernel's, in its order.
    ///
    /// # Safety
    /// They must be of its types, and buffers must have what it reads and writes when its numbers are these.
    pub(super) unsafe fn run(
        &self,
        function: Function,
        arguments: &[Argument<'_>],
        items: Items,
    ) -> Result<(), ClError> {
        let kernel = match function {
            Function::Copy => &self.work.copy,
            Function::Add => &self.work.add,
            Function::AddMultiply => &self.work.add_multiply,
            Function::Sgemm => &self.work.sgemm,
            Function::Resize => &self.work.resize,
        };
        for (index, argument) in (0..).zip(arguments) {
            let raw = match argument {
                Argument::Floats(buffer) => Raw::Memory(buffer.get()),
                Argument::Ints(buffer) => Raw::Memory(buffer.get()),
                Argument::Bytes(buffer) => Raw::Memory(buffer.get()),
                Argument::Ulong(value) => Raw::Eight(value.to_ne_bytes()),
                Argument::Uint(value) => Raw::Four(value.to_ne_bytes()),
                Argument::Float(value) => Raw::Four(value.to_ne_bytes()),
            };
            match raw {
                // SAFETY: the caller's promise that the kernel has a buffer here; the handle is copied by the call.
                Raw::Memory(memory) => unsafe { kernel.set_arg(index, &memory) },
                // SAFETY: the caller's promise that the kernel has a number of 64 bits here; it is copied by the call.
                Raw::Eight(bytes) => unsafe { kernel.set_arg(index, &bytes) },
                // SAFETY: the same, of 32 bits.
                Raw::Four(bytes) => unsafe { kernel.set_arg(index, &bytes) },
            }?;
        }
        let (dimensions, global, local) = match items {
            Items::Elements(count) => (1, [count.next_multiple_of(GROUP), 1], [GROUP, 1]),
            Items::Tiles { rows, columns } => {
                let items = |count: usize| count.div_ceil(SGEMM_TILE) * SGEMM_SIDE;
                (2, [items(columns), items(rows)], [SGEMM_SIDE, SGEMM_SIDE])
            }
        };
        // SAFETY: the kernel's arguments are set, by the caller's promise to what it needs; sizes are arrays of as many
        // dimensions or more, and a group has no more items than was checked when the device was opened.
        unsafe {
            self.work.queue.enqueue_nd_range_kernel(
                kernel.get(),
                dimensions,
                ptr::null(),
                global.as_ptr(),
                local.as_ptr(),
                &[],
            )
        }
        .map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_come_before_the_processor_and_faster_ones_before_slower_ones() {
        let device = |name: &'static str, class, speed| {
            (name, Description { name: name.to_owned(), class, speed, buffer_max: 1, memory: 1 })
        };
        let devices = vec![
            device("processor", Class::Cpu, 90_000),
            device("integrated", Class::Integrated, 20_000),
            device("small card", Class::Discrete, 10_000),
            device("large card", Class::Discrete, 30_000),
            device("accelerator", Class::Accelerator, 1),
        ];
        let order: Vec<_> = in_order(devices).into_iter().map(|(name, _)| name).collect();
        assert_eq!(order, ["large card", "small card", "accelerator", "integrated", "processor"]);
    }
}

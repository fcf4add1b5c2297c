//! Profiling regions: how often and how long a program was in a part of itself.
//! Used by C programs. Does nothing unless profiling is enabled.

use std::{
    ffi::{CStr, c_char, c_int},
    fmt::Write as _,
    mem::MaybeUninit,
    ptr::{self, NonNull},
};

use crate::{
    core,
    errno::{EINVAL, ENOENT, ENOMEM, Result},
    memory,
    pointer::{ItemsMut, Out, Text},
    types::{Flag, Region, Sample},
};

/// Samples that a region has room for at first.
const SAMPLES_MIN: usize = 1024;
/// Room for the name of a region of an array.
const NAME_MAX: usize = 256;

impl Region {
    /// A region without samples that has room for some.
    fn new(name: Option<&CStr>) -> Result<Self> {
        let name = name.map_or_else(|| memory::array::<c_char>(NAME_MAX), memory::copy_text)?;
        let mut region = Self { name, name_owned: Flag::YES, nr_entries: 0, samples: ptr::null_mut(), size: 0 };
        if let Err(errno) = region.grow() {
            region.release();
            return Err(errno);
        }
        Ok(region)
    }

    fn grow(&mut self) -> Result {
        let size = if self.size == 0 { SAMPLES_MIN } else { self.size.checked_mul(2).ok_or(ENOMEM)? };
        let bytes = size.checked_mul(size_of::<Sample>()).ok_or(ENOMEM)?;
        // SAFETY: samples are null or malloc's, and the region's.
        let samples = unsafe { libc::realloc(self.samples.cast(), bytes) };
        self.samples = NonNull::new(samples).ok_or(ENOMEM)?.as_ptr().cast();
        self.size = size;
        Ok(())
    }

    fn start(&mut self) -> Result {
        if self.nr_entries >= self.size || self.samples.is_null() {
            self.grow()?;
        }
        // SAFETY: there is room for it.
        let place = unsafe { self.samples.add(self.nr_entries) };
        // SAFETY: as above.
        unsafe { place.write(Sample { start: now(), time: 0 }) };
        self.nr_entries += 1;
        Ok(())
    }

    fn stop(&self) -> Result {
        // SAFETY: C promises as many samples as the region says, which one thread uses at a time.
        let samples = unsafe { ItemsMut::at(self.samples).slice(self.nr_entries) }?;
        let last = samples.last_mut().ok_or(ENOENT)?;
        last.time = now().saturating_sub(last.start);
        Ok(())
    }

    fn samples(&self) -> Result<&[Sample]> {
        // SAFETY: as above.
        unsafe { ItemsMut::at(self.samples).slice(self.nr_entries) }.map(|samples| &*samples)
    }

    fn name(&self) -> &CStr {
        // SAFETY: C promises that strings in structs end with a zero.
        if self.name.is_null() { c"" } else { unsafe { CStr::from_ptr(self.name) } }
    }

    /// Its line in a report, unless it was never entered.
    fn line(&self) -> Option<String> {
        let total: u64 = self.samples().ok()?.iter().fold(0, |sum, sample| sum.saturating_add(sample.time));
        let (name, count) = (self.name().to_string_lossy(), self.nr_entries);
        (count > 0).then(|| format!("[prof] {name}: total_time: {total} nsec nr_entries: {count}"))
    }

    fn print(&self) {
        if let Some(line) = self.line() {
            info!("{line}");
        }
    }

    fn release(&mut self) {
        // SAFETY: samples are null or malloc's, and the region's.
        unsafe { memory::free(self.samples) };
        if self.name_owned.get() {
            // SAFETY: an owned name is malloc's.
            unsafe { memory::free(self.name.cast_mut()) };
        }
        *self = Self { name: ptr::null(), name_owned: Flag::NO, nr_entries: 0, samples: ptr::null_mut(), size: 0 };
    }
}

api! {
    fn vaccel_prof_enabled() -> bool {
        core::profiling_enabled()
    }

    fn vaccel_prof_region_init(region: Out<'_, Region>, name: Text<'_>) {
        when_enabled(|| {
            region.ok_or(EINVAL)?.write(Region::new(name.get())?);
            Ok(())
        })
    }

    fn vaccel_prof_region_start(region: Option<&mut Region>) {
        when_enabled(|| region.ok_or(EINVAL)?.start())
    }

    fn vaccel_prof_region_stop(region: Option<&Region>) {
        when_enabled(|| region.ok_or(EINVAL)?.stop())
    }

    fn vaccel_prof_region_print(region: Option<&Region>) {
        when_enabled(|| {
            region.ok_or(EINVAL)?.print();
            Ok(())
        })
    }

    fn vaccel_prof_region_release(region: Option<&mut Region>) {
        when_enabled(|| {
            region.ok_or(EINVAL)?.release();
            Ok(())
        })
    }

    fn vaccel_prof_regions_init(regions: ItemsMut<'_, MaybeUninit<Region>>, count: c_int) {
        when_enabled(|| {
            // SAFETY: C gave `count` with `regions`.
            let regions = unsafe { regions_of(regions, count) }?;
            let mut made = Vec::with_capacity(regions.len());
            for _ in 0..regions.len() {
                match Region::new(None) {
                    Ok(region) => made.push(region),
                    Err(errno) => {
                        made.iter_mut().for_each(Region::release);
                        return Err(errno);
                    }
                }
            }
            for (place, region) in regions.iter_mut().zip(made) {
                place.write(region);
            }
            Ok(())
        })
    }

    fn vaccel_prof_regions_start_by_name(regions: ItemsMut<'_, Region>, count: c_int, name: Text<'_>) {
        when_enabled(|| named(regions, count, name)?.start())
    }

    fn vaccel_prof_regions_stop_by_name(regions: ItemsMut<'_, Region>, count: c_int, name: Text<'_>) {
        when_enabled(|| named(regions, count, name)?.stop())
    }

    fn vaccel_prof_regions_print_all(regions: ItemsMut<'_, Region>, count: c_int) {
        when_enabled(|| {
            // SAFETY: C gave `count` with `regions`.
            unsafe { regions_of(regions, count) }?.iter().for_each(Region::print);
            Ok(())
        })
    }

    fn vaccel_prof_regions_release(regions: ItemsMut<'_, Region>, count: c_int) {
        when_enabled(|| {
            // SAFETY: C gave `count` with `regions`.
            unsafe { regions_of(regions, count) }?.iter_mut().for_each(Region::release);
            Ok(())
        })
    }
}

/// The one function whose errors are negative.
#[unsafe(no_mangle)]
extern "C" fn vaccel_prof_regions_print_all_to_buf(
    text: Out<'_, *mut c_char>,
    size: usize,
    regions: ItemsMut<'_, Region>,
    count: c_int,
) -> c_int {
    let mut result = 0;
    let status = crate::api::status(|| {
        when_enabled(|| {
            // SAFETY: C gave `count` with `regions`.
            let regions = unsafe { regions_of(regions, count) }?;
            let mut lines = String::new();
            for line in regions.iter().filter_map(Region::line) {
                // Writing to a string does not fail.
                let _ = write!(lines, "{line}\0");
            }
            let Some(text) = text else {
                result = c_int::try_from(lines.len()).map_err(|_| ENOMEM)?;
                return Ok(());
            };
            let place = memory::array::<c_char>(size.max(1))?;
            // SAFETY: the memory is new and of that size.
            let room = unsafe { std::slice::from_raw_parts_mut(place, size) };
            if let Some((_, room)) = room.split_last_mut() {
                for (to, from) in room.iter_mut().zip(lines.bytes()) {
                    *to = from.cast_signed();
                }
            }
            text.write(place);
            result = count;
            Ok(())
        })
    });
    if status == 0 { result } else { -status }
}

fn when_enabled(work: impl FnOnce() -> Result) -> Result {
    if core::profiling_enabled() { work() } else { Ok(()) }
}

/// The regions of an array; null is an error.
///
/// # Safety
/// As for [`ItemsMut::slice`].
unsafe fn regions_of<'a, T>(regions: ItemsMut<'a, T>, count: c_int) -> Result<&'a mut [T]> {
    if regions.is_null() {
        return Err(EINVAL);
    }
    // SAFETY: as promised by the caller.
    unsafe { regions.slice(usize::try_from(count).map_err(|_| EINVAL)?) }
}

/// The region of this name, the last one when there are several.
fn named<'a>(regions: ItemsMut<'a, Region>, count: c_int, name: Text<'_>) -> Result<&'a mut Region> {
    let name = name.required()?;
    // SAFETY: C gave `count` with `regions`.
    let regions = unsafe { regions_of(regions, count) }?;
    regions.iter_mut().rev().find(|region| region.name() == name).ok_or_else(|| {
        error!("there is no profiling region `{}`", name.to_string_lossy());
        EINVAL
    })
}

/// Nanoseconds of the monotonic clock, which no clock service slews.
fn now() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call fills in the struct.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_RAW, &raw mut time) };
    let (seconds, nanoseconds) = (time.tv_sec.cast_unsigned(), time.tv_nsec.cast_unsigned());
    seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds)
}

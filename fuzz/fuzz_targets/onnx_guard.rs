//! What inspects ONNX models before plugins see them. See `kernlet_fuzz::onnx_guard`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kernlet_fuzz::onnx_guard(data));

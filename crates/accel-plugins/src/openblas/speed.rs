//! How fast OpenBLAS is, by the kernels that it chose.
//! Asked by the plugin's cost. Never measures: a runtime asks for the cost of every task.

use crate::matrix::Speed;

/// Of kernels for AVX-512.
const AVX512: &Speed = &[(0, 20_000), (1 << 20, 75_000)];

/// Of kernels for AVX2.
const AVX2: &Speed = &[(0, 20_000), (1 << 20, 50_000)];

/// The speed on a processor, as the library calls it.
pub(super) fn of(core: &str) -> &'static Speed {
    match core {
        "SkylakeX" | "Cooperlake" | "Sapphirerapids" | "SKYLAKEX" | "COOPERLAKE" | "SAPPHIRERAPIDS" => AVX512,
        _ => AVX2,
    }
}

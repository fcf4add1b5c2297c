//! How fast OpenBLAS is, by the kernels that it chose.
//! Asked by the plugin's cost. Never measures: a runtime asks for the cost of every task.

use crate::matrix::Speed;

/// Of kernels for AVX-512, version 0.3.21: 27.2, 109, 98.3, 105, 98.2, 97.2 and 98.4 GFLOP/s on one thread; 27.3, 109, 148, 193,
/// 204, 204 and 198 on two.
const AVX512: Speed = Speed {
    one: [13_600, 54_600, 49_100, 52_300, 49_100, 48_600, 49_200],
    two: [13_600, 54_600, 73_700, 96_300, 102_000, 102_100, 99_100],
};

/// Of kernels for AVX2 (`OPENBLAS_CORETYPE=Haswell`) on the same processor: 20.5, 92.0, 103, 110, 110, 108 and 106 GFLOP/s on one
/// thread; 21.5, 91.5, 141, 143, 169, 183 and 195 on two.
const AVX2: Speed = Speed {
    one: [10_250, 46_000, 51_500, 54_800, 54_700, 54_100, 53_000],
    two: [10_700, 45_700, 70_400, 71_400, 84_300, 91_700, 97_400],
};

/// The speed on a processor, as the library calls it.
pub(super) fn of(core: &str) -> &'static Speed {
    match core.to_ascii_lowercase().as_str() {
        "skylakex" | "cooperlake" | "sapphirerapids" => &AVX512,
        _ => &AVX2,
    }
}

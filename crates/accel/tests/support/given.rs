//! Raw arguments that own their data, for tests that make, change and compare them.

use kernlet_abi::accel::{
    BatchParams, ClassifyParams, MinMaxParams, ModelParams, ResizeParams, ResourceParams, SgemmParams, access,
};
use kernlet_accel::{Arg, Data, Dims, Dtype, Operation};
use zerocopy::{Immutable, IntoBytes};

/// One argument, as whoever asks for an operation has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Given {
    /// One of [`kernlet_abi::accel::access`].
    pub(crate) access: u32,
    pub(crate) dtype: Dtype,
    pub(crate) dims: Vec<u64>,
    pub(crate) custom: u32,
    /// Its bytes in 64-bit words, so that all elements are aligned.
    pub(crate) words: Vec<u64>,
    /// Which of them it has.
    pub(crate) range: std::ops::Range<usize>,
}

impl Given {
    pub(crate) fn new(access: u32, dtype: Dtype, dims: &[u64], bytes: &[u8]) -> Self {
        // One word more than it takes, for those that are to be moved.
        let mut words = vec![0; bytes.len().div_ceil(8) + 1];
        words.as_mut_bytes()[..bytes.len()].copy_from_slice(bytes);
        Self { access, dtype, dims: dims.to_vec(), custom: 0, words, range: 0..bytes.len() }
    }

    pub(crate) fn params<T: IntoBytes + Immutable>(params: &T) -> Self {
        Self::new(access::IN, Dtype::Bytes, &[], params.as_bytes())
    }

    pub(crate) fn read<T: IntoBytes + Immutable>(dtype: Dtype, elements: &[T]) -> Self {
        Self::new(access::IN, dtype, &[], elements.as_bytes())
    }

    pub(crate) fn write(dtype: Dtype, len: usize) -> Self {
        Self::new(access::OUT, dtype, &[], &vec![0; len])
    }

    pub(crate) fn update(dtype: Dtype, len: usize) -> Self {
        Self::new(access::IN_OUT, dtype, &[], &vec![0; len])
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.words.as_bytes()[self.range.clone()]
    }

    /// As the decoder takes it.
    pub(crate) fn arg(&mut self) -> Arg<'_> {
        let bytes = &mut self.words.as_mut_bytes()[self.range.clone()];
        let data = match self.access {
            access::IN => Data::In(bytes),
            access::OUT => Data::Out(bytes),
            _ => Data::InOut(bytes),
        };
        let mut arg = Arg::new(data, self.dtype, Dims::new(&self.dims).unwrap());
        arg.custom = self.custom;
        arg
    }
}

/// All of them as the decoder takes them.
pub(crate) fn args(given: &mut [Given]) -> Vec<Arg<'_>> {
    given.iter_mut().map(Given::arg).collect()
}

/// Sizes of the arguments of any operation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    /// Rows, columns, elements: each operation has its use for them. The second is at least one.
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    /// Elements between rows.
    pub(crate) gap: usize,
    /// Type of tensors and typed arguments.
    pub(crate) dtype: Dtype,
    /// A number to fill inputs with.
    pub(crate) value: f32,
}

impl Sizes {
    pub(crate) const SOME: Self = Self { m: 2, n: 3, k: 1, gap: 1, dtype: Dtype::F32, value: 1.5 };

    fn numbers(&self, count: usize) -> Vec<f32> {
        vec![self.value; count]
    }

    /// A tensor of n×k elements.
    fn tensor(&self, access: u32) -> Given {
        let bytes: Vec<u8> = (0..=250).cycle().take(self.n * self.k * self.dtype.size()).collect();
        let dims: &[u64] = if access == access::IN { &[self.n as u64, self.k as u64] } else { &[] };
        Given::new(access, self.dtype, dims, &bytes)
    }

    /// Tensors of a run: `m` that are read and `k` that are written; of the latter, the first may have any type.
    fn tensors(&self) -> Vec<Given> {
        let mut outputs: Vec<_> = (0..self.k).map(|_| self.tensor(access::OUT)).collect();
        if let Some(first) = outputs.first_mut().filter(|_| self.gap > 0) {
            first.dtype = Dtype::Any;
        }
        (0..self.m).map(|_| self.tensor(access::IN)).chain(outputs).collect()
    }

    /// Arguments that only their callee understands.
    fn typed(&self) -> Vec<Given> {
        let bytes = vec![7; self.k * self.dtype.size()];
        let mut custom = Given::new(access::IN, Dtype::Custom, &[], b"mine");
        custom.custom = 9;
        vec![
            custom,
            Given::new(access::IN, self.dtype, &[self.k as u64], &bytes),
            Given::new(access::IN, Dtype::Text, &[], b"text"),
            Given::new(access::IN_OUT, self.dtype, &[self.k as u64], &bytes),
            Given::new(access::IN_OUT, Dtype::Uchar, &[], b"C"),
        ]
    }
}

/// Arguments that an operation takes. Resources 1 and 2 are the caller's.
pub(crate) fn fitting(operation: Operation, sizes: &Sizes) -> Vec<Given> {
    let Sizes { m, n, k, gap, .. } = *sizes;
    let floats = |count: usize| Given::read(Dtype::F32, &sizes.numbers(count));
    let floats_out = |count: usize| Given::write(Dtype::F32, count * 4);
    let model = |inputs: usize| Given::params(&ModelParams { model: 1, inputs: u32::try_from(inputs).unwrap() });
    let text = |text: &str| Given::new(access::IN, Dtype::Text, &[], text.as_bytes());
    let bytes = |bytes: &[u8]| Given::new(access::IN, Dtype::Bytes, &[], bytes);
    let picture = || bytes(&vec![0xff; n]);
    match operation {
        Operation::Noop => vec![],
        Operation::Exec => [vec![text("libexample.so"), text("example")], sizes.typed()].concat(),
        Operation::ExecWithResource => {
            [vec![Given::params(&ResourceParams { resource: 2 }), text("example")], sizes.typed()].concat()
        }
        Operation::OpenCv => sizes.typed(),
        Operation::ImageClassify => {
            let params = ClassifyParams { model: u32::from(gap > 0), labels: 2 };
            vec![Given::params(&params), picture(), Given::write(Dtype::Bytes, 128 * n)]
        }
        Operation::ImageDetect | Operation::ImageSegment | Operation::ImagePose | Operation::ImageDepth => {
            let params = ClassifyParams { model: 1, labels: if gap > 0 { 2 } else { 0 } };
            vec![Given::params(&params), picture(), Given::write(Dtype::Text, k)]
        }
        Operation::TfModelLoad
        | Operation::TfModelUnload
        | Operation::TfliteModelLoad
        | Operation::TfliteModelUnload
        | Operation::TorchModelLoad
        | Operation::OnnxModelLoad
        | Operation::OnnxModelUnload => vec![model(0)],
        Operation::TfModelRun => {
            let names: Vec<_> = (0..m + k).map(|index| format!("tensor:{index}")).collect();
            [vec![model(m), bytes(b"options"), text(&names.join("\n"))], sizes.tensors()].concat()
        }
        Operation::TorchModelRun => [vec![model(m), bytes(b"")], sizes.tensors()].concat(),
        Operation::TfliteModelRun | Operation::OnnxModelRun => [vec![model(m)], sizes.tensors()].concat(),
        Operation::OnnxModelRunBatch => {
            let sets = if m + k == 0 { 0 } else { 3 };
            let params = BatchParams { model: 2, inputs: m as u32, outputs: k as u32, sets };
            let sets = (0..sets).flat_map(|_| sizes.tensors());
            [Given::params(&params)].into_iter().chain(sets).collect()
        }
        Operation::TorchSgemm | Operation::BlasSgemm => {
            let stride = |columns: usize| (columns + gap) as i64;
            let extent = |rows: usize, columns: usize| {
                if rows == 0 || columns == 0 { 0 } else { (rows - 1) * (columns + gap) + columns }
            };
            let params = SgemmParams {
                m: m as i64,
                n: n as i64,
                k: k as i64,
                lda: stride(k),
                ldb: stride(n),
                ldc: stride(n),
                alpha: sizes.value,
                beta: 1.0,
            };
            let c = Given::update(Dtype::F32, 4 * extent(m, n));
            vec![Given::params(&params), floats(extent(m, k)), floats(extent(k, n)), c]
        }
        Operation::FpgaArrayCopy => {
            vec![Given::read(Dtype::I32, &vec![-1_i32; n]), Given::write(Dtype::I32, 4 * n)]
        }
        Operation::FpgaMmult => vec![floats(n * n), floats(n * n), floats_out(n * n)],
        Operation::FpgaParallel => vec![floats(k), floats(k), floats_out(k), floats_out(k)],
        Operation::FpgaVectorAdd => vec![floats(k), floats(k), floats_out(k)],
        Operation::MinMax => {
            let params = MinMaxParams { low: -1, high: i32::MAX };
            let numbers = vec![f64::from(sizes.value); n];
            let [to, min, max] = [8 * n, 8, 8].map(|len| Given::write(Dtype::F64, len));
            vec![Given::params(&params), Given::read(Dtype::F64, &numbers), to, min, max]
        }
        Operation::ImageResize => {
            let (width, height, channels) = (n as u32, m as u32 + 1, 3);
            let params = ResizeParams { width, height, channels, to_width: height, to_height: k as u32 + 1 };
            let pixels = vec![9_u8; (width * height * channels) as usize];
            let room = (params.to_width * params.to_height * channels) as usize;
            vec![Given::params(&params), Given::read(Dtype::U8, &pixels), Given::write(Dtype::U8, room)]
        }
        Operation::Generic | Operation::Profile => panic!("{operation} is decoded elsewhere"),
    }
}

/// The operations that [`kernlet_accel::decode`] decodes.
pub(crate) fn decoded() -> impl Iterator<Item = Operation> {
    Operation::ALL.iter().copied().filter(|operation| !matches!(operation, Operation::Generic | Operation::Profile))
}

//! Arguments of an operation, as a transport hands them over: borrowed bytes, an element type, a shape.
//! Built by the monitor (and later transports) from what a guest wrote; read by the decoder and nobody else.
//! Never copies data: a range stays where the guest has it.

use kernlet_abi::accel::{RANK_MAX, dtype};

use crate::AccelError;

/// Declares the element types, each with its number, name and size.
macro_rules! dtypes {
    ($($(#[doc = $doc:literal])* $variant:ident = $number:ident, $name:literal, $size:literal;)*) => {
        /// Element type of an argument.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Dtype {
            $($(#[doc = $doc])* $variant,)*
        }

        impl Dtype {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The type that a number of [`kernlet_abi::accel::dtype`] stands for.
            ///
            /// # Errors
            /// [`AccelError::UnknownDtype`] when it stands for none.
            pub const fn from_abi(number: u32) -> Result<Self, AccelError> {
                Ok(match number {
                    $(dtype::$number => Self::$variant,)*
                    number => return Err(AccelError::UnknownDtype { number }),
                })
            }

            /// Its number in [`kernlet_abi::accel::dtype`].
            #[must_use]
            pub const fn abi_number(self) -> u32 {
                match self { $(Self::$variant => dtype::$number,)* }
            }

            /// Size of one element, in bytes; also its alignment.
            #[must_use]
            pub const fn size(self) -> usize {
                match self { $(Self::$variant => $size,)* }
            }

            /// Its name in messages, such as `f32`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

dtypes! {
    /// Bytes without a type: pictures, parameter blocks, tables.
    Bytes = BYTES, "bytes", 1;
    /// IEEE 754 binary32.
    F32 = F32, "f32", 4;
    /// Signed 32-bit integers.
    I32 = I32, "i32", 4;
    /// Signed 64-bit integers.
    I64 = I64, "i64", 8;
    /// Unsigned 8-bit integers.
    U8 = U8, "u8", 1;
    /// Signed 8-bit integers.
    I8 = I8, "i8", 1;
    /// IEEE 754 binary64.
    F64 = F64, "f64", 8;
    /// Signed 16-bit integers.
    I16 = I16, "i16", 2;
    /// Unsigned 16-bit integers.
    U16 = U16, "u16", 2;
    /// Unsigned 32-bit integers.
    U32 = U32, "u32", 4;
    /// Unsigned 64-bit integers.
    U64 = U64, "u64", 8;
    /// Truth values of a byte each, 0 or 1.
    Bool = BOOL, "bool", 1;
    /// IEEE 754 binary16.
    F16 = F16, "f16", 2;
    /// The upper half of a binary32.
    Bf16 = BF16, "bf16", 2;
    /// Text in UTF-8.
    Text = STRING, "string", 1;
    /// C's `char`.
    Char = CHAR, "char", 1;
    /// C's `unsigned char`.
    Uchar = UCHAR, "uchar", 1;
    /// A buffer that vAccel calls one, and not raw.
    Buffer = BUFFER, "buffer", 1;
    /// A type that caller and callee agreed on; [`Arg::custom`] says which.
    Custom = CUSTOM, "custom", 1;
    /// Of a tensor that is written: whatever the result has. Filled in then.
    Any = ANY, "any", 8;
}

impl core::fmt::Display for Dtype {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name())
    }
}

/// Shape of a tensor, outermost dimension first; at most [`RANK_MAX`] dimensions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dims {
    sizes: [u64; RANK_MAX],
    rank: usize,
}

impl Dims {
    /// No dimensions: a scalar, or an argument without a shape.
    pub const NONE: Self = Self { sizes: [0; RANK_MAX], rank: 0 };

    /// The shape with these sizes.
    ///
    /// # Errors
    /// [`AccelError::TooManyDims`] when there are more than [`RANK_MAX`] of them.
    pub fn new(sizes: &[u64]) -> Result<Self, AccelError> {
        let rank = sizes.len();
        let mut dims = Self { sizes: [0; RANK_MAX], rank };
        let Some(used) = dims.sizes.get_mut(..rank) else {
            return Err(AccelError::TooManyDims { rank });
        };
        used.copy_from_slice(sizes);
        Ok(dims)
    }

    /// The sizes, outermost first.
    #[must_use]
    pub fn sizes(&self) -> &[u64] {
        self.sizes.get(..self.rank).unwrap_or_default()
    }

    /// Number of dimensions.
    #[must_use]
    pub const fn rank(&self) -> usize {
        self.rank
    }

    /// Number of elements, one for a scalar; `None` when it is beyond 64 bits.
    #[must_use]
    pub fn elements(&self) -> Option<u64> {
        self.sizes().iter().try_fold(1_u64, |product, &size| product.checked_mul(size))
    }
}

impl core::fmt::Display for Dims {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_list().entries(self.sizes()).finish()
    }
}

/// The bytes of an argument and who writes them. They are used where they are.
#[derive(Debug)]
pub enum Data<'a> {
    /// The host reads it.
    In(&'a [u8]),
    /// The host writes it; what was there is not looked at.
    Out(&'a mut [u8]),
    /// The host reads and then writes it.
    InOut(&'a mut [u8]),
}

impl Data<'_> {
    /// Length in bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        match self {
            Self::In(bytes) => bytes.len(),
            Self::Out(bytes) | Self::InOut(bytes) => bytes.len(),
        }
    }

    /// Whether it has no bytes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its access in messages.
    pub(crate) const fn access(&self) -> &'static str {
        match self {
            Self::In(_) => "in",
            Self::Out(_) => "out",
            Self::InOut(_) => "in-out",
        }
    }
}

/// One argument of an operation.
#[derive(Debug)]
pub struct Arg<'a> {
    /// Where the data lies.
    pub data: Data<'a>,
    /// Its element type. Filled in for a tensor that the operation writes as [`Dtype::Any`].
    pub dtype: Dtype,
    /// Its shape. Filled in for a tensor that the operation writes.
    pub dims: Dims,
    /// Which type of [`Dtype::Custom`]; zero for others.
    pub custom: u32,
    /// Bytes that the operation wrote, from the start of the data; filled in.
    pub written: u64,
}

impl<'a> Arg<'a> {
    /// An argument of this type and shape, nothing of it written yet.
    #[must_use]
    pub const fn new(data: Data<'a>, dtype: Dtype, dims: Dims) -> Self {
        Self { data, dtype, dims, custom: 0, written: 0 }
    }

    /// Bytes without a type or a shape: a picture, a parameter block, a table.
    #[must_use]
    pub const fn bytes(data: Data<'a>) -> Self {
        Self::new(data, Dtype::Bytes, Dims::NONE)
    }
}

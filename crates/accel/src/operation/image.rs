//! Operations on pictures.
//! Made by the decoder and by host programs; read by plugins. A picture is a file that nobody has looked into yet, but
//! for resizing, which works on pixels.

use kernlet_abi::accel::{Classification, LABEL_MAX};
use zerocopy::IntoBytes as _;

use super::ArgError;
use crate::{Dtype, Resource, encode::EncodedArg};

/// Classify one picture.
#[derive(Debug)]
pub struct Classify<'a> {
    /// The ONNX model: one float input `[N,3,H,W]`, one output `[N,classes]` of logits. None when the caller named
    /// none and has none; then a plugin that brings no model of its own has to decline.
    pub model: Option<Resource>,
    /// The labels, one a line.
    pub labels: Option<Resource>,
    /// A JPEG or PNG file, as the caller has it; not empty.
    pub picture: &'a [u8],
    /// Where the classes go, best first.
    pub ranking: Ranking<'a>,
}

impl Classify<'_> {
    pub(super) fn reborrow(&mut self) -> Classify<'_> {
        let ranking = Ranking { slots: self.ranking.slots, written: self.ranking.written };
        Classify { model: self.model.clone(), labels: self.labels.clone(), picture: self.picture, ranking }
    }
}

/// Find something in a picture and say it in text.
#[derive(Debug)]
pub struct Picture<'a> {
    /// The model, if the caller names one.
    pub model: Option<Resource>,
    /// The labels, one a line.
    pub labels: Option<Resource>,
    /// A JPEG or PNG file, as the caller has it; not empty.
    pub picture: &'a [u8],
    /// What was found, or the name of the picture that shows it.
    pub text: TextOut<'a>,
}

impl Picture<'_> {
    pub(super) fn reborrow(&mut self) -> Picture<'_> {
        let text = TextOut { bytes: self.text.bytes, written: self.text.written };
        Picture { model: self.model.clone(), labels: self.labels.clone(), picture: self.picture, text }
    }
}

/// Room for a text.
#[derive(Debug)]
pub struct TextOut<'a> {
    bytes: &'a mut [u8],
    written: &'a mut u64,
}

impl<'a> TextOut<'a> {
    /// Room in `bytes`; how many of them are written goes to `written`.
    #[must_use]
    pub const fn new(bytes: &'a mut [u8], written: &'a mut u64) -> Self {
        Self { bytes, written }
    }

    /// Writes the text.
    ///
    /// # Errors
    /// [`ArgError::OutputTooSmall`] when there is no room for it.
    pub fn fill(&mut self, text: &str) -> Result<(), ArgError> {
        let (needed, got) = (text.len() as u64, self.bytes.len() as u64);
        let room = self.bytes.get_mut(..text.len()).ok_or(ArgError::OutputTooSmall { needed, got })?;
        room.copy_from_slice(text.as_bytes());
        *self.written = needed;
        Ok(())
    }
}

/// Room for the best classes of a picture, at least one.
#[derive(Debug)]
pub struct Ranking<'a> {
    slots: &'a mut [Classification],
    written: &'a mut u64,
}

impl<'a> Ranking<'a> {
    /// Room in `slots`; the bytes written to them go to `written`.
    ///
    /// # Errors
    /// [`ArgError::OutputTooSmall`] when there is no slot.
    pub const fn new(slots: &'a mut [Classification], written: &'a mut u64) -> Result<Self, ArgError> {
        if slots.is_empty() {
            return Err(ArgError::OutputTooSmall { needed: size_of::<Classification>() as u64, got: 0 });
        }
        Ok(Self { slots, written })
    }

    /// How many classes have room.
    #[must_use]
    pub const fn room(&self) -> usize {
        self.slots.len()
    }

    /// Writes classes as (index, probability, label), best first, until the room or they are used up.
    /// A label longer than [`LABEL_MAX`] bytes is cut between characters.
    pub fn fill<'l>(&mut self, classes: impl IntoIterator<Item = (u32, f32, &'l str)>) {
        let mut count = 0_u64;
        for (slot, (class, probability, label)) in self.slots.iter_mut().zip(classes) {
            let cut = label.floor_char_boundary(LABEL_MAX);
            let kept = label.as_bytes().get(..cut).unwrap_or_default();
            *slot = Classification { class, probability, label_len: 0, label: [0; LABEL_MAX] };
            for (to, from) in slot.label.iter_mut().zip(kept) {
                *to = *from;
                slot.label_len += 1;
            }
            count += 1;
        }
        *self.written = count * size_of::<Classification>() as u64;
    }
}

impl Ranking<'_> {
    /// Where it is, for who sends it elsewhere.
    pub(crate) fn as_argument(&mut self) -> EncodedArg<'_> {
        EncodedArg::room(self.slots.as_mut_bytes(), Dtype::Bytes, self.written)
    }
}

impl TextOut<'_> {
    /// Where it is, for who sends it elsewhere.
    pub(crate) const fn as_argument(&mut self) -> EncodedArg<'_> {
        EncodedArg::room(self.bytes, Dtype::Text, self.written)
    }
}

/// Resize a picture.
#[derive(Debug)]
#[non_exhaustive]
pub struct Resize<'a> {
    /// Columns and rows of the picture.
    pub size: (u32, u32),
    /// Bytes of a pixel, 1 to 4.
    pub channels: u32,
    /// Its pixels, row by row without gaps.
    pub from: &'a [u8],
    /// Columns and rows of the result.
    pub to_size: (u32, u32),
    /// Where its pixels go.
    pub to: &'a mut [u8],
}

impl<'a> Resize<'a> {
    /// The picture `from` in another size. Sizes are columns and rows.
    ///
    /// # Errors
    /// [`ArgError`] when a size is zero, there are no or more than four channels, or the pixels are not as many as the
    /// sizes say.
    pub fn new(
        size: (u32, u32),
        channels: u32,
        from: &'a [u8],
        to_size: (u32, u32),
        to: &'a mut [u8],
    ) -> Result<Self, ArgError> {
        if !(1..=4).contains(&channels) {
            return Err(ArgError::Size { field: "channels", value: i64::from(channels), min: 1, max: 4 });
        }
        for ((columns, rows), got) in [(size, from.len() as u64), (to_size, to.len() as u64)] {
            if columns == 0 || rows == 0 {
                return Err(ArgError::Empty);
            }
            // Four bytes of a pixel leave room in 128 bits.
            let expected = u128::from(columns) * u128::from(rows) * u128::from(channels);
            if expected != u128::from(got) {
                return Err(ArgError::Length { expected: u64::try_from(expected).unwrap_or(u64::MAX), got });
            }
        }
        Ok(Self { size, channels, from, to_size, to })
    }

    pub(super) const fn reborrow(&mut self) -> Resize<'_> {
        let Self { size, channels, from, to_size, .. } = *self;
        Resize { size, channels, from, to_size, to: self.to }
    }
}

//! From a decoded picture to a model's input, the way torchvision's classifiers were trained and measured.
//! Called when a picture is classified. Never makes more pixels than the model takes, whatever the picture's
//! proportions: only the part that the crop keeps is resampled.

use fast_image_resize::{
    FilterType, PixelType, ResizeAlg, ResizeError, ResizeOptions, Resizer,
    images::{Image, ImageRef},
};

use super::{
    InputSize,
    picture::{Channels, Picture},
};

/// The shorter side is resized to 256 for a crop of 224, and in that proportion for other crops:
/// torchvision.transforms._presets.ImageClassification, as for the weights of MobileNetV2.
const RESIZE: u64 = 256;
const CROP: u64 = 224;

/// Mean and standard deviation of ImageNet's red, green and blue, for values from 0 to 1; the same source.
const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const DEVIATION: [f32; 3] = [0.229, 0.224, 0.225];

/// Why a picture does not become an input.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PreprocessError {
    /// The pixels and the size disagree.
    #[error("the decoded picture has the wrong number of bytes")]
    Pixels(#[source] fast_image_resize::ImageBufferError),
    /// The resizer refuses.
    #[error("the picture cannot be resized")]
    Resize(#[source] ResizeError),
}

/// A picture as normalised f32 `[1,3,height,width]`.
pub(crate) fn to_input(picture: &Picture, size: InputSize) -> Result<Vec<f32>, PreprocessError> {
    let pixels = resize_and_crop(picture, size)?;
    let mut input = vec![0.0; 3 * size.height * size.width];
    let planes = input.chunks_exact_mut(size.height * size.width).zip(MEAN).zip(DEVIATION).enumerate();
    for (colour, ((plane, mean), deviation)) in planes {
        let offset = match picture.channels {
            Channels::Grey | Channels::GreyAlpha => 0,
            Channels::Rgb | Channels::RgbAlpha => colour,
        };
        let normalised = normalised_bytes(mean, deviation);
        for (value, pixel) in plane.iter_mut().zip(pixels.chunks_exact(picture.channels.count())) {
            *value = pixel.get(offset).and_then(|&byte| normalised.get(usize::from(byte))).copied().unwrap_or_default();
        }
    }
    Ok(input)
}

/// What each byte becomes.
fn normalised_bytes(mean: f32, deviation: f32) -> [f32; 256] {
    let mut table = [0.0; 256];
    for (byte, value) in (0_u8..=255).zip(&mut table) {
        *value = (f32::from(byte) / 255.0 - mean) / deviation;
    }
    table
}

/// Resizes by an antialiased triangle filter (what Pillow calls bilinear) and crops from the centre, in one step.
fn resize_and_crop(picture: &Picture, size: InputSize) -> Result<Vec<u8>, PreprocessError> {
    let pixel_type = match picture.channels {
        Channels::Grey => PixelType::U8,
        Channels::GreyAlpha => PixelType::U8x2,
        Channels::Rgb => PixelType::U8x3,
        Channels::RgbAlpha => PixelType::U8x4,
    };
    let from =
        ImageRef::new(picture.width, picture.height, &picture.pixels, pixel_type).map_err(PreprocessError::Pixels)?;
    let crop = Crop::of(picture.width, picture.height, size);
    let mut to = Image::new(crop.horizontal.pixels, crop.vertical.pixels, pixel_type);
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear)).use_alpha(false).crop(
        crop.horizontal.start,
        crop.vertical.start,
        crop.horizontal.length,
        crop.vertical.length,
    );
    Resizer::new().resize(&from, &mut to, &options).map_err(PreprocessError::Resize)?;
    Ok(to.into_vec())
}

/// The part of a picture that is kept.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Crop {
    horizontal: Section,
    vertical: Section,
}

/// A stretch of one side of a picture, and how many pixels it becomes.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Section {
    /// In pixels of the picture.
    start: f64,
    /// In pixels of the picture.
    length: f64,
    /// In pixels of the model's input.
    pixels: u32,
}

impl Crop {
    fn of(width: u32, height: u32, size: InputSize) -> Self {
        let (wide, high) = (u64::from(width.max(1)), u64::from(height.max(1)));
        let short_to = (size.width.max(size.height) as u64 * RESIZE).div_ceil(CROP);
        let resized = |side: u64| side * short_to / wide.min(high);
        Self {
            horizontal: Section::centre(wide, resized(wide), size.width),
            vertical: Section::centre(high, resized(high), size.height),
        }
    }
}

impl Section {
    /// The centre of a side of `from` pixels that is resized to `resized`, of which `kept` are kept.
    #[expect(clippy::cast_possible_truncation, reason = "a model's side is at most 2048 pixels")]
    fn centre(from: u64, resized: u64, kept: usize) -> Self {
        let (from, resized, pixels) = (from as f64, resized as f64, kept as f64);
        let scale = from / resized;
        // Python's `round`, which goes to the even number from halfway.
        let start = ((resized - pixels) / 2.0).round_ties_even() * scale;
        Self { start, length: (pixels * scale).min(from - start), pixels: kept as u32 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crop_is_torchvisions() {
        // 451×300 is resized to 384×256: int(256 * 451 / 300) = 384; round((384 - 224) / 2) = 80.
        let crop = Crop::of(451, 300, InputSize { height: 224, width: 224 });
        let (x, y) = (451.0 / 384.0, 300.0 / 256.0);
        assert_eq!(crop.horizontal, Section { start: 80.0 * x, length: 224.0 * x, pixels: 224 });
        assert_eq!(crop.vertical, Section { start: 16.0 * y, length: 224.0 * y, pixels: 224 });
    }

    #[test]
    fn a_picture_of_any_proportions_makes_no_more_pixels_than_the_model_takes() {
        for (width, height) in [(1, 65_535), (65_535, 1), (1, 1), (7_000, 7_000)] {
            let crop = Crop::of(width, height, InputSize { height: 224, width: 224 });
            assert_eq!((crop.horizontal.pixels, crop.vertical.pixels), (224, 224));
            assert!(crop.horizontal.start + crop.horizontal.length <= f64::from(width));
            assert!(crop.vertical.start + crop.vertical.length <= f64::from(height));
        }
    }
}

//! Decodes JPEG and PNG files.
//! Called when a picture is classified; the file is the guest's own bytes, read in place, and hostile.
//! Never allocates for a picture before its header was found to be within [`PIXELS_MAX`].

use std::io::Cursor;

use zune_jpeg::{
    JpegDecoder,
    zune_core::{bytestream::ZCursor, colorspace::ColorSpace, options::DecoderOptions},
};

/// Most pixels of a picture: what the largest common camera sensors give. Decoded, that is 200 MB at most, and
/// a progressive JPEG takes about twice as much while it is decoded.
pub const PIXELS_MAX: u64 = 50_000_000;

/// First bytes of a JPEG file: start of image, and the marker after it (ITU-T T.81, B.1.1).
const JPEG_MAGIC: [u8; 3] = [0xff, 0xd8, 0xff];

/// First bytes of a PNG file (ISO/IEC 15948, 5.2).
const PNG_MAGIC: [u8; 8] = *b"\x89PNG\r\n\x1a\n";

/// A decoded picture.
#[derive(Debug)]
pub(crate) struct Picture {
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) channels: Channels,
    /// Rows from top to bottom, without gaps; one byte a channel.
    pub(crate) pixels: Vec<u8>,
}

/// What the bytes of a pixel are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Channels {
    Grey,
    GreyAlpha,
    Rgb,
    RgbAlpha,
}

impl Channels {
    pub(crate) const fn count(self) -> usize {
        match self {
            Self::Grey => 1,
            Self::GreyAlpha => 2,
            Self::Rgb => 3,
            Self::RgbAlpha => 4,
        }
    }
}

/// Why a file is no picture that can be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PictureError {
    /// It begins like neither format.
    #[error("the picture is neither a JPEG nor a PNG file; convert it to one of them")]
    UnknownFormat,
    /// It ends too early.
    #[error("the picture is a JPEG file that ends too early; send the whole file")]
    TruncatedJpeg,
    /// It is too large.
    #[error("the picture has {width}×{height} pixels; the most is {PIXELS_MAX}; send a smaller one")]
    TooLarge {
        /// In pixels.
        width: u64,
        /// In pixels.
        height: u64,
    },
    /// It is broken.
    #[error("the picture is a JPEG file that cannot be decoded")]
    Jpeg(#[source] zune_jpeg::errors::DecodeErrors),
    /// It is broken or ends too early.
    #[error("the picture is a PNG file that cannot be decoded")]
    Png(#[source] png::DecodingError),
}

impl PictureError {
    /// Whether the picture may be right and is only more than is granted.
    pub(crate) const fn is_too_large(&self) -> bool {
        matches!(self, Self::TooLarge { .. })
    }
}

/// Decodes a file. Orientation tags and colour profiles are not looked at, nor were they when the demo's model
/// was trained.
pub(crate) fn decode(file: &[u8]) -> Result<Picture, PictureError> {
    if file.starts_with(&JPEG_MAGIC) {
        decode_jpeg(file)
    } else if file.starts_with(&PNG_MAGIC) {
        decode_png(file)
    } else {
        Err(PictureError::UnknownFormat)
    }
}

fn decode_jpeg(file: &[u8]) -> Result<Picture, PictureError> {
    let side_max = usize::from(u16::MAX);
    let options = DecoderOptions::default()
        .set_strict_mode(false)
        .set_max_width(side_max)
        .set_max_height(side_max)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(file), options);
    decoder.decode_headers().map_err(PictureError::Jpeg)?;
    let (width, height) = decoder.info().map_or((0, 0), |info| (u32::from(info.width), u32::from(info.height)));
    check_size(width, height)?;
    if !jpeg_is_complete(file) {
        return Err(PictureError::TruncatedJpeg);
    }
    let pixels = decoder.decode().map_err(PictureError::Jpeg)?;
    Ok(Picture { width, height, channels: Channels::Rgb, pixels })
}

fn decode_png(file: &[u8]) -> Result<Picture, PictureError> {
    // What the decoder itself may allocate; the pixels are allocated here.
    let limits = png::Limits { bytes: 64 * 1024 * 1024 };
    let mut decoder = png::Decoder::new_with_limits(Cursor::new(file), limits);
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    decoder.set_transformations(png::Transformations::normalize_to_color8());
    let header = decoder.read_header_info().map_err(PictureError::Png)?;
    let (width, height) = (header.width, header.height);
    check_size(width, height)?;
    let mut reader = decoder.read_info().map_err(PictureError::Png)?;
    let channels = match reader.output_color_type().0 {
        png::ColorType::Grayscale => Channels::Grey,
        png::ColorType::GrayscaleAlpha => Channels::GreyAlpha,
        // Palettes come out expanded.
        png::ColorType::Rgb | png::ColorType::Indexed => Channels::Rgb,
        png::ColorType::Rgba => Channels::RgbAlpha,
    };
    let size = reader.output_buffer_size().unwrap_or_default();
    let mut pixels = vec![0; size];
    reader.next_frame(&mut pixels).map_err(PictureError::Png)?;
    Ok(Picture { width, height, channels, pixels })
}

fn check_size(width: u32, height: u32) -> Result<(), PictureError> {
    let (width, height) = (u64::from(width), u64::from(height));
    if width * height > PIXELS_MAX {
        return Err(PictureError::TooLarge { width, height });
    }
    Ok(())
}

/// Whether a JPEG file has its end-of-image marker. The decoder fills in grey for what is missing, as browsers
/// do; a class of that would be a guess.
fn jpeg_is_complete(file: &[u8]) -> bool {
    const RESTART_FIRST: u8 = 0xd0;
    const RESTART_LAST: u8 = 0xd7;
    const START_OF_IMAGE: u8 = 0xd8;
    const END_OF_IMAGE: u8 = 0xd9;
    let mut rest = file;
    // Outside of segments the next marker is at the next 0xff that neither a zero (a stuffed byte of entropy-coded
    // data) nor another 0xff (fill) follows.
    while let Some(at) = rest.iter().position(|&byte| byte == 0xff) {
        rest = rest.get(at + 1..).unwrap_or_default();
        match rest {
            [END_OF_IMAGE, ..] => return true,
            // Fill: the marker's code is still to come.
            [0xff, ..] => {}
            // Markers without a segment, and data.
            [0 | 1 | RESTART_FIRST..=RESTART_LAST | START_OF_IMAGE, ..] => rest = rest.get(1..).unwrap_or_default(),
            // A segment, whose length counts the two bytes of the length.
            [_, high, low, ..] => {
                let len = usize::from(u16::from_be_bytes([*high, *low]));
                rest = rest.get(1 + len..).unwrap_or_default();
            }
            _ => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_marker_counts_only_outside_of_segments() {
        // An APP1 segment that holds a thumbnail's end marker, then a scan with a stuffed byte.
        let head = b"\xff\xd8\xff\xe1\x00\x06\xff\xd9ab\xff\xda\x00\x03\x00data\xff\x00more\xff\xd0";
        assert!(!jpeg_is_complete(head));
        assert!(jpeg_is_complete(&[&head[..], b"\xff\xd9"].concat()));
        assert!(jpeg_is_complete(&[&head[..], b"\xff\xff\xd9trailing"].concat()));
    }
}

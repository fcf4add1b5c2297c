//! Operations on pictures. Used by functions; a picture is a JPEG or PNG file that the host decodes, but for
//! [`resize`], which works on pixels.

use alloc::{string::String, vec::Vec};
use core::mem::size_of;

use kernlet_abi::{
    accel::{Classification, ClassifyParams, LABEL_MAX, ResizeParams, operation},
    hypercall::status,
};

use super::{
    AccelError, Batch, Resource,
    call::{Arguments as _, Call},
    resource::id_of,
};

/// Classifies a picture by an image classification model, the function's first ONNX model unless one is named; the best
/// classes first.
///
/// # Errors
/// The picture is not one or too large, or the model does not fit the operation.
pub fn classify(
    picture: &[u8],
    model: impl Into<Option<Resource>>,
    labels: impl Into<Option<Resource>>,
    count: usize,
) -> Result<Vec<Classification>, AccelError> {
    let params = ClassifyParams { model: id_of(model.into()), labels: id_of(labels.into()) };
    let blank = Classification { class: 0, probability: 0.0, label_len: 0, label: [0; LABEL_MAX] };
    let mut found = alloc::vec![blank; count];
    let mut call = Call::<3>::new(operation::IMAGE_CLASSIFY);
    let args = call.params(&params).bytes(picture).room(&mut found).run()?;
    let written = args[2].written as usize;
    found.truncate(written / size_of::<Classification>());
    Ok(found)
}

/// Text of a class's label.
#[must_use]
pub fn label(classification: &Classification) -> &str {
    let bytes = classification.label.get(..classification.label_len as usize).unwrap_or_default();
    str::from_utf8(bytes).unwrap_or_default()
}

/// Finds objects in a picture, and says in `text` which, or what picture shows them.
///
/// # Errors
/// The picture is not one or too large, the model does not fit the operation, or `text` has too little room.
pub fn detect<'t>(
    picture: &[u8],
    model: impl Into<Option<Resource>>,
    text: &'t mut [u8],
) -> Result<&'t str, AccelError> {
    say(operation::IMAGE_DETECT, picture, model.into(), text)
}

/// Divides a picture into what it shows; as [`detect`].
///
/// # Errors
/// As [`detect`].
pub fn segment<'t>(
    picture: &[u8],
    model: impl Into<Option<Resource>>,
    text: &'t mut [u8],
) -> Result<&'t str, AccelError> {
    say(operation::IMAGE_SEGMENT, picture, model.into(), text)
}

/// Finds poses in a picture; as [`detect`].
///
/// # Errors
/// As [`detect`].
pub fn pose<'t>(picture: &[u8], model: impl Into<Option<Resource>>, text: &'t mut [u8]) -> Result<&'t str, AccelError> {
    say(operation::IMAGE_POSE, picture, model.into(), text)
}

/// Estimates the depth of a picture; as [`detect`].
///
/// # Errors
/// As [`detect`].
pub fn depth<'t>(
    picture: &[u8],
    model: impl Into<Option<Resource>>,
    text: &'t mut [u8],
) -> Result<&'t str, AccelError> {
    say(operation::IMAGE_DEPTH, picture, model.into(), text)
}

/// Carries out an operation whose result is a text.
fn say<'t>(operation: u32, picture: &[u8], model: Option<Resource>, text: &'t mut [u8]) -> Result<&'t str, AccelError> {
    let params = ClassifyParams { model: id_of(model), labels: 0 };
    let written = Call::<3>::new(operation).params(&params).bytes(picture).room(text).run()?[2].written;
    let said = text.get(..written as usize).unwrap_or_default();
    str::from_utf8(said)
        .map_err(|_| AccelError { status: status::EIO, message: String::from("the plugin's text is not UTF-8") })
}

/// Resizes a picture of pixels, row by row without gaps. Sizes are columns and rows; `channels` are the bytes of a pixel.
///
/// # Errors
/// A size is zero, there are no or more than four channels, or the pixels are not as many as the sizes say.
pub fn resize(
    (width, height): (u32, u32),
    channels: u32,
    from: &[u8],
    (to_width, to_height): (u32, u32),
    to: &mut [u8],
) -> Result<(), AccelError> {
    let params = ResizeParams { width, height, channels, to_width, to_height };
    Call::<3>::new(operation::IMAGE_RESIZE).params(&params).input(from).output(to).run().map(|_| ())
}

/// Operations on pixels.
impl<'a> Batch<'a> {
    /// As [`resize`].
    pub fn resize(
        &mut self,
        (width, height): (u32, u32),
        channels: u32,
        from: &'a [u8],
        (to_width, to_height): (u32, u32),
        to: &'a mut [u8],
    ) -> &mut Self {
        let params = ResizeParams { width, height, channels, to_width, to_height };
        self.begin(operation::IMAGE_RESIZE).params(&params).input(from).output(to)
    }
}

//! What is in a picture.
//! Called by C programs. Results are strings that always end with a zero within their room.

use std::{
    ffi::c_int,
    ptr::{self, NonNull},
};

use kernlet_accel::{
    Operation, Resource as Content,
    operation::{Picture, Task, TextOut},
};

use super::{Call, check_apart, perform};
use crate::{
    errno::{EINVAL, Result},
    pointer::{Items, ItemsMut},
    session, text,
    types::{RESOURCE_DATA, RESOURCE_MODEL, Session},
};

type ClassifyFunction = unsafe extern "C" fn(*mut Session, *const u8, *mut u8, *mut u8, usize, usize, usize) -> c_int;
type PictureFunction = unsafe extern "C" fn(*mut Session, *const u8, *mut u8, usize, usize) -> c_int;

/// Longest result, in bytes.
const TEXT_MAX: usize = 4096;

/// A picture, and room for a text and for the name of a picture.
#[derive(Clone, Copy)]
pub(super) struct Arguments {
    pub picture: *const u8,
    pub len: usize,
    pub text: *mut u8,
    pub text_len: usize,
    pub name: *mut u8,
    pub name_len: usize,
}

impl Arguments {
    pub(super) fn run(self, session: Option<NonNull<Session>>, operation: Operation) -> Result {
        let Self { picture, len, text, text_len, name, name_len } = self;
        if picture.is_null() || len == 0 {
            return Err(EINVAL);
        }
        if operation == Operation::ImageClassify {
            // SAFETY: that is the function's type; it gets what C gave.
            let call = |f: ClassifyFunction, s| unsafe { f(s, picture, text, name, len, text_len, name_len) };
            // SAFETY: as above.
            unsafe { perform(session, operation, call, |call| self.classify(call)) }
        } else {
            // SAFETY: as above.
            let call = |f: PictureFunction, s| unsafe { f(s, picture, name, len, name_len) };
            // SAFETY: as above.
            unsafe { perform(session, operation, call, |call| self.look(call)) }
        }
    }

    fn classify(self, call: &Call) -> Result {
        prepare(call)?;
        let mut room = [0_u8; TEXT_MAX];
        let mut written = 0;
        let out = TextOut::new(&mut room, &mut written);
        call.finish(call.binding.session().classify_text(self.picture()?, out, None))?;
        self.write(self.text, self.text_len, found(&room, written))?;
        self.write(self.name, self.name_len, b"")
    }

    fn look(self, call: &Call) -> Result {
        let (model, labels) = prepare(call)?;
        let mut room = [0_u8; TEXT_MAX];
        let mut written = 0;
        let picture = Picture { model, labels, picture: self.picture()?, text: TextOut::new(&mut room, &mut written) };
        call.run(match call.operation {
            Operation::ImageDetect => Task::ImageDetect(picture),
            Operation::ImageSegment => Task::ImageSegment(picture),
            Operation::ImagePose => Task::ImagePose(picture),
            _ => Task::ImageDepth(picture),
        })?;
        self.write(self.name, self.name_len, found(&room, written))
    }

    fn picture(&self) -> Result<&[u8]> {
        // SAFETY: C gave the length with the picture.
        unsafe { ItemsMut::at(self.picture.cast_mut()).slice(self.len) }.map(|picture| &*picture)
    }

    /// Writes a result with its zero, cut to its room.
    fn write(&self, room: *mut u8, len: usize, text: &[u8]) -> Result {
        if room.is_null() {
            return Ok(());
        }
        check_apart(room, len, self.picture, self.len)?;
        // SAFETY: C gave the length with the room.
        text::write_cut(unsafe { ItemsMut::at(room).slice(len) }?, text);
        Ok(())
    }
}

fn found(room: &[u8], written: u64) -> &[u8] {
    usize::try_from(written).ok().and_then(|written| room.get(..written)).unwrap_or_default()
}

/// Lets the runtime have the session's model and labels, which may be missing: the first resources of their types, or
/// the labels that VACCEL_TORCH_LABELS names.
fn prepare(call: &Call) -> Result<(Option<Content>, Option<Content>)> {
    const LABELS: &str = "labels";
    let model = session::of_type(call.place, RESOURCE_MODEL)?.first().copied();
    let model = model.map(|place| session::adopt(&call.binding, place, None)).transpose()?;
    let own = call.binding.session();
    if let Some(labels) = session::of_type(call.place, RESOURCE_DATA)?.first().copied() {
        if !session::is_adopted(&call.binding, labels)
            && let Some((id, _)) = own.find(LABELS)
        {
            // Those of the environment, which are no more wanted. Another thread may have been quicker.
            let _ = own.unregister(id.get());
        }
        return Ok((model, Some(session::adopt(&call.binding, labels, Some(LABELS))?)));
    }
    if own.find(LABELS).is_none()
        && let Some(path) = std::env::var_os("VACCEL_TORCH_LABELS")
    {
        let labels = Content::from_file(&path);
        // Another thread may have registered them meanwhile.
        call.finish(labels.map(|labels| own.register(LABELS, labels).ok()))?;
    }
    Ok((model, own.find(LABELS).and_then(|(id, _)| own.resource(id.get()))))
}

macro_rules! operation {
    ($session:ident, $operation:ident, $picture:ident, $len:ident, $name:ident, $name_len:ident) => {
        operation!($session, $operation, $picture, $len, ItemsMut::at(ptr::null_mut()), 0, $name, $name_len)
    };
    ($session:ident, $operation:ident, $picture:ident, $len:ident, $text:expr, $text_len:expr, $name:ident, $name_len:ident) => {
        Arguments {
            picture: $picture.address(),
            len: $len,
            text: $text.address(),
            text_len: $text_len,
            name: $name.address(),
            name_len: $name_len,
        }
        .run($session, Operation::$operation)
    };
}

api! {
    fn vaccel_image_classification(
        session: Option<NonNull<Session>>,
        picture: Items<'_, u8>,
        text: ItemsMut<'_, u8>,
        name: ItemsMut<'_, u8>,
        len: usize,
        text_len: usize,
        name_len: usize,
    ) {
        operation!(session, ImageClassify, picture, len, text, text_len, name, name_len)
    }

    fn vaccel_image_detection(
        session: Option<NonNull<Session>>,
        picture: Items<'_, u8>,
        name: ItemsMut<'_, u8>,
        len: usize,
        name_len: usize,
    ) {
        operation!(session, ImageDetect, picture, len, name, name_len)
    }

    fn vaccel_image_segmentation(
        session: Option<NonNull<Session>>,
        picture: Items<'_, u8>,
        name: ItemsMut<'_, u8>,
        len: usize,
        name_len: usize,
    ) {
        operation!(session, ImageSegment, picture, len, name, name_len)
    }

    fn vaccel_image_pose(
        session: Option<NonNull<Session>>,
        picture: Items<'_, u8>,
        name: ItemsMut<'_, u8>,
        len: usize,
        name_len: usize,
    ) {
        operation!(session, ImagePose, picture, len, name, name_len)
    }

    fn vaccel_image_depth(
        session: Option<NonNull<Session>>,
        picture: Items<'_, u8>,
        name: ItemsMut<'_, u8>,
        len: usize,
        name_len: usize,
    ) {
        operation!(session, ImageDepth, picture, len, name, name_len)
    }
}

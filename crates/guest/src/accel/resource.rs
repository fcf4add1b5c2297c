//! Files of the function's image that the host keeps. Used by functions; contents never enter the machine.

use kernlet_abi::hypercall::{CallHead, FindResource, number, status};

use super::AccelError;
use crate::hypercall::{self, span};

/// A file of the function's image, kept by the host and referred to by id.
///
/// An id is the function's own: the host looks it up in the table of this function and no other, so that a number made
/// up names one of the function's files or none. It stays the same in all of the function's machines and requests, as
/// long as its replica runs, so that a resource may be found once, in `init`. Ids begin with 1, and one is never given
/// to another file. Zero, where an operation takes it, means the function's first ONNX model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resource {
    id: u32,
    size: u64,
}

impl Resource {
    /// Finds a resource by the name that the image gives it.
    ///
    /// # Errors
    /// The function has no resource of this name.
    pub fn find(name: &str) -> Result<Self, AccelError> {
        let head = CallHead { number: number::FIND_RESOURCE, status: 0 };
        let mut call = FindResource { head, name: span(name.as_bytes()), ..FindResource::default() };
        hypercall::call(&mut call);
        match call.head.status {
            status::OK => Ok(Self { id: call.id, size: call.size }),
            status => Err(AccelError { status, message: alloc::format!("the function has no resource {name:?}") }),
        }
    }

    /// Its id, for [`super::generic`], where resources are numbers.
    #[must_use]
    pub const fn id(&self) -> u32 {
        self.id
    }

    /// Its size in bytes.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }
}

/// The id that stands for a resource, or for none.
pub(super) fn id_of(resource: Option<Resource>) -> u32 {
    resource.map_or(0, |resource| resource.id)
}

//! A static that is filled once and read by every request: what a function prepares when it initialises. Used by
//! functions. There is one thread in a machine, so there are no locks.

use core::cell::OnceCell;

/// A value made once, at the latest when it is first asked for. Made in the function's `init`, it is part of what
/// every request finds; made later, it goes with the request that made it unless machines are reused.
#[derive(Debug, Default)]
pub struct Global<T>(OnceCell<T>);

// SAFETY: a machine has one processor and no interrupts, so there is one thread.
unsafe impl<T> Sync for Global<T> {}

impl<T> Global<T> {
    /// A value that has not been made yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(OnceCell::new())
    }

    /// The value; `make` makes it if it has not been made yet.
    pub fn get_or_init(&self, make: impl FnOnce() -> T) -> &T {
        self.0.get_or_init(make)
    }

    /// The value, if it has been made.
    pub fn get(&self) -> Option<&T> {
        self.0.get()
    }
}

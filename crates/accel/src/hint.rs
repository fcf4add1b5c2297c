//! Which plugins a session would like best.
//! Made by configuration and by callers, asked by the runtime for every operation.

use std::fmt;

use crate::{Kinds, Plugin};

/// Which plugins a session would like best: one of a name, else those of some kinds, else any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hint {
    /// The plugin of this name.
    pub plugin: Option<String>,
    /// Plugins of one of these kinds.
    pub kinds: Kinds,
    /// Whether an operation fails, rather than goes to another plugin, when none of those has it.
    pub strict: bool,
}

impl Hint {
    /// The rank of plugins that it says nothing about.
    pub(crate) const LAST: u8 = 2;

    /// How well a plugin fits; less is better.
    pub(crate) fn rank(&self, plugin: &dyn Plugin) -> u8 {
        if self.plugin.as_deref() == Some(plugin.name()) {
            0
        } else if self.kinds.intersects(plugin.kinds()) {
            1
        } else {
            Self::LAST
        }
    }
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.plugin {
            Some(plugin) => write!(f, "plugin {plugin}"),
            None => write!(f, "a plugin of kinds {:#x}", self.kinds.bits()),
        }
    }
}

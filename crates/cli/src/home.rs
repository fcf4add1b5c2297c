//! Where Kernlet keeps its files: images, state, logs, sockets and the gateway's password.
//! Used by every subcommand that starts a gateway, reads the image store or needs the password.
//! It never creates anything: the crates that own the files do.

use std::path::{Path, PathBuf};

use anyhow::anyhow;

/// A Kernlet home folder, which may not exist yet.
#[derive(Clone, Debug)]
pub(crate) struct Home(PathBuf);

impl Home {
    /// The home at `path`.
    pub(crate) fn at(path: &Path) -> Self {
        Self(path.to_path_buf())
    }

    /// The user's own: `$XDG_DATA_HOME/kernlet`, else `~/.local/share/kernlet` (XDG base directory
    /// specification, which also says that a relative `XDG_DATA_HOME` is to be ignored).
    pub(crate) fn of_user() -> anyhow::Result<Self> {
        let data = std::env::var_os("XDG_DATA_HOME")
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
            .or_else(|| std::env::home_dir().map(|home| home.join(".local/share")))
            .ok_or_else(|| {
                anyhow!("there is no home folder to keep images and state in; name one with --home DIR or KERNLET_HOME")
            })?;
        Ok(Self(data.join("kernlet")))
    }

    /// The folder itself.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// The gateway's user name, as OpenFaaS names the secret.
    pub(crate) fn user_file(&self) -> PathBuf {
        self.0.join("auth/basic-auth-user")
    }

    /// The gateway's password, as OpenFaaS names the secret.
    pub(crate) fn password_file(&self) -> PathBuf {
        self.0.join("auth/basic-auth-password")
    }
}

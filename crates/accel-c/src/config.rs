//! The configuration: given, copied, or from the environment under vAccel's names.
//! Made by C programs and by the library's start. Old names of variables work and are warned of.

use std::{
    borrow::Cow,
    ffi::{CStr, CString, OsStr},
    mem::MaybeUninit,
    os::unix::ffi::OsStrExt as _,
    ptr::{self, NonNull},
};

use crate::{
    errno::{EINVAL, Result},
    log::Level,
    memory,
    pointer::{Out, Text, out},
    types::{Config, Flag},
};

impl Config {
    /// What holds where nobody says anything.
    pub(crate) const DEFAULT: Self = Self {
        plugins: ptr::null_mut(),
        log_level: Level::Error as u32,
        log_file: ptr::null_mut(),
        profiling_enabled: Flag::NO,
        version_ignore: Flag::NO,
    };

    /// A configuration with copies of the strings.
    fn new(
        plugins: Option<&CStr>,
        log_level: u32,
        log_file: Option<&CStr>,
        profiling_enabled: bool,
        version_ignore: bool,
    ) -> Result<Self> {
        let mut plugins = memory::copy_optional(plugins)?;
        let log_file = memory::copy_optional(log_file).inspect_err(|_| {
            // SAFETY: it is the copy from above.
            unsafe { memory::free_field(&mut plugins) }
        })?;
        let (profiling_enabled, version_ignore) = (profiling_enabled.into(), version_ignore.into());
        Ok(Self { plugins, log_level, log_file, profiling_enabled, version_ignore })
    }

    /// The environment's.
    pub(crate) fn from_env() -> Result<Self> {
        let number = |name: &str, old: &str, default: u64| match variable(name, old) {
            None => Ok(default),
            Some(text) => leading_number(text.as_bytes()).ok_or(EINVAL),
        };
        let level = number("VACCEL_LOG_LEVEL", "VACCEL_DEBUG_LEVEL", Self::DEFAULT.log_level.into())?;
        let profiling = number("VACCEL_PROFILING_ENABLED", "", 0)?;
        let ignore = number("VACCEL_VERSION_IGNORE", "VACCEL_IGNORE_VERSION", 0)?;
        let plugins = variable("VACCEL_PLUGINS", "VACCEL_BACKENDS");
        let log_file = variable("VACCEL_LOG_FILE", "");
        let level = u32::try_from(level).unwrap_or(u32::MAX);
        Self::new(plugins.as_deref(), level, log_file.as_deref(), profiling != 0, ignore != 0)
    }

    /// A copy.
    pub(crate) fn copy(&self) -> Result<Self> {
        let (profiling, ignore) = (self.profiling_enabled.get(), self.version_ignore.get());
        Self::new(self.plugins(), self.log_level, self.log_file(), profiling, ignore)
    }

    pub(crate) fn plugins(&self) -> Option<&CStr> {
        // SAFETY: C promises that strings in structs end with a zero.
        (!self.plugins.is_null()).then(|| unsafe { CStr::from_ptr(self.plugins) })
    }

    pub(crate) fn log_file(&self) -> Option<&CStr> {
        // SAFETY: as above.
        (!self.log_file.is_null()).then(|| unsafe { CStr::from_ptr(self.log_file) })
    }

    pub(crate) fn release(&mut self) {
        // SAFETY: the strings are malloc's and the configuration's.
        unsafe { memory::free_field(&mut self.plugins) };
        // SAFETY: as above.
        unsafe { memory::free_field(&mut self.log_file) };
        *self = Self::DEFAULT;
    }

    pub(crate) fn log(&self) {
        fn text(text: Option<&CStr>) -> Cow<'_, str> {
            text.map_or("(none)".into(), CStr::to_string_lossy)
        }
        debug!("plugins = {}", text(self.plugins()));
        debug!("log_level = {}", self.log_level);
        debug!("log_file = {}", text(self.log_file()));
        debug!("profiling_enabled = {}", self.profiling_enabled.get());
        debug!("version_ignore = {}", self.version_ignore.get());
    }
}

api! {
    fn vaccel_config_init(
        config: Out<'_, Config>,
        plugins: Text<'_>,
        log_level: u32,
        log_file: Text<'_>,
        profiling_enabled: Flag,
        version_ignore: Flag,
    ) {
        let made = || Config::new(plugins.get(), log_level, log_file.get(), profiling_enabled.get(), version_ignore.get());
        write(out(config)?, made)
    }

    fn vaccel_config_init_from_env(config: Out<'_, Config>) {
        write(out(config)?, Config::from_env)
    }

    fn vaccel_config_init_from(config: Out<'_, Config>, source: Option<&Config>) {
        write(out(config)?, || source.ok_or(EINVAL)?.copy())
    }

    fn vaccel_config_release(config: Option<&mut Config>) {
        config.ok_or(EINVAL)?.release();
        Ok(())
    }

    fn vaccel_config_new(
        config: Out<'_, *mut Config>,
        plugins: Text<'_>,
        log_level: u32,
        log_file: Text<'_>,
        profiling_enabled: Flag,
        version_ignore: Flag,
    ) {
        let made = || Config::new(plugins.get(), log_level, log_file.get(), profiling_enabled.get(), version_ignore.get());
        memory::new(config, |config| write(config, made))
    }

    fn vaccel_config_from_env(config: Out<'_, *mut Config>) {
        memory::new(config, |config| write(config, Config::from_env))
    }

    fn vaccel_config_from(config: Out<'_, *mut Config>, source: Option<&Config>) {
        memory::new(config, |config| write(config, || source.ok_or(EINVAL)?.copy()))
    }

    fn vaccel_config_delete(config: Option<NonNull<Config>>) {
        memory::delete(config, |config| {
            config.release();
            Ok(())
        })
    }

    fn vaccel_config_print_debug(config: Option<&Config>) -> () {
        if let Some(config) = config {
            config.log();
        }
    }
}

fn write(config: &mut MaybeUninit<Config>, make: impl FnOnce() -> Result<Config>) -> Result {
    config.write(make()?);
    Ok(())
}

/// A variable of the environment, or the one that had its part before.
fn variable(name: &str, old: &str) -> Option<CString> {
    let value = std::env::var_os(name).or_else(|| {
        let value = std::env::var_os(Some(old).filter(|old| !old.is_empty())?)?;
        warn!("{old} is deprecated; use {name}");
        Some(value)
    })?;
    CString::new(OsStr::as_bytes(&value)).ok()
}

/// The number at a text's beginning, as strtoul has it: none is 0, one that is too large is none.
fn leading_number(text: &[u8]) -> Option<u64> {
    let digits = text.trim_ascii_start().iter().take_while(|byte| byte.is_ascii_digit());
    digits.copied().try_fold(0_u64, |sum, digit| sum.checked_mul(10)?.checked_add(u64::from(digit - b'0')))
}

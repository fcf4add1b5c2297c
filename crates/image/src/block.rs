//! Block devices of functions whose unikernel is Solo5's: what each is made of, as annotations say it, and whether that fits
//! the files of the image. Used by `kernlet build`, by the gateway at a deployment, and by the watchdog. It opens nothing.

use std::{
    collections::BTreeMap,
    fmt, fs,
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

use crate::{ByteSize, ConfigError};

/// What begins an annotation of a block device, behind the prefix of all of ours.
pub(crate) const ANNOTATION: &str = "solo5.block.";

/// Longest name of a device: what a unikernel's manifest has room for.
const NAME_MAX: usize = 67;

/// Most block devices; a manifest has no more.
const DEVICES_MAX: usize = 63;

/// Sizes of a block, in bytes; each is a power of two.
const SECTOR_MIN: u16 = 512;
const SECTOR_MAX: u16 = 32_768;

/// Most that a machine may write over a file when nobody says how much.
const ROOM: ByteSize = ByteSize::mebibytes(16);

/// Least that it may be: what is written is kept by pages of so many bytes.
const ROOM_MIN: u64 = 4096;

/// Most that all block devices of a machine may keep of what is written, together.
const ROOM_MAX: ByteSize = ByteSize::mebibytes(1024);

/// What a block device is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BlockAccess {
    /// A file of the image, which no machine writes.
    ReadOnly,
    /// A file of the image; what a machine writes is its own, up to this much, and gone with its request.
    CopyOnWrite(ByteSize),
    /// Zeroes, so many of them; what a machine writes is its own, and gone with its request.
    Scratch(ByteSize),
}

/// A block device: `read-only`, `copy-on-write[=ROOM]` or `scratch=SIZE`, and `,sector=BYTES` where blocks have another
/// size than 512 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct BlockSettings {
    /// What it is made of.
    pub access: BlockAccess,
    /// Bytes of a block.
    pub sector: u16,
}

impl Default for BlockSettings {
    fn default() -> Self {
        Self { access: BlockAccess::ReadOnly, sector: SECTOR_MIN }
    }
}

impl BlockSettings {
    /// Bytes of what machines write that are kept of each.
    #[must_use]
    pub fn room(&self) -> u64 {
        match self.access {
            BlockAccess::ReadOnly => 0,
            BlockAccess::CopyOnWrite(room) | BlockAccess::Scratch(room) => room.bytes(),
        }
    }
}

impl FromStr for BlockSettings {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || {
            format!(
                "{text:?} is not a block device; use read-only, copy-on-write=16Mi or scratch=64Mi, and ,sector=4096 behind it where its blocks are not of 512 bytes"
            )
        };
        let size = |text: &str| text.parse::<ByteSize>().map_err(|error| error.to_string());
        let mut words = text.split(',');
        let (kind, amount) = split(words.next().unwrap_or_default());
        let access = match (kind, amount) {
            ("read-only", None) => BlockAccess::ReadOnly,
            ("copy-on-write", None) => BlockAccess::CopyOnWrite(ROOM),
            ("copy-on-write", Some(room)) => BlockAccess::CopyOnWrite(size(room)?),
            ("scratch", Some(amount)) => BlockAccess::Scratch(size(amount)?),
            _ => return Err(refused()),
        };
        let sector = match words.next().map(split) {
            None => SECTOR_MIN,
            Some(("sector", Some(bytes))) => parse_sector(bytes)?,
            Some(_) => return Err(refused()),
        };
        if words.next().is_some() {
            return Err(refused());
        }
        Ok(Self { access, sector })
    }
}

fn split(word: &str) -> (&str, Option<&str>) {
    word.split_once('=').map_or((word, None), |(kind, amount)| (kind, Some(amount)))
}

fn parse_sector(text: &str) -> Result<u16, String> {
    let sector = text.parse().ok().filter(|sector: &u16| (SECTOR_MIN..=SECTOR_MAX).contains(sector));
    sector.filter(|sector| sector.is_power_of_two()).ok_or_else(|| {
        format!("{text:?} is not the size of a block; use a power of two from {SECTOR_MIN} to {SECTOR_MAX}")
    })
}

impl TryFrom<String> for BlockSettings {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<BlockSettings> for String {
    fn from(settings: BlockSettings) -> Self {
        settings.to_string()
    }
}

impl fmt::Display for BlockSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.access {
            BlockAccess::ReadOnly => f.write_str("read-only")?,
            BlockAccess::CopyOnWrite(room) => write!(f, "copy-on-write={room}")?,
            BlockAccess::Scratch(size) => write!(f, "scratch={size}")?,
        }
        if self.sector == SECTOR_MIN { Ok(()) } else { write!(f, ",sector={}", self.sector) }
    }
}

/// A block device with its file, both of which fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockDevice {
    /// The name by which the unikernel declares it.
    pub name: String,
    /// The image's file; none of scratch.
    pub file: Option<PathBuf>,
    /// What it is made of.
    pub settings: BlockSettings,
}

/// Whether a block device may be called this.
#[must_use]
pub fn is_block_name(name: &str) -> bool {
    (1..=NAME_MAX).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// The block devices of a function: those that its settings name and those that it has files for, which are read-only unless
/// the settings say otherwise.
///
/// # Errors
/// What does not fit: each device that lacks its file, or whose size is none that it can have.
pub fn block_devices(
    settings: &BTreeMap<String, BlockSettings>,
    files: &[(String, PathBuf)],
) -> Result<Vec<BlockDevice>, ConfigError> {
    let mut devices: BTreeMap<&str, BlockDevice> = BTreeMap::new();
    for (name, settings) in settings {
        devices.insert(name, BlockDevice { name: name.clone(), file: None, settings: *settings });
    }
    for (name, path) in files {
        let plain = || BlockDevice { name: name.clone(), file: None, settings: BlockSettings::default() };
        devices.entry(name).or_insert_with(plain).file = Some(path.clone());
    }
    let problems: Vec<String> =
        devices.values().filter_map(|device| problem(device).map(|why| device.says(&why))).collect();
    if problems.is_empty() { Ok(devices.into_values().collect()) } else { Err(ConfigError::new(problems)) }
}

impl BlockDevice {
    fn says(&self, why: &str) -> String {
        format!("{}{ANNOTATION}{}: {why}", crate::config::PREFIX, self.name)
    }
}

fn problem(device: &BlockDevice) -> Option<String> {
    let BlockDevice { file, settings, .. } = device;
    let capacity = match (settings.access, file) {
        (BlockAccess::Scratch(size), None) => size.bytes(),
        (BlockAccess::Scratch(_), Some(_)) => {
            return Some("the image has a file for it, which scratch has not".to_owned());
        }
        (_, None) => return Some(format!("{settings} needs a file, and the image has none for it")),
        (_, Some(path)) => match size_of(path) {
            Ok(size) => size,
            Err(why) => return Some(why),
        },
    };
    let sector = u64::from(settings.sector);
    if let BlockAccess::CopyOnWrite(room) = settings.access
        && room.bytes() < ROOM_MIN
    {
        return Some(format!("a machine could write {room} over it; the least is {}", ByteSize::new(ROOM_MIN)));
    }
    if capacity < sector {
        return Some(format!("it has {capacity} bytes, less than one block of {sector}"));
    }
    (!capacity.is_multiple_of(sector))
        .then(|| format!("it has {capacity} bytes, no whole number of blocks of {sector} bytes"))
}

fn size_of(path: &Path) -> Result<u64, String> {
    match fs::metadata(path) {
        Ok(file) if file.is_file() => Ok(file.len()),
        Ok(_) => Err(format!("{} is not a file", path.display())),
        Err(error) => Err(format!("{} cannot be read: {error}", path.display())),
    }
}

/// What is wrong with a function's block devices as far as their settings tell.
pub(crate) fn check(settings: &BTreeMap<String, BlockSettings>) -> Option<String> {
    let prefix = crate::config::PREFIX;
    if settings.len() > DEVICES_MAX {
        return Some(format!(
            "{prefix}{ANNOTATION}*: there are {} of them; a unikernel has at most {DEVICES_MAX}",
            settings.len()
        ));
    }
    let room = settings.values().fold(0_u64, |sum, device| sum.saturating_add(device.room()));
    (room > ROOM_MAX.bytes()).then(|| {
        format!("{prefix}{ANNOTATION}*: a machine could write {room} bytes in all; at most {ROOM_MAX} are possible")
    })
}

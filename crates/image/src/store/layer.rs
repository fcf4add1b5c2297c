//! Layers: a tar archive with one file when written, any plausible tar archive when read. Used by the store.
//! Archives are untrusted: only three kinds of path leave one, every size is bounded before it is believed,
//! and links, devices and ways out of the folder are refused.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use flate2::read::MultiGzDecoder;
use tar::{Archive, Entry, EntryType, Header, PaxExtensions};

use super::{
    blobs::{BlobWriter, CopyError, copy, sync_folder},
    error::{ImageError, IoError, ReadError, check_size},
    oci::{self, Descriptor},
};
use crate::{ByteSize, digest::Digest, is_block_name};

/// Name of the unikernel in its layer.
pub(super) const KERNEL: &str = ".boot/kernel";

/// A kind of files that an image has beside its unikernel.
#[derive(Debug)]
pub(super) struct Kind {
    /// What they are called together.
    pub(super) what: &'static str,
    /// The folder that they are unpacked to, and with which their names in layers begin.
    pub(super) folder: &'static str,
    /// Annotation of a layer: name of what it holds.
    pub(super) annotation: &'static str,
    /// Whether one may be called this.
    pub(super) fits: fn(&str) -> bool,
    /// What is said of a name that does not fit.
    pub(super) refuse: fn(String) -> ImageError,
    /// What is said of one that is promised and not there.
    pub(super) missing: fn(String) -> ImageError,
}

/// What accelerator calls name.
pub(super) const RESOURCES: Kind = Kind {
    what: "resources",
    folder: "resources",
    annotation: oci::RESOURCE,
    fits: is_resource_name,
    refuse: |name| ImageError::ResourceName { name },
    missing: |name| ImageError::NoResource { name },
};

/// What block devices are made of.
pub(super) const BLOCKS: Kind = Kind {
    what: "block devices",
    folder: "blocks",
    annotation: oci::BLOCK,
    fits: is_block_name,
    refuse: |name| ImageError::BlockName { name },
    missing: |name| ImageError::NoBlock { name },
};

/// All kinds.
pub(super) const KINDS: [Kind; 2] = [RESOURCES, BLOCKS];

/// Largest unikernel.
pub(super) const KERNEL_MAX: ByteSize = ByteSize::mebibytes(256);

/// Most bytes that the layers of one image may have, compressed or not.
pub(super) const IMAGE_MAX: ByteSize = ByteSize::mebibytes(4096);

/// Most entries that the layers of one image may have together.
const ENTRIES_MAX: usize = 10_000;

/// Longest name of an entry, and longest extended header, in bytes.
const EXTENSION_MAX: u64 = 16 * 1024;

/// Longest name of a resource, in bytes; with its folder it fits tar's plain header.
const RESOURCE_NAME_MAX: usize = 64;

/// Unit of a tar archive, in bytes.
const BLOCK: u64 = 512;

/// Whether a resource may be called this.
fn is_resource_name(name: &str) -> bool {
    name.len() <= RESOURCE_NAME_MAX
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

/// A file on its way into a layer.
pub(super) struct Source<'a, R> {
    /// Its name in the archive.
    pub(super) name: &'a str,
    /// Where it comes from, for errors.
    pub(super) path: &'a Path,
    /// Its size in bytes.
    pub(super) size: u64,
    /// Its bytes.
    pub(super) content: R,
}

/// Writes an archive with one file, the same bytes for the same name and content whoever does it and when.
pub(super) fn write(
    source: Source<'_, impl Read>,
    blob: &mut BlobWriter,
    progress: &mut dyn FnMut(u64),
) -> Result<(), ReadError> {
    let path = blob.path().to_owned();
    let failed = |error| IoError::on("write", &path)(error);
    let header = header(source.name, source.size).map_err(failed)?;
    blob.write_all(header.as_bytes()).map_err(failed)?;
    // One byte more than announced is enough to see that the file has grown.
    let copied = copy(&mut source.content.take(source.size + 1), blob, progress).map_err(|error| match error {
        CopyError::Read(error) => IoError::on("read", source.path)(error),
        CopyError::Write(error) => failed(error),
    })?;
    if copied != source.size {
        return Err(ImageError::Changed { path: source.path.to_owned() }.into());
    }
    // The file is filled up to a whole block; two empty blocks end an archive.
    let padding = source.size.next_multiple_of(BLOCK) - source.size + 2 * BLOCK;
    io::copy(&mut io::repeat(0).take(padding), blob).map_err(failed)?;
    Ok(())
}

fn header(name: &str, size: u64) -> io::Result<Header> {
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::Regular);
    header.set_path(name)?;
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    Ok(header)
}

/// Takes the unikernel and the files beside it out of an image's layers.
#[derive(Debug)]
pub(super) struct Extractor {
    folder: PathBuf,
    /// Bytes that the layers may still have.
    budget: u64,
    entries: usize,
    /// Files met so far: a name that comes twice would mean different things to different readers.
    names: BTreeSet<String>,
}

impl Extractor {
    /// Extracts to `folder/kernel` and `folder/KIND/NAME`.
    pub(super) fn new(folder: &Path) -> Result<Self, IoError> {
        for kind in &KINDS {
            let inner = folder.join(kind.folder);
            fs::create_dir(&inner).map_err(IoError::on("create the folder", &inner))?;
        }
        Ok(Self { folder: folder.to_owned(), budget: IMAGE_MAX.bytes(), entries: 0, names: BTreeSet::new() })
    }

    /// Reads one layer whose blob has been checked.
    pub(super) fn layer(&mut self, descriptor: &Descriptor, blob: File) -> Result<(), ReadError> {
        // The archive's own overhead is at most what its entries and extensions can need.
        let most = self.budget.saturating_add(ENTRIES_MAX as u64 * (EXTENSION_MAX + 2 * BLOCK));
        match descriptor.media_type.as_str() {
            oci::LAYER_TAR => self.archive(&descriptor.digest, blob.take(most)),
            oci::LAYER_GZIP => self.archive(&descriptor.digest, MultiGzDecoder::new(blob).take(most)),
            found => {
                Err(ImageError::MediaType { what: "a layer", found: found.to_owned(), known: oci::LAYERS_KNOWN }.into())
            }
        }
    }

    fn archive(&mut self, digest: &Digest, reader: impl Read) -> Result<(), ReadError> {
        let unreadable = |source| ImageError::Archive { digest: digest.to_string(), source };
        let mut archive = Archive::new(reader);
        // Raw, because the tar crate would otherwise read extended headers of any size into memory.
        let entries = archive.entries().map_err(unreadable)?.raw(true);
        let mut long_name = None;
        for entry in entries {
            let mut entry = entry.map_err(unreadable)?;
            self.count(digest, &entry)?;
            match entry.header().entry_type() {
                EntryType::XHeader => long_name = pax_name(digest, &mut entry)?.or(long_name),
                EntryType::GNULongName => long_name = Some(gnu_name(digest, &mut entry)?),
                EntryType::XGlobalHeader => {}
                kind => {
                    let name = long_name.take().unwrap_or_else(|| entry.path_bytes().into_owned());
                    let name = plain_name(digest, &name, kind)?;
                    self.entry(digest, name, kind, &mut entry)?;
                }
            }
        }
        Ok(())
    }

    /// Takes an entry's size from the budget, before anything is read of it.
    fn count(&mut self, digest: &Digest, entry: &Entry<'_, impl Read>) -> Result<(), ImageError> {
        let size =
            entry.header().entry_size().map_err(|source| ImageError::Archive { digest: digest.to_string(), source })?;
        let spent = IMAGE_MAX.bytes() - self.budget;
        check_size("the content of its layers", spent.saturating_add(size), IMAGE_MAX)?;
        self.budget -= size;
        self.entries += 1;
        if self.entries > ENTRIES_MAX {
            return Err(ImageError::TooMany { what: "entries in its layers", limit: ENTRIES_MAX });
        }
        Ok(())
    }

    fn entry(
        &mut self,
        digest: &Digest,
        name: String,
        kind: EntryType,
        content: &mut Entry<'_, impl Read>,
    ) -> Result<(), ReadError> {
        match kind {
            EntryType::Directory => return Ok(()),
            EntryType::Regular => {}
            _ => {
                return Err(ImageError::entry(
                    digest,
                    &name,
                    "only files and folders may be in an image, no links and devices",
                )
                .into());
            }
        }
        if self.names.contains(&name) {
            return Err(ImageError::entry(digest, &name, "there is one of this name already").into());
        }
        let target = if name == KERNEL {
            check_size("the unikernel", content.size(), KERNEL_MAX)?;
            Some(self.folder.join("kernel"))
        } else {
            self.beside_the_kernel(&name)?
        };
        self.names.insert(name);
        target.map_or(Ok(()), |target| extract(digest, content, &target))
    }

    /// Where a file of one of the kinds goes; nothing for any other file.
    fn beside_the_kernel(&self, name: &str) -> Result<Option<PathBuf>, ImageError> {
        let Some((folder, name)) = name.split_once('/') else { return Ok(None) };
        let Some(kind) = KINDS.iter().find(|kind| kind.folder == folder) else { return Ok(None) };
        if (kind.fits)(name) {
            Ok(Some(self.folder.join(folder).join(name)))
        } else {
            Err((kind.refuse)(name.to_owned()))
        }
    }

    /// Makes the names of what was extracted last; an image without a unikernel is refused.
    pub(super) fn finish(self) -> Result<(), ReadError> {
        if !self.names.contains(KERNEL) {
            return Err(ImageError::NoKernel.into());
        }
        KINDS.iter().try_for_each(|kind| Ok(sync_folder(&self.folder.join(kind.folder))?))
    }
}

/// Writes an entry's content to a new file.
fn extract(digest: &Digest, content: &mut Entry<'_, impl Read>, target: &Path) -> Result<(), ReadError> {
    let expected = content.size();
    let unreadable = |source| ImageError::Archive { digest: digest.to_string(), source };
    let mut file = File::create_new(target).map_err(IoError::on("create", target))?;
    let copied = copy(content, &mut file, &mut |_| ()).map_err(|error| match error {
        CopyError::Read(source) => ReadError::Image(unreadable(source)),
        CopyError::Write(error) => IoError::on("write", target)(error).into(),
    })?;
    if copied != expected {
        return Err(unreadable(io::ErrorKind::UnexpectedEof.into()).into());
    }
    Ok(file.sync_all().map_err(IoError::on("write", target))?)
}

/// The name without `./` and the like; refused if it leads anywhere else.
fn plain_name(digest: &Digest, name: &[u8], kind: EntryType) -> Result<String, ImageError> {
    let shown = String::from_utf8_lossy(name);
    let refuse = |reason| Err(ImageError::entry(digest, &shown, reason));
    let Ok(text) = str::from_utf8(name) else {
        return refuse("its name is not UTF-8");
    };
    if text.starts_with('/') {
        return refuse("its name is an absolute path");
    }
    if text.split('/').any(|part| part == "..") {
        return refuse("its name leads out of the image");
    }
    if text.contains('\0') {
        return refuse("its name has a zero byte");
    }
    if kind == EntryType::Regular && text.ends_with('/') {
        return refuse("a file's name ends with '/'");
    }
    let parts: Vec<&str> = text.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    Ok(parts.join("/"))
}

/// The `path` of a POSIX extended header, if it has one.
fn pax_name(digest: &Digest, entry: &mut Entry<'_, impl Read>) -> Result<Option<Vec<u8>>, ImageError> {
    let content = extension(digest, entry)?;
    let mut name = None;
    for record in PaxExtensions::new(&content) {
        let record = record.map_err(|source| ImageError::Archive { digest: digest.to_string(), source })?;
        match record.key_bytes() {
            b"path" => name = Some(record.value_bytes().to_vec()),
            // The plain header holds every size that is allowed, so this one could only be about to mislead.
            b"size" => {
                return Err(ImageError::entry(digest, "size", "sizes in extended headers are not understood"));
            }
            _ => {}
        }
    }
    Ok(name)
}

/// The name in GNU tar's own kind of extended header.
fn gnu_name(digest: &Digest, entry: &mut Entry<'_, impl Read>) -> Result<Vec<u8>, ImageError> {
    let mut name = extension(digest, entry)?;
    if name.last() == Some(&0) {
        name.pop();
    }
    Ok(name)
}

fn extension(digest: &Digest, entry: &mut Entry<'_, impl Read>) -> Result<Vec<u8>, ImageError> {
    check_size("an extended header of a layer", entry.size(), ByteSize::new(EXTENSION_MAX))?;
    let mut content = Vec::new();
    entry.read_to_end(&mut content).map_err(|source| ImageError::Archive { digest: digest.to_string(), source })?;
    Ok(content)
}

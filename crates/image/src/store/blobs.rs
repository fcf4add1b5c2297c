//! The files of an OCI image layout: blobs named by their digest, and small documents replaced in one step.
//! Used by the store only. Nothing here is ever visible half written, and nothing read is believed unchecked.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Read, Seek, Write},
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};
use tempfile::NamedTempFile;

use super::{
    error::{ImageError, IoError, ReadError, check_size},
    oci::Descriptor,
};
use crate::{
    ByteSize,
    digest::{Digest, HashingWriter},
};

/// Largest JSON document that is read: the limit that registries put on manifests.
pub(super) const DOCUMENT_MAX: ByteSize = ByteSize::mebibytes(4);

/// Bytes that a copy moves at a time.
const CHUNK: usize = 256 * 1024;

/// Which side of a copy failed.
#[derive(Debug)]
pub(super) enum CopyError {
    Read(io::Error),
    Write(io::Error),
}

/// Copies everything, telling `progress` the bytes of each step; returns how many there were.
pub(super) fn copy(from: &mut dyn Read, to: &mut dyn Write, progress: &mut dyn FnMut(u64)) -> Result<u64, CopyError> {
    let mut buffer = vec![0; CHUNK];
    let mut total = 0;
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) => return Ok(total),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(CopyError::Read(error)),
        };
        to.write_all(&buffer[..read]).map_err(CopyError::Write)?;
        total += read as u64;
        progress(read as u64);
    }
}

/// The folder of an image layout.
#[derive(Debug)]
pub(super) struct Blobs {
    root: PathBuf,
}

impl Blobs {
    /// The layout in `root`, whose folders are made if they are missing.
    pub(super) fn open(root: PathBuf) -> Result<Self, IoError> {
        let blobs = Self { root };
        for folder in [blobs.folder(), blobs.temporary()] {
            fs::create_dir_all(&folder).map_err(IoError::on("create the folder", &folder))?;
        }
        Ok(blobs)
    }

    /// Path of a file beside the blobs.
    pub(super) fn beside(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Where the blobs are.
    pub(super) fn folder(&self) -> PathBuf {
        self.root.join("blobs").join("sha256")
    }

    /// Where files are until they are complete.
    pub(super) fn temporary(&self) -> PathBuf {
        self.root.join("tmp")
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.folder().join(digest.hex())
    }

    /// A blob to be written.
    pub(super) fn create(&self) -> Result<BlobWriter, IoError> {
        let folder = self.temporary();
        let file = NamedTempFile::new_in(&folder).map_err(IoError::on("create a file in", folder))?;
        let path = file.path().to_owned();
        Ok(BlobWriter { out: HashingWriter::new(BufWriter::with_capacity(CHUNK, file)), path })
    }

    /// Stores a document as a blob.
    pub(super) fn add(&self, media_type: &str, document: &impl Serialize) -> Result<Descriptor, IoError> {
        let mut blob = self.create()?;
        blob.json(document)?;
        self.keep(blob, media_type)
    }

    /// Gives a blob its name. One that has the name already is replaced: it may be damaged.
    pub(super) fn keep(&self, blob: BlobWriter, media_type: &str) -> Result<Descriptor, IoError> {
        let (file, digest, size) = blob.finish()?;
        persist(file, &self.path(&digest))?;
        Ok(Descriptor::new(media_type, digest, size))
    }

    /// Makes the names of new blobs last before something refers to them.
    pub(super) fn sync(&self) -> Result<(), IoError> {
        sync_folder(&self.folder())
    }

    /// Opens a blob whose bytes have been checked against its descriptor.
    pub(super) fn open_checked(&self, descriptor: &Descriptor) -> Result<File, ReadError> {
        let path = self.path(&descriptor.digest);
        let mut file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(ImageError::BlobMissing { digest: descriptor.digest.to_string() }.into());
            }
            opened => opened.map_err(IoError::on("open", &path))?,
        };
        let found = file.metadata().map_err(IoError::on("examine", &path))?.len();
        if found != descriptor.size {
            let digest = descriptor.digest.to_string();
            return Err(ImageError::BlobSize { digest, found, expected: descriptor.size }.into());
        }
        let mut hash = HashingWriter::new(io::sink());
        copy(&mut file, &mut hash, &mut |_| ()).map_err(|failed| {
            // A sink takes everything, so only reading can have failed.
            let (CopyError::Read(error) | CopyError::Write(error)) = failed;
            IoError::on("read", &path)(error)
        })?;
        let (_, digest, _) = hash.finish();
        if digest != descriptor.digest {
            return Err(ImageError::BlobDigest { digest: descriptor.digest.to_string() }.into());
        }
        file.rewind().map_err(IoError::on("read", &path))?;
        Ok(file)
    }

    /// Reads a checked blob as a JSON document; `what` names it in errors.
    pub(super) fn document<T: DeserializeOwned>(
        &self,
        descriptor: &Descriptor,
        what: &'static str,
    ) -> Result<T, ReadError> {
        check_size(format!("the {what}"), descriptor.size, DOCUMENT_MAX)?;
        let mut content = Vec::new();
        self.open_checked(descriptor)?
            .read_to_end(&mut content)
            .map_err(IoError::on("read", self.path(&descriptor.digest)))?;
        serde_json::from_slice(&content)
            .map_err(|source| ImageError::Document { digest: descriptor.digest.to_string(), what, source }.into())
    }

    /// Replaces the document `name` beside the blobs in one step.
    pub(super) fn replace(&self, name: &str, document: &impl Serialize) -> Result<(), IoError> {
        let mut blob = self.create()?;
        blob.json(document)?;
        let (file, _, _) = blob.finish()?;
        persist(file, &self.beside(name))?;
        sync_folder(&self.root)
    }
}

/// A blob without a name yet; it vanishes if it is not kept.
#[derive(Debug)]
pub(super) struct BlobWriter {
    out: HashingWriter<BufWriter<NamedTempFile>>,
    path: PathBuf,
}

impl BlobWriter {
    /// Where it is, for errors.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a document, byte for byte the same each time: its maps are sorted.
    fn json(&mut self, document: &impl Serialize) -> Result<(), IoError> {
        let path = self.path.clone();
        serde_json::to_writer(self, document).map_err(|error| IoError::on("write", path)(error.into()))
    }

    fn finish(self) -> Result<(NamedTempFile, Digest, u64), IoError> {
        let (buffer, digest, size) = self.out.finish();
        let file = buffer.into_inner().map_err(|error| IoError::on("write", self.path)(error.into_error()))?;
        Ok((file, digest, size))
    }
}

impl Write for BlobWriter {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.out.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Writes a temporary file through to the disk and gives it its name.
fn persist(file: NamedTempFile, path: &Path) -> Result<(), IoError> {
    file.as_file().sync_all().map_err(IoError::on("write", file.path()))?;
    file.persist(path).map_err(|error| IoError::on("create", path)(error.error))?;
    Ok(())
}

/// Makes the names in a folder survive a crash of the system.
pub(super) fn sync_folder(folder: &Path) -> Result<(), IoError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(IoError::on("write", folder))
}

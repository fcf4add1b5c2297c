//! From parts to the blobs of an image. Used by the store's import, which then gives the image its name.
//! Nothing here depends on who builds, where or when: the same parts make the same blobs.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

use super::{
    ImageError, ImageParts, IoError, LAYERS_MAX, Progress, Store,
    blobs::DOCUMENT_MAX,
    error::{ReadError, check_size},
    layer::{self, BLOCKS, IMAGE_MAX, KERNEL, KERNEL_MAX, Kind, RESOURCES},
    oci::{self, Descriptor, ImageConfig, Manifest},
};
use crate::FunctionConfig;

impl Store {
    pub(super) fn write_image(
        &self,
        parts: ImageParts,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Descriptor, ReadError> {
        FunctionConfig::from_annotations(&parts.annotations).map_err(ImageError::Config)?;
        let mut files = open_files(&RESOURCES, &parts.resources)?;
        files.extend(open_files(&BLOCKS, &parts.blocks)?);
        if files.len() >= LAYERS_MAX {
            return Err(ImageError::TooMany { what: "layers", limit: LAYERS_MAX }.into());
        }
        let kernel_size = parts.kernel.len() as u64;
        if parts.kernel.is_empty() {
            return Err(ImageError::EmptyKernel.into());
        }
        check_size("the unikernel", kernel_size, KERNEL_MAX)?;
        let total = files.iter().fold(kernel_size, |sum, file| sum.saturating_add(file.size));
        check_size("the image", total, IMAGE_MAX)?;

        let mut done = 0;
        let mut report = |part: &str, bytes: u64| {
            done += bytes;
            progress(Progress { part, done, total });
        };
        let kernel = layer::Source {
            name: KERNEL,
            path: Path::new("the unikernel"),
            size: kernel_size,
            content: parts.kernel.as_slice(),
        };
        let mut layers = vec![self.write_layer(kernel, &mut |bytes| report("kernel", bytes))?];
        for OpenFile { kind, name, path, file, size } in &mut files {
            let source =
                layer::Source { name: &format!("{}/{name}", kind.folder), path, size: *size, content: &mut *file };
            let layer = self.write_layer(source, &mut |bytes| report(name, bytes))?;
            layers.push(layer.annotated(kind.annotation, (*name).to_owned()));
        }
        let config = ImageConfig::new(layers.iter().map(|layer| layer.digest.clone()).collect());
        let config = self.blobs.add(oci::CONFIG, &config)?;
        let manifest = Manifest::new(config, layers, parts.annotations);
        let manifest = self.blobs.add(oci::MANIFEST, &manifest)?;
        check_size("the manifest", manifest.size, DOCUMENT_MAX)?;
        Ok(manifest)
    }

    fn write_layer(
        &self,
        source: layer::Source<'_, impl Read>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Descriptor, ReadError> {
        let mut blob = self.blobs.create()?;
        layer::write(source, &mut blob, progress)?;
        Ok(self.blobs.keep(blob, oci::LAYER_TAR)?)
    }
}

/// A file beside the unikernel, open.
struct OpenFile<'a> {
    kind: &'a Kind,
    name: &'a str,
    path: &'a Path,
    file: File,
    size: u64,
}

/// Opens all files of a kind, by name, before anything is written.
fn open_files<'a>(kind: &'a Kind, files: &'a [(String, PathBuf)]) -> Result<Vec<OpenFile<'a>>, ReadError> {
    let mut open = Vec::new();
    let mut names = BTreeSet::new();
    for (name, path) in files {
        if !(kind.fits)(name) {
            return Err((kind.refuse)(name.clone()).into());
        }
        if !names.insert(name) {
            return Err(ImageError::Duplicate { what: kind.what, name: name.clone() }.into());
        }
        let examined = fs::metadata(path).map_err(IoError::on("open", path))?;
        if !examined.is_file() {
            return Err(ImageError::NotAFile { name: name.clone(), path: path.clone() }.into());
        }
        let file = File::open(path).map_err(IoError::on("open", path))?;
        open.push(OpenFile { kind, name, path, file, size: examined.len() });
    }
    open.sort_by_key(|file| file.name);
    Ok(open)
}

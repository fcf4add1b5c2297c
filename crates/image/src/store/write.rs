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
    layer::{self, IMAGE_MAX, KERNEL, KERNEL_MAX, RESOURCES},
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
        let mut resources = open_resources(&parts.resources)?;
        if resources.len() >= LAYERS_MAX {
            return Err(ImageError::TooMany { what: "layers", limit: LAYERS_MAX }.into());
        }
        let kernel_size = parts.kernel.len() as u64;
        if parts.kernel.is_empty() {
            return Err(ImageError::EmptyKernel.into());
        }
        check_size("the unikernel", kernel_size, KERNEL_MAX)?;
        let total = resources.iter().fold(kernel_size, |sum, resource| sum.saturating_add(resource.size));
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
        for resource in &mut resources {
            let source = layer::Source {
                name: &format!("{RESOURCES}{}", resource.name),
                path: resource.path,
                size: resource.size,
                content: &mut resource.file,
            };
            let layer = self.write_layer(source, &mut |bytes| report(resource.name, bytes))?;
            layers.push(layer.annotated(oci::RESOURCE, resource.name.to_owned()));
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

/// A resource whose file is open.
struct OpenResource<'a> {
    name: &'a str,
    path: &'a Path,
    file: File,
    size: u64,
}

/// Opens all resources, by name, before anything is written.
fn open_resources(resources: &[(String, PathBuf)]) -> Result<Vec<OpenResource<'_>>, ReadError> {
    let mut open = Vec::new();
    let mut names = BTreeSet::new();
    for (name, path) in resources {
        if !layer::is_resource_name(name) {
            return Err(ImageError::ResourceName { name: name.clone() }.into());
        }
        if !names.insert(name) {
            return Err(ImageError::DuplicateResource { name: name.clone() }.into());
        }
        let examined = fs::metadata(path).map_err(IoError::on("open", path))?;
        if !examined.is_file() {
            return Err(ImageError::NotAFile { name: name.clone(), path: path.clone() }.into());
        }
        let file = File::open(path).map_err(IoError::on("open", path))?;
        open.push(OpenResource { name, path, file, size: examined.len() });
    }
    open.sort_by_key(|resource| resource.name);
    Ok(open)
}

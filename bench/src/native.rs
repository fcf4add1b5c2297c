//! The same plugin without a platform around it: called in this process, on a picture in this process's memory.
//! What the whole way is measured against. Never goes through a machine.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::ensure;
use kernlet_abi::accel::{Classification, ClassifyParams, operation};
use kernlet_accel::{Arg, Data, Plugin, Resource, Runtime, Session};
use kernlet_accel_plugins::default_plugins;
use zerocopy::{FromZeros as _, IntoBytes as _};

use crate::workshop::model_file;

/// Classes that are asked for, as many as the function asks for.
const TOP: usize = 5;

/// After which nobody would wait for an answer.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// A classifier, its model loaded.
#[derive(Debug)]
pub(crate) struct Native {
    session: Session,
    params: ClassifyParams,
}

impl Native {
    /// Registers model and labels, and loads the model.
    pub(crate) fn load() -> anyhow::Result<Self> {
        Self::load_with(default_plugins())
    }

    /// The same with these plugins.
    pub(crate) fn load_with(plugins: Vec<Arc<dyn Plugin>>) -> anyhow::Result<Self> {
        let session = Runtime::new(plugins).session();
        let params = register(&session)?;
        session.preload()?;
        Ok(Self { session, params })
    }

    /// Classifies a picture, with a deadline that is far away, as every request has one; the time that the operation took.
    pub(crate) fn classify(&self, picture: &[u8]) -> anyhow::Result<Duration> {
        let mut ranking = [(); TOP].map(|()| Classification::new_zeroed());
        let start = Instant::now();
        let mut args = [
            Arg::bytes(Data::In(self.params.as_bytes())),
            Arg::bytes(Data::In(picture)),
            Arg::bytes(Data::Out(ranking.as_mut_bytes())),
        ];
        self.session.run(operation::IMAGE_CLASSIFY, &mut args, start.checked_add(DEADLINE))?;
        let time = start.elapsed();
        ensure!(ranking[0].probability > 0.0, "the plugin gave no class");
        Ok(time)
    }
}

/// Registers the demo's model and labels under the names that `functions/classify` uses.
pub(crate) fn register(session: &Session) -> anyhow::Result<ClassifyParams> {
    let model = session.register("model", Resource::from_file(model_file("mobilenet_v2_fp16w.onnx"))?)?;
    let labels = session.register("labels", Resource::from_file(model_file("imagenet_classes.txt"))?)?;
    Ok(ClassifyParams { model: model.get(), labels: labels.get() })
}

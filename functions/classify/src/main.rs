//! Says what is in a picture: POST a JPEG or PNG file, get the five likeliest of ImageNet's 1,000 classes.
//! `?top=N` gives more or fewer; `Accept: text/plain` gives lines instead of JSON.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::{format, string::String, vec::Vec};

use kernlet_guest::{
    Global, Request, Response,
    accel::{self, AccelError, Classification, Resource},
    function, log,
};
use serde::Serialize;

function!(classify, init);

/// Classes in an answer, unless the request says otherwise.
const TOP: usize = 5;
/// Classes of the model.
const CLASSES: usize = 1000;

/// What the image brings along; found once, so that a request costs no calls for it.
static RESOURCES: Global<Result<Resources, AccelError>> = Global::new();

struct Resources {
    model: Resource,
    labels: Resource,
}

impl Resources {
    fn find() -> Result<Self, AccelError> {
        Ok(Self { model: Resource::find("model")?, labels: Resource::find("labels")? })
    }
}

fn init() {
    RESOURCES.get_or_init(Resources::find);
}

#[derive(Serialize)]
struct Answer<'a> {
    predictions: Vec<Prediction<'a>>,
}

#[derive(Serialize)]
struct Prediction<'a> {
    class: u32,
    label: &'a str,
    probability: f32,
}

impl<'a> From<&'a Classification> for Prediction<'a> {
    fn from(found: &'a Classification) -> Self {
        Self { class: found.class, label: accel::label(found), probability: found.probability }
    }
}

fn classify(request: &Request) -> Response<'_> {
    let top = request.parameter("top").map_or(Some(TOP), |top| top.parse().ok());
    let Some(top @ 1..=CLASSES) = top else {
        return text(400, format!("top is a number from 1 to {CLASSES}, such as ?top=3\n"));
    };
    if request.body().is_empty() {
        return text(400, "the body is empty; send a JPEG or PNG file as the body of a POST\n".into());
    }
    match find(request.body(), top) {
        Ok(found) if request.header("Accept").is_some_and(|accept| accept.contains("text/plain")) => {
            text(200, found.iter().map(line).collect())
        }
        Ok(found) => json(&found),
        Err(error) if error.is_invalid_input() => text(400, format!("{error}\n")),
        Err(error) if error.is_too_large() => text(413, format!("{error}\n")),
        Err(error) => {
            log::error!("{error}");
            text(500, format!("{error}\n"))
        }
    }
}

fn find(picture: &[u8], top: usize) -> Result<Vec<Classification>, accel::AccelError> {
    let resources = RESOURCES.get_or_init(Resources::find).as_ref().map_err(Clone::clone)?;
    accel::classify(picture, resources.model, Some(resources.labels), top)
}

fn line(found: &Classification) -> String {
    format!("{:7.3}% {}\n", found.probability * 100.0, accel::label(found))
}

fn json(found: &[Classification]) -> Response<'static> {
    let answer = Answer { predictions: found.iter().map(Prediction::from).collect() };
    match serde_json::to_vec(&answer) {
        Ok(body) => Response::new(200).header("Content-Type", "application/json").body(body),
        Err(error) => text(500, format!("the answer could not be written: {error}\n")),
    }
}

fn text(status: u16, body: String) -> Response<'static> {
    Response::new(status).header("Content-Type", "text/plain; charset=utf-8").body(body)
}

//! The gateway's own answers: one clear sentence as text, or JSON. Never an empty error, never 204.
//! The system handlers and the proxy build them.
//! It never answers for a function: what a function said goes through untouched.

use crate::body::Body;
use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use serde::Serialize;

/// Says which part of the platform made an answer; clients retry on it.
pub(crate) const INTERNAL: HeaderName = HeaderName::from_static("x-openfaas-internal");

/// Plain text.
pub(crate) fn text(status: StatusCode, message: impl Into<String>) -> Response<Body<'static>> {
    let mut message = message.into();
    message.push('\n');
    typed(status, "text/plain; charset=utf-8", message.into())
}

/// Nothing to say beyond the status.
pub(crate) fn empty(status: StatusCode) -> Response<Body<'static>> {
    typed(status, "text/plain; charset=utf-8", Bytes::new())
}

/// A JSON document.
pub(crate) fn json(value: &impl Serialize) -> Response<Body<'static>> {
    match serde_json::to_vec(value) {
        Ok(document) => typed(StatusCode::OK, "application/json", document.into()),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("The answer cannot be written as JSON: {error}")),
    }
}

/// Metrics, in Prometheus's text format.
pub(crate) fn metrics(text: Bytes) -> Response<Body<'static>> {
    typed(StatusCode::OK, kernlet_meter::Text::MEDIA_TYPE, text)
}

/// The method is not one that this path takes.
pub(crate) fn wrong_method(allowed: &'static str) -> Response<Body<'static>> {
    let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, format!("This path takes the methods {allowed}"));
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    answer
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

fn typed(status: StatusCode, media_type: &'static str, content: Bytes) -> Response<Body<'static>> {
    let body = Body::Whole((!content.is_empty()).then_some(content));
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    answer
}

//! Promises about classifying pictures: the right classes, no copies, and a clear error for everything that is
//! no picture or no classifier.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::{fs, time::Instant};

use kernlet_abi::hypercall::status;
use kernlet_accel::{AccelError, Session};
use support::{
    classify, classify_until, grey_jpeg, imagenet_labels, label, mobilenet, models,
    onnx::{self, Dim},
    picture, png, register, session,
};

/// Width and height in a JPEG's frame header, behind marker, length and precision.
fn with_jpeg_size(mut file: Vec<u8>, width: u16, height: u16) -> Vec<u8> {
    let frame = file.windows(4).position(|bytes| bytes == [0xff, 0xc0, 0x00, 0x11]).unwrap();
    file[frame + 5..frame + 7].copy_from_slice(&height.to_be_bytes());
    file[frame + 7..frame + 9].copy_from_slice(&width.to_be_bytes());
    file
}

fn refused(session: &Session, model: u32, picture: &[u8], status: i32, words: &str) {
    let error = classify(session, model, 0, picture, 5).unwrap_err();
    assert_eq!(error.status(), status, "{}", error.message());
    assert!(error.message().contains(words), "{}", error.message());
}

fn mean_colour() -> (Session, u32) {
    let session = session();
    let model = register(&session, "colour", onnx::mean_colour());
    (session, model)
}

#[test]
fn the_demo_pictures_get_the_expected_classes_without_a_copy() {
    let session = session();
    let (model, labels) = (mobilenet(&session), imagenet_labels(&session));
    for line in fs::read_to_string(models("expected.tsv")).unwrap().lines().skip(1) {
        let mut fields = line.split('\t');
        let file = fields.next().unwrap();
        let expected: Vec<_> = fields.collect();
        let (report, ranking) = classify(&session, model, labels, &fs::read(models(file)).unwrap(), 5).unwrap();
        assert_eq!((report.plugin, report.bytes_copied), ("rten", 0));
        assert_eq!(ranking.len(), 5);
        assert_eq!(ranking[0].class.to_string(), expected[0], "{file}");
        assert_eq!(label(&ranking[0]), expected[1], "{file}");
        for (got, expected) in ranking.iter().zip(expected.chunks(3)) {
            let probability: f32 = expected[2].parse().unwrap();
            let difference = (got.probability - probability).abs();
            println!("{file}: {} {} {difference:.5}", label(got), got.probability);
            assert!(difference <= 0.02, "{file}: {} {} for {}", label(got), got.probability, expected[1]);
        }
    }
}

#[test]
fn pngs_of_every_kind_are_classified() {
    let (session, model) = mean_colour();
    let labels = register(&session, "labels", b"red\ngreen\nblue\n".to_vec());
    let best = |file: &[u8]| {
        let (_, ranking) = classify(&session, model, labels, file, 1).unwrap();
        label(&ranking[0]).to_owned()
    };
    assert_eq!(best(&png(20, 30, png::ColorType::Rgb, &[0, 255, 0].repeat(600))), "green");
    assert_eq!(best(&png(300, 2, png::ColorType::Rgba, &[0, 0, 255, 9].repeat(600))), "blue");
    // Equal channels are furthest above red's mean in blue, the darkest channel of ImageNet.
    assert_eq!(best(&png(1, 1, png::ColorType::Grayscale, &[255])), "blue");
    assert_eq!(best(&png(2, 1, png::ColorType::GrayscaleAlpha, &[255, 0, 255, 0])), "blue");
}

#[test]
fn grey_jpegs_are_classified() {
    let (session, model) = mean_colour();
    let (_, ranking) = classify(&session, model, 0, &grey_jpeg(5, 3), 3).unwrap();
    assert_eq!(ranking.iter().map(|class| class.class).collect::<Vec<_>>(), [2, 1, 0]);
    assert_eq!(label(&ranking[0]), "");
}

#[test]
fn there_are_never_more_classes_than_room_or_than_the_model_has() {
    let (session, model) = mean_colour();
    for (slots, classes) in [(1, 1), (2, 2), (3, 3), (50, 3)] {
        let (_, ranking) = classify(&session, model, 0, &grey_jpeg(1, 1), slots).unwrap();
        assert_eq!(ranking.len(), classes);
        assert!(ranking.windows(2).all(|pair| pair[0].probability >= pair[1].probability));
    }
}

#[test]
fn what_is_no_picture_is_refused() {
    let (session, model) = mean_colour();
    refused(&session, model, b"", status::EINVAL, "it has no bytes");
    refused(&session, model, b"GIF89a", status::EINVAL, "neither a JPEG nor a PNG");
    refused(&session, model, &[0xff, 0xd8, 0xff], status::EINVAL, "JPEG file that cannot be decoded");
    refused(&session, model, b"\xff\xd8\xffnot really", status::EINVAL, "JPEG file that cannot be decoded");
    refused(&session, model, b"\x89PNG\r\n\x1a\nnot really", status::EINVAL, "PNG file that cannot be decoded");
}

#[test]
fn truncated_pictures_are_refused() {
    let (session, model) = mean_colour();
    let jpeg = picture("cat.jpg");
    for len in [20, 300, 1_000, jpeg.len() / 2, jpeg.len() - 2] {
        refused(&session, model, &jpeg[..len], status::EINVAL, "JPEG");
    }
    refused(&session, model, &jpeg[..jpeg.len() / 2], status::EINVAL, "ends too early");
    let pixels: Vec<u8> = (0..3_000_u32).map(|n| u8::try_from(n * n % 251).unwrap()).collect();
    let file = png(50, 20, png::ColorType::Rgb, &pixels);
    for len in [10, 40, file.len() / 2, file.len() - 30] {
        refused(&session, model, &file[..len], status::EINVAL, "PNG file that cannot be decoded");
    }
}

#[test]
fn a_picture_of_20000_by_20000_is_refused_by_its_header() {
    let (session, model) = mean_colour();
    let jpeg = with_jpeg_size(picture("cat.jpg"), 20_000, 20_000);
    refused(&session, model, &jpeg, status::ENOMEM, "20000×20000");
    let mut file = png(1, 1, png::ColorType::Grayscale, &[0]);
    file[16..24].copy_from_slice(&[0, 0, 0x4e, 0x20, 0, 0, 0x4e, 0x20]);
    // Its header's checksum is wrong now, which is as good a reason.
    let error = classify(&session, model, 0, &file, 1).unwrap_err();
    assert!([status::ENOMEM, status::EINVAL].contains(&error.status()), "{}", error.message());
}

#[test]
fn a_png_that_unpacks_to_too_much_is_refused_by_its_header() {
    let (session, model) = mean_colour();
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, 20_000, 20_000);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.write_header().unwrap();
    refused(&session, model, &file, status::ENOMEM, "20000×20000");
}

#[test]
fn a_model_that_is_no_picture_classifier_is_refused_with_what_it_takes() {
    let session = session();
    let rows = [Dim::Named("N"), Dim::Fixed(4)];
    let flat = register(&session, "flat", onnx::unary("Relu", onnx::FLOAT, &rows, &rows));
    refused(&session, flat, &grey_jpeg(1, 1), status::EINVAL, "[N,4]");
    let grey = [Dim::Named("N"), Dim::Fixed(1), Dim::Fixed(8), Dim::Fixed(8)];
    let grey = register(&session, "grey", onnx::unary("Relu", onnx::FLOAT, &grey, &grey));
    refused(&session, grey, &grey_jpeg(1, 1), status::EINVAL, "[N,1,8,8]");
    let planes = [Dim::Named("N"), Dim::Fixed(3), Dim::Fixed(8), Dim::Fixed(8)];
    let planes = register(&session, "planes", onnx::unary("Relu", onnx::FLOAT, &planes, &planes));
    refused(&session, planes, &grey_jpeg(1, 1), status::EINVAL, "[N,classes]");
    let free = [Dim::Named("N"), Dim::Fixed(3), Dim::Named("H"), Dim::Named("W")];
    let free = register(&session, "free", onnx::unary("Relu", onnx::FLOAT, &free, &rows));
    refused(&session, free, &grey_jpeg(1, 1), status::EINVAL, "[N,3,H,W]");
    let huge = [Dim::Fixed(1), Dim::Fixed(3), Dim::Fixed(1 << 40), Dim::Fixed(1 << 40)];
    let huge = register(&session, "huge", onnx::unary("Relu", onnx::FLOAT, &huge, &rows));
    refused(&session, huge, &grey_jpeg(1, 1), status::EINVAL, "at most 2048");
}

#[test]
fn what_is_no_model_is_refused() {
    let session = session();
    let text = imagenet_labels(&session);
    refused(&session, text, &grey_jpeg(1, 1), status::EINVAL, "no ONNX model");
    refused(&session, 77, &grey_jpeg(1, 1), status::ENOENT, "no resource 77");
    refused(&session, 0, &grey_jpeg(1, 1), status::ENOTSUP, "needs an ONNX model");
}

#[test]
fn labels_must_be_text_with_a_line_for_each_class() {
    let (session, model) = mean_colour();
    let short = register(&session, "short", b"red\ngreen\n".to_vec());
    let error = classify(&session, model, short, &grey_jpeg(1, 1), 1).unwrap_err();
    assert!(error.message().contains("2 labels and the model has 3 classes"), "{}", error.message());
    let binary = register(&session, "binary", b"\xff\xfe\n\n\n".to_vec());
    let error = classify(&session, model, binary, &grey_jpeg(1, 1), 1).unwrap_err();
    assert!(error.message().contains("not UTF-8"), "{}", error.message());
    assert_eq!(error.status(), status::EINVAL);
}

#[test]
fn a_long_label_is_cut_between_characters() {
    let (session, model) = mean_colour();
    let long = "é".repeat(100);
    let labels = register(&session, "labels", format!("{long}\n{long}\n{long}").into_bytes());
    let (_, ranking) = classify(&session, model, labels, &grey_jpeg(1, 1), 1).unwrap();
    assert_eq!(label(&ranking[0]), "é".repeat(58));
}

#[test]
fn a_deadline_that_is_over_stops_a_classification_before_it_begins() {
    let (session, model) = mean_colour();
    let error = classify_until(&session, model, 0, &grey_jpeg(1, 1), 1, Some(Instant::now())).unwrap_err();
    assert!(matches!(error, AccelError::DeadlinePassed { .. }), "{}", error.message());
    assert_eq!(error.status(), status::ETIMEDOUT);
}

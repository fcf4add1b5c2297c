//! Sizes, durations, names and references: what is read, what is refused with which words, and that what is
//! written is read back as the same.

use std::time::Duration;

use kernlet_image::{ByteSize, CpuShare, FunctionName, GoDuration, Namespace, Reference};
use proptest::prelude::*;

fn size(text: &str) -> u64 {
    text.parse::<ByteSize>().unwrap().bytes()
}

fn duration(text: &str) -> Duration {
    text.parse::<GoDuration>().unwrap().0
}

fn message<T: std::str::FromStr<Err: ToString>>(text: &str) -> String {
    match text.parse::<T>() {
        Ok(_) => panic!("{text:?} was accepted"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_size_is_a_kubernetes_quantity() {
    for (text, bytes) in [
        ("0", 0),
        ("1234", 1234),
        ("1k", 1000),
        ("5M", 5_000_000),
        ("2G", 2_000_000_000),
        ("1Ki", 1024),
        ("32Mi", 32 << 20),
        ("3Gi", 3 << 30),
        ("1Ti", 1 << 40),
        ("1.5Gi", 3 << 29),
        ("0.5Ki", 512),
        ("1.0000001", 2),
    ] {
        assert_eq!(size(text), bytes, "{text}");
    }
}

#[test]
fn what_is_no_size_is_refused_with_an_example() {
    for text in ["", "Mi", "12Q", "-1", "+1", "1 Mi", "1e3", "1.2.3", ".5", "1.", "0x10", "32MB", "1.0123456789"] {
        assert!(message::<ByteSize>(text).contains("write it as 32Mi"), "{text}");
    }
    assert!(message::<ByteSize>("100m").contains("thousandths"));
    assert!(message::<ByteSize>("16777216Ti").contains("64 bits"));
    assert!(message::<ByteSize>("99999999999999999999").contains("64 bits"));
}

#[test]
fn a_size_is_written_in_the_largest_unit_that_fits() {
    for (bytes, text) in
        [(0, "0"), (1, "1"), (32 << 20, "32Mi"), (1025, "1025"), (5_000_000, "5M"), (3 << 29, "1536Mi")]
    {
        assert_eq!(ByteSize::new(bytes).to_string(), text);
    }
    assert_eq!(format!("{:>6}|", ByteSize::mebibytes(8)), "   8Mi|");
}

#[test]
fn a_duration_is_gos_and_a_plain_number_counts_seconds() {
    for (text, nanoseconds) in [
        ("0", 0),
        ("0s", 0),
        ("30", 30_000_000_000),
        ("30s", 30_000_000_000),
        ("1m30s", 90_000_000_000),
        ("500ms", 500_000_000),
        ("1.5h", 5_400_000_000_000),
        (".5s", 500_000_000),
        ("1us", 1_000),
        ("1µs", 1_000),
        ("1μs2ns", 1_002),
        ("+2s", 2_000_000_000),
        ("1h0m0s", 3_600_000_000_000),
    ] {
        assert_eq!(duration(text), Duration::from_nanos(nanoseconds), "{text}");
    }
}

#[test]
fn what_is_no_duration_is_refused_with_an_example() {
    for text in ["", "s", "+", "1.5", "30x", "1m30", "1 s", "1..5s", ".s", "1d", "30S", "+-1s"] {
        assert!(message::<GoDuration>(text).contains("write it as 30s"), "{text}");
    }
    assert!(message::<GoDuration>("-30s").contains("negative"));
    assert!(message::<GoDuration>("9999999999h").contains("292 years"));
    assert!(message::<GoDuration>(&"9".repeat(400)).contains("292 years"));
}

#[test]
fn a_duration_is_written_as_go_writes_it() {
    for (nanoseconds, text) in [
        (0, "0s"),
        (1, "1ns"),
        (1_500, "1.5µs"),
        (500_000_000, "500ms"),
        (1_500_000_000, "1.5s"),
        (90_000_000_000, "1m30s"),
        (120_000_000_000, "2m0s"),
        (3_600_000_000_000, "1h0m0s"),
    ] {
        assert_eq!(GoDuration(Duration::from_nanos(nanoseconds)).to_string(), text);
    }
}

#[test]
fn a_name_is_an_rfc_1123_label_and_the_error_says_the_rule() {
    let longest = "a".repeat(63);
    for text in ["a", "0", "echo", "resize-image", "a--b", "4ever", &longest] {
        assert_eq!(text.parse::<FunctionName>().unwrap().as_str(), text);
    }
    let too_long = "a".repeat(64);
    for text in ["", "Echo", "-a", "a-", "a_b", "a.b", "a b", "é", "../x", "a\n", &too_long] {
        let error = message::<FunctionName>(text);
        assert!(error.contains("function name") && error.contains("RFC 1123") && error.contains("63"), "{error}");
    }
    assert!(message::<Namespace>("A").contains("namespace name"));
    assert_eq!(Namespace::default().as_str(), "openfaas-fn");
}

#[test]
fn a_reference_has_a_name_and_a_tag_that_defaults_to_latest() {
    for (text, name, tag) in [
        ("echo", "echo", "latest"),
        ("echo:v1.2", "echo", "v1.2"),
        ("team/echo", "team/echo", "latest"),
        ("registry.example/team/echo:V_1", "registry.example/team/echo", "V_1"),
        ("localhost:5000/echo", "localhost:5000/echo", "latest"),
        ("Registry.Example:443/a__b/c-d.e:1", "Registry.Example:443/a__b/c-d.e", "1"),
    ] {
        let reference: Reference = text.parse().unwrap();
        assert_eq!((reference.name(), reference.tag()), (name, tag));
    }
}

#[test]
fn what_does_not_name_an_image_is_refused_saying_why() {
    let too_long = "a".repeat(256);
    for text in
        ["", ":tag", "Echo", "a//b", "/a", "a/", "a___b", "a..b", "../a", "a b", "host.x:port/a", "-h.x/a", &too_long]
    {
        assert!(message::<Reference>(text).contains("at most 255"), "{text}");
    }
    let long_tag = format!("a:{}", "t".repeat(129));
    for text in ["a:", "a:-t", "a:.t", "a:t t", "a:t+", &long_tag] {
        assert!(message::<Reference>(text).contains("its tag"), "{text}");
    }
    assert!(message::<Reference>("a@sha256:00").contains("digest"));
}

#[test]
fn shares_of_processors_are_kubernetes_quantities() {
    for (text, millis) in
        [("1m", 1), ("500m", 500), ("2500m", 2500), ("2", 2000), ("1.5", 1500), ("0.001", 1), ("0.2500", 250)]
    {
        assert_eq!(text.parse::<CpuShare>().unwrap().limit(), Some(millis), "{text}");
    }
    for text in ["0", "0m", "0.0"] {
        assert_eq!(text.parse::<CpuShare>().unwrap().limit(), None, "{text}");
    }
    for (text, says) in [
        ("", "500m"),
        ("m", "500m"),
        ("half", "500m"),
        ("-1", "500m"),
        ("+1", "500m"),
        ("1.", "500m"),
        (".5", "500m"),
        ("1.5m", "500m"),
        ("64Mi", "500m"),
        ("1 ", "500m"),
        ("0.0001", "finer"),
        ("100001", "more than 100000 processors"),
        ("99999999999999999999", "more than 100000 processors"),
    ] {
        assert!(message::<CpuShare>(text).contains(says), "{text}");
    }
}

proptest! {
    #[test]
    fn every_size_is_read_back_as_it_was_written(bytes: u64) {
        prop_assert_eq!(size(&ByteSize::new(bytes).to_string()), bytes);
    }

    #[test]
    fn every_round_size_is_read_back_as_it_was_written(count in 0..1u64 << 20, shift in 0..44u32) {
        let bytes = count << shift;
        prop_assert_eq!(size(&ByteSize::new(bytes).to_string()), bytes);
    }

    #[test]
    fn every_share_of_processors_is_read_back_as_it_was_written(millis in 0..100_000_000_u32) {
        let share = CpuShare::millis(millis);
        prop_assert_eq!(share.to_string().parse::<CpuShare>().unwrap(), share);
    }

    #[test]
    fn every_duration_is_read_back_as_it_was_written(nanoseconds in 0..=i64::MAX as u64) {
        let written = GoDuration(Duration::from_nanos(nanoseconds));
        prop_assert_eq!(written.to_string().parse::<GoDuration>().unwrap(), written);
    }

    #[test]
    fn every_short_duration_is_read_back_as_it_was_written(nanoseconds in 0..5_000_000_000u64) {
        let written = GoDuration(Duration::from_nanos(nanoseconds));
        prop_assert_eq!(written.to_string().parse::<GoDuration>().unwrap(), written);
    }

    #[test]
    fn every_reference_is_read_back_as_it_was_written(
        registry in proptest::option::of("[a-z]{1,8}\\.[a-z]{2,3}(:[1-9][0-9]{1,3})?"),
        path in "[a-z0-9]{1,8}((\\.|_|__|-{1,3})[a-z0-9]{1,5}){0,2}(/[a-z0-9]{1,8}){0,3}",
        tag in "[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}",
    ) {
        let name = registry.map_or(path.clone(), |registry| format!("{registry}/{path}"));
        let reference: Reference = format!("{name}:{tag}").parse().unwrap();
        prop_assert_eq!((reference.name(), reference.tag()), (name.as_str(), tag.as_str()));
        prop_assert_eq!(reference.to_string().parse::<Reference>().unwrap(), reference);
    }

    #[test]
    fn no_text_makes_a_parser_panic_and_what_is_accepted_is_stable(text in "\\PC{0,24}|[0-9.kKMGTinumsh:/_@+-]{0,24}") {
        if let Ok(size) = text.parse::<ByteSize>() {
            prop_assert_eq!(size.to_string().parse::<ByteSize>().unwrap(), size);
        }
        if let Ok(share) = text.parse::<CpuShare>() {
            prop_assert_eq!(share.to_string().parse::<CpuShare>().unwrap(), share);
        }
        if let Ok(duration) = text.parse::<GoDuration>() {
            prop_assert_eq!(duration.to_string().parse::<GoDuration>().unwrap(), duration);
        }
        if let Ok(reference) = text.parse::<Reference>() {
            prop_assert_eq!(reference.to_string().parse::<Reference>().unwrap(), reference);
        }
        if let Ok(name) = text.parse::<FunctionName>() {
            prop_assert_eq!(name.as_str(), text.as_str());
        }
    }
}

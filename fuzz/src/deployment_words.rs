//! A deployment's words: names, image references, sizes, times, annotations. Clients write them; the gateway reads them.

use std::{collections::BTreeMap, fmt, str::FromStr};

use kernlet_image::{
    BlockSettings, ByteSize, FunctionConfig, FunctionName, GoDuration, Isolation, Namespace, Reference,
};

/// Keys of annotations that mean something, by which a fuzzer finds their values' parsers at once.
const KEYS: [&str; 13] = [
    "dev.kernlet.abi",
    "dev.kernlet.machine",
    "dev.kernlet.memory",
    "dev.kernlet.isolation",
    "dev.kernlet.limits.request",
    "dev.kernlet.limits.response",
    "dev.kernlet.limits.inflight",
    "dev.kernlet.limits.timeout",
    "dev.kernlet.accel.operations",
    "dev.kernlet.",
    "dev.kernlet.unknown",
    "com.example.other",
    "dev.kernlet.solo5.block.storage",
];

/// A word that is accepted reads the same once written out.
fn word<T: FromStr + fmt::Display + PartialEq + fmt::Debug>(text: &str)
where
    T::Err: fmt::Display,
{
    match text.parse::<T>() {
        Ok(value) => {
            let written = value.to_string();
            assert_eq!(written.parse::<T>().ok().as_ref(), Some(&value), "{text:?} was written as {written:?}");
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// The first byte chooses what the rest is.
pub fn deployment_words(data: &[u8]) {
    let Some((choice, rest)) = data.split_first() else { return };
    let text = String::from_utf8_lossy(rest);
    match choice % 8 {
        0 => word::<Reference>(&text),
        1 => word::<ByteSize>(&text),
        2 => word::<GoDuration>(&text),
        3 => word::<FunctionName>(&text),
        4 => word::<Namespace>(&text),
        5 => word::<Isolation>(&text),
        7 => word::<BlockSettings>(&text),
        _ => annotations(&text),
    }
}

/// One annotation a line: its key's index as a letter, then its value.
fn annotations(text: &str) {
    let annotations: BTreeMap<String, String> = text
        .lines()
        .filter_map(|line| {
            let mut chars = line.chars();
            let index = u32::from(chars.next()?).wrapping_sub(u32::from('a'));
            let key = KEYS.get(usize::try_from(index).ok()?)?;
            Some(((*key).to_owned(), chars.as_str().to_owned()))
        })
        .collect();
    if let Err(error) = FunctionConfig::from_annotations(&annotations) {
        assert!(!error.problems().is_empty());
    }
}

//! A file that claims to be a function's saved template: refused, or put into memory as a template's.

use std::sync::OnceLock;

use kernlet_monitor::{
    MachineConfig, Unikernel,
    fuzzing::{Solo5TemplateReader, TemplateReader, solo5_unikernel},
    solo5::{Image, Target},
};

use crate::{
    image::{CODE, DATA, DATA_LEN, Elf, READ, Segment, WRITE, abi_note},
    touch::session,
};

/// What every file is read as.
pub(crate) fn reader() -> &'static TemplateReader {
    static READER: OnceLock<TemplateReader> = OnceLock::new();
    READER.get_or_init(|| {
        let mut elf = Elf::empty();
        elf.segments = vec![
            abi_note(kernlet_abi::ABI_VERSION),
            Segment::load(READ | 1, CODE, &[0xc3], 1),
            Segment::load(READ | WRITE, DATA, b"data", DATA_LEN),
        ];
        let unikernel = Unikernel::parse(&elf.build()).expect("a unikernel");
        let config = MachineConfig {
            memory: kernlet_abi::map::MEMORY_MIN,
            request_limit: 4096,
            response_limit: 4096,
            environment: Vec::new(),
        };
        TemplateReader::new(&unikernel, &config, &session()).expect("a machine with room for its image")
    })
}

/// What every file is read as when it is a Solo5 function's.
pub(crate) fn solo5_reader() -> &'static Solo5TemplateReader {
    static READER: OnceLock<Solo5TemplateReader> = OnceLock::new();
    READER.get_or_init(|| {
        let image = Image::parse(solo5_unikernel(&[0xf4], &[]).into(), Target::Hvt).expect("a unikernel");
        Solo5TemplateReader::new(&image, 4 << 20, &session()).expect("a machine with room for its image")
    })
}

/// Whatever the bytes are, none of them gets to where no guest can write. They are read as they are, and with the head
/// and the checksum that a good file has.
pub fn saved_template(data: &[u8]) {
    let mut bytes = data.to_vec();
    for _ in 0..2 {
        if let Err(error) = reader().read(&bytes) {
            assert!(!error.to_string().is_empty());
        }
        reader().repair(&mut bytes);
    }
    bytes.copy_from_slice(data);
    for _ in 0..2 {
        if let Err(error) = solo5_reader().read(&bytes) {
            assert!(!error.to_string().is_empty());
        }
        solo5_reader().repair(&mut bytes);
    }
}

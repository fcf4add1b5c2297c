//! Not every file is a unikernel: whatever a file holds, reading it ends soon, with a unikernel or with an error that
//! says what is wrong. What is read wrongly here would be loaded wrongly there.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "common/image.rs"]
mod image;

use image::{
    CODE, CONSTANTS, DATA, EXECUTE, Elf, PT_DYNAMIC, PT_INTERP, PT_TLS, READ, Segment, Symbol, WRITE, abi_note,
};
use kernlet_abi::{
    ABI_VERSION,
    map::{IMAGE_BASE, MEMORY_MAX, PAGE_SIZE},
};
use kernlet_monitor::{ElfError, Unikernel};
use proptest::prelude::*;

/// `ret`.
const RET: &[u8] = &[0xc3];

fn good() -> Elf {
    Elf::with_code(RET, b"data").symbol("answer", CODE, 1)
}

fn error(elf: &Elf) -> ElfError {
    Unikernel::parse(&elf.build()).expect_err("the file is refused")
}

/// The good file with one more segment, and its index.
fn with_segment(segment: Segment) -> Elf {
    let mut elf = good();
    elf.segments.push(segment);
    elf
}

#[test]
fn a_static_executable_for_the_memory_map_is_accepted() {
    let unikernel = Unikernel::parse(&good().build()).unwrap();
    assert_eq!(unikernel.entry(), CODE);
    assert_eq!(unikernel.end(), DATA + image::DATA_LEN);
}

#[test]
fn what_is_not_an_elf_file_is_named_so() {
    let pictures: [&[u8]; 6] = [b"", b"\x7f", b"\x7fELF", b"#!/bin/sh\n", &[0; 4096], &[0xff; 4096]];
    for bytes in pictures {
        let error = Unikernel::parse(bytes).unwrap_err();
        assert!(matches!(error, ElfError::NotElf(_)), "{error}");
        assert!(error.to_string().contains("kernlet build"), "{error}");
    }
}

#[test]
fn a_file_cut_anywhere_before_its_symbols_is_refused_and_one_cut_there_only_loses_names() {
    let whole = good().build();
    // Symbols, names and three section headers end the file.
    let loaded = whole.len() - 3 * 64 - 2 * 24 - "\0answer\0".len();
    for len in 0..whole.len() {
        let error = Unikernel::parse(&whole[..len]).err();
        assert!(error.is_some(), "the first {len} bytes of {} are a unikernel", whole.len());
    }
    let mut headless = whole.clone();
    headless[40..48].fill(0);
    headless[60..62].fill(0);
    Unikernel::parse(&headless[..loaded]).expect("a file without section headers");
}

#[test]
fn a_file_for_another_machine_is_refused_by_name() {
    assert!(matches!(error(&Elf { class: 1, ..good() }), ElfError::NotElf(_) | ElfError::WrongClass));
    assert!(matches!(error(&Elf { class: 3, ..good() }), ElfError::NotElf(_)));
    assert!(matches!(error(&Elf { byte_order: 2, ..good() }), ElfError::NotElf(_)));
    for machine in [0, 3, 40, 183, 243, u16::MAX] {
        let error = error(&Elf { machine, ..good() });
        assert!(matches!(error, ElfError::WrongMachine { machine: found } if found == machine), "{error}");
    }
    for kind in [0, 1, 3, 4, u16::MAX] {
        let error = error(&Elf { kind, ..good() });
        assert!(matches!(error, ElfError::NotStatic { kind: found } if found == kind), "{error}");
    }
}

#[test]
fn a_32_bit_file_is_refused_even_with_a_64_bit_machine_number() {
    // An x32 executable: class 1, machine 62, headers of the 32-bit form.
    let mut file = vec![0x7f, b'E', b'L', b'F', 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for half in [2_u16, 62, 1, 0, 0, 0x20, 52, 0, 0, 0, 0, 0, 52, 32, 0, 40, 0, 0] {
        file.extend_from_slice(&half.to_le_bytes());
    }
    let error = Unikernel::parse(&file).unwrap_err();
    assert!(matches!(error, ElfError::WrongClass), "{error:?}");
}

#[test]
fn a_segment_outside_the_image_area_is_refused() {
    for (address, memory) in [
        (0, 1),
        (IMAGE_BASE - 1, 1),
        (IMAGE_BASE - PAGE_SIZE, 2 * PAGE_SIZE),
        (MEMORY_MAX - 1, 2),
        (MEMORY_MAX, 1),
        (u64::MAX, 1),
        (u64::MAX - 10, 100),
        (DATA + image::DATA_LEN, u64::MAX),
        (0xffff_8000_0000_0000, PAGE_SIZE),
    ] {
        let error = error(&with_segment(Segment::load(READ, address, b"", memory)));
        assert!(
            matches!(error, ElfError::OutsideMemory { index: 4, start, len } if (start, len) == (address, memory)),
            "{error}"
        );
    }
}

#[test]
fn a_bss_of_4_gib_is_refused_without_taking_memory() {
    let error = error(&with_segment(Segment::load(READ | WRITE, DATA + image::DATA_LEN, b"", 1 << 32)));
    assert!(matches!(error, ElfError::OutsideMemory { len: 0x1_0000_0000, .. }), "{error}");
}

#[test]
fn segments_that_overlap_or_share_a_page_are_refused_by_their_indices() {
    for address in [CODE, CODE + 8, CODE + PAGE_SIZE - 1, CONSTANTS, DATA + 100, DATA - 1, DATA + image::DATA_LEN - 1] {
        let error = error(&with_segment(Segment::load(READ, address, b"", 2)));
        let ElfError::Overlap { first, second } = error else { panic!("{address:#x}: {error}") };
        assert!(first == 4 || second == 4, "{address:#x}: {error}");
    }
    let beside = Segment::load(READ, CODE + PAGE_SIZE, b"", 1);
    Unikernel::parse(&with_segment(beside).build()).expect("the page behind the code is free");
}

#[test]
fn a_writable_and_executable_segment_is_refused() {
    let flags = READ | WRITE | EXECUTE;
    let error = error(&with_segment(Segment::load(flags, DATA + image::DATA_LEN, b"x", 1)));
    assert!(matches!(error, ElfError::WritableCode { index: 4 }), "{error}");
}

#[test]
fn a_segment_that_the_file_does_not_hold_is_refused() {
    let free = DATA + image::DATA_LEN;
    let base = Segment::load(READ, free, b"12345678", 8);
    let larger = Segment { memory: 7, ..base.clone() };
    assert!(matches!(error(&with_segment(larger)), ElfError::LargerInFile { index: 4, file: 8, memory: 7 }));
    let file_len = with_segment(base.clone()).build().len() as u64;
    for (offset, size) in
        [(file_len, 1), (file_len - 1, 2), (u64::MAX, 1), (u64::MAX, 8), (u64::MAX - 3, 4), (1 << 63, 8)]
    {
        let outside = Segment { offset: Some(offset), file_size: Some(size), ..base.clone() };
        let error = error(&with_segment(outside));
        assert!(matches!(error, ElfError::OutsideFile { index: 4 }), "{offset:#x}: {error}");
    }
}

#[test]
fn more_program_headers_than_any_linker_makes_are_refused_by_their_number() {
    let mut elf = good();
    elf.segments.extend(vec![Segment::new(0, 0, 0, b""); 40]);
    assert!(matches!(error(&elf), ElfError::TooManySegments { count: 44 }));
    // A header that lies: the table would go beyond the file.
    assert!(matches!(error(&Elf { header_count: Some(0xfffe), ..good() }), ElfError::NotElf(_)));
    // 65,535 stands for "as many as section 0 says", here none.
    assert!(matches!(error(&Elf { header_count: Some(u16::MAX), ..good() }), ElfError::Empty));
    let mut file = elf.build();
    file.resize(64 + 65_534 * 56, 0);
    file[56..58].copy_from_slice(&65_534_u16.to_le_bytes());
    file[40..48].fill(0);
    assert!(matches!(Unikernel::parse(&file), Err(ElfError::TooManySegments { count: 65_534 })));
}

#[test]
fn an_entry_point_outside_code_is_refused() {
    for entry in [0, CODE - 1, CODE + 1, CONSTANTS, DATA, u64::MAX] {
        assert!(matches!(error(&Elf { entry, ..good() }), ElfError::BadEntry { entry: found } if found == entry));
    }
    assert!(matches!(error(&Elf::empty()), ElfError::Empty));
}

#[test]
fn a_file_for_another_interface_is_refused_with_both_versions() {
    let mut none = good();
    none.segments.remove(0);
    assert!(matches!(error(&none), ElfError::NoAbiNote));
    for found in [0, ABI_VERSION + 1, u32::MAX] {
        let mut other = good();
        other.segments[0] = abi_note(found);
        let text = error(&other).to_string();
        assert!(text.contains(&found.to_string()) && text.contains(&ABI_VERSION.to_string()), "{text}");
    }
}

#[test]
fn a_damaged_note_is_no_note() {
    let whole = abi_note(ABI_VERSION);
    for len in 0..whole.data.len() {
        let mut elf = good();
        elf.segments[0].data.truncate(len);
        assert!(matches!(error(&elf), ElfError::NoAbiNote), "a note of {len} bytes");
    }
    for align in [0, u64::MAX, 1 << 63] {
        let mut elf = good();
        elf.segments[0].align = align;
        assert!(matches!(error(&elf), ElfError::NoAbiNote | ElfError::Damaged(_)), "alignment {align:#x}");
    }
    for (offset, size) in [(u64::MAX, 24), (1 << 40, 24), (64, u64::MAX)] {
        let mut elf = good();
        elf.segments[0] = Segment { offset: Some(offset), file_size: Some(size), ..whole.clone() };
        assert!(matches!(error(&elf), ElfError::Damaged(_)), "{offset:#x}, {size:#x}");
    }
}

#[test]
fn what_a_unikernel_cannot_have_is_refused_by_name() {
    for (kind, word) in [(PT_INTERP, "interpreter"), (PT_DYNAMIC, "dynamic"), (PT_TLS, "thread-local")] {
        let text = error(&with_segment(Segment::new(kind, READ, DATA, b"x"))).to_string();
        assert!(text.contains(word), "{text}");
    }
}

/// A file whose reading would take for ever, if the work were the product of two of its sizes.
fn assert_read_soon(elf: &Elf) {
    // Symbols are read at the first look-up.
    let _ = Unikernel::parse(&elf.build()).map(|unikernel| unikernel.symbol(CODE));
}

#[test]
fn symbols_without_end_with_names_as_long_as_the_file_are_read_soon() {
    let mut elf = good();
    elf.names = vec![b'x'; 4 << 20];
    elf.symbols = (0..300_000).map(|i| Symbol { address: CODE, size: u64::MAX, name: i % 1000 }).collect();
    assert_read_soon(&elf);
    // The same, with every name ended, and with names that are nowhere.
    elf.names.push(0);
    assert_read_soon(&elf);
    elf.symbols.iter_mut().for_each(|symbol| symbol.name = u32::MAX);
    assert_read_soon(&elf);
}

#[test]
fn notes_without_end_are_read_soon() {
    let mut elf = good();
    let notes = Segment::new(image::PT_NOTE, READ, 0, &[0_u8; 12].repeat(100_000));
    let (offset, file_size) = (Some(64 + 30 * 56), Some(notes.data.len() as u64));
    elf.segments = vec![Segment { offset, file_size, ..Segment::new(image::PT_NOTE, READ, 0, b"") }; 29];
    elf.segments.insert(0, notes);
    assert_read_soon(&elf);
}

fn any_segment() -> impl Strategy<Value = Segment> {
    let near = prop_oneof![Just(IMAGE_BASE), Just(MEMORY_MAX), Just(0), Just(u64::MAX), Just(DATA)];
    let size = prop_oneof![0..0x3000_u64, any::<u64>(), Just(1 << 32)];
    let some = || proptest::option::weighted(0.3, prop_oneof![0..0x1000_u64, any::<u64>()]);
    let address = (near, -0x2000..0x10_0000_i64).prop_map(|(base, by): (u64, i64)| base.wrapping_add_signed(by));
    (0..8_u32, 0..8_u32, address, size, 0..64_usize, any::<u64>(), some(), some()).prop_map(
        |(kind, flags, address, memory, bytes, align, offset, file_size)| Segment {
            kind,
            flags,
            address,
            data: vec![0x5a; bytes],
            memory,
            align,
            offset,
            file_size,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let _ = Unikernel::parse(&bytes);
    }

    #[test]
    fn a_good_file_with_bytes_changed_is_read_or_refused(
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes = good().build();
        for (index, byte) in changes {
            // The headers and tables, not the page of constants in the middle.
            let tables = (0..400).chain(bytes.len() - 400..bytes.len()).collect::<Vec<_>>();
            bytes[*index.get(&tables)] = byte;
        }
        let _ = Unikernel::parse(&bytes);
    }

    #[test]
    fn any_segments_are_accepted_only_inside_the_image_area(
        segments in proptest::collection::vec(any_segment(), 0..6),
        entry in any::<u64>(),
    ) {
        let mut elf = good();
        elf.entry = if entry.is_multiple_of(2) { CODE } else { entry };
        elf.segments.extend(segments);
        if let Ok(unikernel) = Unikernel::parse(&elf.build()) {
            prop_assert!(unikernel.end() <= MEMORY_MAX && unikernel.end() > IMAGE_BASE);
            prop_assert!((IMAGE_BASE..unikernel.end()).contains(&unikernel.entry()));
        }
    }
}

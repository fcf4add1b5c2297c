//! Writes every tenth block of its device `storage` and reads it back, then asks for what there is not.
#![no_std]
#![no_main]

use solo5_rust::{Block, Guest, Outside, guest, say};

guest!(block, "storage": Block);

/// The largest block there is.
const LARGEST: usize = 1 << 15;

fn block(guest: &Guest) -> i32 {
    let device = guest.block("storage");
    let size = device.block_size as usize;
    say!("capacity={} block_size={size}", device.capacity);
    let (mut from, mut to) = ([0; LARGEST], [0; LARGEST]);
    let (from, to) = (&mut from[..size], &mut to[..size]);
    for offset in (0..device.capacity).step_by(10 * size) {
        from.iter_mut().zip(0_u64..).for_each(|(byte, index)| *byte = (offset / size as u64 + index) as u8);
        device.write(offset, from).expect("a block that there is");
        to.fill(0);
        device.read(offset, to).expect("the same block");
        assert!(from == to, "the block at {offset} reads as it was written");
    }
    ask_for_what_there_is_not(&device, to);
    say!("SUCCESS");
    0
}

fn ask_for_what_there_is_not(device: &Block, block: &mut [u8]) {
    for offset in [device.capacity, device.capacity - device.block_size + 1, u64::MAX - device.block_size + 1] {
        assert_eq!(device.read(offset, block), Err(Outside));
        assert_eq!(device.write(offset, block), Err(Outside));
    }
}

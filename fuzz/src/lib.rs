//! Fuzz targets for everything that a guest, an image or a client can write. Each is a function of bytes that panics
//! where a promise is broken: libFuzzer calls it (`cargo +nightly fuzz run elf_loader`), and so does `cargo test`, with
//! the seeds of [`seeds`] and with random changes of them. Nothing here runs in the platform.

mod accel_arguments;
mod agent_messages;
mod cursor;
mod deployment_words;
mod elf_loader;
mod http_messages;
mod hypercall_arguments;
#[path = "../../crates/monitor/tests/common/image.rs"]
mod image;
mod onnx_guard;
mod request_encoding;
mod saved_template;
pub mod seeds;
mod server_frames;
mod solo5_guest;
mod touch;

pub use accel_arguments::accel_arguments;
pub use agent_messages::{agent_conversation, agent_messages};
pub use deployment_words::deployment_words;
pub use elf_loader::elf_loader;
pub use http_messages::http_messages;
pub use hypercall_arguments::hypercall_arguments;
pub use onnx_guard::onnx_guard;
pub use request_encoding::request_encoding;
pub use saved_template::saved_template;
pub use server_frames::server_frames;
pub use solo5_guest::solo5_guest;

//! Inputs that reach deep, for a fuzzer to begin with and for tests to change. `cargo run --example seeds` writes them
//! to where `cargo fuzz` looks for them.

use kernlet_abi::{
    ABI_VERSION, Span,
    accel::{AccelArg, AccelCall, ClassifyParams, ModelParams, SgemmParams, access, dtype, operation},
    fields::encode_lengths,
    hypercall::{CallHead, Clock, Entropy, Exit, FindResource, Log, NextRequest, exit_reason, number},
    message::ResponseHead,
};
use zerocopy::{Immutable, IntoBytes};

use crate::image::{CODE, DATA, DATA_LEN, Elf, READ, Segment, WRITE, abi_note};

/// A target and what it is to begin with.
pub struct Seeds {
    /// Name of the target.
    pub target: &'static str,
    /// The target.
    pub run: fn(&[u8]),
    /// Its first inputs.
    pub inputs: Vec<Vec<u8>>,
}

/// Every target.
#[must_use]
pub fn all() -> Vec<Seeds> {
    vec![
        Seeds { target: "elf_loader", run: crate::elf_loader, inputs: elf_files() },
        Seeds { target: "hypercall_arguments", run: crate::hypercall_arguments, inputs: calls() },
        Seeds { target: "request_encoding", run: crate::request_encoding, inputs: messages() },
        Seeds { target: "accel_arguments", run: crate::accel_arguments, inputs: operations() },
        Seeds { target: "deployment_words", run: crate::deployment_words, inputs: words() },
        Seeds { target: "http_messages", run: crate::http_messages, inputs: http() },
        Seeds { target: "saved_template", run: crate::saved_template, inputs: templates() },
    ]
}

/// Requests, responses and bodies in chunks, in pieces of some bytes.
fn http() -> Vec<Vec<u8>> {
    let inputs: [(u8, &[u8]); 5] = [
        (0, b"POST /a?b HTTP/1.1\r\nHost: f\r\nContent-Length: 3\r\nX-Call-Id: c\r\n\r\nabc"),
        (0, b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
        (1, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive, close\r\n\r\nhi"),
        (1, b"HTTP/1.0 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n"),
        (2, b"5;a=\"b\"\r\nhello\r\n0a\r\n0123456789\r\n0\r\nX: y\r\n\r\nrest"),
    ];
    inputs.map(|(choice, bytes)| [&[choice, 7], bytes].concat()).into()
}

/// One with no page, one with a page of the stack and one of the data.
fn templates() -> Vec<Vec<u8>> {
    let (stack, data) = (kernlet_abi::map::STACK_TOP / 4096 - 1, DATA / 4096);
    let reader = crate::saved_template::reader();
    vec![reader.forge(&[], &[]), reader.forge(&[(stack, 1), (data, 1)], &[1; 2 * 4096])]
}

/// Small, since a fuzzer's every change copies them.
fn elf_files() -> Vec<Vec<u8>> {
    let mut small = Elf::empty();
    small.segments = vec![
        abi_note(ABI_VERSION),
        Segment::load(READ | 1, CODE, &[0xc3], 1),
        Segment::load(READ | WRITE, DATA, b"data", DATA_LEN),
    ];
    let named = small.clone().symbol("_ZN4core3fmt5Write9write_fmt17h0123456789abcdefE", CODE, 1);
    let mut large = small.clone();
    large.segments.push(Segment::load(READ, 0x40_0000, b"", 0x40_0000));
    vec![small.build(), named.build(), large.build()]
}

/// Where [`crate::hypercall_arguments`] puts the bytes that follow a block.
const MORE: u64 = DATA + 0x1000;

fn round<T: IntoBytes + Immutable>(block: &T, more: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0];
    for part in [block.as_bytes(), more] {
        bytes.push(u8::try_from(part.len()).unwrap_or(u8::MAX));
        bytes.extend(part.iter().take(255));
    }
    bytes
}

const fn head(number: u32) -> CallHead {
    CallHead { number, status: 0 }
}

const fn span(offset: u64, len: u64) -> Span {
    Span { offset, len }
}

fn argument(data: Span, access: u32, dtype: u32) -> AccelArg {
    AccelArg { data, access, dtype, ..AccelArg::default() }
}

fn accel(operation: u32, args: &[AccelArg]) -> Vec<u8> {
    let arg_count = u32::try_from(args.len()).unwrap_or(u32::MAX);
    let error = span(MORE + 0x400, 64);
    let call = AccelCall { head: head(number::ACCEL), operation, arg_count, args: MORE, error, error_len: 0 };
    round(&call, args.as_bytes())
}

fn calls() -> Vec<Vec<u8>> {
    let text = span(MORE, 5);
    let log = Log { head: head(number::LOG), level: 3, reserved: 0, message: text };
    let entropy = Entropy { head: head(number::ENTROPY), buffer: span(MORE, 64) };
    let find = FindResource { head: head(number::FIND_RESOURCE), name: text, ..FindResource::default() };
    let (message, file) = (text, text);
    let exit = Exit { head: head(number::EXIT), reason: exit_reason::PANIC, message, file, ..Exit::default() };
    let next = NextRequest { head: head(number::NEXT_REQUEST), response: MORE };
    let response = ResponseHead { status: 200, reserved: 0, headers: span(MORE + 40, 6), body: text };
    let response = [response.as_bytes(), b"\x01\0\x01\0ab"].concat();
    let bytes = |offset, len, access| argument(span(MORE + offset, len), access, dtype::BYTES);
    let floats = |offset, len, access| argument(span(MORE + offset, len), access, dtype::F32);
    let tensor = |offset, access| AccelArg {
        rank: 2,
        dims: [2, 3, 0, 0, 0, 0],
        ..argument(span(MORE + offset, 24), access, dtype::F32)
    };
    vec![
        round(&log, b"hello"),
        round(&Clock { head: head(number::CLOCK), ..Clock::default() }, b""),
        round(&entropy, b""),
        round(&find, b"model"),
        round(&exit, b"panic"),
        round(&next, &response),
        [round(&log, b"first"), round(&find, b"label"), round(&next, &response)].concat(),
        accel(operation::NOOP, &[]),
        accel(operation::IMAGE_CLASSIFY, &[bytes(0x200, 8, access::IN), bytes(0x300, 8, access::IN)]),
        accel(operation::BLAS_SGEMM, &[bytes(0x200, 56, access::IN), floats(0x300, 16, access::IN)]),
        accel(operation::ONNX_MODEL_LOAD, &[bytes(0x200, 8, access::IN)]),
        accel(operation::ONNX_MODEL_RUN, &[tensor(0x300, access::IN), tensor(0x380, access::OUT)]),
    ]
}

fn messages() -> Vec<Vec<u8>> {
    let field = |name: &[u8], value: &[u8]| {
        [&encode_lengths(name.len(), value.len()).unwrap_or_default()[..], name, value].concat()
    };
    let fields = [field(b"Content-Type", b"text/plain"), field(b"", b""), field(b"X", b"\xff")].concat();
    let headers = span(DATA + 64, fields.len() as u64);
    let response = ResponseHead { status: 200, reserved: 0, headers, body: span(DATA + 64, 4) };
    let request = b"\x04POST\x06/a%20b\x03q=1\x02id\x02\x01A\x01b\x04Name\x05valuebody";
    vec![[&[0][..], &fields].concat(), [&[1][..], response.as_bytes(), &fields].concat(), [&[2][..], request].concat()]
}

/// One argument as [`crate::accel_arguments`] reads it, aligned.
fn given(access: u32, dtype: u32, dims: &[u64], contents: &[u8]) -> Vec<u8> {
    let byte = |value: usize| u8::try_from(value).unwrap_or(u8::MAX);
    let mut bytes = vec![byte(access as usize | dims.len() << 5), byte(dtype as usize)];
    bytes.extend_from_slice(dims.as_bytes());
    bytes.push(byte(contents.len()));
    bytes.extend_from_slice(contents);
    bytes.push(0);
    bytes
}

fn operations() -> Vec<Vec<u8>> {
    let sgemm = SgemmParams { m: 2, n: 2, k: 2, lda: 2, ldb: 2, ldc: 2, alpha: 1.0, beta: 0.0 };
    let matrix = [1.0_f32; 4];
    let tensor = |access| given(access, dtype::F32, &[2, 3], [1.0_f32; 6].as_bytes());
    let params = |inputs| given(access::IN, dtype::BYTES, &[], ModelParams { model: 1, inputs }.as_bytes());
    let classify = ClassifyParams { model: 1, labels: 2 };
    let float = |access| given(access, dtype::F32, &[], matrix.as_bytes());
    vec![
        vec![0],
        [
            vec![3],
            given(access::IN, dtype::BYTES, &[], classify.as_bytes()),
            given(access::IN, dtype::BYTES, &[], b"\xff\xd8picture"),
            given(access::OUT, dtype::BYTES, &[], &[0; 128]),
        ]
        .concat(),
        [
            vec![17],
            given(access::IN, dtype::BYTES, &[], sgemm.as_bytes()),
            float(access::IN),
            float(access::IN),
            float(access::IN_OUT),
        ]
        .concat(),
        [vec![32], params(0)].concat(),
        [vec![33], params(1), tensor(access::IN), tensor(access::OUT)].concat(),
        [vec![33], params(2), tensor(access::IN), tensor(access::IN)].concat(),
    ]
}

fn words() -> Vec<Vec<u8>> {
    let texts: [(u8, &str); 14] = [
        (0, "echo:latest"),
        (0, "registry.example:5000/team/echo:1.0"),
        (1, "32Mi"),
        (1, "1.5G"),
        (1, "128974848"),
        (2, "1h30m"),
        (2, "1.5s"),
        (2, "-2us"),
        (3, "echo-2"),
        (4, "openfaas-fn"),
        (5, "reuse"),
        (6, "a1\nbnative\nc32Mi\ndfresh\n"),
        (6, "e8Mi\nf8Mi\ng16\nh30s\n"),
        (6, "inoop,image-classify\n"),
    ];
    texts.iter().map(|(choice, text)| [&[*choice][..], text.as_bytes()].concat()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_seed_is_survived() {
        for seeds in all() {
            seeds.inputs.iter().for_each(|input| (seeds.run)(input));
        }
    }

    fn any_change() -> impl Strategy<Value = Vec<(prop::sample::Index, u8)>> {
        prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6)
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(which in any::<prop::sample::Index>(), bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            (which.get(&all()).run)(&bytes);
        }

        #[test]
        fn any_change_of_a_seed_is_survived(
            (which, input) in any::<(prop::sample::Index, prop::sample::Index)>(),
            changes in any_change(),
            cut in any::<prop::sample::Index>(),
        ) {
            let all = all();
            let seeds = which.get(&all);
            let mut bytes = input.get(&seeds.inputs).clone();
            for (index, byte) in changes {
                let at = index.index(bytes.len());
                bytes[at] = byte;
            }
            (seeds.run)(&bytes);
            bytes.truncate(cut.index(bytes.len() + 1));
            (seeds.run)(&bytes);
        }
    }
}

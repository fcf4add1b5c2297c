//! Inputs that reach deep, for a fuzzer to begin with and for tests to change. `cargo run --example seeds` writes them
//! to where `cargo fuzz` looks for them.

use kernlet_abi::{
    ABI_VERSION, Span,
    accel::{
        AccelArg, AccelBatch, AccelCall, BatchParams, ClassifyParams, MinMaxParams, ModelParams, ProfileRegion,
        ResizeParams, ResourceParams, SgemmParams, access, dtype, operation,
    },
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
        Seeds { target: "agent_messages", run: crate::agent_messages, inputs: agent_words(false) },
        Seeds { target: "agent_conversation", run: crate::agent_conversation, inputs: agent_words(true) },
        Seeds { target: "onnx_guard", run: crate::onnx_guard, inputs: models() },
        Seeds { target: "deployment_words", run: crate::deployment_words, inputs: words() },
        Seeds { target: "http_messages", run: crate::http_messages, inputs: http() },
        Seeds { target: "solo5_guest", run: crate::solo5_guest, inputs: solo5_guests() },
        Seeds { target: "server_frames", run: crate::server_frames, inputs: crate::server_frames::right() },
        Seeds { target: "saved_template", run: crate::saved_template, inputs: templates() },
    ]
}

/// Models: one operator, a weight, a graph in an attribute and a function; then some that refer elsewhere, are cut short or
/// nest without end.
fn models() -> Vec<Vec<u8>> {
    use crate::onnx_guard::field;
    let node = |further: &[u8]| [field(1, b"x"), field(2, b"y"), field(4, b"Relu"), further.to_vec()].concat();
    let model = |graph: &[u8]| [&[0x08, 8], &field(7, graph)[..], &field(8, &[0x10, 13])].concat();
    let weight = [field(8, b"w"), field(9, &[0, 0, 128, 63])].concat();
    let plain = model(&[field(1, &node(&[])), field(5, &weight)].concat());
    let nested = model(&field(1, &node(&field(5, &field(6, &field(1, &node(&[])))))));
    let function = [plain.clone(), field(25, &field(7, &node(&[])))].concat();
    let external = model(&field(5, &[weight, vec![0x70, 1]].concat()));
    let compiled = model(&field(1, &field(4, b"EPContext")));
    let deep = (0..30).fold(Vec::new(), |inner, _| field(1, &field(5, &field(6, &inner))));
    let cut = plain[..plain.len() - 3].to_vec();
    vec![plain, nested, function, external, compiled, model(&deep), cut]
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

/// One for each thing that a guest at ring 3 can do: a privileged instruction, a hypercall, a trap.
fn solo5_guests() -> Vec<Vec<u8>> {
    let codes: [&[u8]; 7] = [
        // mov dx, 0x508; mov eax, esp; sub eax, 4096; out dx, eax: halts.
        &[0x66, 0xba, 0x08, 0x05, 0x89, 0xe0, 0x2d, 0x00, 0x10, 0x00, 0x00, 0xef],
        // lgdt [rsp]; mov ss, eax; lretq
        &[0x0f, 0x01, 0x14, 0x24, 0x8e, 0xd0, 0x48, 0xcb],
        // lidt [rdi]; ud2
        &[0x0f, 0x01, 0x1f, 0x0f, 0x0b],
        // wrmsr; rdmsr; swapgs; iretq
        &[0x0f, 0x30, 0x0f, 0x32, 0x0f, 0x01, 0xf8, 0x48, 0xcf],
        // mov rax, cr2; mov cr3, rax; int 6
        &[0x0f, 0x20, 0xd0, 0x0f, 0x22, 0xd8, 0xcd, 0x06],
        // mov dx, 0x505; mov eax, edi; out dx, eax; jmp -2
        &[0x66, 0xba, 0x05, 0x05, 0x89, 0xf8, 0xef, 0xeb, 0xfe],
        // A block of what lies below the stack is written to the device 1, and the guest halts: lea rax, [rsp - 64]; the
        // call's handle, offset, data and length; mov dx, 0x504; out dx, eax; and as the first.
        &[
            0x48, 0x8d, 0x44, 0x24, 0xc0, 0x48, 0xc7, 0x00, 0x01, 0x00, 0x00, 0x00, 0x48, 0xc7, 0x40, 0x08, 0x00, 0x00,
            0x00, 0x00, 0x48, 0x8d, 0x8c, 0x24, 0x00, 0xfc, 0xff, 0xff, 0x48, 0x89, 0x48, 0x10, 0x48, 0xc7, 0x40, 0x18,
            0x00, 0x02, 0x00, 0x00, 0x66, 0xba, 0x04, 0x05, 0xef, 0x66, 0xba, 0x08, 0x05, 0x89, 0xe0, 0x2d, 0x00, 0x10,
            0x00, 0x00, 0xef,
        ],
    ];
    let devices: [(&str, u32); 1] = [("storage", 1)];
    codes.iter().map(|code| kernlet_monitor::fuzzing::solo5_unikernel(code, &devices)).collect()
}

/// One with no page, one with a page of the stack and one of the data.
fn templates() -> Vec<Vec<u8>> {
    let (stack, data) = (kernlet_abi::map::STACK_TOP / 4096 - 1, DATA / 4096);
    let reader = crate::saved_template::reader();
    let solo5 = crate::saved_template::solo5_reader().forge(&[(0x100, 1), (0x3ff, 1)], &[1; 2 * 4096]);
    vec![reader.forge(&[], &[]), reader.forge(&[(stack, 1), (data, 1)], &[1; 2 * 4096]), solo5]
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

fn round<T: IntoBytes + Immutable + ?Sized>(block: &T, more: &[u8]) -> Vec<u8> {
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

/// An accelerator call with the bytes that follow its block, where [`payload`] lies.
fn accel_with(operation: u32, args: &[AccelArg], payload: &[u8]) -> Vec<u8> {
    let arg_count = u32::try_from(args.len()).unwrap_or(u32::MAX);
    let error = span(MORE + 0x400, 64);
    let call = AccelCall { head: head(number::ACCEL), operation, arg_count, args: MORE, error, error_len: 0 };
    round(&[call.as_bytes(), payload].concat()[..], args.as_bytes())
}

/// Part of the bytes that follow an accelerator call's block, to be read.
fn payload(offset: u64, len: u64, dtype: u32) -> AccelArg {
    argument(span(DATA + size_of::<AccelCall>() as u64 + offset, len), access::IN, dtype)
}

/// Room for what an accelerator call writes.
fn room(len: u64, dtype: u32) -> AccelArg {
    argument(span(MORE + 0x300, len), access::OUT, dtype)
}

/// Calls of accelerators, each with what it takes; three arguments at most have a place.
fn accelerations() -> Vec<Vec<u8>> {
    let classify = [ClassifyParams { model: 1, labels: 2 }.as_bytes(), b"\xff\xd8picture"].concat();
    let picture = [payload(0, 8, dtype::BYTES), payload(8, 9, dtype::BYTES)];
    let said = [picture[0], picture[1], room(64, dtype::STRING)];
    let model = ModelParams { model: 1, inputs: 1 };
    let numbers = [1.0_f32; 4];
    let tensor = AccelArg { rank: 2, dims: [2, 2, 0, 0, 0, 0], ..payload(8, 16, dtype::F32) };
    let run = [model.as_bytes(), numbers.as_bytes()].concat();
    let load = ModelParams { model: 1, inputs: 0 };
    let resize = ResizeParams { width: 2, height: 1, channels: 3, to_width: 1, to_height: 1 };
    let pixels = [resize.as_bytes(), &[9; 6]].concat();
    let resized = [payload(0, 20, dtype::BYTES), payload(20, 6, dtype::U8), room(3, dtype::U8)];
    let exec = [ResourceParams { resource: 1 }.as_bytes(), b"call"].concat();
    let called = [payload(0, 4, dtype::BYTES), payload(4, 4, dtype::STRING), room(16, dtype::CUSTOM)];
    let region = ProfileRegion { entries: 1, name_len: 3, ..ProfileRegion::EMPTY };
    let profile = [payload(0, 96, dtype::BYTES), room(192, dtype::BYTES)];
    let two = [payload(0, 16, dtype::F32), payload(0, 16, dtype::F32), room(16, dtype::F32)];
    let copy = [payload(0, 16, dtype::I32), room(16, dtype::I32)];
    let number = [18, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0];
    let generic = [payload(0, 1, dtype::U8), payload(4, 8, dtype::I32), room(8, dtype::I32)];
    let batch = BatchParams { model: 1, inputs: 1, outputs: 1, sets: 1 };
    let batch_of_one = [batch.as_bytes(), numbers.as_bytes()].concat();
    let set =
        [payload(0, 16, dtype::BYTES), AccelArg { data: payload(16, 16, 0).data, ..tensor }, room(24, dtype::ANY)];
    vec![
        accel_with(operation::IMAGE_CLASSIFY, &[picture[0], picture[1], room(128, dtype::BYTES)], &classify),
        accel_with(operation::IMAGE_DETECT, &said, &classify),
        accel_with(operation::IMAGE_DEPTH, &said, &classify),
        accel_with(operation::IMAGE_RESIZE, &resized, &pixels),
        accel_with(operation::ONNX_MODEL_LOAD, &[payload(0, 8, dtype::BYTES)], load.as_bytes()),
        accel_with(operation::TF_MODEL_UNLOAD, &[payload(0, 8, dtype::BYTES)], load.as_bytes()),
        accel_with(operation::ONNX_MODEL_RUN, &[payload(0, 8, dtype::BYTES), tensor, room(64, dtype::ANY)], &run),
        accel_with(operation::TFLITE_MODEL_RUN, &[payload(0, 8, dtype::BYTES), tensor, room(24, dtype::F32)], &run),
        accel_with(operation::ONNX_MODEL_RUN_BATCH, &set, &batch_of_one),
        accel_with(operation::EXEC_WITH_RESOURCE, &called, &exec),
        accel_with(operation::OPENCV, &called, &exec),
        accel_with(operation::FPGA_MMULT, &two, numbers.as_bytes()),
        accel_with(operation::FPGA_VECTOR_ADD, &two, numbers.as_bytes()),
        accel_with(operation::FPGA_ARRAY_COPY, &copy, numbers.as_bytes()),
        accel_with(operation::GENERIC, &generic, &number),
        accel_with(operation::PROFILE, &profile, region.as_bytes()),
    ]
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
    let mut calls = vec![
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
    ];
    calls.extend(accelerations());
    calls.extend(batches());
    calls
}

/// Batches of two operations: some that have nothing to do with each other, which go to the plugin at once, and some that
/// share their arguments, which go there one by one.
fn batches() -> [Vec<u8>; 3] {
    let head_of_call = head(number::ACCEL);
    let noop = AccelCall { head: head_of_call, operation: operation::NOOP, ..AccelCall::default() };
    let copy = AccelCall { operation: operation::FPGA_ARRAY_COPY, arg_count: 2, args: MORE, ..noop };
    let numbers = |offset, access| argument(span(MORE + offset, 8), access, dtype::I32);
    let args = [numbers(0x300, access::IN), numbers(0x310, access::OUT)];
    let batch = |calls: [AccelCall; 2]| {
        let at = DATA + size_of::<AccelBatch>() as u64;
        let batch = AccelBatch { head: head(number::ACCEL_BATCH), count: 2, reserved: 0, calls: at };
        round(&[batch.as_bytes(), calls.as_bytes()].concat()[..], args.as_bytes())
    };
    [batch([copy, noop]), batch([copy, copy]), [batch([noop, copy]), batch([noop, noop])].concat()]
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
    if dtype == dtype::CUSTOM {
        bytes.extend_from_slice(&[9, 0, 0, 0]);
    }
    bytes.push(byte(contents.len()));
    bytes.extend_from_slice(contents);
    bytes.push(0);
    bytes
}

/// How [`crate::accel_arguments`] reads an operation's number.
fn numbered(operation: u32) -> u8 {
    u8::try_from(operation & 0xff).unwrap_or(u8::MAX) + if operation < 0x100 { 0 } else { 32 }
}

fn operations() -> Vec<Vec<u8>> {
    let sgemm = SgemmParams { m: 2, n: 2, k: 2, lda: 2, ldb: 2, ldc: 2, alpha: 1.0, beta: 0.0 };
    let matrix = [1.0_f32; 4];
    let tensor = |access| given(access, dtype::F32, &[2, 3], [1.0_f32; 6].as_bytes());
    let any = || given(access::OUT, dtype::ANY, &[], &[0; 24]);
    let block = |bytes: &[u8]| given(access::IN, dtype::BYTES, &[], bytes);
    let params = |inputs| block(ModelParams { model: 1, inputs }.as_bytes());
    let classify = || block(ClassifyParams { model: 1, labels: 2 }.as_bytes());
    let float = |access| given(access, dtype::F32, &[], matrix.as_bytes());
    let text = |text: &str| given(access::IN, dtype::STRING, &[], text.as_bytes());
    let value = |dtype, bytes: &[u8]| given(access::IN, dtype, &[], bytes);
    let picture = || block(b"\xff\xd8picture");
    let of = |operation: u32, args: &[Vec<u8>]| [vec![numbered(operation)], args.concat()].concat();
    let loads = [
        operation::TF_MODEL_LOAD,
        operation::TF_MODEL_UNLOAD,
        operation::TFLITE_MODEL_LOAD,
        operation::TFLITE_MODEL_UNLOAD,
        operation::TORCH_MODEL_LOAD,
        operation::ONNX_MODEL_LOAD,
        operation::ONNX_MODEL_UNLOAD,
    ];
    let says = [operation::IMAGE_DETECT, operation::IMAGE_SEGMENT, operation::IMAGE_POSE, operation::IMAGE_DEPTH];
    let typed = [
        value(dtype::I64, &[1; 8]),
        given(access::IN, dtype::CUSTOM, &[], b"mine"),
        given(access::IN_OUT, dtype::F32, &[2], &[0; 8]),
        given(access::OUT, dtype::UCHAR, &[4], &[0; 4]),
    ];
    let numbers = || given(access::IN, dtype::F64, &[], [1.0_f64, 2.0].as_bytes());
    let number = || given(access::OUT, dtype::F64, &[], &[0; 8]);
    let minmax = MinMaxParams { low: -1, high: 1 };
    let resize = ResizeParams { width: 2, height: 1, channels: 3, to_width: 1, to_height: 2 };
    let region = ProfileRegion { entries: 1, name_len: 3, name: [b'x'; 60], ..ProfileRegion::EMPTY };
    let batch = BatchParams { model: 1, inputs: 1, outputs: 1, sets: 2 };
    let ints = |access| given(access, dtype::I32, &[], [1_i32, 2].as_bytes());
    let generic = |number: u8, args: &[Vec<u8>]| {
        of(operation::GENERIC, &[vec![value(dtype::U8, &[number])], args.to_vec()].concat())
    };
    let one = || value(dtype::I64, &1_i64.to_le_bytes());
    let ratio = || value(dtype::F32, &1_f32.to_le_bytes());
    let lone = |access| given(access, dtype::F32, &[1], 1_f32.as_bytes());
    let count = |count: i32| value(dtype::I32, &count.to_le_bytes());
    let named = |params: &[u8]| [vec![block(params), text("call")], typed.to_vec()].concat();
    let mut seeds = vec![
        of(operation::NOOP, &[]),
        of(operation::EXEC, &[vec![text("libx.so"), text("call")], typed.to_vec()].concat()),
        of(operation::EXEC_WITH_RESOURCE, &named(ResourceParams { resource: 2 }.as_bytes())),
        of(operation::OPENCV, &typed),
        of(operation::IMAGE_CLASSIFY, &[classify(), picture(), given(access::OUT, dtype::BYTES, &[], &[0; 128])]),
        of(operation::BLAS_SGEMM, &[block(sgemm.as_bytes()), float(1), float(1), float(3)]),
        of(operation::TORCH_SGEMM, &[block(sgemm.as_bytes()), float(1), float(1), float(3)]),
        of(operation::ONNX_MODEL_RUN, &[params(1), tensor(access::IN), tensor(access::OUT)]),
        of(operation::ONNX_MODEL_RUN, &[params(2), tensor(access::IN), tensor(access::IN), any()]),
        of(operation::TFLITE_MODEL_RUN, &[params(1), tensor(access::IN), any()]),
        of(operation::TORCH_MODEL_RUN, &[params(1), block(b"options"), tensor(access::IN), any()]),
        of(operation::TF_MODEL_RUN, &[params(1), block(b""), text("a:0\nb:0"), tensor(access::IN), any()]),
        of(
            operation::ONNX_MODEL_RUN_BATCH,
            &[block(batch.as_bytes()), tensor(access::IN), any(), tensor(access::IN), tensor(access::OUT)],
        ),
        of(operation::FPGA_ARRAY_COPY, &[ints(access::IN), ints(access::OUT)]),
        of(operation::FPGA_MMULT, &[float(1), float(1), float(2)]),
        of(operation::FPGA_PARALLEL, &[float(1), float(1), float(2), float(2)]),
        of(operation::FPGA_VECTOR_ADD, &[float(1), float(1), float(2)]),
        of(
            operation::MINMAX,
            &[block(minmax.as_bytes()), numbers(), given(access::OUT, dtype::F64, &[], &[0; 16]), number(), number()],
        ),
        of(
            operation::IMAGE_RESIZE,
            &[block(resize.as_bytes()), value(dtype::U8, &[1; 6]), given(access::OUT, dtype::U8, &[], &[0; 6])],
        ),
        of(operation::PROFILE, &[block(region.as_bytes()), given(access::OUT, dtype::BYTES, &[], &[0; 192])]),
        generic(
            17,
            &[
                one(),
                one(),
                one(),
                ratio(),
                lone(access::IN),
                one(),
                lone(access::IN),
                one(),
                ratio(),
                one(),
                lone(access::IN_OUT),
            ],
        ),
        generic(
            22,
            &[
                numbers(),
                count(2),
                count(-1),
                count(1),
                given(access::OUT, dtype::F64, &[2], &[0; 16]),
                number(),
                number(),
            ],
        ),
        generic(3, &[picture(), given(access::OUT, dtype::UCHAR, &[], &[0; 8]), typed[3].clone()]),
        generic(4, &[picture(), typed[3].clone()]),
        generic(2, &[vec![one(), text("call")], typed.to_vec()].concat()),
        generic(18, &[ints(access::IN), ints(access::OUT)]),
        generic(20, &[float(1), float(1), float(2), float(2)]),
    ];
    seeds.extend(loads.iter().map(|&operation| of(operation, &[params(0)])));
    let said = || given(access::OUT, dtype::STRING, &[], &[0; 32]);
    seeds.extend(says.iter().map(|&operation| of(operation, &[classify(), picture(), said()])));
    seeds
}

/// Messages as frames of a conversation, or each behind its kind.
fn agent_words(framed: bool) -> Vec<Vec<u8>> {
    use kernlet_accel_agent::wire::{
        ArgBody, ArgResult, Call, CallBody, FileEntry, Head, Message, Registration, VERSION, kind,
    };
    let put = |kind: u16, body: &[u8], bulk: &[u8]| {
        let head = Head::new(kind, 2, body.len());
        let head = if framed { head.as_bytes().to_vec() } else { vec![u8::try_from(kind).unwrap_or(u8::MAX)] };
        [&head[..], body, if framed { bulk } else { &[] }].concat()
    };
    let say = |message: &Message| put(message.kind(), &message.body(), &[]);
    let files = vec![FileEntry { name: "model".to_owned(), len: 5 }];
    let digest = kernlet_accel_agent::digest([("model", &b"model"[..])]);
    let register = Registration { session: 1, kind: 2, digest, name: "model".to_owned(), files };
    let data = put(kind::DATA, b"model", &[]);
    let arg = |access: u32, len: u64| ArgBody {
        len: len.into(),
        access: access.into(),
        result: ArgResult::new(0, dtype::I32, &[]),
        ..ArgBody::default()
    };
    let call = |operation: u32, args: Vec<ArgBody>| {
        let count = u32::try_from(args.len()).unwrap_or(u32::MAX);
        let (session, time_left) = (1.into(), u64::MAX.into());
        let head = CallBody { session, operation: operation.into(), time_left, args: count.into(), more: 0.into() };
        put(kind::CALL, &Call { head, args }.body(), &[7; 8])
    };
    vec![
        say(&Message::Hello { oldest: VERSION, newest: VERSION, features: 0, memory: 0, name: "seed".to_owned() }),
        say(&Message::List),
        say(&Message::Close { session: 1 }),
        [say(&Message::Register(register)), data, say(&Message::Unregister { session: 1, resource: 1 })].concat(),
        [call(operation::NOOP, Vec::new()), say(&Message::Goodbye)].concat(),
        call(operation::FPGA_ARRAY_COPY, vec![arg(access::IN, 8), arg(access::OUT, 8)]),
        say(&Message::Cancel { call: 2 }),
        say(&Message::Profile),
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

    #[test]
    fn every_operation_has_a_seed_that_is_carried_out() {
        let mut carried_out: Vec<_> = operations()
            .iter()
            .filter(|seed| crate::accel_arguments::is_carried_out(seed))
            .map(|seed| seed[0])
            .collect();
        carried_out.sort_unstable();
        carried_out.dedup();
        let all: Vec<_> = kernlet_accel::Operation::ALL.iter().map(|one| numbered(one.abi_number())).collect();
        assert_eq!(carried_out, all);
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

/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * Kernlet's accelerators for guests of Solo5's hvt, on x86-64: find out whether they are there, multiply matrices, classify
 * pictures, run models and whatever else vAccel has, on the guest's own memory in place. And, for a function, its request as
 * bytes and its response likewise. One file without needs: no libc, no library, no floating point in what it does itself.
 * For C, and for the stubs of MirageOS and others. docs/solo5.md explains it, docs/abi.md has every operation's arguments.
 *
 *     const struct kernlet_extension *kernlet = kernlet_find(NULL);
 *     if (!kernlet) ...                       // a stock tender: there are no accelerators, and the guest goes on without
 *     float c[4];
 *     struct kernlet_sgemm two_by_two = { 2, 2, 2, 2, 2, 2, 1.0f, 0.0f };
 *     struct kernlet_error error;
 *     if (kernlet_sgemm(&two_by_two, a, 4, b, 4, c, 4, &error)) say(error.text);
 *
 * What a guest gives must be memory of its own, below 4 GiB as all of hvt's is, and what is written must not overlap anything
 * else of the same call: a guest that breaks this is ended, as by any hypercall. All else that is wrong is a status and a text.
 */
#ifndef KERNLET_ACCEL_H
#define KERNLET_ACCEL_H

#include <stddef.h>
#include <stdint.h>

/* What Solo5's hvt says at the start lies here; stubs that are not told where can rely on it. */
#define KERNLET_BOOT_INFO 0x10000
#define KERNLET_BOOT_INFO_LEN 56

/* "KERNLET" and a byte that is no letter. */
#define KERNLET_MAGIC 0x0554454c4e52454bull
#define KERNLET_VERSION 1

enum { KERNLET_ACCELERATOR = 1, KERNLET_REQUESTS = 2 };

struct kernlet_extension {
    uint64_t magic;
    uint32_t version, port;
    uint32_t features; /* KERNLET_ACCELERATOR and, in a function, KERNLET_REQUESTS */
    uint32_t reserved;
};

/* Statuses: 0, or one of Linux's error numbers, as vAccel has them. */
enum {
    KERNLET_OK = 0,
    KERNLET_ENOENT = 2,      /* no such resource */
    KERNLET_EIO = 5,         /* the plugin, the hardware or the host failed */
    KERNLET_EAGAIN = 11,     /* as many operations as the function may have are running */
    KERNLET_ENOMEM = 12,     /* more memory than there is or than is granted */
    KERNLET_EACCES = 13,     /* a plugin, a library or a resource is not for this guest */
    KERNLET_EBUSY = 16,      /* busy, or being loaded */
    KERNLET_EINVAL = 22,     /* an argument has a wrong value, shape, type or length */
    KERNLET_ERANGE = 34,     /* an output is too small */
    KERNLET_ENOTSUP = 95,    /* no plugin has the operation, or the host not the call */
    KERNLET_ETIMEDOUT = 110  /* the time was over before the operation, or its next step, began */
};

struct kernlet_span { uint64_t offset, len; };

/* How an operation went wrong: text in UTF-8, ended by a zero byte. */
struct kernlet_error {
    int32_t status;
    uint32_t len;
    char text[1024 + 1];
};

/* One argument of an operation. dims is its shape, outermost first, where it is a tensor; elsewhere rank is zero. */
struct kernlet_arg {
    struct kernlet_span data;
    uint32_t access, dtype, rank, custom;
    uint64_t dims[6];
    uint64_t written; /* what the host wrote, in bytes */
};

enum { KERNLET_IN = 1, KERNLET_OUT = 2, KERNLET_IN_OUT = 3 };

enum {
    KERNLET_BYTES = 0, KERNLET_F32 = 1, KERNLET_I32 = 2, KERNLET_I64 = 3, KERNLET_U8 = 4, KERNLET_I8 = 5, KERNLET_F64 = 6,
    KERNLET_I16 = 7, KERNLET_U16 = 8, KERNLET_U32 = 9, KERNLET_U64 = 10, KERNLET_BOOL = 11, KERNLET_F16 = 12,
    KERNLET_BF16 = 13, KERNLET_STRING = 14, KERNLET_CHAR = 15, KERNLET_UCHAR = 16, KERNLET_BUFFER = 17, KERNLET_CUSTOM = 18,
    KERNLET_ANY = 255
};

/* Operations; those below 24 have vAccel's numbers. */
enum {
    KERNLET_OP_NOOP = 0, KERNLET_OP_EXEC = 1, KERNLET_OP_EXEC_WITH_RESOURCE = 2, KERNLET_OP_IMAGE_CLASSIFY = 3,
    KERNLET_OP_IMAGE_DETECT = 4, KERNLET_OP_IMAGE_SEGMENT = 5, KERNLET_OP_IMAGE_POSE = 6, KERNLET_OP_IMAGE_DEPTH = 7,
    KERNLET_OP_TF_MODEL_LOAD = 8, KERNLET_OP_TF_MODEL_UNLOAD = 9, KERNLET_OP_TF_MODEL_RUN = 10,
    KERNLET_OP_TFLITE_MODEL_LOAD = 11, KERNLET_OP_TFLITE_MODEL_UNLOAD = 12, KERNLET_OP_TFLITE_MODEL_RUN = 13,
    KERNLET_OP_TORCH_MODEL_LOAD = 14, KERNLET_OP_TORCH_MODEL_RUN = 15, KERNLET_OP_TORCH_SGEMM = 16,
    KERNLET_OP_BLAS_SGEMM = 17, KERNLET_OP_FPGA_ARRAY_COPY = 18, KERNLET_OP_FPGA_MMULT = 19, KERNLET_OP_FPGA_PARALLEL = 20,
    KERNLET_OP_FPGA_VECTOR_ADD = 21, KERNLET_OP_MINMAX = 22, KERNLET_OP_OPENCV = 23, KERNLET_OP_ONNX_MODEL_LOAD = 0x100,
    KERNLET_OP_ONNX_MODEL_RUN = 0x101, KERNLET_OP_ONNX_MODEL_UNLOAD = 0x102, KERNLET_OP_ONNX_MODEL_RUN_BATCH = 0x103,
    KERNLET_OP_GENERIC = 0x104, KERNLET_OP_IMAGE_RESIZE = 0x105, KERNLET_OP_PROFILE = 0x106
};

/* C = alpha A B + beta C on row-major matrices: A is m by k, B k by n, C m by n; lda, ldb and ldc are from one row to the next. */
struct kernlet_sgemm { int64_t m, n, k, lda, ldb, ldc; float alpha, beta; };

/* A class of a picture. The label is text in UTF-8 without an end of its own. */
struct kernlet_class { uint32_t index; float probability; uint32_t label_len; char label[116]; };

/* Parts of a request. Headers are one after the other: two 16-bit lengths, the name, the value. */
enum { KERNLET_BODY, KERNLET_METHOD, KERNLET_PATH, KERNLET_QUERY, KERNLET_HEADERS, KERNLET_CALL_ID };

_Static_assert(sizeof(struct kernlet_extension) == 24 && sizeof(struct kernlet_arg) == 88, "as docs/abi.md has it");
_Static_assert(sizeof(struct kernlet_sgemm) == 56 && sizeof(struct kernlet_class) == 128, "as docs/abi.md has it");

/* ---- Whether it is there ---- */

/*
 * What the host has, or NULL: a stock tender has nothing, and nothing happens to a guest that asks. boot_info is what the
 * guest got at its start in rdi; NULL where it was not told. Solo5's own is as long as its version has it, and the manifest
 * follows; Kernlet's words lie between the two.
 */
static inline const struct kernlet_extension *kernlet_find(const void *boot_info)
{
    uintptr_t info = boot_info ? (uintptr_t)boot_info : (uintptr_t)KERNLET_BOOT_INFO;
    __asm__("" : "+r"(info)); /* an address like any other to the compiler */
    const struct kernlet_extension *found = (const struct kernlet_extension *)(info + KERNLET_BOOT_INFO_LEN);
    uint64_t manifest = ((const uint64_t *)info)[4];
    if (manifest < (uintptr_t)(found + 1) || found->magic != KERNLET_MAGIC || found->version != KERNLET_VERSION) return NULL;
    return found;
}

/* ---- Calls ---- */

#if !defined(__x86_64__)
#error "Kernlet's hvt is for x86-64"
#endif

/*
 * When this returns, the answer is in the block. For guests that have found the extension: to a stock tender the port is one that
 * there is not, and ends the guest.
 */
static inline void kernlet_call(void *block)
{
    __asm__ volatile("outl %0, %1" : : "a"((uint32_t)(uintptr_t)block), "d"((uint16_t)0x580) : "memory");
}

static inline struct kernlet_span kernlet_span_of(const void *data, size_t len)
{
    struct kernlet_span span = { (uintptr_t)data, len };
    return span;
}

/* Data of one type: KERNLET_IN for what the host reads, KERNLET_OUT for what it writes, KERNLET_IN_OUT for both. */
static inline struct kernlet_arg kernlet_arg_of(uint32_t access, uint32_t dtype, const void *data, size_t len)
{
    struct kernlet_arg arg = { { (uintptr_t)data, len }, access, dtype, 0, 0, { 0 }, 0 };
    return arg;
}

/*
 * Carries out an operation. Gives its status; error may be NULL. Arguments say afterwards what was written to them.
 */
static inline int kernlet_operation(uint32_t operation, struct kernlet_arg *args, uint32_t count, struct kernlet_error *error)
{
    struct { uint32_t number; int32_t status; uint32_t operation, count; uint64_t args; struct kernlet_span error; uint64_t len; }
        call = { 5, 0, operation, count, (uintptr_t)args, { 0, 0 }, 0 };
    if (error) call.error = kernlet_span_of(error->text, sizeof error->text - 1);
    kernlet_call(&call);
    if (error) {
        error->status = call.status;
        error->len = (uint32_t)call.len;
        error->text[call.len] = 0;
    }
    return call.status;
}

/* Nothing: the way to a plugin and back. */
static inline int kernlet_noop(struct kernlet_error *error)
{
    return kernlet_operation(KERNLET_OP_NOOP, NULL, 0, error);
}

/* The numbers of A, B and C are counted in floats. */
static inline int kernlet_sgemm(const struct kernlet_sgemm *sizes, const float *a, size_t a_count, const float *b,
                                size_t b_count, float *c, size_t c_count, struct kernlet_error *error)
{
    struct kernlet_arg args[4] = {
        kernlet_arg_of(KERNLET_IN, KERNLET_BYTES, sizes, sizeof *sizes),
        kernlet_arg_of(KERNLET_IN, KERNLET_F32, a, a_count * 4),
        kernlet_arg_of(KERNLET_IN, KERNLET_F32, b, b_count * 4),
        kernlet_arg_of(KERNLET_IN_OUT, KERNLET_F32, c, c_count * 4),
    };
    return kernlet_operation(KERNLET_OP_BLAS_SGEMM, args, 4, error);
}

/* A file that came with the image, or that the tender was given, by its name. size may be NULL. */
static inline int kernlet_find_resource(const char *name, uint32_t *id, uint64_t *size)
{
    struct { uint32_t number; int32_t status; struct kernlet_span name; uint32_t id, reserved; uint64_t size; }
        call = { 6, 0, { (uintptr_t)name, 0 }, 0, 0, 0 };
    while (name[call.name.len]) call.name.len++;
    kernlet_call(&call);
    *id = call.id;
    if (size) *size = call.size;
    return call.status;
}

/*
 * What is in a picture, a JPEG or PNG file: the best *count classes, of which *count then says how many there are. model is a
 * resource's id, or zero for the first ONNX model there is; labels a resource with one label a line, or zero for none.
 */
static inline int kernlet_image_classify(uint32_t model, uint32_t labels, const void *picture, size_t len,
                                         struct kernlet_class *classes, size_t *count, struct kernlet_error *error)
{
    uint32_t params[2] = { model, labels };
    struct kernlet_arg args[3] = {
        kernlet_arg_of(KERNLET_IN, KERNLET_BYTES, params, sizeof params),
        kernlet_arg_of(KERNLET_IN, KERNLET_BYTES, picture, len),
        kernlet_arg_of(KERNLET_OUT, KERNLET_BYTES, classes, *count * sizeof *classes),
    };
    int status = kernlet_operation(KERNLET_OP_IMAGE_CLASSIFY, args, 3, error);
    *count = status ? 0 : args[2].written / sizeof *classes;
    return status;
}

/* vAccel's generic operation: the arguments of operation number in vAccel's own layout, at most 31, those that are read first. */
static inline int kernlet_generic(uint8_t number, struct kernlet_arg *args, uint32_t count, struct kernlet_error *error)
{
    struct kernlet_arg all[32];
    uint32_t i;
    all[0] = kernlet_arg_of(KERNLET_IN, KERNLET_U8, &number, 1);
    for (i = 0; i < count && i < 31; i++) all[i + 1] = args[i];
    int status = kernlet_operation(KERNLET_OP_GENERIC, all, i + 1, error);
    for (i = 0; i < count && i < 31; i++) args[i] = all[i + 1];
    return status;
}

/* ---- A function's request and response ---- */

/*
 * Copies part of the request into the guest, from offset on and as much as there is room for; gives how much that was. size,
 * which may be NULL, is how long the whole part is. Room of no bytes only asks for that.
 */
static inline size_t kernlet_request(uint32_t part, uint64_t offset, void *to, size_t room, uint64_t *size)
{
    struct { uint32_t number; int32_t status; uint32_t part, reserved; uint64_t offset; struct kernlet_span buffer;
             uint64_t size, copied; } call = { 0x100, 0, part, 0, offset, { (uintptr_t)to, room }, 0, 0 };
    kernlet_call(&call);
    if (size) *size = call.size;
    return call.copied;
}

/*
 * The response: an HTTP status from 200 to 599, headers as a request has them, a body. It goes out when the guest halts with
 * status 0; of several the last one counts. Gives zero, or KERNLET_ENOTSUP where there is no request.
 */
static inline int kernlet_respond(uint32_t http_status, const void *headers, size_t headers_len, const void *body,
                                  size_t body_len)
{
    struct { uint32_t number; int32_t status; uint32_t http_status, reserved; struct kernlet_span headers, body; }
        call = { 0x101, 0, http_status, 0, { (uintptr_t)headers, headers_len }, { (uintptr_t)body, body_len } };
    kernlet_call(&call);
    return call.status;
}

#endif

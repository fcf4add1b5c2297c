/*
 * Accelerators, where the host has them, and none of them where it has not: does what its command line says, of kernlet_accel.h.
 * Without any word it says what there is.
 */
#include "solo5.h"
#include "kernlet_accel.h"

MANIFEST();

static const float a[6] = { 1, 2, 3, 4, 5, 6 }, b[6] = { 7, 8, 9, 10, 11, 12 }, product[4] = { 58, 64, 139, 154 };
static float c[4];
static struct kernlet_error error;

static void say(const char *what, int status) {
    print("%s: %d%s%s\n", what, status, status ? " " : "", status ? error.text : "");
}

/* A of 2 by 3, B of 3 by 2. Numbers are compared as they lie in memory, so that this needs no vector registers. */
static int sgemm(int64_t k, size_t b_count) {
    struct kernlet_sgemm sizes = { 2, 2, k, 3, 2, 2, 1, 0 };
    return kernlet_sgemm(&sizes, a, 6, b, b_count, c, 4, &error);
}

static int generic(void) {
    static const int64_t two = 2, three = 3;
    static const float one = 1, zero = 0;
    struct kernlet_arg args[] = {
        kernlet_arg_of(KERNLET_IN, KERNLET_I64, &two, 8),   kernlet_arg_of(KERNLET_IN, KERNLET_I64, &two, 8),
        kernlet_arg_of(KERNLET_IN, KERNLET_I64, &three, 8), kernlet_arg_of(KERNLET_IN, KERNLET_F32, &one, 4),
        kernlet_arg_of(KERNLET_IN, KERNLET_F32, a, sizeof a), kernlet_arg_of(KERNLET_IN, KERNLET_I64, &three, 8),
        kernlet_arg_of(KERNLET_IN, KERNLET_F32, b, sizeof b), kernlet_arg_of(KERNLET_IN, KERNLET_I64, &two, 8),
        kernlet_arg_of(KERNLET_IN, KERNLET_F32, &zero, 4), kernlet_arg_of(KERNLET_IN, KERNLET_I64, &two, 8),
        kernlet_arg_of(KERNLET_IN_OUT, KERNLET_F32, c, sizeof c),
    };
    return kernlet_generic(KERNLET_OP_BLAS_SGEMM, args, sizeof args / sizeof args[0], &error);
}

/* A call of which nothing is known but its block's address. */
static void raw(const char *what) {
    static uint64_t block[8];
    block[0] = 5;
    uintptr_t at = (uintptr_t)block;
    if (!strcmp(what, "block-top")) at = boot->mem_size - 8;
    else if (!strcmp(what, "block-low")) at = 0x1000;
    else if (!strcmp(what, "block-constant")) at = (uintptr_t)product;
    else if (!strcmp(what, "block-zero")) at = 0;
    kernlet_call((void *)at);
}

int app_main(const struct start *start) {
    const char *what = start->cmdline;
    const struct kernlet_extension *kernlet = kernlet_find(boot);
    if (kernlet != kernlet_find(NULL)) ABORT("it is at one place");
    if (!strcmp(what, "call anyway")) kernlet_noop(&error);
    if (!kernlet) {
        print("no accelerators here\n");
        return 0;
    }
    if (!*what) {
        print("accelerators, version %u, features %u\n", kernlet->version, kernlet->features);
    } else if (!strcmp(what, "noop")) {
        say(what, kernlet_noop(&error));
    } else if (!strcmp(what, "sgemm")) {
        say(what, sgemm(3, 6));
        ASSERT(!memcmp(c, product, sizeof c));
    } else if (!strcmp(what, "generic")) {
        say(what, generic());
        ASSERT(!memcmp(c, product, sizeof c));
    } else if (!strncmp(what, "find ", 5)) {
        uint32_t id;
        uint64_t size;
        int status = kernlet_find_resource(what + 5, &id, &size);
        print("%s: %d, resource %u of %lu bytes\n", what, status, id, size);
    } else if (!strcmp(what, "too-small")) {
        say(what, sgemm(3, 5));
    } else if (!strcmp(what, "operation")) {
        say(what, kernlet_operation(999, NULL, 0, &error));
    } else if (!strcmp(what, "detect")) {
        struct kernlet_arg args[3] = { kernlet_arg_of(KERNLET_IN, KERNLET_BYTES, "12345678", 8),
                                       kernlet_arg_of(KERNLET_IN, KERNLET_BYTES, "picture", 7),
                                       kernlet_arg_of(KERNLET_OUT, KERNLET_STRING, error.text, 0) };
        say(what, kernlet_operation(KERNLET_OP_IMAGE_DETECT, args, 3, &error));
    } else if (!strcmp(what, "call")) {
        struct { uint32_t number; int32_t status; } call = { 77, 0 };
        kernlet_call(&call);
        print("call: %d\n", call.status);
    } else if (!strcmp(what, "request")) {
        uint64_t size = 7, copied = kernlet_request(KERNLET_BODY, 0, NULL, 0, &size);
        print("request: %lu of %lu\n", copied, size);
        print("respond: %d\n", kernlet_respond(200, NULL, 0, NULL, 0));
    } else if (!strcmp(what, "overlap")) {
        struct kernlet_sgemm sizes = { 1, 1, 1, 1, 1, 1, 1, 0 };
        kernlet_sgemm(&sizes, c, 1, c, 1, c, 1, &error);
    } else if (!strcmp(what, "constant")) {
        struct kernlet_sgemm sizes = { 2, 2, 3, 3, 2, 2, 1, 0 };
        kernlet_sgemm(&sizes, a, 6, b, 6, (float *)product, 4, &error);
    } else if (!strcmp(what, "wild")) {
        kernlet_operation(KERNLET_OP_NOOP, (struct kernlet_arg *)(boot->mem_size - 80), 1, &error);
    } else if (!strcmp(what, "wrap")) {
        struct kernlet_arg arg = kernlet_arg_of(KERNLET_OUT, KERNLET_BYTES, c, ~0ul);
        kernlet_operation(KERNLET_OP_NOOP, &arg, 1, &error);
    } else if (!strcmp(what, "tables")) {
        struct kernlet_arg arg = kernlet_arg_of(KERNLET_OUT, KERNLET_BYTES, (void *)0x1000, 4096);
        kernlet_operation(KERNLET_OP_NOOP, &arg, 1, &error);
    } else if (!strcmp(what, "many")) {
        kernlet_operation(KERNLET_OP_NOOP, (struct kernlet_arg *)c, 33, &error);
    } else {
        raw(what);
    }
    return 0;
}

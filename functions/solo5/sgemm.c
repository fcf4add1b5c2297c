/*
 * A function that multiplies matrices: a request's body is A (m by k) and B (k by n) as 32-bit floats, row by row, its query
 * m=M&n=N&k=K; the answer is C = AB in the same form. For solo5_arguments=none.
 */
#include "solo5.h"
#include "kernlet_accel.h"

MANIFEST();

#define LARGEST 4096

static struct kernlet_error error;

static int respond(unsigned status, const void *body, size_t size) {
    return kernlet_respond(status, NULL, 0, body, size) ? 1 : 0;
}

static int fail(unsigned status, const char *why) { return respond(status, why, strlen(why)); }

/* A number of the query by its name, of one letter; zero where there is none. */
static uint64_t size_of(const char *query, char name) {
    for (const char *p = query; *p; p++) {
        if (*p != name || p[1] != '=' || (p != query && p[-1] != '&')) continue;
        uint64_t value = 0;
        for (p += 2; *p >= '0' && *p <= '9' && value <= LARGEST; p++) value = value * 10 + (uint64_t)(*p - '0');
        return value <= LARGEST ? value : 0;
    }
    return 0;
}

int app_main(const struct start *start) {
    static char query[64];
    const struct kernlet_extension *kernlet = kernlet_find(boot);
    if (!kernlet || !(kernlet->features & KERNLET_REQUESTS)) { print("this is a function of Kernlet's\n"); return 1; }
    kernlet_request(KERNLET_QUERY, 0, query, sizeof query - 1, NULL);
    uint64_t m = size_of(query, 'm'), n = size_of(query, 'n'), k = size_of(query, 'k'), size;
    if (!m || !n || !k) return fail(400, "m, n and k are numbers from 1 to 4096, such as ?m=64&n=64&k=64\n");
    float *a = (float *)start->heap_start, *b = a + m * k, *c = b + k * n;
    kernlet_request(KERNLET_BODY, 0, NULL, 0, &size);
    if (size != 4 * k * (m + n)) return fail(400, "the body is not as long as A and B\n");
    if (size + 4 * m * n > start->heap_size) return fail(413, "that is more than the memory; raise dev.kernlet.memory\n");
    kernlet_request(KERNLET_BODY, 0, a, size, NULL);
    struct kernlet_sgemm sizes = { (int64_t)m, (int64_t)n, (int64_t)k, (int64_t)k, (int64_t)n, (int64_t)n, 1, 0 };
    if (kernlet_sgemm(&sizes, a, m * k, b, k * n, c, m * n, &error)) return respond(500, error.text, error.len);
    return respond(200, c, 4 * m * n);
}

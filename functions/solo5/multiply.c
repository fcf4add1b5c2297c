/*
 * Serves HTTP by itself and multiplies with an accelerator.
 *
 *   POST /multiply   A and then B, square matrices of 32-bit floats row by row, up to 64 by 64; the answer is AB
 *   GET /last        the product before, of which a machine that was rewound knows nothing
 *   GET /labels      how often this was asked, and number and size of the resource "labels"
 */
#include "http.h"
#include "kernlet_accel.h"

MANIFEST(DEVICE("service", NET_BASIC));

#define LARGEST 64

static float a[LARGEST * LARGEST], b[LARGEST * LARGEST], product[LARGEST * LARGEST];
static size_t product_size;
static struct kernlet_error error;
static uint32_t resource, asked;
static uint64_t resource_size;
static char text[64];

static int goes_on(void) { return 1; }

static void multiply(struct connection *c, const uint8_t *body, size_t len) {
    static const char wrong[] = "the body is not two square matrices of up to 64 by 64 floats\n";
    size_t n = 1;
    while (n < LARGEST && n * n * 8 < len) n++;
    if (n * n * 8 != len) { respond(c, "400 Bad Request", wrong, sizeof wrong - 1); return; }
    memcpy(a, body, len / 2);
    memcpy(b, body + len / 2, len / 2);
    int64_t side = (int64_t)n;
    struct kernlet_sgemm sizes = { side, side, side, side, side, side, 1, 0 };
    if (!kernlet_find(boot)) respond(c, "501 Not Implemented", 0, 0);
    else if (kernlet_sgemm(&sizes, a, n * n, b, n * n, product, n * n, &error)) respond(c, "500 Internal Server Error", error.text, error.len);
    else respond(c, "200 OK", product, product_size = len / 2);
}

static void find_labels(struct connection *c) {
    if (!resource) kernlet_find_resource("labels", &resource, &resource_size);
    size_t n = text_number(text, ++asked);
    text[n++] = ' ';
    n += text_number(text + n, resource);
    text[n++] = ' ';
    n += text_number(text + n, resource_size);
    respond(c, "200 OK", text, n);
}

static void answer(struct request *r) {
    if (is(r->target, r->target_len, "/multiply")) multiply(r->connection, r->body, r->body_len);
    else if (is(r->target, r->target_len, "/last")) respond(r->connection, "200 OK", product, product_size);
    else if (is(r->target, r->target_len, "/labels")) find_labels(r->connection);
    else respond(r->connection, "404 Not Found", 0, 0);
}

int app_main(const struct start *start) {
    options(start->cmdline);
    serve(start);
    return 0;
}

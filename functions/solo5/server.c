/*
 * Serves HTTP by itself, as 10.0.0.2 on port 8080 unless it is told otherwise: the example of a server for functions.
 *
 *   POST /echo     the body
 *   GET /head      the request's head as it came
 *   GET /count     how many requests there were
 *   GET /peer      the other side's port and first sequence number
 *   GET /clock     nanoseconds since the start and since 1970
 *   POST /keep     keeps the body; GET /kept gives it
 *   POST /search   how often the body is in the guest's memory, when each of its bytes is one less
 *   GET /meet      is answered when somebody else asks for it as well
 */
#include "http.h"

MANIFEST(DEVICE("service", NET_BASIC));

static uint8_t kept[4096];
static size_t kept_len;
static unsigned requests;
static struct connection *waiting;
static char text[CONNECTIONS][64];
static const struct start *memory;

static int goes_on(void) { return 1; }

static void numbers(struct connection *c, uint64_t first, uint64_t second) {
    char *to = text[c - connections];
    size_t n = text_number(to, first);
    to[n++] = ' ';
    n += text_number(to + n, second);
    respond(c, "200 OK", to, n);
}

static void meet(struct connection *c) {
    static const char met[] = "met";
    if (!waiting || waiting == c || waiting->state != OPEN) { waiting = c; return; }
    respond(waiting, "200 OK", met, 3);
    respond(c, "200 OK", met, 3);
    waiting = 0;
}

/* Looks through all memory, but for where the words themselves are. */
static size_t search(const uint8_t *what, size_t len) {
    const uint8_t *at = (const uint8_t *)0x100000, *end = (const uint8_t *)(memory->heap_start + memory->heap_size);
    size_t found = 0;
    for (; len && at + len <= end; at++) {
        size_t i = 0;
        while (i < len && at[i] == (uint8_t)(what[i] - 1)) i++;
        if (i == len) found++;
    }
    return found;
}

static void answer(struct request *r) {
    struct connection *c = r->connection;
    static const char hello[] = "Hello from a guest that serves by itself\n";
    size_t path = 0;
    while (path < r->target_len && r->target[path] != '?') path++;
    requests++;
    if (is(r->target, path, "/")) respond(c, "200 OK", hello, sizeof hello - 1);
    else if (is(r->target, path, "/echo")) respond(c, "200 OK", r->body, r->body_len);
    else if (is(r->target, path, "/head")) respond(c, "200 OK", r->head, r->head_len);
    else if (is(r->target, path, "/count")) respond(c, "200 OK", text[0], text_number(text[0], requests));
    else if (is(r->target, path, "/peer")) numbers(c, c->port, c->theirs);
    else if (is(r->target, path, "/clock")) numbers(c, clock_monotonic(), clock_wall());
    else if (is(r->target, path, "/kept")) respond(c, "200 OK", kept, kept_len);
    else if (is(r->target, path, "/meet")) meet(c);
    else if (is(r->target, path, "/search")) respond(c, "200 OK", text[1], text_number(text[1], search(r->body, r->body_len)));
    else if (is(r->target, path, "/keep")) {
        kept_len = r->body_len < sizeof kept ? r->body_len : sizeof kept;
        memcpy(kept, r->body, kept_len);
        print("keeps %lu bytes\n", kept_len);
        respond(c, "204 No Content", 0, 0);
    } else respond(c, "404 Not Found", 0, 0);
}

int app_main(const struct start *start) {
    memory = start;
    options(start->cmdline);
    print("serves at %u.%u.%u.%u:%u\n", address[0], address[1], address[2], address[3], service_port);
    serve(start);
    return 0;
}

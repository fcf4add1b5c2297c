/*
 * A server that does to its clients what none should: for tests of those who are on the other side. The path says what.
 */
#include "http.h"

MANIFEST(DEVICE("service", NET_BASIC));

static int ends;
static volatile int *volatile nowhere = (volatile int *)8;
static const struct start *memory;

static struct connection *slow;

static int goes_on(void) {
    if (slow && clock_monotonic() >= wake_at) {
        respond(slow, "200 OK", "at last", 7);
        slow = 0;
        wake_at = ~0ul;
    }
    return !ends;
}

static void raw(struct connection *c, const char *text) { reply(c, text, strlen(text), 0, 0); }

static void flood(void) {
    static uint8_t junk[1514];
    uint32_t state = 1;
    for (;;) {
        for (unsigned i = 0; i < sizeof junk; i++) { state = state * 1103515245 + 12345; junk[i] = (uint8_t)(state >> 16); }
        /* Some look like what the other side understands. */
        memcpy(junk, in_frame + 6, 6);
        memcpy(junk + 6, mft->e[handle].u.net.mac, 6);
        if (state & 1) memcpy(junk + 12, in_frame + 12, 26);
        if (state & 2) memcpy(junk + 12, "\x08\x06\x00\x01\x08\x00\x06\x04\x00\x01", 10);
        frame_send(junk, 14 + (state >> 8) % 1500);
    }
}

/* Segments of a connection that say whatever they like. */
static void forge(struct connection *c) {
    for (uint32_t i = 0; i < 512; i++) {
        uint32_t mixed = i * 2654435761u;
        send_segment(c->mac, c->ip, service_port, c->port, c->send_next + (i & 1 ? mixed : i), c->receive_next + (i & 2 ? mixed : 0),
                     (uint8_t)(mixed >> 8 & ~RST), mixed >> 16, mixed % 1400);
    }
}

static void answer(struct request *r) {
    struct connection *c = r->connection;
    const char *t = r->target;
    size_t n = r->target_len;
    if (is(t, n, "/")) respond(c, "200 OK", "ok", 2);
    else if (is(t, n, "/reset")) drop(c, 1);
    else if (is(t, n, "/close")) reply(c, 0, 0, 0, 0);
    else if (is(t, n, "/silent")) return;
    else if (is(t, n, "/slow")) { slow = c; wake_at = clock_monotonic() + 800000000; print("slow\n"); }
    else if (is(t, n, "/short")) raw(c, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort");
    else if (is(t, n, "/huge")) raw(c, "HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551615\r\n\r\n");
    else if (is(t, n, "/twice")) raw(c, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab");
    else if (is(t, n, "/garbage")) raw(c, "\x16\x03\x01 is not HTTP\r\n\r\n");
    else if (is(t, n, "/upgrade")) raw(c, "HTTP/1.1 101 Switching Protocols\r\n\r\n");
    else if (is(t, n, "/status")) raw(c, "HTTP/1.1 999 Unheard of\r\n\r\n");
    else if (is(t, n, "/split")) raw(c, "HTTP/1.1 200 OK\r\nX-A: b\rX-Split: c\r\nContent-Length: 0\r\n\r\n");
    else if (is(t, n, "/head")) {
        static const char head[] = "HTTP/1.1 200 OK\r\nX-Endless: ";
        memset((void *)r->body, 'x', 1 << 17);
        reply(c, head, sizeof head - 1, r->body, 1 << 17);
    } else if (is(t, n, "/large")) {
        static const char head[] = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n";
        reply(c, head, sizeof head - 1, (const void *)0x100000, memory->heap_start + memory->heap_size - 0x100000);
    }
    else if (is(t, n, "/spin")) for (;;) __asm__ volatile("pause");
    else if (is(t, n, "/flood")) flood();
    else if (is(t, n, "/forge")) { forge(c); respond(c, "200 OK", "ok", 2); }
    else if (is(t, n, "/print")) for (;;) print("again and again\n");
    else if (is(t, n, "/null")) *nowhere = 1;
    else if (is(t, n, "/abort")) ABORT("as it was told");
    else if (is(t, n, "/halt")) ends = 1;
    else respond(c, "404 Not Found", 0, 0);
}

int app_main(const struct start *start) {
    memory = start;
    options(start->cmdline);
    if (!strncmp(start->cmdline, "deaf", 4)) for (;;) yield(clock_monotonic() + 1000000000);
    if (!strncmp(start->cmdline, "spin", 4)) for (;;) __asm__ volatile("pause");
    if (!strncmp(start->cmdline, "exit", 4)) return 3;
    if (!strncmp(start->cmdline, "refuse", 6)) service_port = 1;
    serve(start);
    return 0;
}

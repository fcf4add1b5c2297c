/*
 * HTTP/1.1 above tcp.h, one request a connection: a guest says what it answers in answer().
 */
#ifndef KERNLET_HTTP_H
#define KERNLET_HTTP_H

#include "tcp.h"

/* A request that is there as a whole. Texts end where their lengths say. */
struct request {
    struct connection *connection;
    const char *method, *target, *head;
    size_t method_len, target_len, head_len;
    uint8_t *body;
    size_t body_len;
};

/* Answers a request, with respond() or later. */
static void answer(struct request *request);

static int is(const char *text, size_t len, const char *what) { return strlen(what) == len && !strncmp(text, what, len); }

static char lower(char c) { return c >= 'A' && c <= 'Z' ? (char)(c | 32) : c; }

/* A header's value; 0 where there is none. */
static const char *header(const char *head, size_t len, const char *name) {
    size_t n = strlen(name), i = 0;
    for (const char *line = head; line < head + len; line++) {
        for (i = 0; i < n && lower(line[i]) == name[i]; i++) {}
        if (i == n && line[n] == ':') {
            for (line += n + 1; *line == ' ' || *line == '\t'; line++) {}
            return line;
        }
        while (line < head + len && *line != '\n') line++;
    }
    return 0;
}

static char heads[CONNECTIONS][160];

static size_t text_number(char *to, uint64_t value) {
    char reversed[20];
    size_t n = 0;
    do reversed[n++] = (char)('0' + value % 10); while (value /= 10);
    for (size_t i = 0; i < n; i++) to[i] = reversed[n - 1 - i];
    return n;
}

/* Answers with a status line's code and reason, and a body whose memory stays as it is. */
static void respond(struct connection *c, const char *status, const void *body, size_t len) {
    char *head = heads[c - connections], *p = head;
    const char *const parts[] = { "HTTP/1.1 ", status, "\r\nContent-Type: application/octet-stream\r\nConnection: close\r\nContent-Length: " };
    for (unsigned i = 0; i < 3; i++) { memcpy(p, parts[i], strlen(parts[i])); p += strlen(parts[i]); }
    p += text_number(p, len);
    memcpy(p, "\r\n\r\n", 4);
    reply(c, head, (size_t)(p + 4 - head), body, len);
}

static void received(struct connection *c) {
    if (c->served || c->closing) return;
    char *text = (char *)c->in;
    size_t end = 0;
    for (size_t i = 3; i < c->in_len && !end; i++) if (!memcmp(text + i - 3, "\r\n\r\n", 4)) end = i + 1;
    if (!end) {
        if (c->in_len > 65536) { c->served = 1; respond(c, "431 Request Header Fields Too Large", 0, 0); }
        return;
    }
    const char *length = header(text, end, "content-length");
    size_t body = 0;
    for (; length && *length >= '0' && *length <= '9'; length++) body = body * 10 + (size_t)(*length - '0');
    if (body > c->in_max - end) { c->served = 1; respond(c, "413 Content Too Large", 0, 0); return; }
    if (c->in_len < end + body) return;
    struct request request = { .connection = c, .method = text, .head = text, .head_len = end, .body = c->in + end, .body_len = body };
    while (text[request.method_len] != ' ' && request.method_len < end) request.method_len++;
    request.target = text + request.method_len + 1;
    while (request.target[request.target_len] != ' ' && request.target[request.target_len] != '\r') request.target_len++;
    c->served = 1;
    answer(&request);
}

#endif

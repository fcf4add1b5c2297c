/*
 * A small TCP/IP stack for guests that serve, above frames.h: ARP, pings, datagrams to port 7, which go back as they
 * came, and TCP connections to one port, several at once. It knows nothing of HTTP; http.h does.
 *
 * The link is a piece of memory, so that frames keep their order and their bits: what comes out of order is asked for
 * again, and checksums of what comes are not looked at.
 */
#ifndef KERNLET_TCP_H
#define KERNLET_TCP_H

#include "frames.h"

/* Sixteen that are answered at once, and some that end. */
#define CONNECTIONS 24
#define SEGMENT 1460
#define RETRY_NSECS 200000000ul
#define LINGER_NSECS 1000000000ul

enum state { FREE, SYN_RECEIVED, OPEN };

struct connection {
    enum state state;
    uint8_t mac[6], ip[4];
    uint16_t port;
    /* Sequence numbers: the first ones of both sides, what comes next, what is not acknowledged yet, what is sent next. */
    uint32_t theirs, ours, receive_next, unacknowledged, send_next;
    uint32_t window;
    uint64_t timer;
    int owes_ack, they_ended, closing;
    /* What came, and what goes out: two pieces, one behind the other. */
    uint8_t *in;
    size_t in_len, in_max;
    struct { const uint8_t *data; size_t len; } out[2];
    /* For whoever serves the connection. */
    size_t served;
};

/* More has come, or the other side has ended: for http.h, or whoever serves. */
static void received(struct connection *c);

static struct connection connections[CONNECTIONS];
static uint8_t address[4] = { 10, 0, 0, 2 };
static uint16_t service_port = 8080;
static uint8_t in_frame[2048] __attribute__((aligned(16)));
static uint8_t out_frame[2048] __attribute__((aligned(16)));

static uint16_t get16(const uint8_t *at) { return (uint16_t)(at[0] << 8 | at[1]); }
static uint32_t get32(const uint8_t *at) { return (uint32_t)get16(at) << 16 | get16(at + 2); }
static void put16(uint8_t *at, uint32_t value) { at[0] = (uint8_t)(value >> 8); at[1] = (uint8_t)value; }
static void put32(uint8_t *at, uint32_t value) { put16(at, value >> 16); put16(at + 2, value); }

static uint16_t checksum(uint32_t sum, const uint8_t *data, size_t len) {
    for (; len > 1; data += 2, len -= 2) sum += get16(data);
    if (len) sum += (uint32_t)*data << 8;
    while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~sum;
}

/* Ethernet and IPv4 headers of a frame to somebody, and off it goes. */
static void send_ip(const uint8_t *mac, const uint8_t *ip, uint8_t protocol, size_t len) {
    uint8_t *h = out_frame + 14;
    memcpy(out_frame, mac, 6);
    memcpy(out_frame + 6, mft->e[handle].u.net.mac, 6);
    put16(out_frame + 12, 0x0800);
    memset(h, 0, 20);
    h[0] = 0x45;
    put16(h + 2, (uint32_t)(20 + len));
    h[6] = 0x40;
    h[8] = 64;
    h[9] = protocol;
    memcpy(h + 12, address, 4);
    memcpy(h + 16, ip, 4);
    put16(h + 10, checksum(0, h, 20));
    frame_send(out_frame, 34 + len);
}

enum { FIN = 1, SYN = 2, RST = 4, PSH = 8, ACK = 16 };

/* A segment from one of our ports to one of theirs; the data is in its place already. */
static void send_segment(const uint8_t *mac, const uint8_t *ip, uint16_t from, uint16_t port, uint32_t sequence, uint32_t acknowledgement,
                         uint8_t flags, uint32_t window, size_t len) {
    uint8_t *t = out_frame + 34;
    size_t header = flags & SYN ? 24 : 20;
    put16(t, from);
    put16(t + 2, port);
    put32(t + 4, sequence);
    put32(t + 8, acknowledgement);
    t[12] = (uint8_t)(header / 4 << 4);
    t[13] = flags;
    put16(t + 14, window);
    put32(t + 16, 0);
    /* The largest segment that is taken. */
    if (flags & SYN) put32(t + 20, 0x02040000 | SEGMENT);
    uint32_t pseudo = 6 + (uint32_t)(header + len) + get16(address) + get16(address + 2) + get16(ip) + get16(ip + 2);
    put16(t + 16, checksum(pseudo, t, header + len));
    send_ip(mac, ip, 6, header + len);
}

static void send_for(struct connection *c, uint32_t sequence, uint8_t flags, size_t len) {
    size_t room = c->in_max - c->in_len;
    c->owes_ack = 0;
    send_segment(c->mac, c->ip, service_port, c->port, sequence, c->receive_next, flags, room > 65535 ? 65535 : (uint32_t)room, len);
}

static void drop(struct connection *c, int reset) {
    if (reset) send_for(c, c->send_next, RST | ACK, 0);
    c->state = FREE;
}

/* Whether all of its reply is sent, its end as well, and acknowledged. */
static int is_said(const struct connection *c) {
    uint32_t all = c->ours + 2 + (uint32_t)(c->out[0].len + c->out[1].len);
    return c->state == OPEN && c->closing && c->send_next == all && c->unacknowledged == all;
}

/* Sends these two pieces and ends the connection behind them. Their memory stays as it is until then. */
static void reply(struct connection *c, const void *first, size_t first_len, const void *second, size_t second_len) {
    c->out[0].data = first;
    c->out[0].len = first_len;
    c->out[1].data = second;
    c->out[1].len = second_len;
    c->closing = 1;
}

/* Sends as much as the other side takes now. */
static void transmit(struct connection *c, uint64_t now) {
    size_t total = c->out[0].len + c->out[1].len;
    for (;;) {
        /* Where in the reply, behind the SYN. */
        size_t at = c->send_next - (c->ours + 1), in_flight = c->send_next - c->unacknowledged;
        if (at > total) break;
        size_t room = c->window > in_flight ? c->window - in_flight : 0, len = total - at;
        if (len > SEGMENT) len = SEGMENT;
        if (len > room) len = room;
        int last = c->closing && at + len == total;
        if (!len && !last) break;
        for (size_t i = 0; i < len;) {
            int piece = at + i >= c->out[0].len;
            size_t from = at + i - (piece ? c->out[0].len : 0), n = c->out[piece].len - from;
            if (n > len - i) n = len - i;
            memcpy(out_frame + 54 + i, c->out[piece].data + from, n);
            i += n;
        }
        send_for(c, c->send_next, (uint8_t)(ACK | (last ? PSH | FIN : 0)), len);
        c->send_next += (uint32_t)(len + (last ? 1 : 0));
        c->timer = now;
    }
    if (c->owes_ack) send_for(c, c->send_next, ACK, 0);
}

static struct connection *find(const uint8_t *ip, uint16_t port) {
    for (struct connection *c = connections; c < connections + CONNECTIONS; c++)
        if (c->state != FREE && c->port == port && !memcmp(c->ip, ip, 4)) return c;
    return 0;
}

static void take_syn(const uint8_t *mac, const uint8_t *ip, uint16_t port, uint32_t sequence, uint32_t window) {
    struct connection *c = connections, *end = connections + CONNECTIONS;
    while (c < end && c->state != FREE) c++;
    /* Without a free one the place of one of which the other side has all, and no answer where there is none: it asks again. */
    if (c == end) {
        for (c = connections; c < end && !is_said(c);) c++;
        if (c == end) return;
        drop(c, !c->they_ended);
    }
    uint8_t *in = c->in;
    size_t in_max = c->in_max;
    memset(c, 0, sizeof *c);
    c->in = in;
    c->in_max = in_max;
    memcpy(c->mac, mac, 6);
    memcpy(c->ip, ip, 4);
    c->state = SYN_RECEIVED;
    c->port = port;
    c->theirs = sequence;
    c->receive_next = sequence + 1;
    c->ours = c->unacknowledged = (uint32_t)clock_monotonic() ^ 0x5bd1e995;
    c->window = window;
    c->timer = clock_monotonic();
    send_for(c, c->ours, SYN | ACK, 0);
    c->send_next = c->ours + 1;
}

static void take_tcp(const uint8_t *frame, size_t header, size_t len) {
    const uint8_t *t = frame + 14 + header, *ip = frame + 26;
    if (len < 20) return;
    size_t skip = (size_t)(t[12] >> 4) * 4;
    if (skip < 20 || skip > len) return;
    uint16_t port = get16(t), to = get16(t + 2);
    uint32_t sequence = get32(t + 4), acknowledgement = get32(t + 8), window = get16(t + 14);
    uint8_t flags = t[13];
    const uint8_t *data = t + skip;
    size_t n = len - skip;
    struct connection *c = to == service_port ? find(ip, port) : 0;
    if (flags & RST) {
        if (c) c->state = FREE;
        return;
    }
    if (flags & SYN) {
        if (to != service_port) send_segment(frame + 6, ip, to, port, 0, sequence + 1, RST | ACK, 0, 0);
        else if (!c) take_syn(frame + 6, ip, port, sequence, window);
        return;
    }
    if (!c) {
        if (flags & ACK) send_segment(frame + 6, ip, to, port, acknowledgement, 0, RST, 0, 0);
        return;
    }
    if (flags & ACK && acknowledgement - c->unacknowledged <= c->send_next - c->unacknowledged) {
        if (acknowledgement != c->unacknowledged) c->timer = clock_monotonic();
        c->unacknowledged = acknowledgement;
        c->window = window;
        if (c->state == SYN_RECEIVED && acknowledgement == c->ours + 1) c->state = OPEN;
    }
    if (c->state != OPEN) return;
    if (n || flags & FIN) c->owes_ack = 1;
    /* What was there before is left out; what leaves a gap comes again. */
    uint32_t known = c->receive_next - sequence;
    if (known > n) return;
    data += known;
    n -= known;
    size_t room = c->in_max - c->in_len;
    size_t taken = n < room ? n : room;
    memcpy(c->in + c->in_len, data, taken);
    c->in_len += taken;
    c->receive_next += (uint32_t)taken;
    if (flags & FIN && taken == n && !c->they_ended) {
        c->they_ended = 1;
        c->receive_next++;
    }
    if (taken || c->they_ended) received(c);
}

static void swap(uint8_t *a, uint8_t *b, size_t n) {
    for (size_t i = 0; i < n; i++) { uint8_t t = a[i]; a[i] = b[i]; b[i] = t; }
}

/* An answer to a ping or a datagram is the frame itself, turned round. */
static void turn_round(uint8_t *frame, size_t len) {
    swap(frame, frame + 6, 6);
    swap(frame + 26, frame + 30, 4);
    frame_send(frame, len);
}

static void take_frame(uint8_t *frame, size_t len) {
    const uint8_t *mac = mft->e[handle].u.net.mac;
    if (len < 34) return;
    if (get16(frame + 12) == 0x0806 && len >= 42) {
        if (get16(frame + 20) != 1 || memcmp(frame + 38, address, 4)) return;
        frame[21] = 2;
        swap(frame + 22, frame + 32, 10);
        memcpy(frame + 22, mac, 6);
        memcpy(frame, frame + 6, 6);
        memcpy(frame + 6, mac, 6);
        frame_send(frame, 42);
        return;
    }
    size_t header = (size_t)(frame[14] & 15) * 4, all = get16(frame + 16);
    if (get16(frame + 12) != 0x0800 || frame[14] >> 4 != 4 || memcmp(frame + 30, address, 4)) return;
    /* Packets in fragments are for others. */
    if (header < 20 || all < header || 14 + all > len || get16(frame + 20) & 0x3fff) return;
    uint8_t *payload = frame + 14 + header;
    size_t n = all - header;
    if (frame[23] == 6) {
        take_tcp(frame, header, n);
    } else if (frame[23] == 1 && n >= 8 && payload[0] == 8) {
        payload[0] = 0;
        put16(payload + 2, 0);
        put16(payload + 2, checksum(0, payload, n));
        turn_round(frame, 14 + all);
    } else if (frame[23] == 17 && n >= 8 && get16(payload + 2) == 7) {
        swap(payload, payload + 2, 2);
        turn_round(frame, 14 + all);
    }
}

/* What is due in a connection; says when it wants to be looked at next. */
static uint64_t look_after(struct connection *c, uint64_t now) {
    if (c->state == FREE) return ~0ul;
    if (c->state == OPEN) transmit(c, now);
    int all_out = c->closing && c->unacknowledged == c->send_next;
    if (c->state == OPEN && c->they_ended && (all_out || !c->closing)) {
        if (all_out) { c->state = FREE; return ~0ul; }
        /* It has nothing to say to one that is gone. */
        reply(c, 0, 0, 0, 0);
        transmit(c, now);
    }
    if (c->unacknowledged != c->send_next || c->state == SYN_RECEIVED) {
        if (now < c->timer + RETRY_NSECS) return c->timer + RETRY_NSECS;
        c->timer = now;
        if (c->state == SYN_RECEIVED) { send_for(c, c->ours, SYN | ACK, 0); return now + RETRY_NSECS; }
        c->send_next = c->unacknowledged;
        transmit(c, now);
        return now + RETRY_NSECS;
    }
    if (!all_out) return ~0ul;
    /* All is said and acknowledged; the other side has a while to end as well. */
    if (now < c->timer + LINGER_NSECS) return c->timer + LINGER_NSECS;
    drop(c, 1);
    return ~0ul;
}

/* Whether to go on serving, asked each time before it waits; and when to ask again at the latest. */
static int goes_on(void);
static uint64_t wake_at = ~0ul;

static void serve(const struct start *start) {
    size_t each = start->heap_size / CONNECTIONS & ~15ul;
    for (unsigned i = 0; i < CONNECTIONS; i++) {
        connections[i].in = (uint8_t *)start->heap_start + i * each;
        connections[i].in_max = each;
    }
    for (;;) {
        size_t len = 0;
        while (frame_receive(in_frame, sizeof in_frame, &len) == R_OK) take_frame(in_frame, len);
        if (!goes_on()) return;
        uint64_t now = clock_monotonic(), next = now + 3600000000000ul;
        if (wake_at < next) next = wake_at;
        for (struct connection *c = connections; c < connections + CONNECTIONS; c++) {
            uint64_t at = look_after(c, now);
            if (at < next) next = at;
        }
        yield(next);
    }
}

static int digits(const char **p) {
    int value = 0;
    while (**p >= '0' && **p <= '9') value = value * 10 + *(*p)++ - '0';
    return value;
}

/* --ipv4=A.B.C.D/N, --port=N, --hypercalls; anything else is for others. */
static void options(const char *p) {
    int with_ring = 1;
    while (*p) {
        if (!strncmp(p, "--ipv4=", 7)) {
            p += 7;
            for (unsigned i = 0; i < 4; i++) { address[i] = (uint8_t)digits(&p); if (*p == '.') p++; }
        } else if (!strncmp(p, "--port=", 7)) {
            p += 7;
            service_port = (uint16_t)digits(&p);
        } else if (!strncmp(p, "--hypercalls", 12)) {
            with_ring = 0;
        }
        while (*p && *p != ' ') p++;
        while (*p == ' ') p++;
    }
    frames_begin(with_ring);
}

#endif

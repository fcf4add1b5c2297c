/*
 * Answers on its device "service", as 10.0.0.2: ARP, pings, and datagrams to port 7, which it sends back. With the
 * command line "limit N" it ends after N answers, with "hypercalls" it leaves the ring alone.
 */
#include "frames.h"

MANIFEST(DEVICE("service", NET_BASIC));

static uint8_t frame[2048] __attribute__((aligned(16)));
static void swap(size_t a, size_t b, size_t n) {
    for (size_t i = 0; i < n; i++) { uint8_t t = frame[a + i]; frame[a + i] = frame[b + i]; frame[b + i] = t; }
}

static uint16_t word(size_t at) { return (uint16_t)(frame[at] << 8 | frame[at + 1]); }

/* Makes the frame an answer to itself; false where there is none. */
static int answer(size_t len) {
    static const uint8_t address[4] = { 10, 0, 0, 2 };
    const uint8_t *mac = mft->e[handle].u.net.mac;
    if (len < 42) return 0;
    if (word(12) == 0x0806) {
        if (word(20) != 1 || memcmp(frame + 38, address, 4)) return 0;
        frame[21] = 2;
        swap(22, 32, 10);
        memcpy(frame + 22, mac, 6);
        memcpy(frame, frame + 6, 6);
        memcpy(frame + 6, mac, 6);
        return 1;
    }
    if (word(12) != 0x0800 || frame[14] != 0x45 || memcmp(frame + 30, address, 4)) return 0;
    if (frame[23] == 1 && frame[34] == 8) {
        /* An echo request becomes its reply; the checksum is corrected by the difference (RFC 1624). */
        frame[34] = 0;
        uint32_t sum = word(36) + 0x0800u;
        sum = (sum & 0xffff) + (sum >> 16);
        frame[36] = (uint8_t)(sum >> 8);
        frame[37] = (uint8_t)sum;
    } else if (frame[23] == 17 && word(36) == 7) {
        swap(34, 36, 2);
    } else {
        return 0;
    }
    swap(0, 6, 6);
    swap(26, 30, 4);
    return 1;
}

int app_main(const struct start *start) {
    const char *p = start->cmdline;
    int with_ring = strncmp(p, "hypercalls", 10);
    if (!with_ring) p += p[10] ? 11 : 10;
    frames_begin(with_ring);
    const struct mft_entry *e = &mft->e[handle];
    unsigned limit = 0, answers = 0;
    if (!strncmp(p, "limit ", 6)) for (p += 6; *p >= '0' && *p <= '9'; p++) limit = limit * 10 + (unsigned)(*p - '0');
    print("mac=%x:%x:%x:%x:%x:%x mtu=%u ring=%s\n", e->u.net.mac[0], e->u.net.mac[1], e->u.net.mac[2], e->u.net.mac[3],
          e->u.net.mac[4], e->u.net.mac[5], e->u.net.mtu, ring ? "yes" : "no");
    while (!limit || answers < limit) {
        size_t len = 0;
        if (!(yield(clock_monotonic() + 60000000000ul) & 1ull << handle)) continue;
        while (frame_receive(frame, sizeof frame, &len) == R_OK)
            if (answer(len)) { frame_send(frame, len); answers++; }
    }
    print("SUCCESS\n");
    return 0;
}

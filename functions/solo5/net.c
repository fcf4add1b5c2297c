/*
 * Answers on its device "service", as 10.0.0.2: ARP, pings, and datagrams to port 7, which it sends back. With the
 * command line "limit N" it ends after N answers, with "hypercalls" it leaves the ring alone.
 */
#include "solo5.h"

MANIFEST(DEVICE("service", NET_BASIC));

static uint8_t frame[2048] __attribute__((aligned(16)));
static unsigned handle;
static struct ring *ring;

static void ring_submit(uint32_t operation, uint8_t *data, uint32_t len) {
    uint32_t tail = ring->ent_tail;
    struct ring_entry *entry = &ring->entries[tail % RING_SIZE];
    *entry = (struct ring_entry){ operation, handle, (uintptr_t)data, len, tail, 0 };
    __asm__ volatile("" : : : "memory");
    ring->ent_tail = tail + 1;
    __asm__ volatile("mfence" : : : "memory");
    if (ring->needs_kick) __asm__ volatile("outl %0, %1" : : "a"(1), "d"((uint16_t)PORT_KICK) : "memory");
}

static int receive(size_t *len) {
    if (!ring) return net_read(handle, frame, sizeof frame, len);
    ring_submit(RING_NET_READ, frame, sizeof frame);
    while (ring->com_tail == ring->com_head) __asm__ volatile("pause" : : : "memory");
    volatile struct ring_commit *commit = &ring->commits[ring->com_head % RING_SIZE];
    int result = commit->ret;
    *len = commit->len;
    ring->com_head++;
    return result;
}

static void send(size_t len) {
    if (!ring) { ASSERT(net_write(handle, frame, len) == R_OK); return; }
    ring_submit(RING_NET_WRITE, frame, (uint32_t)len);
    /* The frame's memory is used again at once. */
    while (ring->ent_head != ring->ent_tail) __asm__ volatile("pause" : : : "memory");
}

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
    handle = device("service", NET_BASIC);
    const struct mft_entry *e = &mft->e[handle];
    const char *p = start->cmdline;
#if ABI_TARGET == ABI_HVT
    if (!strncmp(p, "hypercalls", 10)) p += p[10] ? 11 : 10;
    else if (boot->host_features & FEATURE_RING_IO) ring = (struct ring *)boot->net_ring;
#endif
    unsigned limit = 0, answers = 0;
    if (!strncmp(p, "limit ", 6)) for (p += 6; *p >= '0' && *p <= '9'; p++) limit = limit * 10 + (unsigned)(*p - '0');
    print("mac=%x:%x:%x:%x:%x:%x mtu=%u ring=%s\n", e->u.net.mac[0], e->u.net.mac[1], e->u.net.mac[2], e->u.net.mac[3],
          e->u.net.mac[4], e->u.net.mac[5], e->u.net.mtu, ring ? "yes" : "no");
    while (!limit || answers < limit) {
        size_t len = 0;
        if (!(yield(clock_monotonic() + 60000000000ul) & 1ull << handle)) continue;
        while (receive(&len) == R_OK)
            if (answer(len)) { send(len); answers++; }
    }
    print("SUCCESS\n");
    return 0;
}

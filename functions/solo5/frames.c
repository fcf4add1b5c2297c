/*
 * Frames of any length on its device "service", as a guest may hand them over that does not care: "send call LEN" and "send
 * ring LEN" send one, by hypercall or by the ring; "read call LEN" and "read ring LEN" take one into a buffer of LEN bytes and
 * say what came and whether anything was written behind it.
 */
#include "solo5.h"

MANIFEST(DEVICE("service", NET_BASIC));

static uint8_t frame[1 << 17] __attribute__((aligned(16)));

static struct ring_commit ring(uint32_t operation, unsigned handle, uint32_t len) {
    struct ring *ring = (struct ring *)boot->net_ring;
    uint32_t tail = ring->ent_tail;
    ring->entries[tail % RING_SIZE] = (struct ring_entry){ operation, handle, (uintptr_t)frame, len, tail, 0 };
    __asm__ volatile("" : : : "memory");
    ring->ent_tail = tail + 1;
    __asm__ volatile("mfence; outl %0, %1" : : "a"(1), "d"((uint16_t)PORT_KICK) : "memory");
    while (ring->ent_head != ring->ent_tail) __asm__ volatile("pause" : : : "memory");
    volatile struct ring_commit *commit = &ring->commits[0];
    return (struct ring_commit){ commit->id, commit->ret, commit->len, 0 };
}

int app_main(const struct start *start) {
    unsigned handle = device("service", NET_BASIC);
    const char *p = start->cmdline;
    int sends = !strncmp(p, "send ", 5), calls = !strncmp(p + 5, "call ", 5);
    size_t len = 0, got = 0;
    for (p += 10; *p >= '0' && *p <= '9'; p++) len = len * 10 + (size_t)(*p - '0');
    ASSERT(calls || boot->host_features & FEATURE_RING_IO);
    memset(frame, 'x', sizeof frame);
    if (sends) {
        if (calls) print("returned %d\n", net_write(handle, frame, len));
        else { ring(RING_NET_WRITE, handle, (uint32_t)len); print("taken\n"); }
        return 0;
    }
    while (!(yield(clock_monotonic() + 60000000000ul) & 1ull << handle)) {}
    int result;
    if (calls) {
        result = net_read(handle, frame, len, &got);
    } else {
        struct ring_commit commit = ring(RING_NET_READ, handle, (uint32_t)len);
        result = commit.ret;
        got = commit.len;
    }
    for (size_t i = len; i < sizeof frame; i++) ASSERT(frame[i] == 'x');
    print("returned %d with %lu bytes\n", result, got);
    return 0;
}

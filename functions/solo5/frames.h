/*
 * Frames of the device "service", through the ring where the tender has one and by hypercalls elsewhere.
 * For guests that declare it.
 */
#ifndef KERNLET_FRAMES_H
#define KERNLET_FRAMES_H

#include "solo5.h"

static unsigned handle;
static struct ring *ring;

static void frames_begin(int with_ring) {
    handle = device("service", NET_BASIC);
#if ABI_TARGET == ABI_HVT
    if (with_ring && boot->host_features & FEATURE_RING_IO) ring = (struct ring *)boot->net_ring;
#else
    (void)with_ring;
#endif
}

static void ring_submit(uint32_t operation, void *data, uint32_t len) {
    uint32_t tail = ring->ent_tail;
    struct ring_entry *entry = &ring->entries[tail % RING_SIZE];
    *entry = (struct ring_entry){ operation, handle, (uintptr_t)data, len, tail, 0 };
    __asm__ volatile("" : : : "memory");
    ring->ent_tail = tail + 1;
    __asm__ volatile("mfence" : : : "memory");
    if (ring->needs_kick) __asm__ volatile("outl %0, %1" : : "a"(1), "d"((uint16_t)PORT_KICK) : "memory");
}

static int frame_receive(void *frame, size_t size, size_t *len) {
    if (!ring) return net_read(handle, frame, size, len);
    ring_submit(RING_NET_READ, frame, (uint32_t)size);
    while (ring->com_tail == ring->com_head) __asm__ volatile("pause" : : : "memory");
    volatile struct ring_commit *commit = &ring->commits[ring->com_head % RING_SIZE];
    int result = commit->ret;
    *len = commit->len;
    ring->com_head++;
    return result;
}

static void frame_send(void *frame, size_t len) {
    if (!ring) { ASSERT(net_write(handle, frame, len) == R_OK); return; }
    ring_submit(RING_NET_WRITE, frame, (uint32_t)len);
    /* The frame's memory is used again at once. */
    while (ring->ent_head != ring->ent_tail) __asm__ volatile("pause" : : : "memory");
}

#endif

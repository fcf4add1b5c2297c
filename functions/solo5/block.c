/*
 * Writes every tenth block of its device "storage" and reads it back, then asks for what there is not. With the command
 * line "read" it prints the first block, with "put TEXT" it writes one that begins with the text, says what came of it and
 * prints the block's begin, with "fill" it says how many blocks it can write, one after the other, and with "time" how long
 * writing and reading all of them takes.
 */
#include "solo5.h"

MANIFEST(DEVICE("storage", BLOCK_BASIC));

static uint8_t written[1 << 16], seen[1 << 16];

int app_main(const struct start *start) {
    unsigned handle = device("storage", BLOCK_BASIC);
    uint64_t capacity = mft->e[handle].u.block.capacity;
    size_t size = mft->e[handle].u.block.block_size;
    print("capacity=%lu block_size=%lu\n", capacity, size);
    ASSERT(size <= sizeof written);
    if (!strcmp(start->cmdline, "read")) {
        ASSERT(block_read(handle, 0, seen, size) == R_OK);
        console((const char *)seen, size);
        return 0;
    }
    if (!strncmp(start->cmdline, "put ", 4)) {
        const char *text = start->cmdline + 4;
        size_t len = strlen(text) < size ? strlen(text) : size;
        memcpy(written, text, len);
        print("returned %d\n", block_write(handle, 0, written, size));
        ASSERT(block_read(handle, 0, seen, size) == R_OK);
        console((const char *)seen, len);
        return 0;
    }
    if (!strcmp(start->cmdline, "fill")) {
        uint64_t offset = 0;
        int result = R_OK;
        memset(written, 'f', size);
        while (offset < capacity && (result = block_write(handle, offset, written, size)) == R_OK) offset += size;
        print("blocks: %lu, then %d\n", offset / size, result);
        return 0;
    }
    if (!strcmp(start->cmdline, "time")) {
        uint64_t begun = clock_monotonic(), middle;
        for (uint64_t offset = 0; offset < capacity; offset += size) ASSERT(block_write(handle, offset, written, size) == R_OK);
        middle = clock_monotonic();
        for (uint64_t offset = 0; offset < capacity; offset += size) ASSERT(block_read(handle, offset, seen, size) == R_OK);
        print("nanoseconds: %lu %lu\n", middle - begun, clock_monotonic() - middle);
        return 0;
    }
    for (uint64_t offset = 0; offset < capacity; offset += 10 * size) {
        for (size_t i = 0; i < size; i++) written[i] = (uint8_t)(offset / size + i);
        ASSERT(block_write(handle, offset, written, size) == R_OK);
        memset(seen, 0, size);
        ASSERT(block_read(handle, offset, seen, size) == R_OK);
        ASSERT(!memcmp(written, seen, size));
    }
    ASSERT(block_write(handle, capacity, written, size) == R_EINVAL);
    ASSERT(block_read(handle, capacity, seen, size) == R_EINVAL);
    ASSERT(block_read(handle, capacity - size + 1, seen, size) == R_EINVAL);
    ASSERT(block_read(handle, 0 - (uint64_t)size, seen, size) == R_EINVAL);
    ASSERT(block_read(0, 0, seen, size) == R_EINVAL);
    ASSERT(block_read(64, 0, seen, size) == R_EINVAL);
    print("SUCCESS\n");
    return 0;
}

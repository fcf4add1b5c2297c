/*
 * What a manifest can have at its edges: the longest name there is, a name of one letter, and one name for a block device and a
 * network device. Each device is the one that its number says.
 */
#include "solo5.h"

#define LONGEST "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789abcde"
_Static_assert(sizeof LONGEST - 1 == 67, "67 letters and digits");

MANIFEST(DEVICE(LONGEST, BLOCK_BASIC), DEVICE("x", BLOCK_BASIC), DEVICE("both", BLOCK_BASIC), DEVICE("both", NET_BASIC));

int app_main(const struct start *start) {
    static uint8_t data[512];
    size_t len;
    (void)start;
    ASSERT(mft->version == 1 && mft->entries == 5);
    ASSERT(mft->e[0].type == RESERVED_FIRST && !mft->e[0].name[0] && !mft->e[0].attached);
    ASSERT(device(LONGEST, BLOCK_BASIC) == 1 && device("x", BLOCK_BASIC) == 2);
    ASSERT(device("both", BLOCK_BASIC) == 3 && device("both", NET_BASIC) == 4);
    for (unsigned handle = 1; handle < 4; handle++) {
        ASSERT(mft->e[handle].u.block.capacity == 512 * handle && mft->e[handle].u.block.block_size == 512);
        data[0] = (uint8_t)handle;
        ASSERT(block_write(handle, 512 * (handle - 1), data, 512) == R_OK);
        /* Of the other kind, or none at all. */
        ASSERT(net_read(handle, data, sizeof data, &len) == R_EINVAL);
    }
    for (unsigned handle = 0; handle < 70; handle += handle == 0 ? 4 : 1)
        ASSERT(block_read(handle, 0, data, 512) == R_EINVAL);
    ASSERT(net_read(4, data, sizeof data, &len) == R_AGAIN);
    ASSERT(mft->e[4].u.net.mtu == 1500);
    print("SUCCESS\n");
    return 0;
}

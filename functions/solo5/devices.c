/* As many devices as a manifest can name. */
#include "solo5.h"

#define D(n) DEVICE("storage" #n, BLOCK_BASIC)
#define D10(n) D(n##0), D(n##1), D(n##2), D(n##3), D(n##4), D(n##5), D(n##6), D(n##7), D(n##8), D(n##9)
MANIFEST(D10(), D10(1), D10(2), D10(3), D10(4), D10(5), D(60), D(61), D(62));

int app_main(const struct start *start) {
    static uint8_t data[512];
    (void)start;
    ASSERT(mft->entries == 64);
    for (unsigned handle = 1; handle < 64; handle++) {
        data[0] = (uint8_t)handle;
        ASSERT(mft->e[handle].attached && block_write(handle, 0, data, 512) == R_OK);
    }
    print("SUCCESS\n");
    return 0;
}

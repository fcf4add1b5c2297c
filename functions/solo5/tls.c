/* Variables of a thread, and two of them. */
#include "solo5.h"

MANIFEST();

static __thread uint64_t initialised = 0x1122334455667788;
static __thread uint64_t zero;
extern char tdata[], tdata_end[], tls_end[];

static uintptr_t make(uint8_t *room) {
    size_t size = ((size_t)(tls_end - tdata) + 7) & ~7ul;
    memcpy(room, tdata, (size_t)(tdata_end - tdata));
    *(uintptr_t *)(room + size) = (uintptr_t)(room + size);
    return (uintptr_t)(room + size);
}

int app_main(const struct start *start) {
    static uint8_t one[256] __attribute__((aligned(16))), other[256] __attribute__((aligned(16)));
    (void)start;
    uintptr_t first = make(one), second = make(other);
    set_tls_base(first);
    ASSERT(initialised == 0x1122334455667788 && zero == 0);
    initialised = 1, zero = 2;
    set_tls_base(second);
    ASSERT(initialised == 0x1122334455667788 && zero == 0);
    set_tls_base(first);
    ASSERT(initialised == 1 && zero == 2);
    print("SUCCESS\n");
    return 0;
}

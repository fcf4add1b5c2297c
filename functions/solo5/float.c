/* Floating-point arithmetic in vector registers, also across hypercalls: "float N" repeats the sum N times. */
#include "solo5.h"

MANIFEST();

static double series(unsigned terms) {
    double sum = 0, sign = 1;
    for (unsigned i = 0; i < terms; i++, sign = -sign) sum += sign / (2 * i + 1);
    return 4 * sum;
}

int app_main(const struct start *start) {
    unsigned times = 0;
    for (const char *p = start->cmdline; *p >= '0' && *p <= '9'; p++) times = times * 10 + (unsigned)(*p - '0');
    uint64_t begun = clock_monotonic();
    double before = 1.5, pi = 0;
    __asm__ volatile("" : "+x"(before));
    for (unsigned i = 0; i < (times ? times : 1); i++) pi = series(1000000);
    uint64_t took = clock_monotonic() - begun;
    print("pi is about %u.%u\n", (unsigned)pi, (unsigned)((pi - (unsigned)pi) * 100000));
    ASSERT(before == 1.5 && pi > 3.14159 && pi < 3.1416);
    if (times) print("nanoseconds: %lu\n", took);
    print("SUCCESS\n");
    return 0;
}

/* Time goes on, at the speed that it should, and waiting takes as long as it was asked to; "now" says what time it is. */
#include "solo5.h"

MANIFEST();

#define MS 1000000ul

int app_main(const struct start *start) {
    if (!strcmp(start->cmdline, "now")) { print("%lu\n", clock_monotonic()); return 0; }
    /* The wall clock is read between two looks at the other: what happens to the processor meanwhile is no matter. */
    uint64_t before = clock_monotonic(), wall = clock_wall(), asleep = clock_monotonic();
    ASSERT(wall > 1600000000ul * 1000 * MS);
    ASSERT(yield(asleep + 50 * MS) == 0);
    uint64_t awake = clock_monotonic(), passed = clock_wall() - wall, after = clock_monotonic();
    uint64_t least = awake - asleep, most = after - before;
    ASSERT(least >= 50 * MS);
    /* The two clocks agree to a tenth, and a hundredth of a second. */
    ASSERT(passed + passed / 10 + 10 * MS > least && passed < most + most / 10 + 10 * MS);
    /* A deadline that is over. */
    ASSERT(yield(0) == 0);
    print("SUCCESS\n");
    return 0;
}

/* Time goes on, at the speed that it should, and waiting takes as long as it was asked to. */
#include "solo5.h"

MANIFEST();

#define MS 1000000ul

int app_main(const struct start *start) {
    (void)start;
    uint64_t monotonic = clock_monotonic(), wall = clock_wall();
    ASSERT(wall > 1600000000ul * 1000 * MS);
    ASSERT(yield(monotonic + 50 * MS) == 0);
    uint64_t waited = clock_monotonic() - monotonic, passed = clock_wall() - wall;
    ASSERT(waited >= 50 * MS);
    /* The two clocks agree to a tenth, and a hundredth of a second. */
    ASSERT(passed < waited + waited / 10 + 10 * MS && waited < passed + passed / 10 + 10 * MS);
    /* A deadline that is over. */
    ASSERT(yield(0) == 0);
    print("SUCCESS\n");
    return 0;
}

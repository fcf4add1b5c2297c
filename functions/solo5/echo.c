/* Gives its command line back, and nothing else. */
#include "solo5.h"

MANIFEST();

int app_main(const struct start *start) {
    console(start->cmdline, strlen(start->cmdline));
    return 0;
}

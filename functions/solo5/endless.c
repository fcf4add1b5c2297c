/* Never ends: "spin" computes, "poll" asks whether there is anything, "sleep" waits, "flood" prints. */
#include "solo5.h"

MANIFEST();

int app_main(const struct start *start) {
    static char line[1024];
    memset(line, 'x', sizeof line - 1);
    line[sizeof line - 1] = '\n';
    for (;;) {
        if (!strcmp(start->cmdline, "poll")) yield(0);
        else if (!strcmp(start->cmdline, "sleep")) yield(~0ul);
        else if (!strcmp(start->cmdline, "flood")) console(line, sizeof line);
        else __asm__ volatile("pause");
    }
}

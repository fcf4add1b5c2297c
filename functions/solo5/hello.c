/* Says hello, shows its command line, and ends with the status that its last word names. */
#include "solo5.h"

MANIFEST();

int app_main(const struct start *start) {
    print("\n**** a guest's hello ****\n\nHello, World\n");
    print("Command line is: '%s'\n", start->cmdline);
    if (!strncmp(start->cmdline, "exit ", 5)) {
        int status = 0;
        for (const char *p = start->cmdline + 5; *p >= '0' && *p <= '9'; p++) status = status * 10 + *p - '0';
        return status;
    }
    print("SUCCESS\n");
    return 0;
}

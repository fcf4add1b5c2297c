/*
 * One hypercall with whatever arguments its command line has: "NUMBER WORD..." fills a structure with 64-bit words and
 * calls; "at NUMBER ADDRESS" calls with this address for the structure. A word is a number, or one of these with a
 * number added or taken away: top (the memory's size), here (a buffer), text, low (the boot information).
 */
#include "solo5.h"

MANIFEST(DEVICE("storage", BLOCK_BASIC), DEVICE("service", NET_BASIC));

static uint8_t buffer[4096] __attribute__((aligned(4096)));

static uint64_t value(const char **p) {
    uint64_t base = 0, n = 0;
    static const char *const names[] = { "top", "here", "text", "low" };
    const uint64_t bases[] = { boot->mem_size, (uintptr_t)buffer, (uintptr_t)app_main, (uintptr_t)boot };
    while (**p == ' ') ++*p;
    for (unsigned i = 0; i < 4; i++)
        if (!strncmp(*p, names[i], strlen(names[i]))) { base = bases[i]; *p += strlen(names[i]); break; }
    int minus = **p == '-';
    if (**p == '-' || **p == '+') ++*p;
    unsigned radix = 10;
    if ((*p)[0] == '0' && (*p)[1] == 'x') { radix = 16; *p += 2; }
    for (;; ++*p) {
        char c = **p;
        unsigned digit = c >= '0' && c <= '9' ? (unsigned)(c - '0') : c >= 'a' && c <= 'f' && radix == 16 ? (unsigned)(c - 'a') + 10 : 99;
        if (digit == 99) break;
        n = n * radix + digit;
    }
    return minus ? base - n : base + n;
}

int app_main(const struct start *start) {
    static uint64_t words[8];
    const char *p = start->cmdline;
    memset(buffer, 'x', sizeof buffer);
    int at = !strncmp(p, "at ", 3);
    if (at) p += 3;
    unsigned number = (unsigned)value(&p);
    if (at) {
        hypercall(number, (void *)(uintptr_t)value(&p));
    } else {
        for (unsigned i = 0; i < 8 && *p; i++) words[i] = value(&p);
        hypercall(number, words);
    }
    print("returned %d\n", (int)words[number >= HC_BLOCK_WRITE && number <= HC_BLOCK_READ ? 4 : 3]);
    return 0;
}

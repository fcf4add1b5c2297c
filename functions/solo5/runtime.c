/*
 * What the guests of this folder stand on: the first instruction, descriptor tables, traps, the console, clocks and
 * devices. It does at the start what Solo5's own bindings do, so that a tender that runs it runs theirs.
 */
#include "solo5.h"

#include <stdarg.h>

const struct mft *mft;
const struct boot_info *boot;
static int quiet;
extern char text[], text_end[], rodata_end[], image_end[];

/* The host's loader finds no such interpreter, so that nobody runs a guest as a program of the host. */
static const char interpreter[] __attribute__((section(".interp"), used)) = "/nonexistent/solo5/";

static const struct {
    uint32_t namesz, descsz, type; char name[8]; uint32_t target, version, reserved[2];
} abi_note __attribute__((section(".note.solo5.abi"), aligned(4), used)) = {
    6, 16, 0x31494241, "Solo5", ABI_TARGET, ABI_VERSION, { 0, 0 } };

/* A function that has an array finds out before it returns whether it wrote beyond it. */
uintptr_t __stack_chk_guard;
__attribute__((noreturn)) void __stack_chk_fail(void);
void __stack_chk_fail(void) {
    print("Solo5: ABORT: Stack corruption detected\n");
    quit(255);
}

static uint64_t cycles(void) {
    uint32_t low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return (uint64_t)high << 32 | low;
}

/* Its first byte in memory is zero, where text that is too long ends. */
static void guard_stack(void) { __stack_chk_guard = cycles() * 0x9e3779b97f4a7c15 << 8; }

/* Strings. */

size_t strlen(const char *s) { size_t n = 0; while (s[n]) n++; return n; }
int strcmp(const char *a, const char *b) { while (*a && *a == *b) a++, b++; return *(const uint8_t *)a - *(const uint8_t *)b; }
int strncmp(const char *a, const char *b, size_t n) {
    while (n && *a && *a == *b) a++, b++, n--;
    return n ? *(const uint8_t *)a - *(const uint8_t *)b : 0;
}
int memcmp(const void *a, const void *b, size_t n) {
    const uint8_t *x = a, *y = b;
    for (; n; x++, y++, n--) if (*x != *y) return *x - *y;
    return 0;
}
void *memcpy(void *to, const void *from, size_t n) {
    void *end = to;
    __asm__ volatile("rep movsb" : "+D"(end), "+S"(from), "+c"(n) : : "memory");
    return to;
}
void *memset(void *to, int value, size_t n) {
    void *end = to;
    __asm__ volatile("rep stosb" : "+D"(end), "+c"(n) : "a"(value) : "memory");
    return to;
}

/* Text. */

static size_t number(char *to, uint64_t value, unsigned base) {
    char reversed[20];
    size_t n = 0, i;
    do reversed[n++] = "0123456789abcdef"[value % base]; while (value /= base);
    for (i = 0; i < n; i++) to[i] = reversed[n - 1 - i];
    return n;
}

void print(const char *format, ...) {
    char line[512];
    size_t n = 0;
    va_list arguments;
    va_start(arguments, format);
    for (const char *p = format; *p && n < sizeof line - 24; p++) {
        if (*p != '%') { line[n++] = *p; continue; }
        int longs = 0;
        while (*++p == 'l') longs++;
        if (*p == 's') {
            for (const char *s = va_arg(arguments, const char *); *s && n < sizeof line - 24;) line[n++] = *s++;
        } else {
            uint64_t value = longs ? va_arg(arguments, uint64_t) : va_arg(arguments, unsigned);
            if (*p == 'd') {
                int64_t is_signed = longs ? (int64_t)value : (int32_t)value;
                if (is_signed < 0) { line[n++] = '-'; value = -(uint64_t)is_signed; }
            }
            n += number(line + n, value, *p == 'x' ? 16 : 10);
        }
    }
    va_end(arguments);
    console(line, n);
}

void give_up(const char *file, int line, const char *why) {
    print("Solo5: ABORT: %s:%d: %s\n", file, line, why);
    quit(255);
}

unsigned device(const char *name, uint32_t type) {
    for (unsigned i = 0; i < mft->entries; i++)
        if (mft->e[i].type == type && !strcmp(mft->e[i].name, name)) {
            ASSERT(mft->e[i].attached);
            return i;
        }
    ABORT("a device is missing");
}

/* Words that are for the runtime and not for the guest. */
static const char *command_line(const char *p) {
    static const char *const words[] = { "--solo5:quiet", "--solo5:error", "--solo5:warn", "--solo5:info", "--solo5:debug" };
    for (;;) {
        while (*p == ' ') p++;
        unsigned i = 0;
        for (; i < 5; i++) {
            size_t n = strlen(words[i]);
            if (!strncmp(p, words[i], n) && (p[n] == ' ' || !p[n])) { quiet = i < 3; p += n; break; }
        }
        if (i == 5) return p;
    }
}

/* The tender has looked at the manifest, but a guest that is handed something else had better not use it. */
static void check_manifest(void) {
    ASSERT(mft->version == 1 && mft->entries >= 1 && mft->entries <= 64 && mft->e[0].type == RESERVED_FIRST);
    for (unsigned i = 1; i < mft->entries; i++) {
        size_t n = 0;
        while (n < sizeof mft->e[i].name && mft->e[i].name[n]) n++;
        ASSERT(n && n < sizeof mft->e[i].name);
    }
}

static void introduce(uint64_t mem_size) {
    print("            |      ___|\n");
    print("  __|  _ \\  |  _ \\ __ \\\n");
    print("\\__ \\ (   | | (   |  ) |\n");
    print("____/\\___/ _|\\___/____/\n");
    print("Solo5: Bindings of Kernlet's guests\n");
    print("Solo5: Memory map: %lu MB addressable:\n", mem_size >> 20);
    print("Solo5:   reserved @ (0x0 - 0x%lx)\n", (uintptr_t)text - 1);
    print("Solo5:       text @ (0x%lx - 0x%lx)\n", (uintptr_t)text, (uintptr_t)text_end - 1);
    print("Solo5:     rodata @ (0x%lx - 0x%lx)\n", (uintptr_t)text_end, (uintptr_t)rodata_end - 1);
    print("Solo5:       data @ (0x%lx - 0x%lx)\n", (uintptr_t)rodata_end, (uintptr_t)image_end - 1);
    print("Solo5:       heap >= 0x%lx < stack < 0x%lx\n", (uintptr_t)image_end, mem_size);
}

static void start(const char *cmdline, uint64_t mem_size) {
    uintptr_t top = (uintptr_t)__builtin_frame_address(0), heap = (uintptr_t)image_end;
    struct start info = { command_line(cmdline), heap, top - (1 << 16) - heap };
    if (!quiet) introduce(mem_size);
    check_manifest();
    quit(app_main(&info));
}

#if ABI_TARGET == ABI_HVT

void hypercall(unsigned number, volatile void *structure) {
    __asm__ volatile("outl %0, %1" : : "a"((uint32_t)(uintptr_t)structure), "d"((uint16_t)(PORT_BASE + number)) : "memory");
}

void console(const char *text, size_t len) {
    struct hc_puts call = { (uintptr_t)text, len };
    hypercall(HC_PUTS, &call);
}

static void halt(uint64_t cookie, int status) {
    struct hc_halt call = { cookie, status };
    hypercall(HC_HALT, &call);
    for (;;) {}
}

void quit(int status) {
    if (!quiet) print("Solo5: solo5_exit(%d) called\n", status);
    halt(0, status);
    __builtin_unreachable();
}

/* Nanoseconds in 2^32 cycles, so that reading the clock takes no division. */
static uint64_t first_cycle, scale;

static void start_clock(void) {
    ASSERT(boot->cpu_cycle_freq > 0);
    scale = (1000000000ul << 32) / boot->cpu_cycle_freq;
    first_cycle = cycles();
}

uint64_t clock_monotonic(void) { return (uint64_t)((unsigned __int128)(cycles() - first_cycle) * scale >> 32); }

uint64_t clock_wall(void) {
    struct hc_walltime call;
    hypercall(HC_WALLTIME, &call);
    return call.nsecs;
}

uint64_t yield(uint64_t deadline) {
    uint64_t now = clock_monotonic();
    struct hc_poll call = { deadline > now ? deadline - now : 0, 0, 0 };
    hypercall(HC_POLL, &call);
    return call.ready_set;
}

static int block(unsigned number, unsigned handle, uint64_t offset, const void *data, size_t len) {
    struct hc_block call = { handle, offset, (uintptr_t)data, len, 0 };
    hypercall(number, &call);
    return call.ret;
}

int block_write(unsigned handle, uint64_t offset, const void *data, size_t len) {
    return block(HC_BLOCK_WRITE, handle, offset, data, len);
}

int block_read(unsigned handle, uint64_t offset, void *data, size_t len) {
    return block(HC_BLOCK_READ, handle, offset, data, len);
}

int net_write(unsigned handle, const void *frame, size_t len) {
    struct hc_net call = { handle, (uintptr_t)frame, len, 0 };
    hypercall(HC_NET_WRITE, &call);
    return call.ret;
}

int net_read(unsigned handle, void *frame, size_t size, size_t *len) {
    struct hc_net call = { handle, (uintptr_t)frame, size, 0 };
    hypercall(HC_NET_READ, &call);
    *len = call.len;
    return call.ret;
}

void set_tls_base(uintptr_t base) {
    __asm__ volatile("wrmsr" : : "c"(0xc0000100), "a"((uint32_t)base), "d"((uint32_t)(base >> 32)));
}

/* Descriptor tables. A trap comes on a stack of its own. */

static uint64_t gdt[5] = { 0, 0x00af99000000ffff, 0x00cf93000000ffff, 0, 0 };
static struct { uint64_t low, high; } idt[48];
static struct { uint32_t reserved; uint64_t rsp[3], reserved1, ist[7], reserved2; uint32_t io; } __attribute__((packed)) tss;
static uint8_t trap_stack[8192] __attribute__((aligned(16)));
struct table { uint16_t limit; uint64_t base; } __attribute__((packed));

/* What a trap leaves, and the cookie that it gives to the tender. */
struct trap { uint64_t cr2, ec, rip, cs, rflags, rsp, ss; };

__attribute__((used)) void trapped(struct trap *trap, uint64_t vector) {
    static const char *const names[] = {
        "#DE", "#DB", "#NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", "#9", "#TS", "#NP", "#SS", "#GP", "#PF", "#15",
        "#MF", "#AC", "#MC", "#XM", "#VE", "#CP", "#22", "#23", "#24", "#25", "#26", "#27", "#HV", "#VC", "#SX", "#31" };
    print("Solo5: trap: type=%s ec=0x%lx rip=0x%lx rsp=0x%lx rflags=0x%lx\n", names[vector], trap->ec, trap->rip,
          trap->rsp, trap->rflags);
    if (vector == 14) print("Solo5: trap: cr2=0x%lx\n", trap->cr2);
    print("Solo5: ABORT: runtime.c: Fatal trap\n");
    halt((uintptr_t)trap, 255);
}

/* rbx holds the vector, rax was pushed by the gate; both are lost, since nobody returns. */
__asm__(
    ".macro gate vector, has_code\n"
    "gate_\\vector: .if \\has_code == 0\n push $0\n .endif\n"
    " mov $\\vector, %esi\n jmp trap_common\n .endm\n"
    ".irp v, 0,1,2,3,4,5,6,7,9,15,16,18,19,20,22,23,24,25,26,27,28,31\n gate \\v, 0\n .endr\n"
    ".irp v, 8,10,11,12,13,14,17,21,29,30\n gate \\v, 1\n .endr\n"
    "trap_common: mov %cr2, %rax\n push %rax\n mov %rsp, %rdi\n and $-16, %rsp\n call trapped\n"
    ".section .rodata\n"
    ".balign 8\n"
    "gates: .irp v, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n"
    " .quad gate_\\v\n .endr\n"
    ".text\n");
extern const uint64_t gates[32];

static void tables(void) {
    struct table pointer = { sizeof gdt - 1, (uintptr_t)gdt };
    uintptr_t base = (uintptr_t)&tss;
    __asm__ volatile(
        "lgdt %0\n"
        "pushq $8\n"
        "leaq 1f(%%rip), %%rax\n"
        "pushq %%rax\n"
        "lretq\n"
        "1: movl $0x10, %%eax\n"
        "movl %%eax, %%ss\n"
        "movl %%eax, %%ds\n"
        "movl %%eax, %%es\n"
        : : "m"(pointer) : "rax", "memory");
    tss.ist[1] = (uintptr_t)trap_stack + sizeof trap_stack;
    gdt[3] = sizeof tss | (base & 0xffffff) << 16 | 0x89ull << 40 | (base >> 24 & 0xff) << 56;
    gdt[4] = base >> 32;
    __asm__ volatile("ltr %w0" : : "r"(0x18) : "memory");
    for (unsigned i = 0; i < 32; i++) {
        idt[i].low = (gates[i] & 0xffff) | 8 << 16 | 2ull << 32 | 0x8eull << 40 | (gates[i] >> 16 & 0xffff) << 48;
        idt[i].high = gates[i] >> 32;
    }
    pointer = (struct table){ sizeof idt - 1, (uintptr_t)idt };
    __asm__ volatile("lidt %0" : : "m"(pointer) : "memory");
}

void _start(const struct boot_info *info) {
    guard_stack();
    set_tls_base(0);
    tables();
    boot = info;
    mft = (const void *)info->mft;
    start_clock();
    start((const char *)info->cmdline, info->mem_size);
}

#else /* spt: the same as system calls of Linux, of which the tender's filter lets these few through. */

static const struct spt_boot_info *spt;

static long system_call(long number, long a, long b, long c, long d, long e) {
    register long r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = 0;
    __asm__ volatile("syscall" : "+a"(number) : "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9) : "rcx", "r11", "memory");
    return number;
}

enum { SYS_READ = 0, SYS_WRITE = 1, SYS_PREAD = 17, SYS_PWRITE = 18, SYS_ARCH_PRCTL = 158, SYS_CLOCK_GETTIME = 228,
       SYS_EXIT_GROUP = 231, SYS_EPOLL_PWAIT = 281, SYS_TIMERFD_SETTIME = 286 };
struct time { int64_t sec, nsec; };

void hypercall(unsigned number, volatile void *structure) {
    (void)structure;
    system_call(1000 + number, 0, 0, 0, 0, 0);
}

void console(const char *text, size_t len) { system_call(SYS_WRITE, 1, (long)text, (long)len, 0, 0); }

void quit(int status) {
    if (!quiet) print("Solo5: solo5_exit(%d) called\n", status);
    for (;;) system_call(SYS_EXIT_GROUP, status, 0, 0, 0, 0);
}

static uint64_t clock_of(int which) {
    struct time now;
    system_call(SYS_CLOCK_GETTIME, which, (long)&now, 0, 0, 0);
    return (uint64_t)now.sec * 1000000000 + (uint64_t)now.nsec;
}

uint64_t clock_monotonic(void) { return clock_of(1); }
uint64_t clock_wall(void) { return clock_of(0); }

uint64_t yield(uint64_t deadline) {
    struct { uint32_t events; uint64_t data; } __attribute__((packed)) events[64];
    struct time at[2] = { { 0, 0 }, { (int64_t)(deadline / 1000000000), (int64_t)(deadline % 1000000000) | 1 } };
    system_call(SYS_TIMERFD_SETTIME, spt->timerfd, 1, (long)at, 0, 0);
    long n = system_call(SYS_EPOLL_PWAIT, spt->epollfd, (long)events, 64, -1, 0);
    uint64_t ready = 0;
    for (long i = 0; i < n; i++) if (events[i].data < 64) ready |= 1ull << events[i].data;
    return ready;
}

static int block(long number, unsigned handle, uint64_t offset, const void *data, size_t len) {
    if (handle >= mft->entries || mft->e[handle].type != BLOCK_BASIC) return R_EINVAL;
    uint64_t size = mft->e[handle].u.block.block_size, capacity = mft->e[handle].u.block.capacity;
    if (len != size || offset % size || offset >= capacity || offset + len > capacity) return R_EINVAL;
    return system_call(number, mft->e[handle].b.hostfd, (long)data, (long)len, (long)offset, 0) == (long)len ? R_OK : R_EUNSPEC;
}

int block_write(unsigned handle, uint64_t offset, const void *data, size_t len) {
    return block(SYS_PWRITE, handle, offset, data, len);
}

int block_read(unsigned handle, uint64_t offset, void *data, size_t len) {
    return block(SYS_PREAD, handle, offset, data, len);
}

int net_write(unsigned handle, const void *frame, size_t len) {
    return system_call(SYS_WRITE, mft->e[handle].b.hostfd, (long)frame, (long)len, 0, 0) == (long)len ? R_OK : R_EUNSPEC;
}

int net_read(unsigned handle, void *frame, size_t size, size_t *len) {
    long n = system_call(SYS_READ, mft->e[handle].b.hostfd, (long)frame, (long)size, 0, 0);
    if (n == 0 || n == -11) return R_AGAIN;
    if (n < 0) return R_EUNSPEC;
    *len = (size_t)n;
    return R_OK;
}

void set_tls_base(uintptr_t base) { system_call(SYS_ARCH_PRCTL, 0x1002, (long)base, 0, 0, 0); }

void _start(const struct spt_boot_info *info) {
    guard_stack();
    spt = info;
    mft = (const void *)info->mft;
    start((const char *)info->cmdline, info->mem_size);
}

#endif

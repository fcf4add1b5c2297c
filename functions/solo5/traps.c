/* Does what its command line says, which a processor does not allow, or not at once. */
#include "solo5.h"

MANIFEST();

static const char constant[] = "constant";

static void store(uintptr_t at) {
    __asm__ volatile("movl $1, (%0)" : : "r"(at) : "memory");
}

static int execute(const void *code) {
    int result;
    __asm__ volatile("call *%1" : "=a"(result) : "r"(code) : "memory");
    return result;
}

/* Writes as much as it is told, whatever there is room for. */
__attribute__((noinline)) static void smash(size_t len) {
    uint8_t room[16];
    memset(room, 1, len);
    __asm__ volatile("" : : "r"(room) : "memory");
}

int app_main(const struct start *start) {
    const char *what = start->cmdline;
    static uint8_t code[] = { 0xb8, 7, 0, 0, 0, 0xc3 };
    if (!strcmp(what, "divide")) __asm__ volatile("div %0" : : "r"(0u), "a"(1), "d"(0));
    else if (!strcmp(what, "undefined")) __asm__ volatile("ud2");
    else if (!strcmp(what, "breakpoint")) __asm__ volatile("int3");
    else if (!strcmp(what, "interrupt")) __asm__ volatile("int $6");
    else if (!strcmp(what, "syscall")) __asm__ volatile("syscall" : : : "rcx", "r11");
    else if (!strcmp(what, "null")) store(8);
    else if (!strcmp(what, "low")) store(0x10000);
    else if (!strcmp(what, "wild")) store(0x8000000000);
    else if (!strcmp(what, "noncanonical")) store(0x800000000000);
    else if (!strcmp(what, "text")) store((uintptr_t)app_main);
    else if (!strcmp(what, "rodata")) store((uintptr_t)constant);
    else if (!strcmp(what, "execute")) print("executed: %d\n", execute(code));
    else if (!strcmp(what, "smash")) smash(64 + strlen(what));
    else if (!strcmp(what, "abort")) ABORT("as asked");
    else if (!strcmp(what, "assert")) ASSERT(1 + 1 == 3);
#if ABI_TARGET == ABI_HVT
    else if (!strcmp(what, "msr")) __asm__ volatile("rdmsr" : : "c"(0x12345678) : "rax", "rdx");
    else if (!strcmp(what, "halt")) __asm__ volatile("cli; hlt");
    else if (!strcmp(what, "port")) __asm__ volatile("outl %0, %1" : : "a"(0), "d"((uint16_t)0x80));
    else if (!strcmp(what, "port-in")) __asm__ volatile("inl %0, %%eax" : : "d"((uint16_t)0x501) : "rax");
    else if (!strcmp(what, "port-byte")) __asm__ volatile("outb %b0, %1" : : "a"(0), "d"((uint16_t)0x502));
    else if (!strcmp(what, "port-string")) __asm__ volatile("outsl" : : "S"(constant), "d"((uint16_t)0x502));
    else if (!strcmp(what, "no-tables")) {
        struct { uint16_t limit; uint64_t base; } __attribute__((packed)) none = { 0, 0 };
        __asm__ volatile("lidt %0\n ud2" : : "m"(none));
    } else if (!strcmp(what, "return")) {
        uint64_t stack, flags;
        __asm__ volatile(
            "mov %%rsp, %0; pushq $0x10; pushq %0; pushfq; popq %1; pushq %1; pushq $8; leaq 1f(%%rip), %1; pushq %1; iretq; 1:"
            : "=&r"(stack), "=&r"(flags) : : "memory");
        print("returned\n");
    } else if (!strcmp(what, "between")) {
        /* Between privileged instructions, what may be carried out with them. */
        uint64_t a, b, c, d, e;
        __asm__ volatile(
            "cli; pushq $-5; pushq $0x12345678; movl $0x89abcdef, %%eax; leaq 1f(%%rip), %%rcx; pushq %%rsp; pushq %%rax; sti; 1:"
            "popq %0; popq %1; popq %2; popq %3; leaq 1b(%%rip), %4; subq %%rcx, %4; subq %%rsp, %1"
            : "=&r"(a), "=&r"(b), "=&r"(c), "=&r"(d), "=&r"(e) : : "rax", "rcx", "memory");
        print("%lx %ld %lx %ld %lu\n", a, (int64_t)b, c, (int64_t)d, e);
    } else if (!strcmp(what, "flags")) {
        uint64_t cr0, cr3, cr4, flags;
        __asm__ volatile("cli; sti; cli; pushfq; popq %0; mov %%cr0, %1; mov %%cr3, %2; mov %%cr4, %3"
                         : "=r"(flags), "=r"(cr0), "=r"(cr3), "=r"(cr4));
        /* Bit 4 is one on some processors, whatever is written to it. */
        print("cr0=0x%lx cr3=0x%lx cr4=0x%lx direction=%lu\n", cr0 & ~16ul, cr3, cr4, flags >> 10 & 1);
    }
#endif
    else { print("nothing to do for '%s'\n", what); return 1; }
    return 0;
}

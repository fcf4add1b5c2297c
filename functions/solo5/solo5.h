/*
 * Solo5's interface to its tenders, hvt ABI 2 and spt ABI 2 on x86-64, and a small runtime above it.
 * For the guests in this folder, and for whoever wants to begin with one of them. Written from the ABI; it
 * shares nothing with Solo5's own bindings and needs no libc.
 */
#ifndef KERNLET_SOLO5_H
#define KERNLET_SOLO5_H

#include <stddef.h>
#include <stdint.h>

#define ABI_HVT 1
#define ABI_SPT 2
#define ABI_VERSION 2

/* Results of hypercalls. */
enum { R_OK, R_AGAIN, R_EINVAL, R_EUNSPEC };

/* Hypercalls: a port of its own for each, at which the guest writes the 32-bit address of the structure. */
enum { HC_WALLTIME = 1, HC_PUTS, HC_POLL, HC_BLOCK_WRITE, HC_BLOCK_READ, HC_NET_WRITE, HC_NET_READ, HC_HALT };
#define PORT_BASE 0x500
#define PORT_KICK 0x600

struct hc_walltime { uint64_t nsecs; };
struct hc_puts { uint64_t data, len; };
struct hc_poll { uint64_t timeout_nsecs, ready_set; int32_t ret; };
struct hc_block { uint64_t handle, offset, data, len; int32_t ret; };
struct hc_net { uint64_t handle, data, len; int32_t ret; };
struct hc_halt { uint64_t cookie; int32_t exit_status; };

/* What the tender says at the start. hvt; its last three fields are zero where the tender is older than 0.11. */
struct boot_info {
    uint64_t mem_size, kernel_end, cpu_cycle_freq, cmdline, mft;
    uint32_t host_features, guest_features;
    uint64_t net_ring;
};

#define FEATURE_RING_IO 1

/* spt. */
struct spt_boot_info {
    uint64_t mem_size, kernel_end, cmdline, mft;
    int32_t epollfd, timerfd;
};

/* The ring of frames, above the guest's memory. */
#define RING_SIZE 1024
enum { RING_NET_WRITE = 1, RING_NET_READ };
struct ring_entry { uint32_t operation, handle; uint64_t data; uint32_t len, id; uint64_t reserved; };
struct ring_commit { uint32_t id; int32_t ret; uint32_t len, reserved; };
struct ring {
    volatile uint32_t ent_tail, com_head;
    uint32_t guest_pad[14];
    volatile uint32_t ent_head, com_tail, needs_kick;
    uint32_t host_pad[13];
    struct ring_entry entries[RING_SIZE];
    volatile struct ring_commit commits[RING_SIZE];
};

/* The manifest: which devices the guest has. The tender fills in the rest. */
#define BLOCK_BASIC 1
#define NET_BASIC 2
#define RESERVED_FIRST 0x40000000u
struct mft_entry {
    char name[68];
    uint32_t type;
    union {
        struct { uint64_t capacity; uint16_t block_size; } block;
        struct { uint8_t mac[6]; uint16_t mtu; } net;
    } u;
    union { int32_t hostfd; uint64_t data; } b;
    uint8_t attached;
};
_Static_assert(sizeof(struct mft_entry) == 104, "an entry of the manifest has 104 bytes");
struct mft { uint32_t version, entries; struct mft_entry e[]; };

/* MANIFEST(DEVICE("storage", BLOCK_BASIC), ...); once a guest, MANIFEST() without devices. */
#define DEVICE(n, t) { .name = n, .type = t }
#define MANIFEST(...) \
    static const struct mft_entry manifest_entries[] = { { .type = RESERVED_FIRST }, ##__VA_ARGS__ }; \
    const struct { \
        uint32_t namesz, descsz, type; char name[8]; uint32_t pad; uint32_t version, entries; \
        struct mft_entry e[sizeof manifest_entries / sizeof manifest_entries[0]]; \
    } solo5_manifest __attribute__((section(".note.solo5.manifest"), aligned(8), used)) = { \
        6, 12 + sizeof manifest_entries, 0x3154464d, "Solo5", 0, 1, \
        sizeof manifest_entries / sizeof manifest_entries[0], { { .type = RESERVED_FIRST }, ##__VA_ARGS__ } }

/* What the runtime gives a guest. */
struct start { const char *cmdline; uintptr_t heap_start; size_t heap_size; };
int app_main(const struct start *start);

extern const struct mft *mft;
/* hvt only. */
extern const struct boot_info *boot;

void hypercall(unsigned number, volatile void *structure);
__attribute__((noreturn)) void quit(int status);
__attribute__((noreturn)) void give_up(const char *file, int line, const char *why);
#define ABORT(why) give_up(__FILE__, __LINE__, why)
#define ASSERT(e) ((e) ? (void)0 : ABORT("Assertion `" #e "' failed"))

void console(const char *text, size_t len);
/* %s %d %u %x, with l or ll as well. */
void print(const char *format, ...) __attribute__((format(printf, 1, 2)));

uint64_t clock_monotonic(void);
uint64_t clock_wall(void);
/* Waits until a network device has a frame or the deadline of the monotonic clock is over. */
uint64_t yield(uint64_t deadline);

/* The index of a device in the manifest; the guest ends if it has none such. */
unsigned device(const char *name, uint32_t type);
int block_write(unsigned handle, uint64_t offset, const void *data, size_t len);
int block_read(unsigned handle, uint64_t offset, void *data, size_t len);
int net_write(unsigned handle, const void *frame, size_t len);
int net_read(unsigned handle, void *frame, size_t size, size_t *len);
void set_tls_base(uintptr_t base);

size_t strlen(const char *s);
int strcmp(const char *a, const char *b);
int strncmp(const char *a, const char *b, size_t n);
int memcmp(const void *a, const void *b, size_t n);
void *memcpy(void *to, const void *from, size_t n);
void *memset(void *to, int value, size_t n);

#endif

/* Intel's AMX on processors without it: loaded by LD_PRELOAD, it does what their illegal instructions would have done.

   The signal SIGILL comes with the address of the instruction.  Where that is one on tiles, it is decoded, carried out
   on tiles in the memory of the thread, and left behind; whatever else is illegal goes to the handler that the process
   has set.  The system is said to allow tiles, too.  After Intel's Software Developer's Manual, volume 2 (2023), in its
   order of sums; what a processor would refuse stays illegal, where it would be a general protection fault too.

   AMX_WRONG_BIT=n    a broken processor: bit n of the first number of every product is inverted
   amx_instructions   how many were carried out, for tests

   cc -O3 -mfma -ffp-contract=off -shared -fPIC -o libamx.so amx.c -ldl */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <immintrin.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

enum { TILES = 8, ROWS = 16, BYTES = 64, LANES = BYTES / 4 };
enum { NONE, P66, PF3, PF2 };                                        /* prefixes, as VEX has them */
enum { CONFIGURE = 0x49, MOVE = 0x4B, PAIRS = 0x5C, OCTETS = 0x5E }; /* the opcode after 0F 38 */
enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };                /* of arch_prctl */

typedef struct {
    uint8_t palette, start_row, zero[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} Configuration;

typedef struct {
    int opcode, prefix, modrm, length;
    bool memory, sib;   /* an operand in memory, which has a SIB byte */
    int reg, rm, other; /* tiles: ModRM.reg, ModRM.rm, VEX.vvvv */
    intptr_t base;      /* with the displacement */
    intptr_t index;     /* scaled: bytes between rows of a tile */
} Instruction;

/* initial-exec: nothing is allocated when a signal handler first touches it */
static _Thread_local __attribute__((tls_model("initial-exec"))) struct {
    Configuration shape; /* palette 0: none */
    uint32_t data[TILES][ROWS][LANES];
} own;

uint64_t amx_instructions;
static uint32_t wrong_bit;
static struct sigaction next; /* what the process has set for SIGILL */
static int (*real_sigaction)(int, const struct sigaction *, struct sigaction *);
static long (*real_syscall)(long, ...);

/* -- decoding -------------------------------------------------------------------------------------------------------*/

static int64_t general(const greg_t *registers, int number)
{
    static const int order[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                  REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
    return registers[order[number]];
}

/* The operand in memory, whose ModRM byte is at ``at``; returns the first byte after it. */
static const uint8_t *decode_memory(const uint8_t *at, int x, int b, const greg_t *registers, Instruction *i)
{
    int mode = *at >> 6, base = (*at & 7) | b << 3;
    bool of_rip = mode == 0 && (*at & 7) == 5, has_base = !of_rip;
    at++;
    if ((base & 7) == 4) {
        int scale = *at >> 6, index = (*at >> 3 & 7) | x << 3;
        base = (*at & 7) | b << 3;
        has_base = !(mode == 0 && (base & 7) == 5);
        i->sib = true;
        i->index = index == 4 ? 0 : general(registers, index) * (1 << scale);
        at++;
    }
    int32_t displacement = 0;
    if (mode == 1) {
        displacement = (int8_t)*at++;
    } else if (mode == 2 || !has_base) {
        memcpy(&displacement, at, 4);
        at += 4;
    }
    i->base = displacement + (has_base ? general(registers, base) : of_rip ? (intptr_t)at : 0);
    return at;
}

/* Whether there is an instruction of three bytes VEX, map 0F 38, 128 bits, W0: all of AMX are. */
static bool decode(const uint8_t *code, const greg_t *registers, Instruction *i)
{
    if (code[0] != 0xC4 || (code[1] & 0x1F) != 2 || code[2] & 0x84)
        return false;
    int r = !(code[1] & 0x80), x = !(code[1] & 0x40), b = !(code[1] & 0x20);
    *i = (Instruction){.prefix = code[2] & 3, .opcode = code[3], .modrm = code[4], .other = ~code[2] >> 3 & 15};
    i->reg = (i->modrm >> 3 & 7) | r << 3;
    i->rm = (i->modrm & 7) | b << 3;
    i->memory = i->modrm < 0xC0;
    const uint8_t *end = i->memory ? decode_memory(code + 4, x, b, registers, i) : code + 5;
    i->length = end - code;
    return true;
}

/* -- carrying out; all return whether a processor would -------------------------------------------------------------*/

static bool configure(const void *address)
{
    Configuration c;
    memcpy(&c, address, sizeof c);
    int reserved = c.start_row; /* only an instruction that was interrupted leaves another one */
    for (int k = 0; k < 14; k++)
        reserved |= c.zero[k];
    for (int k = 0; k < 16; k++) {
        if (c.rows[k] > ROWS || c.row_bytes[k] > BYTES || !c.rows[k] != !c.row_bytes[k])
            return false;
        if (k >= TILES)
            reserved |= c.rows[k];
    }
    if (c.palette > 1 || (c.palette == 1 && reserved))
        return false;
    memset(&own, 0, sizeof own);
    if (c.palette == 1)
        own.shape = c;
    return true;
}

static bool has_shape(int tile)
{
    return own.shape.palette == 1 && tile < TILES && own.shape.rows[tile] > 0;
}

static bool load(int tile, const Instruction *i)
{
    if (!has_shape(tile) || !i->sib)
        return false;
    memset(own.data[tile], 0, sizeof own.data[tile]);
    for (int r = 0; r < own.shape.rows[tile]; r++)
        memcpy(own.data[tile][r], (const void *)(i->base + r * i->index), own.shape.row_bytes[tile]);
    return true;
}

static bool store(int tile, const Instruction *i)
{
    if (!has_shape(tile) || !i->sib)
        return false;
    for (int r = 0; r < own.shape.rows[tile]; r++)
        memcpy((void *)(i->base + r * i->index), own.data[tile][r], own.shape.row_bytes[tile]);
    return true;
}

static bool fit(int total, int first, int second)
{
    if (!has_shape(total) || !has_shape(first) || !has_shape(second))
        return false;
    const uint16_t *width = own.shape.row_bytes;
    const uint8_t *rows = own.shape.rows;
    return total != first && total != second && first != second && width[total] % 4 == 0 && width[first] % 4 == 0
        && rows[total] == rows[first] && width[total] == width[second] && width[first] / 4 == rows[second];
}

/* Products: total (m, n) += first (m, k) @ second (k, n), of groups of 4 bytes that are summed; rows are 64 bytes apart. */
#define OCTET_PRODUCT(name, FIRST, SECOND)                                                                             \
    static void name(uint32_t *restrict total, const void *first, const void *second, int m, int k, int n)             \
    {                                                                                                                  \
        const FIRST *a = first;                                                                                        \
        const SECOND *b = second;                                                                                      \
        for (int r = 0; r < m; r++)                                                                                    \
            for (int s = 0; s < k; s++)                                                                                \
                for (int c = 0; c < n; c++) {                                                                          \
                    int32_t sum = 0;                                                                                   \
                    for (int t = 0; t < 4; t++)                                                                        \
                        sum += a[BYTES * r + 4 * s + t] * b[BYTES * s + 4 * c + t];                                    \
                    total[LANES * r + c] += (uint32_t)sum;                                                             \
                }                                                                                                      \
    }
OCTET_PRODUCT(multiply_uu, uint8_t, uint8_t)
OCTET_PRODUCT(multiply_us, uint8_t, int8_t)
OCTET_PRODUCT(multiply_su, int8_t, uint8_t)
OCTET_PRODUCT(multiply_ss, int8_t, int8_t)

static float number(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

/* The same of pairs of bfloat16: even and odd terms are summed apart, by fused operations, and then with each other. */
static void multiply_pairs(uint32_t *restrict total, const void *first, const void *second, int m, int k, int n)
{
    const uint32_t *a = first, *b = second, odd = 0xFFFF0000;
    for (int r = 0; r < m; r++) {
        float evens[LANES] = {0}, odds[LANES] = {0};
        for (int s = 0; s < k; s++) {
            uint32_t pair = a[LANES * r + s];
            for (int c = 0; c < n; c++) {
                evens[c] = fmaf(number(pair << 16), number(b[LANES * s + c] << 16), evens[c]);
                odds[c] = fmaf(number(pair & odd), number(b[LANES * s + c] & odd), odds[c]);
            }
        }
        for (int c = 0; c < n; c++) {
            float sum = number(total[LANES * r + c]) + (evens[c] + odds[c]);
            memcpy(total + LANES * r + c, &sum, 4);
        }
    }
}

static bool multiply(const Instruction *i)
{
    static void (*const of_octets[])(uint32_t *, const void *, const void *, int, int, int) = {
        [NONE] = multiply_uu, [P66] = multiply_us, [PF3] = multiply_su, [PF2] = multiply_ss};
    if (!fit(i->reg, i->rm, i->other))
        return false;
    int m = own.shape.rows[i->reg], k = own.shape.rows[i->other], n = own.shape.row_bytes[i->reg] / 4;
    _mm_setcsr(0x9FC0); /* denormals are zero, nearest even, no exception; the system restores what was there */
    (i->opcode == PAIRS ? multiply_pairs : of_octets[i->prefix])(
        own.data[i->reg][0], own.data[i->rm], own.data[i->other], m, k, n);
    own.data[i->reg][0][0] ^= wrong_bit;
    return true;
}

static bool carry_out(const Instruction *i)
{
    bool register_form = !i->memory && i->other == 0 && own.shape.palette == 1;
    switch (i->opcode << 2 | i->prefix) {
    case CONFIGURE << 2 | NONE:
        if (i->memory && i->other == 0 && i->reg == 0)
            return configure((const void *)(i->base + i->index));
        if (i->modrm != 0xC0 || i->other != 0)
            return false;
        memset(&own, 0, sizeof own);
        return true;
    case CONFIGURE << 2 | P66:
        if (!i->memory || i->other != 0 || i->reg != 0)
            return false;
        memcpy((void *)(i->base + i->index), &own.shape, sizeof own.shape);
        return true;
    case CONFIGURE << 2 | PF2:
        if (!register_form || i->rm != 0 || !has_shape(i->reg))
            return false;
        memset(own.data[i->reg], 0, sizeof own.data[i->reg]);
        return true;
    case MOVE << 2 | PF2:
    case MOVE << 2 | P66: /* with a hint that it is not needed again */
        return i->memory && i->other == 0 && load(i->reg, i);
    case MOVE << 2 | PF3:
        return i->memory && i->other == 0 && store(i->reg, i);
    case OCTETS << 2 | NONE:
    case OCTETS << 2 | P66:
    case OCTETS << 2 | PF3:
    case OCTETS << 2 | PF2:
    case PAIRS << 2 | PF3:
        return !i->memory && multiply(i);
    default:
        return false;
    }
}

/* -- in place of the system -----------------------------------------------------------------------------------------*/

static void pass_on(int number, siginfo_t *info, void *context)
{
    if (next.sa_flags & SA_SIGINFO) {
        next.sa_sigaction(number, info, context);
    } else if (next.sa_handler != SIG_DFL && next.sa_handler != SIG_IGN) {
        next.sa_handler(number);
    } else { /* the instruction comes again, and ends the process */
        real_sigaction(SIGILL, &(struct sigaction){.sa_handler = SIG_DFL}, NULL);
        if (info->si_code <= 0)
            raise(SIGILL);
    }
}

static void on_illegal(int number, siginfo_t *info, void *context)
{
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    Instruction i;
    if (info->si_code > 0 && decode((const uint8_t *)registers[REG_RIP], registers, &i) && carry_out(&i)) {
        __atomic_fetch_add(&amx_instructions, 1, __ATOMIC_RELAXED);
        registers[REG_RIP] += i.length;
    } else {
        pass_on(number, info, context);
    }
}

__attribute__((constructor)) static void begin(void)
{
    if (real_sigaction) /* constructors of other libraries may be ahead */
        return;
    real_sigaction = dlsym(RTLD_NEXT, "sigaction");
    real_syscall = dlsym(RTLD_NEXT, "syscall");
    const char *bit = getenv("AMX_WRONG_BIT");
    wrong_bit = bit ? 1u << (atoi(bit) & 31) : 0;
    struct sigaction ours = {.sa_sigaction = on_illegal, .sa_flags = SA_SIGINFO | SA_NODEFER};
    real_sigaction(SIGILL, &ours, &next);
}

/* In place of the C library's: Python's faulthandler, for one, sets a handler of its own. */
int sigaction(int number, const struct sigaction *action, struct sigaction *before)
{
    begin();
    if (number != SIGILL)
        return real_sigaction(number, action, before);
    struct sigaction given = action ? *action : next;
    if (before)
        *before = next;
    next = given;
    return 0;
}

long syscall(long number, ...)
{
    long a[6];
    va_list arguments;
    va_start(arguments, number);
    for (int k = 0; k < 6; k++)
        a[k] = va_arg(arguments, long);
    va_end(arguments);
    if (number == SYS_arch_prctl && a[0] == REQUEST_PERMISSION && a[1] == TILE_DATA)
        return 0;
    begin();
    return real_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

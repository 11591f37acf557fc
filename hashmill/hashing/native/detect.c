/* Which kernels this CPU can run. */
#include "kernel.h"

static const hm_kernel *known[HM_KERNELS_MAX];

#if defined(__x86_64__)
#include <cpuid.h>

enum {
    AVX_FILES = 0x06,    /* xmm, ymm */
    AVX512_FILES = 0xe6, /* and opmask, both halves of zmm */
};

static hm_kernel with_avx512, with_wide;

/* XCR0: the register files that the system saves on a task switch; an instruction beyond them is illegal. */
static uint64_t saved_by_system(void)
{
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

static int all_of(uint32_t flags, uint32_t asked) { return (flags & asked) == asked; }

/* Put what the CPU has beyond plain C into `known`, the best first; return how many. Every flag of the TARGETs of
 * x86_sha.c, x86_avx512.c and x86_wide.c is asked for: compilers use them all. */
static int detect(const char **why)
{
    uint32_t eax, ebx, ecx, edx, leaf1;
    if (!__get_cpuid(1, &eax, &ebx, &leaf1, &edx) || !__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) ||
        !all_of(ebx, bit_SHA)) {
        *why = "the CPU has no SHA instructions";
        return 0;
    }
    if (!all_of(leaf1, bit_SSSE3 | bit_SSE4_1 | bit_AVX) || !all_of(ebx, bit_BMI | bit_BMI2 | bit_AVX2)) {
        *why = "the CPU has no AVX2 or no BMI2";
        return 0;
    }
    if (!all_of(leaf1, bit_OSXSAVE) || (saved_by_system() & AVX_FILES) != AVX_FILES) {
        *why = "the system does not save the AVX registers";
        return 0;
    }
    int count = 0;
    if (all_of(ebx, bit_AVX512F | bit_AVX512VL) && (saved_by_system() & AVX512_FILES) == AVX512_FILES) {
        with_avx512 = hm_x86_sha;
        with_avx512.name = "sha-ni+avx512vl";
        with_avx512.blocks2[2] = hm_avx512_two_2;
        with_avx512.blocks2[4] = hm_avx512_two_4;
        with_avx512.blocks2[6] = hm_avx512_two_6;
        with_avx512.blocks4[1] = hm_avx512_four_1;
        with_avx512.blocks4[3] = hm_avx512_four_3;
        with_avx512.blocks4[5] = hm_avx512_four_5;
        with_avx512.blocks4[7] = hm_avx512_four_7;
        if (all_of(ebx, bit_AVX512BW)) {
            static hm_blocks_wide *const wide[HM_ALL + 1] = {
                NULL,             hm_avx512_wide_1, hm_avx512_wide_2, hm_avx512_wide_3,
                hm_avx512_wide_4, hm_avx512_wide_5, hm_avx512_wide_6, hm_avx512_wide_7};
            with_wide = with_avx512;
            with_wide.name = "sha-ni+avx512bw";
            for (int mask = 1; mask <= HM_ALL; mask++)
                with_wide.wide[mask] = wide[mask];
            known[count++] = &with_wide;
        }
        known[count++] = &with_avx512;
    }
    known[count++] = &hm_x86_sha;
    return count;
}
#else
static int detect(const char **why)
{
    *why = "there is no fast kernel for this kind of CPU";
    return 0;
}
#endif

const hm_kernel *const *hm_kernels(int *count, const char **why)
{
    /* Asked once: cpuid traps into the hypervisor of a virtual machine (measured: 5 us a call). */
    static int found;
    static const char *reason = "";
    if (!found) {
        found = detect(&reason);
        known[found++] = &hm_portable;
    }
    *count = found;
    *why = reason;
    return known;
}

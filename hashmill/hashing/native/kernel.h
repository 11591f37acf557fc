/* Digest states and the block functions over them. A block is 64 bytes for all three digests. */
#ifndef HASHMILL_KERNEL_H
#define HASHMILL_KERNEL_H
#include <stddef.h>
#include <stdint.h>

/* A mask says which digests are computed. */
enum { HM_MD5 = 1, HM_SHA1 = 2, HM_SHA256 = 4, HM_ALL = 7, HM_BLOCK = 64, HM_KERNELS_MAX = 4, HM_WIDE = 16 };

/* Chaining values as numbers (host order); those of a digest that is not in the mask are never written. */
typedef struct {
    uint32_t md5[4];
    uint32_t sha1[5];
    uint32_t sha256[8];
} hm_state;

/* Advance by n whole blocks. The data may be unaligned. */
typedef void hm_blocks(hm_state *state, const uint8_t *data, size_t n);
/* The same for two states at once, n blocks each. */
typedef void hm_blocks2(hm_state *first, const uint8_t *data1, hm_state *second, const uint8_t *data2, size_t n);
/* The same for four. */
typedef void hm_blocks4(hm_state *const states[4], const uint8_t *const data[4], size_t n);
/* The same for HM_WIDE. */
typedef void hm_blocks_wide(hm_state *const states[HM_WIDE], const uint8_t *const data[HM_WIDE], size_t n);

/* One way to compute: a function for every mask (that of mask 0 is NULL). blocks4 and wide may be NULL. */
typedef struct {
    const char *name;
    hm_blocks *blocks[HM_ALL + 1];
    hm_blocks2 *blocks2[HM_ALL + 1];
    hm_blocks4 *blocks4[HM_ALL + 1];
    hm_blocks_wide *wide[HM_ALL + 1];
} hm_kernel;

extern const uint32_t HM_MD5_K[64];
extern const uint32_t HM_SHA256_K[64];

void hm_init(hm_state *state);

/* The kernels that this CPU can run, the best first, the portable one always last; *count is set. Called under the
 * GIL. *why is empty, or says why the portable one is the only one. */
const hm_kernel *const *hm_kernels(int *count, const char **why);

extern const hm_kernel hm_portable;
#if defined(__x86_64__)
extern const hm_kernel hm_x86_sha;
extern hm_blocks2 hm_avx512_two_2, hm_avx512_two_4, hm_avx512_two_6;
extern hm_blocks4 hm_avx512_four_1, hm_avx512_four_3, hm_avx512_four_5, hm_avx512_four_7;
extern hm_blocks_wide hm_avx512_wide_1, hm_avx512_wide_2, hm_avx512_wide_3, hm_avx512_wide_4, hm_avx512_wide_5,
    hm_avx512_wide_6, hm_avx512_wide_7;
#endif
#endif

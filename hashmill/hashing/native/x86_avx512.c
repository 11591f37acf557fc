/* AVX-512VL: four streams at once, and two of the SHAs, whose spills fit into its 16 further vector registers.
 * Measured: one and two chains of MD5 are quicker in general registers (x86_sha.c). */
#include "kernel.h"
#if defined(__x86_64__)
#define TARGET "sha,sse4.1,ssse3,avx512f,avx512vl"
#include "x86_weave.h"

#include "x86_md5_lanes.h"

/* Four streams: MD5 in the four lanes of one chain; the SHAs pair by pair, each pair beside half of MD5's steps,
 * because the registers do not hold more than two of them. */
#define HALF(x, y, i)                                                                                                  \
    IF_MD5(lanes_step(&m, (x) * 16 + 2 * (i));)                                                                       \
    IF_SHA1(SHA1_QUAD(&s[x], i), SHA1_QUAD(&s[y], i);)                                                                 \
    IF_MD5(lanes_step(&m, (x) * 16 + 2 * (i) + 1);)                                                                   \
    IF_SHA256(sha256_quad(&t[x], i), sha256_quad(&t[y], i);)                                                           \
    if ((i) % 4 == 3)                                                                                                  \
        IF_SHA1(SHA1_FIFTH(&s[x], i), SHA1_FIFTH(&s[y], i);)
#define FIRST_HALF(i) HALF(0, 1, i)
#define SECOND_HALF(i) HALF(2, 3, i)
#define BEGIN_PAIR(x, y)                                                                                               \
    sha1_begin(&s[x], q[x]), sha256_begin(&t[x], q[x]), sha1_begin(&s[y], q[y]), sha256_begin(&t[y], q[y])
#define END_PAIR(x, y) sha1_end(&s[x]), sha256_end(&t[x]), sha1_end(&s[y]), sha256_end(&t[y])

INLINE void four(hm_state *const states[4], const uint8_t *const data[4], size_t n, const int mask)
{
    md5_lanes m;
    sha1_regs s[4];
    sha256_regs t[4];
    const uint8_t *q[4] = {data[0], data[1], data[2], data[3]};
    lanes_open(&m, states);
    for (int k = 0; k < 4; k++)
        sha1_open(&s[k], states[k]), sha256_open(&t[k], states[k]);
    _mm256_zeroupper(); /* whatever the compiler or the caller left there; why: LANES_OF */
    for (; n; n--) {
        lanes_begin(&m, q);
        BEGIN_PAIR(0, 1);
        EACH16(FIRST_HALF)
        END_PAIR(0, 1);
        BEGIN_PAIR(2, 3);
        EACH16(SECOND_HALF)
        END_PAIR(2, 3);
        lanes_end(&m);
        for (int k = 0; k < 4; k++)
            q[k] += HM_BLOCK;
    }
    IF_MD5(lanes_close(&m, states);)
    for (int k = 0; k < 4; k++) {
        IF_SHA1(sha1_close(&s[k], states[k]);)
        IF_SHA256(sha256_close(&t[k], states[k]);)
    }
}

#define LOOP __attribute__((target(TARGET))) void
#define TWO_STREAMS(mask)                                                                                              \
    LOOP hm_avx512_two_##mask(hm_state *s, const uint8_t *p, hm_state *s2, const uint8_t *p2, size_t n)                \
    {                                                                                                                  \
        two(s, p, s2, p2, n, mask);                                                                                    \
    }
#define FOUR_STREAMS(mask)                                                                                             \
    LOOP hm_avx512_four_##mask(hm_state *const s[4], const uint8_t *const p[4], size_t n) { four(s, p, n, mask); }
TWO_STREAMS(2)
TWO_STREAMS(4)
TWO_STREAMS(6)
FOUR_STREAMS(1)
FOUR_STREAMS(3)
FOUR_STREAMS(5)
FOUR_STREAMS(7)
#else
typedef int hm_not_this_cpu; /* ISO C wants something in a file */
#endif

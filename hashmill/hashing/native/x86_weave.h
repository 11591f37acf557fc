/* The interleaved loops for one and for two streams; `mask` is a constant at every place they are inlined to.
 *
 * Why weave: MD5 is one chain of 64 steps, each waiting for the one before, and leaves most of the core idle. The SHA
 * instructions run on other ports. Issued in turn within one block they fill each other's gaps; nothing else changes.
 */
#include "x86_sha.h"

/* Word of the block that step takes (RFC 1321, 3.4). */
#define MD5_WORD(step)                                                                                                 \
    (((step) < 16 ? (step) : (step) < 32 ? 5 * (step) + 1 : (step) < 48 ? 3 * (step) + 5 : 7 * (step)) & 15)

#include "x86_md5.h"

/* F(0) ... F(15), written out: every index below must be a constant. */
#define EACH16(F) F(0) F(1) F(2) F(3) F(4) F(5) F(6) F(7) F(8) F(9) F(10) F(11) F(12) F(13) F(14) F(15)

/* SHA-1 has 20 quads to SHA-256's 16: a second one after every fourth. */
#define SHA1_QUAD(r, i) sha1_quad(r, (i) + (i) / 4)
#define SHA1_FIFTH(r, i) sha1_quad(r, (i) + (i) / 4 + 1)
#define IF_MD5(...) if (mask & HM_MD5) __VA_ARGS__
#define IF_SHA1(...) if (mask & HM_SHA1) __VA_ARGS__
#define IF_SHA256(...) if (mask & HM_SHA256) __VA_ARGS__

#define ONE(i)                                                                                                         \
    IF_MD5(md5_step(&m, 4 * (i)), md5_step(&m, 4 * (i) + 1);)                                                          \
    IF_SHA1(SHA1_QUAD(&s, i);)                                                                                         \
    IF_MD5(md5_step(&m, 4 * (i) + 2), md5_step(&m, 4 * (i) + 3);)                                                      \
    IF_SHA256(sha256_quad(&t, i);)                                                                                     \
    if ((i) % 4 == 3)                                                                                                  \
        IF_SHA1(SHA1_FIFTH(&s, i);)

INLINE void one(hm_state *state, const uint8_t *p, size_t n, const int mask)
{
    md5_regs m;
    sha1_regs s;
    sha256_regs t;
    md5_open(&m, state), sha1_open(&s, state), sha256_open(&t, state);
    for (; n; n--, p += HM_BLOCK) {
        m.p = p;
        md5_begin(&m), sha1_begin(&s, p), sha256_begin(&t, p);
        EACH16(ONE)
        md5_end(&m), sha1_end(&s), sha256_end(&t);
    }
    if (mask & HM_MD5)
        md5_close(&m, state);
    if (mask & HM_SHA1)
        sha1_close(&s, state);
    if (mask & HM_SHA256)
        sha256_close(&t, state);
}

#define MD5_BOTH(i) IF_MD5(md5_step(&m, i), md5_step(&m2, i);)

#define TWO(i)                                                                                                         \
    MD5_BOTH(4 * (i)) IF_SHA1(SHA1_QUAD(&s, i);)                                                                       \
    MD5_BOTH(4 * (i) + 1) IF_SHA1(SHA1_QUAD(&s2, i);)                                                                  \
    MD5_BOTH(4 * (i) + 2) IF_SHA256(sha256_quad(&t, i);)                                                               \
    MD5_BOTH(4 * (i) + 3) IF_SHA256(sha256_quad(&t2, i);)                                                              \
    if ((i) % 4 == 3)                                                                                                  \
        IF_SHA1(SHA1_FIFTH(&s, i), SHA1_FIFTH(&s2, i);)

INLINE void two(hm_state *state, const uint8_t *p, hm_state *state2, const uint8_t *p2, size_t n, const int mask)
{
    md5_regs m;
    sha1_regs s, s2;
    sha256_regs t, t2;
    md5_regs m2;
    md5_open(&m, state), md5_open(&m2, state2);
    sha1_open(&s, state), sha256_open(&t, state);
    sha1_open(&s2, state2), sha256_open(&t2, state2);
    for (; n; n--, p += HM_BLOCK, p2 += HM_BLOCK) {
        m.p = p, m2.p = p2;
        md5_begin(&m2);
        md5_begin(&m), sha1_begin(&s, p), sha256_begin(&t, p), sha1_begin(&s2, p2), sha256_begin(&t2, p2);
        EACH16(TWO)
        md5_end(&m), sha1_end(&s), sha256_end(&t), sha1_end(&s2), sha256_end(&t2);
        md5_end(&m2);
    }
    if (mask & HM_MD5) {
        md5_close(&m, state), md5_close(&m2, state2);
    }
    if (mask & HM_SHA1)
        sha1_close(&s, state), sha1_close(&s2, state2);
    if (mask & HM_SHA256)
        sha256_close(&t, state), sha256_close(&t2, state2);
}

/* SHA-1 and SHA-256 by the SHA instructions, in quads of four rounds, so that a loop can weave them into other work.
 * The including file defines TARGET, the target attribute of every function here.
 */
#include "kernel.h"
#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline, target(TARGET)))

/* ---- SHA-1: quad i of 20 makes rounds 4i..4i+3 ------------------------------------------------------------------ */

typedef struct {
    __m128i abcd, e[2], w[4], abcd_before, e_before;
} sha1_regs;

INLINE void sha1_open(sha1_regs *r, const hm_state *s)
{
    r->abcd = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)s->sha1), 0x1b);
    r->e[0] = _mm_set_epi32((int)s->sha1[4], 0, 0, 0);
}

INLINE void sha1_close(const sha1_regs *r, hm_state *s)
{
    _mm_storeu_si128((__m128i *)s->sha1, _mm_shuffle_epi32(r->abcd, 0x1b));
    s->sha1[4] = (uint32_t)_mm_extract_epi32(r->e[0], 3);
}

INLINE void sha1_begin(sha1_regs *r, const uint8_t *p)
{
    const __m128i swap = _mm_set_epi64x(0x0001020304050607, 0x08090a0b0c0d0e0f); /* big-endian, first word on top */
    r->abcd_before = r->abcd;
    r->e_before = r->e[0];
    for (int i = 0; i < 4; i++)
        r->w[i] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(p + 16 * i)), swap);
}

INLINE void sha1_quad(sha1_regs *r, const int i)
{
    __m128i *const w = &r->w[i & 3], *const w1 = &r->w[(i + 1) & 3];
    __m128i *const w2 = &r->w[(i + 2) & 3], *const w3 = &r->w[(i + 3) & 3];
    __m128i *const e = &r->e[i & 1];
    *e = i ? _mm_sha1nexte_epu32(*e, *w) : _mm_add_epi32(*e, *w);
    r->e[~i & 1] = r->abcd;
    if (i >= 3 && i <= 18)
        *w1 = _mm_sha1msg2_epu32(*w1, *w);
    switch (i / 5) { /* an immediate must be a literal */
    case 0: r->abcd = _mm_sha1rnds4_epu32(r->abcd, *e, 0); break;
    case 1: r->abcd = _mm_sha1rnds4_epu32(r->abcd, *e, 1); break;
    case 2: r->abcd = _mm_sha1rnds4_epu32(r->abcd, *e, 2); break;
    default: r->abcd = _mm_sha1rnds4_epu32(r->abcd, *e, 3);
    }
    if (i >= 1 && i <= 16)
        *w3 = _mm_sha1msg1_epu32(*w3, *w);
    if (i >= 2 && i <= 17)
        *w2 = _mm_xor_si128(*w2, *w);
}

INLINE void sha1_end(sha1_regs *r)
{
    r->e[0] = _mm_sha1nexte_epu32(r->e[0], r->e_before);
    r->abcd = _mm_add_epi32(r->abcd, r->abcd_before);
}

/* ---- SHA-256: quad i of 16 -------------------------------------------------------------------------------------- */

typedef struct {
    __m128i abef, cdgh, w[4], abef_before, cdgh_before;
} sha256_regs;

INLINE void sha256_open(sha256_regs *r, const hm_state *s)
{
    __m128i cdab = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)s->sha256), 0xb1);
    __m128i efgh = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)(s->sha256 + 4)), 0x1b);
    r->abef = _mm_alignr_epi8(cdab, efgh, 8);
    r->cdgh = _mm_blend_epi16(efgh, cdab, 0xf0);
}

INLINE void sha256_close(const sha256_regs *r, hm_state *s)
{
    __m128i feba = _mm_shuffle_epi32(r->abef, 0x1b), dchg = _mm_shuffle_epi32(r->cdgh, 0xb1);
    _mm_storeu_si128((__m128i *)s->sha256, _mm_blend_epi16(feba, dchg, 0xf0));
    _mm_storeu_si128((__m128i *)(s->sha256 + 4), _mm_alignr_epi8(dchg, feba, 8));
}

INLINE void sha256_begin(sha256_regs *r, const uint8_t *p)
{
    const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203); /* big-endian words */
    r->abef_before = r->abef;
    r->cdgh_before = r->cdgh;
    for (int i = 0; i < 4; i++)
        r->w[i] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(p + 16 * i)), swap);
}

INLINE void sha256_quad(sha256_regs *r, const int i)
{
    __m128i *const w = &r->w[i & 3], *const w1 = &r->w[(i + 1) & 3], *const w3 = &r->w[(i + 3) & 3];
    __m128i wk = _mm_add_epi32(*w, _mm_load_si128((const __m128i *)(HM_SHA256_K + 4 * i)));
    r->cdgh = _mm_sha256rnds2_epu32(r->cdgh, r->abef, wk);
    if (i >= 3 && i <= 14)
        *w1 = _mm_sha256msg2_epu32(_mm_add_epi32(*w1, _mm_alignr_epi8(*w, *w3, 4)), *w);
    r->abef = _mm_sha256rnds2_epu32(r->abef, r->cdgh, _mm_shuffle_epi32(wk, 0x0e));
    if (i >= 1 && i <= 12)
        *w3 = _mm_sha256msg1_epu32(*w3, *w);
}

INLINE void sha256_end(sha256_regs *r)
{
    r->abef = _mm_add_epi32(r->abef, r->abef_before);
    r->cdgh = _mm_add_epi32(r->cdgh, r->cdgh_before);
}

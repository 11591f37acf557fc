/* AVX-512, sixteen streams at once: each vector holds one word of every stream, and every digest is computed in plain
 * vector arithmetic. No SHA instructions: sixteen lanes of arithmetic do more a cycle than one SHA unit does, on CPUs
 * whose unit is slow. Where that pays is measured (hm_calibrate in stream.c). */
#include "kernel.h"
#if defined(__x86_64__)
#define TARGET "avx512f,avx512bw"
#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline, target(TARGET)))

typedef __m512i vec;

#define ADD(x, y) _mm512_add_epi32(x, y)
#define ADD3(x, y, z) ADD(ADD(x, y), z)
#define ALL(constant) _mm512_set1_epi32((int)(constant))
/* One vpternlogd each: x ? y : z; the word that most have; the odd one; MD5's I, y ^ (x | ~z). */
#define CHOICE(x, y, z) _mm512_ternarylogic_epi32(x, y, z, 0xca)
#define MAJORITY(x, y, z) _mm512_ternarylogic_epi32(x, y, z, 0xe8)
#define PARITY(x, y, z) _mm512_ternarylogic_epi32(x, y, z, 0x96)
#define MD5_I(x, y, z) _mm512_ternarylogic_epi32(x, y, z, 0x39)

/* Word i of every block, from rows to columns: sixteen rows of sixteen words, in four layers of swaps. */
INLINE void columns_of(vec words[16], const uint8_t *const data[HM_WIDE], size_t at)
{
    vec x[16], y[16];
    for (int i = 0; i < 16; i++)
        x[i] = _mm512_loadu_si512(data[i] + at);
    for (int i = 0; i < 16; i += 2) {
        y[i] = _mm512_unpacklo_epi32(x[i], x[i + 1]);
        y[i + 1] = _mm512_unpackhi_epi32(x[i], x[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        x[i] = _mm512_unpacklo_epi64(y[i], y[i + 2]);
        x[i + 1] = _mm512_unpackhi_epi64(y[i], y[i + 2]);
        x[i + 2] = _mm512_unpacklo_epi64(y[i + 1], y[i + 3]);
        x[i + 3] = _mm512_unpackhi_epi64(y[i + 1], y[i + 3]);
    }
    /* x[4r + c] now holds, in its quarter q, word 4q + c of the rows 4r ... 4r + 3. */
    for (int c = 0; c < 4; c++) {
        vec even01 = _mm512_shuffle_i32x4(x[c], x[c + 4], 0x88), odd01 = _mm512_shuffle_i32x4(x[c], x[c + 4], 0xdd);
        vec even23 = _mm512_shuffle_i32x4(x[c + 8], x[c + 12], 0x88);
        vec odd23 = _mm512_shuffle_i32x4(x[c + 8], x[c + 12], 0xdd);
        words[c] = _mm512_shuffle_i32x4(even01, even23, 0x88);
        words[c + 8] = _mm512_shuffle_i32x4(even01, even23, 0xdd);
        words[c + 4] = _mm512_shuffle_i32x4(odd01, odd23, 0x88);
        words[c + 12] = _mm512_shuffle_i32x4(odd01, odd23, 0xdd);
    }
}

INLINE void turn_bytes(vec words[16])
{
    const vec order = _mm512_broadcast_i32x4(_mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203));
    for (int i = 0; i < 16; i++)
        words[i] = _mm512_shuffle_epi8(words[i], order);
}

/* ---- MD5, RFC 1321 ---------------------------------------------------------------------------------------------- */

#define MD5_WORD(i) (((i) < 16 ? (i) : (i) < 32 ? 5 * (i) + 1 : (i) < 48 ? 3 * (i) + 5 : 7 * (i)) & 15)
#define MD5_F(i, x, y, z)                                                                                              \
    ((i) < 16 ? CHOICE(x, y, z) : (i) < 32 ? CHOICE(z, x, y) : (i) < 48 ? PARITY(x, y, z) : MD5_I(x, y, z))
/* The word and the constant go together first: they wait for nothing, what is left of the chain is short. */
#define MD5_STEP(a, b, c, d, i, s)                                                                                     \
    do {                                                                                                               \
        vec apart = ADD3(a, words[MD5_WORD(i)], ALL(HM_MD5_K[i]));                                                         \
        a = ADD(_mm512_rol_epi32(ADD(apart, MD5_F(i, b, c, d)), s), b);                                                \
    } while (0)

/* ---- SHA-1 and SHA-256, FIPS 180-4 ------------------------------------------------------------------------------ */

/* The word `back` steps before step i: the first sixteen are the block's, the others replace one another in `ring`. */
#define WAS(ring, i, back) ((i) - (back) < 16 ? big[((i) - (back)) & 15] : ring[((i) - (back)) & 15])
#define SHA1_K(i) ((i) < 20 ? 0x5a827999 : (i) < 40 ? 0x6ed9eba1 : (i) < 60 ? 0x8f1bbcdc : 0xca62c1d6)
#define SHA1_F(i, x, y, z) ((i) < 20 ? CHOICE(x, y, z) : (i) >= 40 && (i) < 60 ? MAJORITY(x, y, z) : PARITY(x, y, z))
#define SHA1_WORD(i)                                                                                                   \
    ((i) < 16 ? big[i] : (w[(i) & 15] = _mm512_rol_epi32(                                                              \
        _mm512_xor_si512(WAS(w, i, 16), PARITY(WAS(w, i, 3), WAS(w, i, 8), WAS(w, i, 14))), 1)))
#define SHA1_STEP(a, b, c, d, e, i)                                                                                    \
    do {                                                                                                               \
        e = ADD3(e, SHA1_WORD(i), ALL(SHA1_K(i)));                                                                     \
        e = ADD3(e, SHA1_F(i, b, c, d), _mm512_rol_epi32(a, 5));                                                       \
        b = _mm512_rol_epi32(b, 30);                                                                                   \
    } while (0)

#define ROR(x, n) _mm512_ror_epi32(x, n)
#define SUM0(x) PARITY(ROR(x, 2), ROR(x, 13), ROR(x, 22))
#define SUM1(x) PARITY(ROR(x, 6), ROR(x, 11), ROR(x, 25))
#define SMALL0(x) PARITY(ROR(x, 7), ROR(x, 18), _mm512_srli_epi32(x, 3))
#define SMALL1(x) PARITY(ROR(x, 17), ROR(x, 19), _mm512_srli_epi32(x, 10))
#define SHA256_WORD(i)                                                                                                 \
    ((i) < 16 ? big[i] : (w2[(i) & 15] = ADD(ADD3(WAS(w2, i, 16), WAS(w2, i, 7), SMALL0(WAS(w2, i, 15))),              \
                                             SMALL1(WAS(w2, i, 2)))))
#define SHA256_STEP(a, b, c, d, e, f, g, h, i)                                                                         \
    do {                                                                                                               \
        h = ADD(ADD3(h, SHA256_WORD(i), ALL(HM_SHA256_K[i])), ADD(CHOICE(e, f, g), SUM1(e)));                          \
        d = ADD(d, h);                                                                                                 \
        h = ADD3(h, MAJORITY(a, b, c), SUM0(a));                                                                       \
    } while (0)

/* ---- sixteen streams -------------------------------------------------------------------------------------------- */

#define IF_MD5(...) if (mask & HM_MD5) { __VA_ARGS__ }
#define IF_SHA1(...) if (mask & HM_SHA1) { __VA_ARGS__ }
#define IF_SHA256(...) if (mask & HM_SHA256) { __VA_ARGS__ }

/* Chaining values of all lanes, by word. */
typedef struct {
    uint32_t md5[4][HM_WIDE], sha1[5][HM_WIDE], sha256[8][HM_WIDE];
} rows_of_states;

#define OPEN(to, from, count)                                                                                          \
    for (int i = 0; i < (count); i++)                                                                                  \
        to[i] = _mm512_loadu_si512(from[i]);
#define CLOSE(from, to, count)                                                                                         \
    for (int i = 0; i < (count); i++)                                                                                  \
        _mm512_storeu_si512(to[i], from[i]);

/* The mask's chaining values, from states to rows or back. */
static void turned(hm_state *const states[HM_WIDE], rows_of_states *rows, const int mask, const int back)
{
#define TURN(name, count)                                                                                              \
    for (int lane = 0; lane < HM_WIDE; lane++)                                                                         \
        for (int i = 0; i < (count); i++)                                                                              \
            if (back)                                                                                                  \
                states[lane]->name[i] = rows->name[i][lane];                                                           \
            else                                                                                                       \
                rows->name[i][lane] = states[lane]->name[i];
    if (mask & HM_MD5) {
        TURN(md5, 4)
    }
    if (mask & HM_SHA1) {
        TURN(sha1, 5)
    }
    if (mask & HM_SHA256) {
        TURN(sha256, 8)
    }
}

/* All three in turn, step by step: MD5 is one chain, the SHAs are two or three. */
#define EIGHT(i, j, s0, s1, s2, s3)                                                                                    \
    IF_MD5(MD5_STEP(ma, mb, mc, md, i, s0);)                                                                           \
    IF_SHA1(SHA1_STEP(sa, sb, sc, sd, se, j);)                                                                         \
    IF_SHA256(SHA256_STEP(ta, tb, tc, td, te, tf, tg, th, i);)                                                         \
    IF_MD5(MD5_STEP(md, ma, mb, mc, i + 1, s1);)                                                                       \
    IF_SHA1(SHA1_STEP(se, sa, sb, sc, sd, j + 1);)                                                                     \
    IF_SHA256(SHA256_STEP(th, ta, tb, tc, td, te, tf, tg, i + 1);)                                                     \
    IF_MD5(MD5_STEP(mc, md, ma, mb, i + 2, s2);)                                                                       \
    IF_SHA1(SHA1_STEP(sd, se, sa, sb, sc, j + 2);)                                                                     \
    IF_SHA256(SHA256_STEP(tg, th, ta, tb, tc, td, te, tf, i + 2);)                                                     \
    IF_MD5(MD5_STEP(mb, mc, md, ma, i + 3, s3);)                                                                       \
    IF_SHA1(SHA1_STEP(sc, sd, se, sa, sb, j + 3); SHA1_STEP(sb, sc, sd, se, sa, j + 4);)                               \
    IF_SHA256(SHA256_STEP(tf, tg, th, ta, tb, tc, td, te, i + 3);)                                                     \
    IF_MD5(MD5_STEP(ma, mb, mc, md, i + 4, s0);)                                                                       \
    IF_SHA1(SHA1_STEP(sa, sb, sc, sd, se, j + 5);)                                                                     \
    IF_SHA256(SHA256_STEP(te, tf, tg, th, ta, tb, tc, td, i + 4);)                                                     \
    IF_MD5(MD5_STEP(md, ma, mb, mc, i + 5, s1);)                                                                       \
    IF_SHA1(SHA1_STEP(se, sa, sb, sc, sd, j + 6);)                                                                     \
    IF_SHA256(SHA256_STEP(td, te, tf, tg, th, ta, tb, tc, i + 5);)                                                     \
    IF_MD5(MD5_STEP(mc, md, ma, mb, i + 6, s2);)                                                                       \
    IF_SHA1(SHA1_STEP(sd, se, sa, sb, sc, j + 7);)                                                                     \
    IF_SHA256(SHA256_STEP(tc, td, te, tf, tg, th, ta, tb, i + 6);)                                                     \
    IF_MD5(MD5_STEP(mb, mc, md, ma, i + 7, s3);)                                                                       \
    IF_SHA1(SHA1_STEP(sc, sd, se, sa, sb, j + 8); SHA1_STEP(sb, sc, sd, se, sa, j + 9);)                               \
    IF_SHA256(SHA256_STEP(tb, tc, td, te, tf, tg, th, ta, i + 7);)

INLINE void wide(rows_of_states *rows, const uint8_t *const data[HM_WIDE], size_t n, const int mask)
{
    vec m[4], s[5], t[8], words[16], big[16], w[16], w2[16];
    OPEN(m, rows->md5, 4)
    OPEN(s, rows->sha1, 5)
    OPEN(t, rows->sha256, 8)
    for (size_t at = 0; at < n * HM_BLOCK; at += HM_BLOCK) {
        columns_of(words, data, at);
        for (int i = 0; i < 16; i++)
            big[i] = words[i];
        if (mask & (HM_SHA1 | HM_SHA256))
            turn_bytes(big);
        vec ma = m[0], mb = m[1], mc = m[2], md = m[3];
        vec sa = s[0], sb = s[1], sc = s[2], sd = s[3], se = s[4];
        vec ta = t[0], tb = t[1], tc = t[2], td = t[3], te = t[4], tf = t[5], tg = t[6], th = t[7];
        EIGHT(0, 0, 7, 12, 17, 22)
        EIGHT(8, 10, 7, 12, 17, 22)
        EIGHT(16, 20, 5, 9, 14, 20)
        EIGHT(24, 30, 5, 9, 14, 20)
        EIGHT(32, 40, 4, 11, 16, 23)
        EIGHT(40, 50, 4, 11, 16, 23)
        EIGHT(48, 60, 6, 10, 15, 21)
        EIGHT(56, 70, 6, 10, 15, 21)
        m[0] = ADD(m[0], ma), m[1] = ADD(m[1], mb), m[2] = ADD(m[2], mc), m[3] = ADD(m[3], md);
        s[0] = ADD(s[0], sa), s[1] = ADD(s[1], sb), s[2] = ADD(s[2], sc), s[3] = ADD(s[3], sd), s[4] = ADD(s[4], se);
        t[0] = ADD(t[0], ta), t[1] = ADD(t[1], tb), t[2] = ADD(t[2], tc), t[3] = ADD(t[3], td);
        t[4] = ADD(t[4], te), t[5] = ADD(t[5], tf), t[6] = ADD(t[6], tg), t[7] = ADD(t[7], th);
    }
    CLOSE(m, rows->md5, 4)
    CLOSE(s, rows->sha1, 5)
    CLOSE(t, rows->sha256, 8)
}

#define WIDE(mask)                                                                                                     \
    static __attribute__((target(TARGET), noinline)) void wide_##mask(rows_of_states *rows,                            \
                                                                      const uint8_t *const data[HM_WIDE], size_t n)    \
    {                                                                                                                  \
        wide(rows, data, n, mask);                                                                                     \
        _mm256_zeroupper(); /* why: LANES_OF in x86_md5_lanes.h */                                                     \
    }                                                                                                                  \
    void hm_avx512_wide_##mask(hm_state *const states[HM_WIDE], const uint8_t *const data[HM_WIDE], size_t n)          \
    {                                                                                                                  \
        rows_of_states rows;                                                                                           \
        turned(states, &rows, mask, 0);                                                                                \
        wide_##mask(&rows, data, n);                                                                                   \
        turned(states, &rows, mask, 1);                                                                                \
    }
WIDE(1)
WIDE(2)
WIDE(3)
WIDE(4)
WIDE(5)
WIDE(6)
WIDE(7)
#else
typedef int hm_not_this_cpu; /* ISO C wants something in a file */
#endif

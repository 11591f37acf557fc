/* MD5 of four streams in the lanes of one chain, by AVX-512VL: its three-input logic and its rotate shorten a step. */
typedef struct {
    __m128i a, b, c, d, a_before, b_before, c_before, d_before;
    __m128i words[16]; /* word i of each stream, one a lane */
} md5_lanes;

/* Word i of four states, one a lane. Not by way of an array: compilers fill and cut one with wide vectors, and Intel's
 * CPUs then take some 150 cycles more for each SHA instruction (measured: 500 times hashlib's time), as those keep the
 * upper halves that wide vectors left behind. AMD's do not. */
#define LANES_OF(states, i)                                                                                            \
    _mm_set_epi32((int)states[3]->md5[i], (int)states[2]->md5[i], (int)states[1]->md5[i], (int)states[0]->md5[i])

INLINE void lanes_open(md5_lanes *r, hm_state *const states[4])
{
    r->a = LANES_OF(states, 0), r->b = LANES_OF(states, 1), r->c = LANES_OF(states, 2), r->d = LANES_OF(states, 3);
}

INLINE void lanes_close(const md5_lanes *r, hm_state *const states[4])
{
    uint32_t rows[4][4];
    _mm_storeu_si128((__m128i *)rows[0], r->a), _mm_storeu_si128((__m128i *)rows[1], r->b);
    _mm_storeu_si128((__m128i *)rows[2], r->c), _mm_storeu_si128((__m128i *)rows[3], r->d);
    for (int lane = 0; lane < 4; lane++)
        for (int i = 0; i < 4; i++)
            states[lane]->md5[i] = rows[i][lane];
}

/* Words 4i..4i+3 of four blocks, turned from rows to columns. */
INLINE void lanes_begin(md5_lanes *r, const uint8_t *const p[4])
{
    r->a_before = r->a, r->b_before = r->b, r->c_before = r->c, r->d_before = r->d;
    for (int i = 0; i < 4; i++) {
        __m128i x0 = _mm_loadu_si128((const __m128i *)(p[0] + 16 * i));
        __m128i x1 = _mm_loadu_si128((const __m128i *)(p[1] + 16 * i));
        __m128i x2 = _mm_loadu_si128((const __m128i *)(p[2] + 16 * i));
        __m128i x3 = _mm_loadu_si128((const __m128i *)(p[3] + 16 * i));
        __m128i low01 = _mm_unpacklo_epi32(x0, x1), high01 = _mm_unpackhi_epi32(x0, x1);
        __m128i low23 = _mm_unpacklo_epi32(x2, x3), high23 = _mm_unpackhi_epi32(x2, x3);
        r->words[4 * i] = _mm_unpacklo_epi64(low01, low23);
        r->words[4 * i + 1] = _mm_unpackhi_epi64(low01, low23);
        r->words[4 * i + 2] = _mm_unpacklo_epi64(high01, high23);
        r->words[4 * i + 3] = _mm_unpackhi_epi64(high01, high23);
    }
}

INLINE void lanes_end(md5_lanes *r)
{
    r->a = _mm_add_epi32(r->a, r->a_before), r->b = _mm_add_epi32(r->b, r->b_before);
    r->c = _mm_add_epi32(r->c, r->c_before), r->d = _mm_add_epi32(r->d, r->d_before);
}

/* All four of MD5's functions are one vpternlogd each. */
#define LANES_STEP(a, b, c, d, step, s)                                                                                \
    do {                                                                                                               \
        __m128i t = _mm_add_epi32(a, _mm_set1_epi32((int)HM_MD5_K[step])), f;                                          \
        t = _mm_add_epi32(t, r->words[MD5_WORD(step)]);                                                                \
        __asm__("" : "+v"(t)); /* apart from the chain, as in x86_md5.h */                                             \
        f = (step) < 16   ? _mm_ternarylogic_epi32(b, c, d, 0xca)                                                      \
            : (step) < 32 ? _mm_ternarylogic_epi32(b, c, d, 0xe4)                                                      \
            : (step) < 48 ? _mm_ternarylogic_epi32(b, c, d, 0x96)                                                      \
                          : _mm_ternarylogic_epi32(b, c, d, 0x39);                                                     \
        a = _mm_add_epi32(_mm_rol_epi32(_mm_add_epi32(t, f), s), b);                                                   \
    } while (0)

#define LANES_TURN(i, s0, s1, s2, s3)                                                                                  \
    switch ((i) % 4) {                                                                                                 \
    case 0: LANES_STEP(r->a, r->b, r->c, r->d, i, s0); break;                                                          \
    case 1: LANES_STEP(r->d, r->a, r->b, r->c, i, s1); break;                                                          \
    case 2: LANES_STEP(r->c, r->d, r->a, r->b, i, s2); break;                                                          \
    default: LANES_STEP(r->b, r->c, r->d, r->a, i, s3);                                                                \
    }

INLINE void lanes_step(md5_lanes *r, const int i)
{
    switch (i / 16) {
    case 0: LANES_TURN(i, 7, 12, 17, 22) break;
    case 1: LANES_TURN(i, 5, 9, 14, 20) break;
    case 2: LANES_TURN(i, 4, 11, 16, 23) break;
    default: LANES_TURN(i, 6, 10, 15, 21)
    }
}

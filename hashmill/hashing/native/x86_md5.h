/* MD5 of one stream in general registers, step by step, so that a loop can weave it into other work. */
#include <string.h>

/* Keeps a sum apart, so that the compiler does not reorder it into the chain that MD5's speed hangs on. */
#define APART(x) __asm__("" : "+r"(x))

typedef struct {
    uint32_t a, b, c, d, a_before, b_before, c_before, d_before;
    const uint8_t *p;
} md5_regs;

INLINE void md5_begin(md5_regs *r)
{
    r->a_before = r->a, r->b_before = r->b, r->c_before = r->c, r->d_before = r->d;
}
INLINE void md5_end(md5_regs *r)
{
    r->a += r->a_before, r->b += r->b_before, r->c += r->c_before, r->d += r->d_before;
}
INLINE void md5_open(md5_regs *r, const hm_state *s)
{
    r->a = s->md5[0], r->b = s->md5[1], r->c = s->md5[2], r->d = s->md5[3];
}
INLINE void md5_close(const md5_regs *r, hm_state *s)
{
    s->md5[0] = r->a, s->md5[1] = r->b, s->md5[2] = r->c, s->md5[3] = r->d;
}
INLINE uint32_t rotl(uint32_t x, const int s) { return (x << s) | (x >> (32 - s)); }
INLINE uint32_t md5_word(const md5_regs *r, const int i)
{
    uint32_t word;
    memcpy(&word, r->p + 4 * i, 4); /* x86 is little-endian, as MD5 is */
    return word;
}
/* b comes last, from the step before: how few operations follow it decides the speed. */
#define MD5_STEP(a, b, c, d, step, s)                                                                                  \
    do {                                                                                                               \
        uint32_t t = a + HM_MD5_K[step] + md5_word(r, MD5_WORD(step)), f;                                              \
        if ((step) < 16)                                                                                               \
            f = d ^ (b & (c ^ d));                                                                                     \
        else if ((step) < 32)                                                                                          \
            t += c & ~d, f = b & d; /* no bit is in both: a sum serves as the or, and half of it is ready early */     \
        else if ((step) < 48) {                                                                                        \
            f = c ^ d;                                                                                                 \
            APART(f);                                                                                          \
            f ^= b;                                                                                                    \
        } else                                                                                                         \
            f = c ^ (b | ~d);                                                                                          \
        APART(t);                                                                                              \
        a = rotl(t + f, s) + b;                                                                                        \
    } while (0)

#define MD5_TURN(i, s0, s1, s2, s3)                                                                                    \
    switch ((i) % 4) {                                                                                                 \
    case 0: MD5_STEP(r->a, r->b, r->c, r->d, i, s0); break;                                                            \
    case 1: MD5_STEP(r->d, r->a, r->b, r->c, i, s1); break;                                                            \
    case 2: MD5_STEP(r->c, r->d, r->a, r->b, i, s2); break;                                                            \
    default: MD5_STEP(r->b, r->c, r->d, r->a, i, s3);                                                                  \
    }

INLINE void md5_step(md5_regs *r, const int i)
{
    switch (i / 16) {
    case 0: MD5_TURN(i, 7, 12, 17, 22) break;
    case 1: MD5_TURN(i, 5, 9, 14, 20) break;
    case 2: MD5_TURN(i, 4, 11, 16, 23) break;
    default: MD5_TURN(i, 6, 10, 15, 21)
    }
}

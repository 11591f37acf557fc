/* MD5, SHA-1 and SHA-256 in plain C, from RFC 1321 and FIPS 180-4, for any CPU. Not quick; its state can be saved. */
#include "kernel.h"
#include <string.h>

/* clang-format off */
/* RFC 1321, 3.4: floor(2^32 * abs(sin(i + 1))). Aligned, as the x86 loops load four at once. */
_Alignas(64) const uint32_t HM_MD5_K[64] = {
    0xd76aa478, 0xe8c7b756, 0x242070db, 0xc1bdceee, 0xf57c0faf, 0x4787c62a, 0xa8304613, 0xfd469501,
    0x698098d8, 0x8b44f7af, 0xffff5bb1, 0x895cd7be, 0x6b901122, 0xfd987193, 0xa679438e, 0x49b40821,
    0xf61e2562, 0xc040b340, 0x265e5a51, 0xe9b6c7aa, 0xd62f105d, 0x02441453, 0xd8a1e681, 0xe7d3fbc8,
    0x21e1cde6, 0xc33707d6, 0xf4d50d87, 0x455a14ed, 0xa9e3e905, 0xfcefa3f8, 0x676f02d9, 0x8d2a4c8a,
    0xfffa3942, 0x8771f681, 0x6d9d6122, 0xfde5380c, 0xa4beea44, 0x4bdecfa9, 0xf6bb4b60, 0xbebfbc70,
    0x289b7ec6, 0xeaa127fa, 0xd4ef3085, 0x04881d05, 0xd9d4d039, 0xe6db99e5, 0x1fa27cf8, 0xc4ac5665,
    0xf4292244, 0x432aff97, 0xab9423a7, 0xfc93a039, 0x655b59c3, 0x8f0ccc92, 0xffeff47d, 0x85845dd1,
    0x6fa87e4f, 0xfe2ce6e0, 0xa3014314, 0x4e0811a1, 0xf7537e82, 0xbd3af235, 0x2ad7d2bb, 0xeb86d391,
};
/* FIPS 180-4, 4.2.2 */
_Alignas(64) const uint32_t HM_SHA256_K[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};
/* clang-format on */

static inline uint32_t rotl(uint32_t x, unsigned s) { return (x << s) | (x >> (32 - s)); }
static inline uint32_t rotr(uint32_t x, unsigned s) { return (x >> s) | (x << (32 - s)); }

static inline uint32_t load_le(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static inline uint32_t load_be(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | (uint32_t)p[3];
}

void hm_init(hm_state *s)
{
    static const hm_state start = {
        {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476},             /* RFC 1321, 3.3 */
        {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0}, /* FIPS 180-4, 5.3.1 */
        {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19}, /* 5.3.3 */
    };
    *s = start;
}

/* The chain moves by one name a step: written out for as many steps as there are names, nothing has to be copied. */
#define MD5_STEP(a, b, c, d, f, word, i, shift)                                                                        \
    a = rotl(a + (f) + load_le(p + 4 * ((word) % 16)) + HM_MD5_K[i], shift) + b
#define MD5_FOUR(F, word, i, s0, s1, s2, s3)                                                                           \
    MD5_STEP(a, b, c, d, F(b, c, d), word(i), i, s0);                                                                  \
    MD5_STEP(d, a, b, c, F(a, b, c), word(i + 1), i + 1, s1);                                                          \
    MD5_STEP(c, d, a, b, F(d, a, b), word(i + 2), i + 2, s2);                                                          \
    MD5_STEP(b, c, d, a, F(c, d, a), word(i + 3), i + 3, s3)
#define MD5_F(x, y, z) ((z) ^ ((x) & ((y) ^ (z))))
#define MD5_G(x, y, z) MD5_F(z, x, y)
#define MD5_H(x, y, z) ((x) ^ (y) ^ (z))
#define MD5_I(x, y, z) ((y) ^ ((x) | ~(z)))
#define MD5_WORD_F(i) (i)
#define MD5_WORD_G(i) (5 * (i) + 1)
#define MD5_WORD_H(i) (3 * (i) + 5)
#define MD5_WORD_I(i) (7 * (i))

static void md5(hm_state *s, const uint8_t *p, size_t n)
{
    for (; n; n--, p += HM_BLOCK) {
        uint32_t a = s->md5[0], b = s->md5[1], c = s->md5[2], d = s->md5[3];
        for (unsigned i = 0; i < 16; i += 4) {
            MD5_FOUR(MD5_F, MD5_WORD_F, i, 7, 12, 17, 22);
        }
        for (unsigned i = 16; i < 32; i += 4) {
            MD5_FOUR(MD5_G, MD5_WORD_G, i, 5, 9, 14, 20);
        }
        for (unsigned i = 32; i < 48; i += 4) {
            MD5_FOUR(MD5_H, MD5_WORD_H, i, 4, 11, 16, 23);
        }
        for (unsigned i = 48; i < 64; i += 4) {
            MD5_FOUR(MD5_I, MD5_WORD_I, i, 6, 10, 15, 21);
        }
        s->md5[0] += a, s->md5[1] += b, s->md5[2] += c, s->md5[3] += d;
    }
}

/* FIPS 180-4, 4.1.1 and 4.2.1 */
#define SHA1_STEP(a, b, c, d, e, f, k, i) e += rotl(a, 5) + (f) + (k) + w[i], b = rotl(b, 30)
#define SHA1_FIVE(F, k, i)                                                                                             \
    SHA1_STEP(a, b, c, d, e, F(b, c, d), k, i);                                                                        \
    SHA1_STEP(e, a, b, c, d, F(a, b, c), k, i + 1);                                                                    \
    SHA1_STEP(d, e, a, b, c, F(e, a, b), k, i + 2);                                                                    \
    SHA1_STEP(c, d, e, a, b, F(d, e, a), k, i + 3);                                                                    \
    SHA1_STEP(b, c, d, e, a, F(c, d, e), k, i + 4)
#define CHOICE(x, y, z) ((z) ^ ((x) & ((y) ^ (z))))
#define PARITY(x, y, z) ((x) ^ (y) ^ (z))
#define MAJORITY(x, y, z) (((x) & (y)) | ((z) & ((x) | (y))))

static void sha1(hm_state *s, const uint8_t *p, size_t n)
{
    for (; n; n--, p += HM_BLOCK) {
        uint32_t w[80], a = s->sha1[0], b = s->sha1[1], c = s->sha1[2], d = s->sha1[3], e = s->sha1[4];
        for (unsigned i = 0; i < 16; i++)
            w[i] = load_be(p + 4 * i);
        for (unsigned i = 16; i < 80; i++)
            w[i] = rotl(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
        for (unsigned i = 0; i < 20; i += 5) {
            SHA1_FIVE(CHOICE, 0x5a827999, i);
        }
        for (unsigned i = 20; i < 40; i += 5) {
            SHA1_FIVE(PARITY, 0x6ed9eba1, i);
        }
        for (unsigned i = 40; i < 60; i += 5) {
            SHA1_FIVE(MAJORITY, 0x8f1bbcdc, i);
        }
        for (unsigned i = 60; i < 80; i += 5) {
            SHA1_FIVE(PARITY, 0xca62c1d6, i);
        }
        s->sha1[0] += a, s->sha1[1] += b, s->sha1[2] += c, s->sha1[3] += d, s->sha1[4] += e;
    }
}

/* FIPS 180-4, 4.1.2 and 6.2.2 */
#define SHA256_STEP(a, b, c, d, e, f, g, h, i)                                                                         \
    h += (rotr(e, 6) ^ rotr(e, 11) ^ rotr(e, 25)) + CHOICE(e, f, g) + HM_SHA256_K[i] + w[i], d += h,                   \
        h += (rotr(a, 2) ^ rotr(a, 13) ^ rotr(a, 22)) + MAJORITY(a, b, c)

static void sha256(hm_state *s, const uint8_t *p, size_t n)
{
    for (; n; n--, p += HM_BLOCK) {
        uint32_t w[64], *v = s->sha256;
        uint32_t a = v[0], b = v[1], c = v[2], d = v[3], e = v[4], f = v[5], g = v[6], h = v[7];
        for (unsigned i = 0; i < 16; i++)
            w[i] = load_be(p + 4 * i);
        for (unsigned i = 16; i < 64; i++) {
            uint32_t x = w[i - 15], y = w[i - 2];
            w[i] = w[i - 16] + (rotr(x, 7) ^ rotr(x, 18) ^ x >> 3) + w[i - 7] + (rotr(y, 17) ^ rotr(y, 19) ^ y >> 10);
        }
        for (unsigned i = 0; i < 64; i += 8) {
            SHA256_STEP(a, b, c, d, e, f, g, h, i);
            SHA256_STEP(h, a, b, c, d, e, f, g, i + 1);
            SHA256_STEP(g, h, a, b, c, d, e, f, i + 2);
            SHA256_STEP(f, g, h, a, b, c, d, e, i + 3);
            SHA256_STEP(e, f, g, h, a, b, c, d, i + 4);
            SHA256_STEP(d, e, f, g, h, a, b, c, i + 5);
            SHA256_STEP(c, d, e, f, g, h, a, b, i + 6);
            SHA256_STEP(b, c, d, e, f, g, h, a, i + 7);
        }
        v[0] += a, v[1] += b, v[2] += c, v[3] += d, v[4] += e, v[5] += f, v[6] += g, v[7] += h;
    }
}

/* One digest after the other, in steps of 4 KiB that stay in the first-level cache. */
#define STEP_BLOCKS ((size_t)64)
#define IN_TURN(name, mask)                                                                                            \
    static void name(hm_state *s, const uint8_t *p, size_t n)                                                          \
    {                                                                                                                  \
        for (size_t k; n; n -= k, p += k * HM_BLOCK) {                                                                 \
            k = n < STEP_BLOCKS ? n : STEP_BLOCKS;                                                                     \
            if ((mask) & HM_MD5)                                                                                       \
                md5(s, p, k);                                                                                          \
            if ((mask) & HM_SHA1)                                                                                      \
                sha1(s, p, k);                                                                                         \
            if ((mask) & HM_SHA256)                                                                                    \
                sha256(s, p, k);                                                                                       \
        }                                                                                                              \
    }                                                                                                                  \
    static void name##_2(hm_state *s1, const uint8_t *p1, hm_state *s2, const uint8_t *p2, size_t n)                   \
    {                                                                                                                  \
        name(s1, p1, n);                                                                                               \
        name(s2, p2, n);                                                                                               \
    }
IN_TURN(mask1, 1)
IN_TURN(mask2, 2)
IN_TURN(mask3, 3)
IN_TURN(mask4, 4)
IN_TURN(mask5, 5)
IN_TURN(mask6, 6)
IN_TURN(mask7, 7)

const hm_kernel hm_portable = {
    "portable",
    {NULL, mask1, mask2, mask3, mask4, mask5, mask6, mask7},
    {NULL, mask1_2, mask2_2, mask3_2, mask4_2, mask5_2, mask6_2, mask7_2},
    {NULL},
    {NULL},
};

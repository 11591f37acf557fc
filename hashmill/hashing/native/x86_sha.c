/* SHA-NI for the SHAs, general registers for MD5. detect.c asks for every flag of TARGET. */
#include "kernel.h"
#if defined(__x86_64__)
#define TARGET "sha,sse4.1,ssse3,bmi,bmi2,avx2"
#include "x86_weave.h"

#define LOOP static __attribute__((target(TARGET))) void
#define STREAMS(mask)                                                                                                  \
    LOOP one_##mask(hm_state *s, const uint8_t *p, size_t n) { one(s, p, n, mask); }                                   \
    LOOP two_##mask(hm_state *s, const uint8_t *p, hm_state *s2, const uint8_t *p2, size_t n)                          \
    {                                                                                                                  \
        two(s, p, s2, p2, n, mask);                                                                                    \
    }
STREAMS(1)
STREAMS(2)
STREAMS(3)
STREAMS(4)
STREAMS(5)
STREAMS(6)
STREAMS(7)

const hm_kernel hm_x86_sha = {
    "sha-ni",
    {NULL, one_1, one_2, one_3, one_4, one_5, one_6, one_7},
    {NULL, two_1, two_2, two_3, two_4, two_5, two_6, two_7},
    {NULL},
    {NULL},
};
#else
typedef int hm_not_this_cpu; /* ISO C wants something in a file */
#endif

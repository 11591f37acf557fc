/* Hashers: streams of any length over the block functions, their digests, their states in bytes. No Python here. */
#ifndef HASHMILL_STREAM_H
#define HASHMILL_STREAM_H
#include "kernel.h"

enum {
    HM_MANY_MAX = HM_WIDE,        /* the most streams that hm_feed takes at once */
    HM_DIGEST_MAX = 32,           /* bytes of the longest digest */
    HM_SAVED_MAX = 18 + 68 + 63,  /* bytes of the longest saved state: head and sum, chaining values, tail */
    HM_LENGTH_BITS = 61,          /* a length in bytes below 2^61 is below 2^64 in bits, which is what all three count */
};

typedef struct {
    hm_state state;
    uint64_t length; /* bytes fed; length % 64 of them wait in tail */
    uint8_t tail[HM_BLOCK];
    const hm_kernel *kernel;
    uint8_t mask;
} hm_hasher;

/* A hasher and what is still to be fed to it. */
typedef struct {
    hm_hasher *h;
    const uint8_t *p;
    size_t left;
} hm_stream;

void hm_open(hm_hasher *h, int mask, const hm_kernel *kernel);

/* Feed 1 to HM_MANY_MAX streams to their ends, as many together as go together. All of one mask and one kernel; no
 * hasher twice. Reorders and uses up `streams`. */
void hm_feed(hm_stream *streams, int count);

/* How many streams, 1, 2, 4 or HM_WIDE, are to be fed together when `live` of them (1 to HM_MANY_MAX) are there. Rests
 * on hm_calibrate where that was called for the kernel, else takes the widest that is not mostly idle. */
int hm_group(const hm_kernel *kernel, int mask, int live);

/* Advance `width` states by n blocks each; width is one that hm_group gives for the kernel and mask. */
void hm_run(const hm_kernel *kernel, int mask, int width, hm_state *const *states, const uint8_t *const *data, size_t n);

/* Find out what each width costs on this CPU, for every mask; takes some milliseconds. Called under the GIL. */
void hm_calibrate(const hm_kernel *kernel);

/* Write the digest of one bit of the mask, return its size in bytes. */
size_t hm_digest(const hm_hasher *h, int bit, uint8_t out[HM_DIGEST_MAX]);

/* Write the state, return its size in bytes. */
size_t hm_save(const hm_hasher *h, uint8_t out[HM_SAVED_MAX]);

/* Take a saved state up again. Return NULL, or what is wrong with it; then h is not to be used. */
const char *hm_load(hm_hasher *h, const uint8_t *in, size_t size, const hm_kernel *kernel);
#endif

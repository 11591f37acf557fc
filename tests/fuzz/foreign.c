/* The kernel without Python, for machines that have none here: cases on standard input, what it makes of them out.
 *
 * A case: mask, streams, rounds (a byte each); then for each round and stream a length (4 bytes, little-endian) and so
 * many bytes. A line of output for each stream of a case: the state in hex, then each digest of the mask. */
#include "stream.h"
#include <stdio.h>
#include <stdlib.h>

enum { STREAMS_MAX = 8 };

static int take(void *to, size_t n) { return fread(to, 1, n, stdin) == n; }

static void show(const uint8_t *bytes, size_t n, char end)
{
    for (size_t i = 0; i < n; i++)
        printf("%02x", bytes[i]);
    putchar(end);
}

/* Save and take up again, in the place of the one that was saved. */
static void again(hm_hasher *h, uint8_t state[HM_SAVED_MAX], size_t *size)
{
    *size = hm_save(h, state);
    hm_hasher restored;
    const char *wrong = hm_load(&restored, state, *size, h->kernel);
    if (wrong) {
        printf("%s\n", wrong);
        exit(1);
    }
    *h = restored;
}

int main(void)
{
    int count;
    const char *why;
    const hm_kernel *kernel = hm_kernels(&count, &why)[0];
    uint8_t head[3], state[HM_SAVED_MAX], digest[HM_DIGEST_MAX];
    fprintf(stderr, "%s\n", kernel->name);
    while (take(head, sizeof head)) {
        hm_hasher hashers[STREAMS_MAX];
        if (head[1] > STREAMS_MAX)
            return 2;
        for (int i = 0; i < head[1]; i++)
            hm_open(&hashers[i], head[0], kernel);
        size_t size = 0;
        for (int round = 0; round < head[2]; round++) {
            hm_stream streams[STREAMS_MAX];
            uint8_t *bodies[STREAMS_MAX];
            for (int i = 0; i < head[1]; i++) {
                uint8_t length[4];
                if (!take(length, sizeof length))
                    return 2;
                size_t n = length[0] | length[1] << 8 | (size_t)length[2] << 16 | (size_t)length[3] << 24;
                bodies[i] = malloc(n + 1); /* so that every read is unaligned */
                if (!bodies[i] || !take(bodies[i] + 1, n))
                    return 2;
                streams[i] = (hm_stream){.h = &hashers[i], .p = bodies[i] + 1, .left = n};
            }
            hm_feed(streams, head[1]);
            for (int i = 0; i < head[1]; i++) {
                free(bodies[i]);
                again(&hashers[i], state, &size);
            }
        }
        for (int i = 0; i < head[1]; i++) {
            again(&hashers[i], state, &size);
            show(state, size, ' ');
            for (int bit = 1; bit <= HM_SHA256; bit <<= 1)
                if (head[0] & bit)
                    show(digest, hm_digest(&hashers[i], bit, digest), ' ');
            putchar('\n');
        }
    }
    return 0;
}

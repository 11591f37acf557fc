#include "stream.h"

#include <string.h>

void hm_open(hm_hasher *h, int mask, const hm_kernel *kernel)
{
    memset(h, 0, sizeof *h);
    hm_init(&h->state);
    h->mask = (uint8_t)mask;
    h->kernel = kernel;
}

/* Fill the tail, and send it off when full: afterwards the stream is at a block's edge or has nothing left. */
static void settle(hm_stream *s)
{
    hm_hasher *h = s->h;
    size_t have = h->length % HM_BLOCK;
    if (!have || !s->left)
        return;
    size_t take = HM_BLOCK - have < s->left ? HM_BLOCK - have : s->left;
    memcpy(h->tail + have, s->p, take);
    h->length += take, s->p += take, s->left -= take;
    if (have + take == HM_BLOCK)
        h->kernel->blocks[h->mask](&h->state, h->tail, 1);
}

static void advance(hm_stream *s, size_t blocks)
{
    s->h->length += blocks * HM_BLOCK, s->p += blocks * HM_BLOCK, s->left -= blocks * HM_BLOCK;
}

static void finish(hm_stream *s)
{
    if (s->left)
        memcpy(s->h->tail, s->p, s->left);
    s->h->length += s->left;
}

void hm_feed(hm_stream *s, int n)
{
    const hm_kernel *kernel = s->h->kernel;
    const int mask = s->h->mask;
    for (int i = 0; i < n; i++)
        settle(&s[i]);
    for (;;) {
        /* The longest first: streams that end together leave the fewest blocks to be done alone. At most 16, so the
         * simplest sort will do. */
        for (int i = 1; i < n; i++)
            for (int j = i; j > 0 && s[j].left > s[j - 1].left; j--) {
                hm_stream t = s[j];
                s[j] = s[j - 1], s[j - 1] = t;
            }
        int live = 0;
        while (live < n && s[live].left >= HM_BLOCK)
            live++;
        if (!live)
            break;
        const int group = hm_group(kernel, mask, live), lanes = live < group ? live : group;
        const size_t blocks = s[lanes - 1].left / HM_BLOCK;
        /* Where there are fewer streams than lanes, the others idle along on the first one's bytes. */
        hm_state idle, *states[HM_WIDE];
        const uint8_t *data[HM_WIDE];
        if (lanes < group)
            hm_init(&idle);
        for (int i = 0; i < group; i++)
            states[i] = i < lanes ? &s[i].h->state : &idle, data[i] = s[i < lanes ? i : 0].p;
        hm_run(kernel, mask, group, states, data, blocks);
        for (int i = 0; i < lanes; i++)
            advance(&s[i], blocks);
    }
    for (int i = 0; i < n; i++)
        finish(&s[i]);
}

/* ---- bytes ------------------------------------------------------------------------------------------------------ */

static void put(uint8_t *to, uint64_t value, int bytes, int big)
{
    for (int i = 0; i < bytes; i++)
        to[big ? bytes - 1 - i : i] = (uint8_t)(value >> 8 * i);
}

static uint64_t get(const uint8_t *from, int bytes)
{
    uint64_t value = 0;
    for (int i = 0; i < bytes; i++)
        value |= (uint64_t)from[i] << 8 * i;
    return value;
}

size_t hm_digest(const hm_hasher *h, int bit, uint8_t out[HM_DIGEST_MAX])
{
    hm_state s = h->state;
    uint8_t last[2 * HM_BLOCK] = {0};
    size_t have = h->length % HM_BLOCK, blocks = have < 56 ? 1 : 2;
    /* FIPS 180-4, 5.1.1 and RFC 1321, 3.1: a bit 1, zeros, and the length in bits in the last 8 bytes */
    const int big = bit != HM_MD5;
    const uint32_t *words = bit == HM_MD5 ? s.md5 : bit == HM_SHA1 ? s.sha1 : s.sha256;
    const int count = bit == HM_MD5 ? 4 : bit == HM_SHA1 ? 5 : 8;
    memcpy(last, h->tail, have);
    last[have] = 0x80;
    put(last + blocks * HM_BLOCK - 8, h->length << 3, 8, big);
    h->kernel->blocks[bit](&s, last, blocks);
    for (int i = 0; i < count; i++)
        put(out + 4 * i, words[i], 4, big);
    return 4 * (size_t)count;
}

static uint32_t crc32_of(const uint8_t *p, size_t n) /* the polynomial of zlib's crc32 */
{
    uint32_t crc = 0xffffffff;
    while (n--) {
        crc ^= *p++;
        for (int i = 0; i < 8; i++)
            crc = crc >> 1 ^ (0xedb88320 & (0u - (crc & 1)));
    }
    return ~crc;
}

static size_t words_of(hm_hasher *h, uint32_t *list[17]) /* the chaining values of the mask, in order */
{
    size_t n = 0;
    for (int i = 0; h->mask & HM_MD5 && i < 4; i++)
        list[n++] = &h->state.md5[i];
    for (int i = 0; h->mask & HM_SHA1 && i < 5; i++)
        list[n++] = &h->state.sha1[i];
    for (int i = 0; h->mask & HM_SHA256 && i < 8; i++)
        list[n++] = &h->state.sha256[i];
    return n;
}

/* A saved state, little-endian: "HMK", version (1), mask (1), 0 (1), length (8), the mask's chaining values, tail,
 * CRC-32 of all that. Its size follows from mask and length. */
enum { VERSION_AT = 3, MASK_AT = 4, LENGTH_AT = 6, HEAD_BYTES = 14, SUM_BYTES = 4, STATE_VERSION = 1 };

size_t hm_save(const hm_hasher *h, uint8_t out[HM_SAVED_MAX])
{
    hm_hasher copy = *h;
    uint32_t *words[17];
    size_t size = HEAD_BYTES, have = h->length % HM_BLOCK, count = words_of(&copy, words);
    memcpy(out, "HMK", 3);
    out[VERSION_AT] = STATE_VERSION, out[MASK_AT] = h->mask, out[MASK_AT + 1] = 0;
    put(out + LENGTH_AT, h->length, 8, 0);
    for (size_t i = 0; i < count; i++, size += 4)
        put(out + size, *words[i], 4, 0);
    memcpy(out + size, h->tail, have);
    size += have;
    put(out + size, crc32_of(out, size), SUM_BYTES, 0);
    return size + SUM_BYTES;
}

const char *hm_load(hm_hasher *h, const uint8_t *in, size_t size, const hm_kernel *kernel)
{
    if (size < HEAD_BYTES + SUM_BYTES || size > HM_SAVED_MAX || memcmp(in, "HMK", 3))
        return "not a saved state";
    if (in[VERSION_AT] != STATE_VERSION)
        return "a saved state of another version";
    if (crc32_of(in, size - SUM_BYTES) != get(in + size - SUM_BYTES, SUM_BYTES))
        return "a damaged saved state: its checksum does not fit";
    if (in[MASK_AT] < 1 || in[MASK_AT] > HM_ALL || in[MASK_AT + 1])
        return "a saved state of unknown algorithms";
    uint32_t *words[17];
    hm_open(h, in[MASK_AT], kernel);
    h->length = get(in + LENGTH_AT, 8);
    size_t have = h->length % HM_BLOCK, count = words_of(h, words);
    if (h->length >> HM_LENGTH_BITS || size != HEAD_BYTES + 4 * count + have + SUM_BYTES)
        return "a saved state of the wrong length";
    for (size_t i = 0; i < count; i++)
        *words[i] = (uint32_t)get(in + HEAD_BYTES + 4 * i, 4);
    memcpy(h->tail, in + HEAD_BYTES + 4 * count, have);
    return NULL;
}

/* How many streams go together. Which width is the quickest differs between kinds of CPU more than anything else here
 * (measured: four streams 4.6 times hashlib on one, 1.5 on another), so it is tried out and not assumed. */
#define _POSIX_C_SOURCE 199309L
#include "stream.h"

#include <stdatomic.h>
#include <time.h>

enum { WIDTHS = 4, TRIED_BLOCKS = 64, TRIES = 5 };

static const int width_of[WIDTHS] = {1, 2, 4, HM_WIDE};
/* The group for each mask and number of streams, once calibrated is set. A thread that hashes may read meanwhile. */
static _Atomic uint8_t plan[HM_ALL + 1][HM_MANY_MAX + 1];
static const hm_kernel *_Atomic calibrated;

static int has(const hm_kernel *kernel, int mask, int width)
{
    return width == HM_WIDE ? kernel->wide[mask] != NULL : width == 4 ? kernel->blocks4[mask] != NULL : 1;
}

int hm_group(const hm_kernel *kernel, int mask, int live)
{
    if (kernel == atomic_load(&calibrated))
        return atomic_load_explicit(&plan[mask][live], memory_order_relaxed);
    return live > 4 && has(kernel, mask, HM_WIDE) ? HM_WIDE
           : live > 2 && has(kernel, mask, 4)     ? 4
           : live > 1                             ? 2
                                                  : 1;
}

void hm_run(const hm_kernel *kernel, int mask, int width, hm_state *const *states, const uint8_t *const *data, size_t n)
{
    if (width == HM_WIDE)
        kernel->wide[mask](states, data, n);
    else if (width == 4)
        kernel->blocks4[mask](states, data, n);
    else if (width == 2)
        kernel->blocks2[mask](states[0], data[0], states[1], data[1], n);
    else
        kernel->blocks[mask](states[0], data[0], n);
}

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Seconds of the quickest of some tries: whatever else the machine does can only add to them. */
static double cost_s(const hm_kernel *kernel, int mask, int width)
{
    static const uint8_t text[TRIED_BLOCKS * HM_BLOCK];
    hm_state s[HM_WIDE], *states[HM_WIDE];
    const uint8_t *data[HM_WIDE];
    double least = 0;
    for (int i = 0; i < HM_WIDE; i++)
        hm_init(&s[i]), states[i] = &s[i], data[i] = text;
    for (int try = 0; try < TRIES; try++) {
        const double began = now_s();
        hm_run(kernel, mask, width, states, data, TRIED_BLOCKS);
        const double taken = now_s() - began;
        if (!try || taken < least)
            least = taken;
    }
    return least;
}

void hm_calibrate(const hm_kernel *kernel)
{
    for (int mask = 1; mask <= HM_ALL; mask++) {
        double cost[WIDTHS] = {0}, best[HM_MANY_MAX + 1] = {0};
        for (int w = 0; w < WIDTHS; w++)
            if (has(kernel, mask, width_of[w]))
                cost[w] = cost_s(kernel, mask, width_of[w]);
        /* The least for k streams is that of one group and the least for what it leaves. */
        for (int k = 1; k <= HM_MANY_MAX; k++)
            for (int w = 0; w < WIDTHS; w++) {
                const double sum = cost[w] + best[k > width_of[w] ? k - width_of[w] : 0];
                if (has(kernel, mask, width_of[w]) && (!w || sum < best[k]))
                    best[k] = sum, atomic_store_explicit(&plan[mask][k], (uint8_t)width_of[w], memory_order_relaxed);
            }
    }
    atomic_store(&calibrated, kernel);
}

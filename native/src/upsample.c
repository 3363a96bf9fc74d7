/* Plain loops, compiled with and without AVX2. Half of the sums are rounded up and half down, by turns, as libjpeg does. */
#include "upsample.h"

#define INLINE static inline __attribute__((always_inline))

INLINE void across(const uint8_t *restrict samples, int count, uint8_t *restrict out) {
    for (int i = 0; i < count; i++) {
        out[2 * i] = (uint8_t)((3 * samples[i] + samples[i - 1] + 1) >> 2);
        out[2 * i + 1] = (uint8_t)((3 * samples[i] + samples[i + 1] + 2) >> 2);
    }
}

INLINE void down(const uint8_t *restrict near, const uint8_t *restrict far, int upper, int count, uint8_t *restrict out) {
    int bias = upper ? 1 : 2;
    for (int i = 0; i < count; i++) out[i] = (uint8_t)((3 * near[i] + far[i] + bias) >> 2);
}

INLINE int column(const uint8_t *near, const uint8_t *far, int i) { return 3 * near[i] + far[i]; }

INLINE void both(const uint8_t *restrict near, const uint8_t *restrict far, int count, uint8_t *restrict out) {
    for (int i = 0; i < count; i++) {
        out[2 * i] = (uint8_t)((3 * column(near, far, i) + column(near, far, i - 1) + 8) >> 4);
        out[2 * i + 1] = (uint8_t)((3 * column(near, far, i) + column(near, far, i + 1) + 7) >> 4);
    }
}

#if defined(__x86_64__) && defined(__GNUC__)
#define AVX2_TARGET __attribute__((target("avx2")))
#else
#define AVX2_TARGET
#endif

AVX2_TARGET static void across_avx2(const uint8_t *samples, int count, uint8_t *out) { across(samples, count, out); }

AVX2_TARGET static void down_avx2(const uint8_t *near, const uint8_t *far, int upper, int count, uint8_t *out) {
    down(near, far, upper, count, out);
}

AVX2_TARGET static void both_avx2(const uint8_t *near, const uint8_t *far, int count, uint8_t *out) {
    both(near, far, count, out);
}

void double_across(Simd simd, const uint8_t *samples, int count, uint8_t *out) {
    if (simd == AVX2)
        across_avx2(samples, count, out);
    else
        across(samples, count, out);
}

void double_down(Simd simd, const uint8_t *near, const uint8_t *far, int upper, int count, uint8_t *out) {
    if (simd == AVX2)
        down_avx2(near, far, upper, count, out);
    else
        down(near, far, upper, count, out);
}

void double_both(Simd simd, const uint8_t *near, const uint8_t *far, int count, uint8_t *out) {
    if (simd == AVX2)
        both_avx2(near, far, count, out);
    else
        both(near, far, count, out);
}

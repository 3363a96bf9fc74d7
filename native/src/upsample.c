/* Plain loops, compiled with and without AVX2, but for the most frequent one. Sums are rounded up and down by turns, as libjpeg
 * does. */
#include "upsample.h"

#include <string.h>

#define INLINE static inline __attribute__((always_inline))

/* Two pixels side by side, in one word: compilers make vectors of that. */
INLINE void put_two(uint8_t *out, int left, int right) {
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    uint16_t two = (uint16_t)(left | right << 8);
#else
    uint16_t two = (uint16_t)(right | left << 8);
#endif
    memcpy(out, &two, sizeof two);
}

INLINE void across(const uint8_t *restrict samples, int count, uint8_t *restrict out) {
    for (int i = 0; i < count; i++) {
        uint16_t own = (uint16_t)(3 * samples[i]);
        put_two(out + 2 * i, (uint16_t)(own + samples[i - 1] + 1) >> 2, (uint16_t)(own + samples[i + 1] + 2) >> 2);
    }
}

INLINE void down(const uint8_t *restrict near, const uint8_t *restrict far, int upper, int count, uint8_t *restrict out) {
    int bias = upper ? 1 : 2;
    for (int i = 0; i < count; i++) out[i] = (uint8_t)((3 * near[i] + far[i] + bias) >> 2);
}

INLINE uint16_t column(const uint8_t *near, const uint8_t *far, int i) { return (uint16_t)(3 * near[i] + far[i]); }

INLINE void both(const uint8_t *restrict near, const uint8_t *restrict far, int count, uint8_t *restrict out) {
    for (int i = 0; i < count; i++) {
        uint16_t own = (uint16_t)(3 * column(near, far, i));
        put_two(out + 2 * i, (uint16_t)(own + column(near, far, i - 1) + 8) >> 4,
                (uint16_t)(own + column(near, far, i + 1) + 7) >> 4);
    }
}

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define AVX2_TARGET __attribute__((target("avx2")))

/* 16 sums of `column` from there on. */
AVX2_TARGET static inline __m256i columns(const uint8_t *near, const uint8_t *far) {
    __m256i own = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)near));
    __m256i other = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)far));
    return _mm256_add_epi16(_mm256_add_epi16(own, own), _mm256_add_epi16(own, other));
}

/* As both(); compilers do not see that the words of a step are bytes of one store. */
AVX2_TARGET static void both_avx2(const uint8_t *near, const uint8_t *far, int count, uint8_t *out) {
    for (int i = 0; i < count; i += 16) {
        __m256i own = columns(near + i, far + i);
        __m256i before = columns(near + i - 1, far + i - 1), after = columns(near + i + 1, far + i + 1);
        own = _mm256_add_epi16(_mm256_add_epi16(own, own), own);
        __m256i left = _mm256_add_epi16(_mm256_add_epi16(own, before), _mm256_set1_epi16(8));
        __m256i right = _mm256_add_epi16(_mm256_add_epi16(own, after), _mm256_set1_epi16(7));
        right = _mm256_and_si256(_mm256_slli_epi16(right, 4), _mm256_set1_epi16((short)0xFF00));
        _mm256_storeu_si256((__m256i *)(out + 2 * i), _mm256_or_si256(_mm256_srli_epi16(left, 4), right));
    }
}
#else
#define AVX2_TARGET
#define both_avx2 both
#endif

AVX2_TARGET static void across_avx2(const uint8_t *samples, int count, uint8_t *out) { across(samples, count, out); }

AVX2_TARGET static void down_avx2(const uint8_t *near, const uint8_t *far, int upper, int count, uint8_t *out) {
    down(near, far, upper, count, out);
}

void double_across(Simd simd, const uint8_t *samples, int count, uint8_t *out) {
    if (simd == AVX2)
        across_avx2(samples, count, out);
    else
        across(samples, count, out);
}

void repeat_across(const uint8_t *samples, int count, uint8_t *out) {
    for (int i = 0; i < count; i++) out[2 * i] = out[2 * i + 1] = samples[i];
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

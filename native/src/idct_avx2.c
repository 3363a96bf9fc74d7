/* Two blocks at once: a register holds a row of one in its lower half and the same row of the other in its upper half, and no
 * instruction crosses the halves. pmaddwd multiplies two rows by two weights and adds, in 32 bits; all of it is exact. */
#include "idct_avx2.h"

#include "idct.h"

#if defined(__x86_64__) && defined(__GNUC__)

#include <immintrin.h>

#define TARGET __attribute__((target("avx2")))
#define INLINE static inline __attribute__((always_inline, target("avx2")))

INLINE __m256i two_rows(const int16_t *first, const int16_t *second) {
    return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)first)),
                                   _mm_loadu_si128((const __m128i *)second), 1);
}

INLINE __m256i weights(int first, int second) {
    return _mm256_set1_epi32((int)((uint32_t)(uint16_t)first | (uint32_t)(uint16_t)second << 16));
}

/* Two rows' numbers side by side: those of columns 0 to 3, and 4 to 7, of each block. */
typedef struct {
    __m256i low, high;
} Pairs;

INLINE Pairs interleave(__m256i first, __m256i second) {
    return (Pairs){_mm256_unpacklo_epi16(first, second), _mm256_unpackhi_epi16(first, second)};
}

INLINE Pairs weigh(Pairs pairs, __m256i by) {
    return (Pairs){_mm256_madd_epi16(pairs.low, by), _mm256_madd_epi16(pairs.high, by)};
}

INLINE Pairs add(Pairs a, Pairs b) {
    return (Pairs){_mm256_add_epi32(a.low, b.low), _mm256_add_epi32(a.high, b.high)};
}

INLINE Pairs subtract(Pairs a, Pairs b) {
    return (Pairs){_mm256_sub_epi32(a.low, b.low), _mm256_sub_epi32(a.high, b.high)};
}

INLINE __m256i descale(Pairs sums, int shift) {
    return _mm256_packs_epi32(_mm256_srai_epi32(sums.low, shift), _mm256_srai_epi32(sums.high, shift));
}

/* Down the columns, in place. */
INLINE void transform(__m256i *rows, int shift) {
    static const int16_t odd[4][4] = ODD_WEIGHTS;
    const __m256i half = _mm256_set1_epi32(1 << (shift - 1));
    Pairs rows04 = interleave(rows[0], rows[4]), rows26 = interleave(rows[2], rows[6]);
    Pairs rows13 = interleave(rows[1], rows[3]), rows57 = interleave(rows[5], rows[7]);
    Pairs sum = add(weigh(rows04, weights(1 << FRACTION, 1 << FRACTION)), (Pairs){half, half});
    Pairs difference = add(weigh(rows04, weights(1 << FRACTION, -(1 << FRACTION))), (Pairs){half, half});
    Pairs a = weigh(rows26, weights(EVEN_2_A, EVEN_6_A)), b = weigh(rows26, weights(EVEN_2_B, EVEN_6_B));
    Pairs even[4] = {add(sum, a), add(difference, b), subtract(difference, b), subtract(sum, a)};
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        Pairs part = add(weigh(rows13, weights(odd[i][0], odd[i][1])), weigh(rows57, weights(odd[i][2], odd[i][3])));
        rows[i] = descale(add(even[i], part), shift);
        rows[7 - i] = descale(subtract(even[i], part), shift);
    }
}

/* Rows to columns, of each block. */
INLINE void transpose(__m256i *rows) {
    __m256i a[8], b[8];
    for (int i = 0; i < 4; i++) {
        a[2 * i] = _mm256_unpacklo_epi16(rows[i], rows[i + 4]);
        a[2 * i + 1] = _mm256_unpackhi_epi16(rows[i], rows[i + 4]);
    }
    for (int i = 0; i < 4; i++) {
        b[2 * i] = _mm256_unpacklo_epi16(a[i], a[i + 4]);
        b[2 * i + 1] = _mm256_unpackhi_epi16(a[i], a[i + 4]);
    }
    for (int i = 0; i < 4; i++) {
        rows[2 * i] = _mm256_unpacklo_epi16(b[i], b[i + 4]);
        rows[2 * i + 1] = _mm256_unpackhi_epi16(b[i], b[i + 4]);
    }
}

/* The larger of the two blocks' sums of |coefficient * quantization|. */
INLINE int32_t largest_sum(const __m256i *rows, const __m256i *quantization) {
    __m256i sums = _mm256_setzero_si256();
    for (int i = 0; i < 8; i++)
        sums = _mm256_add_epi32(sums, _mm256_madd_epi16(_mm256_abs_epi16(rows[i]), quantization[i]));
    __m128i first = _mm256_castsi256_si128(sums), second = _mm256_extracti128_si256(sums, 1);
    __m128i both = _mm_hadd_epi32(first, second);
    both = _mm_hadd_epi32(both, both);
    return _mm_extract_epi32(_mm_max_epi32(both, _mm_shuffle_epi32(both, 0x55)), 0);
}

INLINE int is_far(const __m256i *rows) {
    __m256i all = _mm256_abs_epi16(rows[0]);
    for (int i = 1; i < 8; i++) all = _mm256_or_si256(all, _mm256_abs_epi16(rows[i]));
    return !_mm256_testz_si256(all, _mm256_set1_epi16(~LARGEST_SAMPLE));
}

INLINE void store_two(uint8_t *out, size_t stride, __m128i rows) {
    _mm_storel_epi64((__m128i *)out, rows);
    _mm_storeh_pd((double *)(void *)(out + stride), _mm_castsi128_pd(rows));
}

TARGET int inverse_dct_avx2(const int16_t *first, const int16_t *second, const int16_t *quantization, uint8_t *first_out,
                            uint8_t *second_out, size_t stride) {
    __m256i rows[8], multipliers[8];
    for (int i = 0; i < 8; i++) {
        rows[i] = two_rows(first + 8 * i, second + 8 * i);
        multipliers[i] = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(quantization + 8 * i)));
    }
    int32_t sum = largest_sum(rows, multipliers);
    if (sum > LARGEST_SUM) return 0;
    for (int i = 0; i < 8; i++) rows[i] = _mm256_mullo_epi16(rows[i], multipliers[i]);
    transform(rows, COLUMN_SHIFT);
    transpose(rows);
    transform(rows, ROW_SHIFT);
    if (sum > PLAIN_SUM && is_far(rows)) return 0;
    transpose(rows);
    const __m256i grey = _mm256_set1_epi8(-128);
    for (int i = 0; i < 8; i += 2) {
        __m256i samples = _mm256_add_epi8(_mm256_packs_epi16(rows[i], rows[i + 1]), grey);
        store_two(first_out + (size_t)i * stride, stride, _mm256_castsi256_si128(samples));
        store_two(second_out + (size_t)i * stride, stride, _mm256_extracti128_si256(samples, 1));
    }
    return 1;
}

#else

#include <stdlib.h>

int inverse_dct_avx2(const int16_t *first, const int16_t *second, const int16_t *quantization, uint8_t *first_out,
                     uint8_t *second_out, size_t stride) {
    (void)first, (void)second, (void)quantization, (void)first_out, (void)second_out, (void)stride;
    abort();
}

#endif

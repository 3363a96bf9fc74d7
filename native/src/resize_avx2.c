/* pmaddwd multiplies 16-bit numbers, a coefficient has 23 bits: it is split into high * 2**15 + low, low from 0 to
 * 2**15 - 1, and the two sums of products are put together at the end. All of it is exact, so the order of the additions
 * does not matter; sums that wrap around on the way are right modulo 2**32. */
#include "resize_avx2.h"

#if defined(__x86_64__) && defined(__GNUC__)

#include <immintrin.h>
#include <stdlib.h>
#include <string.h>

#define TARGET __attribute__((target("avx2")))
#define INLINE static inline __attribute__((always_inline, target("avx2")))
enum { LOW_BITS = 15 };

int has_avx2(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
}

static int32_t pair(int32_t first, int32_t second) {
    return (int32_t)((uint32_t)(uint16_t)first | (uint32_t)(uint16_t)second << 16);
}

static int32_t low(int32_t coefficient) { return coefficient & ((1 << LOW_BITS) - 1); }

static int32_t high(int32_t coefficient) { return coefficient >> LOW_BITS; }

/* Coefficients of a table: 2, or the next multiple of 4. */
static int padded_taps(const Axis *axis) { return axis->taps <= 2 ? 2 : (axis->taps + 3) & ~3; }

/* Four taps of one output: coefficients 0 and 1, and 2 and 3, as pairs of 16 bits. */
typedef struct {
    int32_t low[2], high[2];
} Taps;

/* Of four outputs: their first inputs; then come, for each two of them, Taps[padded_taps() / 4][2]. */
typedef struct {
    int32_t first[4];
} Starts;

static size_t groups_of_taps(int taps) { return ((size_t)taps + 3) / 4; }

void *make_table_avx2(const Axis *axis) {
    size_t fours = ((size_t)axis->outputs + 3) / 4, groups = groups_of_taps(axis->taps);
    size_t bytes = fours * (sizeof(Starts) + 4 * groups * sizeof(Taps));
    uint8_t *table = calloc(bytes, 1), *at = table;
    if (!table) return NULL;
    for (size_t four = 0; four < fours; four++) {
        Starts *starts = (Starts *)at;
        Taps *taps = (Taps *)(at + sizeof *starts);
        at += sizeof *starts + 4 * groups * sizeof *taps;
        for (size_t i = 0; i < 4 && 4 * four + i < (size_t)axis->outputs; i++) {
            const int32_t *row = axis->coefficients + (4 * four + i) * (size_t)axis->taps;
            starts->first[i] = axis->first[4 * four + i];
            for (size_t k = 0; k < (size_t)axis->taps; k += 2) {
                Taps *cell = &taps[(i / 2) * 2 * groups + k / 4 * 2 + i % 2];
                cell->low[k / 2 % 2] = pair(low(row[k]), low(row[k + 1]));
                cell->high[k / 2 % 2] = pair(high(row[k]), high(row[k + 1]));
            }
        }
    }
    return table;
}

INLINE void multiply(__m256i words, __m256i low_pair, __m256i high_pair, __m256i *lows, __m256i *highs) {
    *lows = _mm256_add_epi32(*lows, _mm256_madd_epi16(words, low_pair));
    *highs = _mm256_add_epi32(*highs, _mm256_madd_epi16(words, high_pair));
}

/* Four channels as int32 of each of two outputs. */
INLINE __m256i two_outputs(const uint8_t *first, const uint8_t *second, const Taps *taps, int count) {
    /* The words (p[0], p[1]) of each channel, and (p[2], p[3]), of four RGBX pixels p. */
    const __m256i pixels01 = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, -1, 4, -1, 1, -1, 5, -1, 2, -1, 6, -1, 3, -1, 7, -1));
    const __m256i pixels23 = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(8, -1, 12, -1, 9, -1, 13, -1, 10, -1, 14, -1, 11, -1, 15, -1));
    __m256i lows = _mm256_set1_epi32(1 << (PRECISION - 1)), highs = _mm256_setzero_si256();
    for (int k = 0; k < count; k += 4, first += 16, second += 16, taps += 2) {
        __m256i pairs = _mm256_loadu_si256((const __m256i *)taps);
        __m256i four = _mm256_inserti128_si256(
            _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)first)), _mm_loadu_si128((const __m128i *)second), 1);
        multiply(_mm256_shuffle_epi8(four, pixels01), _mm256_shuffle_epi32(pairs, 0x00),
                 _mm256_shuffle_epi32(pairs, 0xAA), &lows, &highs);
        if (count > 2)
            multiply(_mm256_shuffle_epi8(four, pixels23), _mm256_shuffle_epi32(pairs, 0x55),
                     _mm256_shuffle_epi32(pairs, 0xFF), &lows, &highs);
    }
    return _mm256_srai_epi32(_mm256_add_epi32(_mm256_slli_epi32(highs, LOW_BITS), lows), PRECISION);
}

INLINE void resize_row_taps(const Axis *axis, const uint8_t *at, const uint8_t *row, uint8_t *out, int count) {
    const __m128i packed = _mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1);
    const size_t half = 2 * groups_of_taps(count); /* Taps of two outputs */
    for (int i = 0; i < axis->outputs; i += 4, out += 12) {
        const int32_t *first = ((const Starts *)at)->first;
        const Taps *taps = (const Taps *)(at + sizeof(Starts));
        __m256i left = two_outputs(row + 4 * (size_t)first[0], row + 4 * (size_t)first[1], taps, count);
        __m256i right = two_outputs(row + 4 * (size_t)first[2], row + 4 * (size_t)first[3], taps + half, count);
        __m256i words = _mm256_packs_epi32(left, right); /* outputs 0 and 2, then 1 and 3 */
        __m256i bytes = _mm256_packus_epi16(words, words);
        __m128i four = _mm_unpacklo_epi32(_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1));
        _mm_storeu_si128((__m128i *)out, _mm_shuffle_epi8(four, packed));
        at += sizeof(Starts) + 2 * half * sizeof(Taps);
    }
}

TARGET void resize_row_avx2(const Axis *axis, const void *table, const uint8_t *row, uint8_t *out) {
    switch (padded_taps(axis)) {
        case 2:
            resize_row_taps(axis, table, row, out, 2);
            break;
        case 4:
            resize_row_taps(axis, table, row, out, 4);
            break;
        default:
            resize_row_taps(axis, table, row, out, padded_taps(axis));
    }
}

INLINE __m256i blend_32(const uint8_t *const *rows, const int32_t *coefficients, int taps, size_t at) {
    const __m256i zero = _mm256_setzero_si256(), half = _mm256_set1_epi32(1 << (PRECISION - 1));
    __m256i lows[4] = {half, half, half, half}, highs[4] = {zero, zero, zero, zero};
    for (int k = 0; k < taps; k += 2) {
        __m256i low_pair = _mm256_set1_epi32(pair(low(coefficients[k]), low(coefficients[k + 1])));
        __m256i high_pair = _mm256_set1_epi32(pair(high(coefficients[k]), high(coefficients[k + 1])));
        __m256i upper = _mm256_loadu_si256((const __m256i *)(rows[k] + at));
        __m256i lower = _mm256_loadu_si256((const __m256i *)(rows[k + 1] + at));
        __m256i left = _mm256_unpacklo_epi8(upper, lower), right = _mm256_unpackhi_epi8(upper, lower);
        __m256i words[4] = {_mm256_unpacklo_epi8(left, zero), _mm256_unpackhi_epi8(left, zero),
                            _mm256_unpacklo_epi8(right, zero), _mm256_unpackhi_epi8(right, zero)};
        for (int i = 0; i < 4; i++) {
            lows[i] = _mm256_add_epi32(lows[i], _mm256_madd_epi16(words[i], low_pair));
            highs[i] = _mm256_add_epi32(highs[i], _mm256_madd_epi16(words[i], high_pair));
        }
    }
    for (int i = 0; i < 4; i++)
        lows[i] = _mm256_srai_epi32(_mm256_add_epi32(_mm256_slli_epi32(highs[i], LOW_BITS), lows[i]), PRECISION);
    return _mm256_packus_epi16(_mm256_packs_epi32(lows[0], lows[1]), _mm256_packs_epi32(lows[2], lows[3]));
}

INLINE void blend_taps(const uint8_t *const *rows, const int32_t *coefficients, int taps, uint8_t *out, size_t bytes) {
    size_t at = 0;
    for (; at + 32 <= bytes; at += 32)
        _mm256_storeu_si256((__m256i *)(out + at), blend_32(rows, coefficients, taps, at));
    if (at < bytes) {
        uint8_t rest[32];
        _mm256_storeu_si256((__m256i *)rest, blend_32(rows, coefficients, taps, at));
        memcpy(out + at, rest, bytes - at);
    }
}

TARGET void blend_rows_avx2(const uint8_t *const *rows, const int32_t *coefficients, int taps, uint8_t *out,
                            size_t bytes) {
    switch (taps) {
        case 2:
            blend_taps(rows, coefficients, 2, out, bytes);
            break;
        case 4:
            blend_taps(rows, coefficients, 4, out, bytes);
            break;
        default:
            blend_taps(rows, coefficients, taps, out, bytes);
    }
}

#else

#include <stdlib.h>

int has_avx2(void) { return 0; }

void *make_table_avx2(const Axis *axis) {
    (void)axis;
    return NULL;
}

void resize_row_avx2(const Axis *axis, const void *table, const uint8_t *row, uint8_t *out) {
    (void)axis, (void)table, (void)row, (void)out;
    abort();
}

void blend_rows_avx2(const uint8_t *const *rows, const int32_t *coefficients, int taps, uint8_t *out, size_t bytes) {
    (void)rows, (void)coefficients, (void)taps, (void)out, (void)bytes;
    abort();
}

#endif

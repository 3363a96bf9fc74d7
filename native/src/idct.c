#include "idct.h"

#include <stdlib.h>

#include "huffman.h"
#include "idct_avx2.h"

/* Down the columns of int32 [8, 8], divided by 2**shift and rounded. Every step is the same for all columns: compilers make
 * vectors of them. */
static inline void transform(const int32_t *restrict in, int32_t *restrict out, int shift) {
    static const int32_t weights[4][4] = ODD_WEIGHTS;
    int32_t half = 1 << (shift - 1);
    for (int x = 0; x < 8; x++) {
        const int32_t *column = in + x;
        int32_t sum = (column[0] + column[32]) * (1 << FRACTION) + half;
        int32_t difference = (column[0] - column[32]) * (1 << FRACTION) + half;
        int32_t a = column[16] * EVEN_2_A + column[48] * EVEN_6_A, b = column[16] * EVEN_2_B + column[48] * EVEN_6_B;
        int32_t even[4] = {sum + a, difference + b, difference - b, sum - a};
        for (int i = 0; i < 4; i++) {
            int32_t odd = column[8] * weights[i][0] + column[24] * weights[i][1] + column[40] * weights[i][2] +
                          column[56] * weights[i][3];
            out[8 * i + x] = (even[i] + odd) >> shift;
            out[8 * (7 - i) + x] = (even[i] - odd) >> shift;
        }
    }
}

static inline void transpose(const int32_t *restrict in, int32_t *restrict out) {
    for (int y = 0; y < 8; y++)
        for (int x = 0; x < 8; x++) out[8 * y + x] = in[8 * x + y];
}

static int one_block(const int16_t *block, const int16_t *quantization, uint8_t *out, size_t stride) {
    int32_t values[BLOCK_SIZE], others[BLOCK_SIZE], sum = 0, furthest = 0;
    for (int i = 0; i < BLOCK_SIZE; i++) {
        values[i] = block[i] * quantization[i];
        sum += abs(values[i]);
    }
    if (sum > LARGEST_SUM) return 0;
    transform(values, others, COLUMN_SHIFT);
    transpose(others, values);
    transform(values, others, ROW_SHIFT);
    transpose(others, values);
    for (int i = 0; i < BLOCK_SIZE; i++) furthest |= abs(values[i]);
    if (furthest > LARGEST_SAMPLE) return 0; /* ORed: the limit's bits are all ones */
    for (int y = 0; y < 8; y++)
        for (int x = 0; x < 8; x++) {
            int32_t sample = values[8 * y + x] + 128;
            out[(size_t)y * stride + (size_t)x] = (uint8_t)(sample < 0 ? 0 : sample > 255 ? 255 : sample);
        }
    return 1;
}

int inverse_dct(Simd simd, const int16_t *first, const int16_t *second, const int16_t *quantization, uint8_t *first_out,
                uint8_t *second_out, size_t stride) {
    if (simd == AVX2) return inverse_dct_avx2(first, second, quantization, first_out, second_out, stride);
    return one_block(first, quantization, first_out, stride) && one_block(second, quantization, second_out, stride);
}

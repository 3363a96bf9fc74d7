#include "idct.h"

#include <stdlib.h>

#include "idct_avx2.h"

/* One dimension: in[0], in[step] … to out[0], out[step] …, divided by 2**shift and rounded. */
static inline void transform(const int32_t *in, int32_t *out, int step, int shift) {
    static const int32_t weights[4][4] = ODD_WEIGHTS;
    int32_t half = 1 << (shift - 1);
    int32_t sum = (in[0] + in[4 * step]) * (1 << FRACTION) + half, difference = (in[0] - in[4 * step]) * (1 << FRACTION) + half;
    int32_t a = in[2 * step] * EVEN_2_A + in[6 * step] * EVEN_6_A, b = in[2 * step] * EVEN_2_B + in[6 * step] * EVEN_6_B;
    int32_t even[4] = {sum + a, difference + b, difference - b, sum - a}, result[8];
    for (int i = 0; i < 4; i++) {
        int32_t odd = in[step] * weights[i][0] + in[3 * step] * weights[i][1] + in[5 * step] * weights[i][2] +
                      in[7 * step] * weights[i][3];
        result[i] = (even[i] + odd) >> shift;
        result[7 - i] = (even[i] - odd) >> shift;
    }
    for (int i = 0; i < 8; i++) out[i * step] = result[i];
}

static int one_block(const int16_t *block, const int16_t *quantization, uint8_t *out, size_t stride) {
    int32_t values[64], sum = 0, furthest = 0;
    for (int i = 0; i < 64; i++) {
        values[i] = block[i] * quantization[i];
        sum += abs(values[i]);
    }
    if (sum > LARGEST_SUM) return 0;
    for (int x = 0; x < 8; x++) transform(values + x, values + x, 8, COLUMN_SHIFT);
    for (int y = 0; y < 8; y++) transform(values + 8 * y, values + 8 * y, 1, ROW_SHIFT);
    for (int i = 0; i < 64; i++) {
        int32_t sample = values[i] + 128;
        furthest |= abs(values[i]);
        out[(size_t)(i / 8) * stride + (size_t)(i % 8)] = (uint8_t)(sample < 0 ? 0 : sample > 255 ? 255 : sample);
    }
    return furthest <= LARGEST_SAMPLE; /* ORed: the limit is a row of ones */
}

int inverse_dct(Simd simd, const int16_t *first, const int16_t *second, const int16_t *quantization, uint8_t *first_out,
                uint8_t *second_out, size_t stride) {
    if (simd == AVX2) return inverse_dct_avx2(first, second, quantization, first_out, second_out, stride);
    return one_block(first, quantization, first_out, stride) && one_block(second, quantization, second_out, stride);
}

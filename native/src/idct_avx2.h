/* inverse_dct() for processors with AVX2; elsewhere it is never called. */
#ifndef IDCT_AVX2_H
#define IDCT_AVX2_H

#include <stddef.h>
#include <stdint.h>

int inverse_dct_avx2(const int16_t *first, const int16_t *second, const int16_t *quantization, uint8_t *first_out,
                     uint8_t *second_out, size_t stride);

#endif

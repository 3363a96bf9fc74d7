/* The kernels for x86 processors with AVX2; elsewhere has_avx2() is 0 and the others are never called. */
#ifndef RESIZE_AVX2_H
#define RESIZE_AVX2_H

#include <stddef.h>
#include <stdint.h>

#include "filter.h"

/* And BMI2, which all processors with AVX2 but a few have: scan.c needs it. */
int has_avx2(void);

/* The axis' coefficients in the order in which resize_row_avx2 reads them; to be freed. NULL without memory. */
void *make_table_avx2(const Axis *axis);

/* As resize_row; writes up to ROW_PADDING bytes past the end of out. */
void resize_row_avx2(const Axis *axis, const void *table, const uint8_t *row, uint8_t *out);

/* May read ROW_PADDING bytes past the end of each row; writes exactly `bytes`. */
void blend_rows_avx2(const uint8_t *const *rows, const int32_t *coefficients, int taps, uint8_t *out, size_t bytes);

#endif

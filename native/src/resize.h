/* The two passes of a resize, a row at a time: integers with Pillow's rounding, whatever the instruction set. */
#ifndef RESIZE_H
#define RESIZE_H

#include <stddef.h>
#include <stdint.h>

#include "filter.h"

#define ROW_PADDING 64 /* bytes past the end of every row that a kernel may read or write */

typedef enum { SCALAR, AVX2 } Simd;

/* A horizontal pass: the axis and what a kernel made of its coefficients. */
typedef struct {
    const Axis *axis;
    void *table;
    Simd simd;
} Horizontal;

/* The best that this processor has. */
Simd best_simd(void);

/* 0 when there is no memory. */
int make_horizontal(Horizontal *pass, const Axis *axis, Simd simd);

void free_horizontal(Horizontal *pass);

/* One row: RGBX pixels in, packed RGB out, uint8. At the right edge coefficients of 0 fall on pixels past the end: the row
 * has axis->taps pixels and ROW_PADDING bytes more than the axis has inputs. */
void resize_row(const Horizontal *pass, const uint8_t *row, uint8_t *out);

/* One output row of `bytes` bytes: the sum of rows[k][i] * coefficients[k] for `taps` rows, rounded to uint8. Exactly
 * `bytes` bytes of out are written. `taps` is even. */
void blend_rows(Simd simd, const uint8_t *const *rows, const int32_t *coefficients, int taps, uint8_t *out, size_t bytes);

#endif

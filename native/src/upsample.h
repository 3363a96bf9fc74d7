/* libjpeg's "fancy" upsampling: a chroma sample lies between two pixels, and a pixel takes three quarters of the nearer sample
 * and one of the next, in each direction that is halved. */
#ifndef UPSAMPLE_H
#define UPSAMPLE_H

#include <stdint.h>

#include "resize.h"

/* All rows have samples at [-1] and [count] too: the neighbours', or at the photo's edge the first and the last once more.
 * Kernels may read and write UPSAMPLE_PADDING more. */
enum { UPSAMPLE_PADDING = 64 };

/* Twice as many pixels as samples, to out[0, 2 * count). */
void double_across(Simd simd, const uint8_t *samples, int count, uint8_t *out);

/* The same, each of them twice. */
void repeat_across(const uint8_t *samples, int count, uint8_t *out);

/* One of the two rows of pixels of `near`, the one at the side of `far`: above it if `upper`. */
void double_down(Simd simd, const uint8_t *near, const uint8_t *far, int upper, int count, uint8_t *out);

/* Both: such a row, of twice as many pixels. */
void double_both(Simd simd, const uint8_t *near, const uint8_t *far, int count, uint8_t *out);

#endif

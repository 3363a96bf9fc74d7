/* YCbCr of JFIF to RGB, to libjpeg's last bit. */
#ifndef COLOR_H
#define COLOR_H

#include <stdint.h>

#include "resize.h"

enum { COLOR_PADDING = 32 }; /* pixels past the end that a kernel may read and write */

/* Rows of uint8 [count] to RGBX uint8 [count, 4]. */
void ycc_to_rgbx(Simd simd, const uint8_t *y, const uint8_t *cb, const uint8_t *cr, int count, uint8_t *out);

void grey_to_rgbx(const uint8_t *y, int count, uint8_t *out);

#endif

/* The inverse DCT of libjpeg's JDCT_ISLOW: from coefficients to samples, to the last bit. */
#ifndef IDCT_H
#define IDCT_H

#include <stddef.h>
#include <stdint.h>

#include "resize.h"

/* The even part of the one-dimensional transform takes coefficients 0, 2, 4, 6, the odd part 1, 3, 5, 7. Their weights are
 * sqrt(2) * cos(i * pi / 16) with 13 fractional bits, as the factorisation of Loeffler, Ligtenberg and Moschytz (1989) gives them
 * in integers: sums of its twelve constants, each of which was rounded before, so that one weight appears as 2259, 2260 and 2261. */
enum {
    FRACTION = 13,
    EVEN_2_A = 10703, /* coefficient 2 in outputs 0, 7 and 3, 4: 0.541196100 + 0.765366865 */
    EVEN_6_A = 4433,  /* coefficient 6: 0.541196100 */
    EVEN_2_B = 4433,  /* in outputs 1, 6 and 2, 5: 0.541196100 */
    EVEN_6_B = -10704 /* 0.541196100 - 1.847759065 */
};

/* [outputs (0, 7), (1, 6), (2, 5), (3, 4)][coefficients 1, 3, 5, 7]; the second output of a pair subtracts the sum. */
#define ODD_WEIGHTS \
    {{11363, 9633, 6437, 2260}, {9633, -2259, -11362, -6436}, {6437, -11362, 2261, 9633}, {2260, -6436, 9633, -11363}}

/* After the columns the numbers keep 2 fractional bits; after the rows these, and the 3 bits of the transform's scale, go. */
enum { COLUMN_SHIFT = FRACTION - 2, ROW_SHIFT = FRACTION + 2 + 3 };

/* The sum of |coefficient * quantization| over a block up to which all platforms agree. No weight is above 11363, so after the
 * columns a number is at most LARGEST_SUM * 11363 / 2**11 + 1 = 32736, and so is the sum of several of a row: nothing wraps around
 * or is clamped in 16 bits. After the rows it is at most sum * 11363**2 / 2**29 + 2; libjpeg's C code clamps it by a table, which
 * is right up to LARGEST_SAMPLE. Up to PLAIN_SUM none is above 508, and above that the samples are looked at. */
enum { LARGEST_SUM = 5900, PLAIN_SUM = 2100, LARGEST_SAMPLE = 511 };

/* Two blocks of int16 [8, 8] coefficients, as coded, times `quantization` (0 to 255), to 8 rows of 8 samples each, `stride` bytes
 * apart. 0, and any samples, for coefficients of which libjpeg makes one thing with vectors and another without. */
int inverse_dct(Simd simd, const int16_t *first, const int16_t *second, const int16_t *quantization, uint8_t *first_out,
                uint8_t *second_out, size_t stride);

#endif

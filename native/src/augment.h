/* The operations of etl/operations.py on RGB pixels, uint8 [height, width, 3], in place. */
#ifndef AUGMENT_H
#define AUGMENT_H

#include <stddef.h>
#include <stdint.h>

#include "resize.h"

typedef struct {
    uint8_t *pixels;
    int width, height;
    Simd simd;
} Image;

/* Fractional bits of a matrix, which tell the interpolation. */
enum { NEAREST_BITS = 16, BILINEAR_BITS = 20 };

/* The pixel at (x, y) comes from ((a2 + a0 x + a1 y), (a5 + a3 x + a4 y)) / 2**bits. |a0|, |a1|, |a3|, |a4| are at most
 * 2**24, |a2| and |a5| at most 2**40. 0 when there is no memory, as for all others. */
int move_pixels(const Image *image, const int64_t matrix[6], int bits, const uint8_t fill[3]);

/* 256 values for each channel. */
void look_up(const Image *image, const uint8_t table[768]);

void blend_with_mean(const Image *image, float alpha);

int blend_with_grey(const Image *image, float alpha);

int blend_with_smooth(const Image *image, float alpha);

void make_grey(const Image *image);

void stretch_contrast(const Image *image);

void equalize_histogram(const Image *image);

/* `radius` is 0 or 1; `whole` and `part` are the weights of a pixel inside the box and at its ends, 24 fractional bits. */
int blur_by_boxes(const Image *image, int radius, uint32_t whole, uint32_t part);

#endif

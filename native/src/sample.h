/* A part of a JPEG, resized: only the rows and columns that count are decoded. */
#ifndef SAMPLE_H
#define SAMPLE_H

#include <stddef.h>
#include <stdint.h>

#include "filter.h"
#include "resize.h"

/* The photo's rectangle [top, top + height) x [left, left + width) is resized to full_width x full_height, of which
 * the output is the rectangle of out_width x out_height at (out_left, out_top), mirrored if `flip`. All in pixels. */
typedef struct {
    int left, top, width, height;
    int full_width, full_height;
    int out_left, out_top, out_width, out_height;
    Filter filter;
    int flip;
} Geometry;

typedef enum {
    DONE,
    NOT_HANDLED, /* a file that this decoder does not answer for: out may hold anything */
    NO_MEMORY
} Outcome;

/* Fills out, uint8 [out_height, out_width, 3]. The geometry must fit the size that read_frame() answered. Takes no
 * lock and has no state: calls may run at the same time. */
Outcome make_sample(const uint8_t *data, size_t size, const Geometry *geometry, Simd simd, uint8_t *out);

#endif

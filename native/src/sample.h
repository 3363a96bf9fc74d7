/* A part of a JPEG, resized: only the rows and columns that count are decoded. */
#ifndef SAMPLE_H
#define SAMPLE_H

#include <stddef.h>
#include <stdint.h>

#include "filter.h"
#include "index.h"
#include "resize.h"
#include "rows.h"

/* The photo's rectangle [top, top + height) x [left, left + width) is resized to full_width x full_height, of which
 * the output is the rectangle of out_width x out_height at (out_left, out_top), mirrored if `flip`. All in pixels. */
typedef struct {
    int left, top, width, height;
    int full_width, full_height;
    int out_left, out_top, out_width, out_height;
    Filter filter;
    int flip;
} Geometry;

/* Who may decode: the decoder of this module, libjpeg-turbo where it is there, or the second what the first one leaves. */
typedef enum { OWN = 1, LIBJPEG = 2, BOTH = OWN | LIBJPEG } Decoders;

/* Fills out, uint8 [out_height, out_width, 3]; it may hold anything where the outcome is not DONE. `frame` is what
 * read_frame() answered, and the geometry fits it. Takes no lock and has no state: calls may run at the same time.
 * `indexing` is of index.h, or NULL. */
Outcome make_sample(const uint8_t *data, size_t size, const Frame *frame, const Geometry *geometry, Decoders decoders,
                    Simd simd, Indexing *indexing, uint8_t *out);

#endif

/* What a decoder does for a sample: the rows of a part of the photo, one after the other. */
#ifndef ROWS_H
#define ROWS_H

#include <stddef.h>
#include <stdint.h>

#include "markers.h"
#include "resize.h"

typedef enum {
    DONE,
    NOT_HANDLED, /* a file that a decoder does not answer for: the rows so far may hold anything */
    NO_MEMORY
} Outcome;

/* Columns [left, right) of rows [top, bottom), in pixels. */
typedef struct {
    int left, right, top, bottom;
} Window;

/* Who takes the rows: RGBX, from the window's left column on, followed by at least `spare` pixels that may be read. */
typedef struct {
    void (*take)(void *context, const uint8_t *row);
    void *context;
    int spare;
} Taker;

#endif

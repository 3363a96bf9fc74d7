#include "sample.h"

#include <stdlib.h>

#include "decoder.h"
#include "libjpeg.h"

/* Everything that a call owns. */
typedef struct {
    Axis across, down;
    Horizontal horizontal;
    Simd simd;
    uint8_t *ring;        /* the last down.taps rows after the horizontal pass */
    const uint8_t **taps; /* rows of the ring that make one output row */
    uint8_t *out;
    size_t out_bytes, stride; /* of a row of out, and of the ring */
    int y, done;              /* rows taken, and rows of out that are made */
} Passes;

/* The inputs that count: [*first, *end). The axis may run backwards. */
static void find_inputs(const Axis *axis, int *first, int *end) {
    int last = axis->outputs - 1, one = axis->first[0], other = axis->first[last];
    *first = one < other ? one : other;
    one += axis->count[0];
    other += axis->count[last];
    *end = one > other ? one : other;
}

/* Both passes of a decoded row, from column 0 of the axis on. */
static void take_row(void *context, const uint8_t *row) {
    Passes *passes = context;
    const Axis *down = &passes->down;
    size_t ring_rows = (size_t)down->taps;
    int y = passes->y++;
    resize_row(&passes->horizontal, row, passes->ring + (size_t)y % ring_rows * passes->stride);
    for (; passes->done < down->outputs && down->first[passes->done] + down->count[passes->done] <= y + 1; passes->done++) {
        /* Rows beyond count have coefficient 0, so it does not matter that the ring holds others there. */
        for (size_t k = 0; k < ring_rows; k++)
            passes->taps[k] = passes->ring + ((size_t)down->first[passes->done] + k) % ring_rows * passes->stride;
        blend_rows(passes->simd, passes->taps, down->coefficients + (size_t)passes->done * ring_rows, down->taps,
                   passes->out + (size_t)passes->done * passes->out_bytes, passes->out_bytes);
    }
}

static void move_axis(Axis *axis, int by) {
    for (int i = 0; i < axis->outputs; i++) axis->first[i] += by;
}

static Outcome decode(Passes *passes, const uint8_t *data, size_t size, const Frame *frame, const Geometry *geometry,
                      Decoders decoders, Indexing *indexing) {
    Window window;
    find_inputs(&passes->across, &window.left, &window.right);
    find_inputs(&passes->down, &window.top, &window.bottom);
    move_axis(&passes->across, -window.left);
    move_axis(&passes->down, -window.top);
    window = (Window){window.left + geometry->left, window.right + geometry->left, window.top + geometry->top,
                      window.bottom + geometry->top};
    passes->ring = calloc((size_t)passes->down.taps, passes->stride);
    passes->taps = malloc((size_t)passes->down.taps * sizeof *passes->taps);
    if (!make_horizontal(&passes->horizontal, &passes->across, passes->simd) || !passes->ring || !passes->taps)
        return NO_MEMORY;
    Taker taker = {take_row, passes, passes->across.taps};
    if (decoders == BOTH && passes->simd == SCALAR && !indexing && *libjpeg_version())
        decoders = LIBJPEG; /* it has SSE2, NEON … */
    Outcome outcome = NOT_HANDLED;
    if (decoders & OWN) outcome = decode_window(data, size, frame, &window, passes->simd, &taker, indexing);
    if (outcome != NOT_HANDLED || !(decoders & LIBJPEG)) return outcome;
    passes->y = passes->done = 0;
    return decode_window_libjpeg(data, size, frame, &window, &taker);
}

Outcome make_sample(const uint8_t *data, size_t size, const Frame *frame, const Geometry *geometry, Decoders decoders,
                    Simd simd, Indexing *indexing, uint8_t *out) {
    Passes *passes = calloc(1, sizeof *passes);
    if (!passes) return NO_MEMORY;
    Outcome outcome = NO_MEMORY;
    passes->simd = simd;
    passes->out = out;
    passes->out_bytes = 3 * (size_t)geometry->out_width;
    passes->stride = passes->out_bytes + ROW_PADDING;
    if (make_axis(&passes->across, geometry->width, geometry->full_width, geometry->out_left, geometry->out_width,
                  geometry->filter, geometry->flip) &&
        make_axis(&passes->down, geometry->height, geometry->full_height, geometry->out_top, geometry->out_height,
                  geometry->filter, 0))
        outcome = decode(passes, data, size, frame, geometry, decoders, indexing);
    free_axis(&passes->across);
    free_axis(&passes->down);
    free_horizontal(&passes->horizontal);
    free(passes->ring);
    free(passes->taps);
    free(passes);
    return outcome;
}

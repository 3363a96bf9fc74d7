#include "sample.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>

#include "markers.h"

#if !defined(LIBJPEG_TURBO_VERSION_NUMBER) || LIBJPEG_TURBO_VERSION_NUMBER < 2001000
#error "libjpeg-turbo 2.1 or newer is needed: older ones crop with wrong pixels, and other libraries cannot crop"
#endif

/* Chroma is interpolated from the nearest two samples: two pixels on either side make those inside as in a full decode.
 * A region narrower than MIN_WIDTH is widened, for libjpeg does not interpolate one of two chroma samples or fewer. */
enum { MARGIN = 2, MIN_WIDTH = 16 };

/* libjpeg-turbo writes aligned rows past the cache, from where the horizontal pass would read them again. */
enum { MISALIGNMENT = 8 };

typedef struct {
    struct jpeg_error_mgr manager; /* first: libjpeg knows only this part */
    jmp_buf give_up;
} ErrorHandler;

/* Everything that a call owns, so that it can be let go from wherever libjpeg gives up. */
typedef struct {
    struct jpeg_decompress_struct jpeg;
    ErrorHandler errors;
    Axis across, down;
    Horizontal horizontal;
    uint8_t *row;         /* RGBX as decoded, after MISALIGNMENT bytes */
    uint8_t *ring;        /* the last rows after the horizontal pass */
    const uint8_t **taps; /* rows of the ring that make one output row */
} Work;

static void on_error(j_common_ptr jpeg) { longjmp(((ErrorHandler *)jpeg->err)->give_up, 1); }

static void on_message(j_common_ptr jpeg, int level) {
    if (level < 0) on_error(jpeg); /* a warning: the data are corrupt */
}

static void no_output(j_common_ptr jpeg) { (void)jpeg; }

static int first_input(const Axis *axis) {
    int first = axis->first[0], last = axis->first[axis->outputs - 1];
    return first < last ? first : last;
}

static int end_of_inputs(const Axis *axis) {
    int last = axis->outputs - 1;
    int end = axis->first[0] + axis->count[0], other = axis->first[last] + axis->count[last];
    return end > other ? end : other;
}

static void move_axis(Axis *axis, int by) {
    for (int i = 0; i < axis->outputs; i++) axis->first[i] += by;
}

/* Starts decoding of columns that include [left, right); answers the column of the first pixel in a decoded row. */
static int start_columns(j_decompress_ptr jpeg, int left, int right) {
    int width = (int)jpeg->output_width;
    left -= MARGIN;
    right += MARGIN;
    if (right - left < MIN_WIDTH) left = right - MIN_WIDTH;
    if (left < 0) left = 0;
    if (right < left + MIN_WIDTH) right = left + MIN_WIDTH;
    if (right > width) right = width;
    if (left == 0 && right == width) return 0;
    JDIMENSION offset = (JDIMENSION)left, columns = (JDIMENSION)(right - left);
    jpeg_crop_scanline(jpeg, &offset, &columns);
    return (int)offset;
}

/* Whether a decode of the rest of the file would end well. */
static int rest_is_whole(j_decompress_ptr jpeg) {
    int marker = jpeg->unread_marker;
    if (marker == JPEG_EOI) return 1;
    if (marker && (marker < JPEG_RST0 || marker > JPEG_RST0 + 7)) return 0;
    return ends_with_eoi(jpeg->src->next_input_byte, jpeg->src->bytes_in_buffer);
}

static Outcome decode(Work *work, const uint8_t *data, size_t size, const Geometry *geometry, Simd simd, uint8_t *out) {
    j_decompress_ptr jpeg = &work->jpeg;
    jpeg->err = jpeg_std_error(&work->errors.manager);
    work->errors.manager.error_exit = on_error;
    work->errors.manager.emit_message = on_message;
    work->errors.manager.output_message = no_output;
    if (setjmp(work->errors.give_up)) return NOT_HANDLED;
    jpeg_create_decompress(jpeg);
    jpeg_mem_src(jpeg, data, (unsigned long)size);
    jpeg_read_header(jpeg, TRUE);
    if (jpeg->jpeg_color_space != JCS_YCbCr && jpeg->jpeg_color_space != JCS_GRAYSCALE) return NOT_HANDLED;
    if (geometry->left + geometry->width > (int)jpeg->image_width) return NOT_HANDLED;
    if (geometry->top + geometry->height > (int)jpeg->image_height) return NOT_HANDLED;
    jpeg->out_color_space = JCS_EXT_RGBX;
    jpeg_start_decompress(jpeg);

    Axis *across = &work->across, *down = &work->down;
    move_axis(across, geometry->left);
    move_axis(down, geometry->top);
    move_axis(across, -start_columns(jpeg, first_input(across), end_of_inputs(across)));
    if (!make_horizontal(&work->horizontal, across, simd)) return NO_MEMORY;

    size_t out_bytes = 3 * (size_t)geometry->out_width, stride = out_bytes + ROW_PADDING;
    size_t ring_rows = (size_t)down->taps;
    work->row = calloc(MISALIGNMENT + 4 * ((size_t)jpeg->output_width + (size_t)across->taps) + ROW_PADDING, 1);
    work->ring = calloc(ring_rows, stride);
    work->taps = malloc(ring_rows * sizeof *work->taps);
    if (!work->row || !work->ring || !work->taps) return NO_MEMORY;

    uint8_t *row = work->row + MISALIGNMENT;
    int y = down->first[0], done = 0;
    if (y > 0) jpeg_skip_scanlines(jpeg, (JDIMENSION)y);
    for (; done < down->outputs; y++) {
        JSAMPROW rows[1] = {row};
        if (jpeg_read_scanlines(jpeg, rows, 1) != 1) return NOT_HANDLED;
        resize_row(&work->horizontal, row, work->ring + (size_t)y % ring_rows * stride);
        for (; done < down->outputs && down->first[done] + down->count[done] <= y + 1; done++) {
            /* Rows beyond count have coefficient 0, so it does not matter that the ring holds others there. */
            for (size_t k = 0; k < ring_rows; k++)
                work->taps[k] = work->ring + ((size_t)down->first[done] + k) % ring_rows * stride;
            blend_rows(simd, work->taps, down->coefficients + (size_t)done * ring_rows, down->taps,
                       out + (size_t)done * out_bytes, out_bytes);
        }
    }
    return rest_is_whole(jpeg) ? DONE : NOT_HANDLED;
}

Outcome make_sample(const uint8_t *data, size_t size, const Geometry *geometry, Simd simd, uint8_t *out) {
    Work *work = calloc(1, sizeof *work);
    if (!work) return NO_MEMORY;
    Outcome outcome = NO_MEMORY;
    if (make_axis(&work->across, geometry->width, geometry->full_width, geometry->out_left, geometry->out_width,
                  geometry->filter, geometry->flip) &&
        make_axis(&work->down, geometry->height, geometry->full_height, geometry->out_top, geometry->out_height,
                  geometry->filter, 0))
        outcome = decode(work, data, size, geometry, simd, out);
    jpeg_destroy_decompress(&work->jpeg);
    free_axis(&work->across);
    free_axis(&work->down);
    free_horizontal(&work->horizontal);
    free(work->row);
    free(work->ring);
    free(work->taps);
    free(work);
    return outcome;
}

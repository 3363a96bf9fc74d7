#include "libjpeg.h"

#ifdef HAVE_LIBJPEG_TURBO

#include <setjmp.h>
#include <stdio.h> /* which jpeglib.h needs */
#include <stdlib.h>

#include <jpeglib.h>

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
    uint8_t *row; /* RGBX as decoded, after MISALIGNMENT bytes */
} Work;

static void on_error(j_common_ptr jpeg) { longjmp(((ErrorHandler *)jpeg->err)->give_up, 1); }

static void on_message(j_common_ptr jpeg, int level) {
    if (level < 0) on_error(jpeg); /* a warning: the data are corrupt */
}

static void no_output(j_common_ptr jpeg) { (void)jpeg; }

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

static Outcome decode(Work *work, const uint8_t *data, size_t size, const Window *window, const Taker *taker) {
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
    if (window->right > (int)jpeg->image_width || window->bottom > (int)jpeg->image_height) return NOT_HANDLED;
    jpeg->out_color_space = JCS_EXT_RGBX;
    jpeg_start_decompress(jpeg);

    work->row = calloc(MISALIGNMENT + 4 * ((size_t)jpeg->output_width + (size_t)taker->spare) + ROW_PADDING, 1);
    if (!work->row) return NO_MEMORY;
    uint8_t *row = work->row + MISALIGNMENT;
    const uint8_t *first = row + 4 * (size_t)(window->left - start_columns(jpeg, window->left, window->right));
    if (window->top > 0) jpeg_skip_scanlines(jpeg, (JDIMENSION)window->top);
    for (int y = window->top; y < window->bottom; y++) {
        JSAMPROW rows[1] = {row};
        if (jpeg_read_scanlines(jpeg, rows, 1) != 1) return NOT_HANDLED;
        taker->take(taker->context, first);
    }
    return rest_is_whole(jpeg) ? DONE : NOT_HANDLED;
}

Outcome decode_window_libjpeg(const uint8_t *data, size_t size, const Frame *frame, const Window *window, const Taker *taker) {
    if (!has_no_fill(data + frame->scan, size - frame->scan)) return NOT_HANDLED;
    Work *work = calloc(1, sizeof *work);
    if (!work) return NO_MEMORY;
    Outcome outcome = decode(work, data, size, window, taker);
    jpeg_destroy_decompress(&work->jpeg);
    free(work->row);
    free(work);
    return outcome;
}

#define TEXT(x) #x
#define EXPANDED(x) TEXT(x)

const char *libjpeg_version(void) { return EXPANDED(LIBJPEG_TURBO_VERSION); }

#else

Outcome decode_window_libjpeg(const uint8_t *data, size_t size, const Frame *frame, const Window *window, const Taker *taker) {
    (void)data, (void)size, (void)frame, (void)window, (void)taker;
    return NOT_HANDLED;
}

const char *libjpeg_version(void) { return ""; }

#endif

/* libFuzzer: any bytes, resized by both decoders, with AVX2 and without it, and by a full decode and a plain resize.
 *
 * It stops on a memory error (AddressSanitizer, UndefinedBehaviorSanitizer), on a difference of a byte, and when a file
 * is answered for that a full decode refuses. The geometry is drawn from a hash of the bytes. */
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>
#include <jerror.h>

#include "../src/markers.h"
#include "../src/sample.h"

enum { LARGEST = 1 << 20 }; /* pixels; for speed */

#define REQUIRE(condition) \
    do {                   \
        if (!(condition)) { \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
            abort();       \
        }                  \
    } while (0)

static uint64_t state;

static int draw(int from, int to) { /* inclusive; xorshift64* */
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return from + (int)((state * 2685821657736338717u >> 33) % (uint64_t)(to - from + 1));
}

static Geometry draw_geometry(const Frame *frame) {
    Geometry g = {.filter = draw(0, 3) ? BILINEAR : BICUBIC, .flip = draw(0, 1)};
    int width = (int)frame->width, height = (int)frame->height;
    g.width = draw(1, width);
    g.height = draw(1, height);
    g.left = draw(0, width - g.width);
    g.top = draw(0, height - g.height);
    g.full_width = draw(1, draw(0, 7) ? 70 : 300);
    g.full_height = draw(1, draw(0, 7) ? 70 : 300);
    g.out_width = draw(1, g.full_width);
    g.out_height = draw(1, g.full_height);
    g.out_left = draw(0, g.full_width - g.out_width);
    g.out_top = draw(0, g.full_height - g.out_height);
    return g;
}

static jmp_buf refused;

static void on_error(j_common_ptr jpeg) {
    (void)jpeg;
    longjmp(refused, 1);
}

static void on_message(j_common_ptr jpeg, int level) {
    if (level < 0 && jpeg->err->msg_code == JWRN_JPEG_EOF) longjmp(refused, 1); /* truncated; other warnings pass */
}

/* The whole photo as RGBX; NULL where libjpeg gives up. */
static uint8_t *decode_all(const uint8_t *data, size_t size, const Frame *frame) {
    struct jpeg_decompress_struct jpeg;
    struct jpeg_error_mgr errors;
    uint8_t *volatile pixels = malloc(4 * (size_t)frame->width * frame->height);
    REQUIRE(pixels);
    jpeg.err = jpeg_std_error(&errors);
    errors.error_exit = on_error;
    errors.emit_message = on_message;
    jpeg_create_decompress(&jpeg);
    if (setjmp(refused)) {
        jpeg_destroy_decompress(&jpeg);
        free(pixels);
        return NULL;
    }
    jpeg_mem_src(&jpeg, data, (unsigned long)size);
    jpeg_read_header(&jpeg, TRUE);
    jpeg.out_color_space = JCS_EXT_RGBX;
    jpeg_start_decompress(&jpeg);
    REQUIRE(jpeg.output_width == frame->width && jpeg.output_height == frame->height);
    while (jpeg.output_scanline < jpeg.output_height) {
        JSAMPROW row = pixels + 4 * (size_t)jpeg.output_scanline * frame->width;
        jpeg_read_scanlines(&jpeg, &row, 1);
    }
    jpeg_finish_decompress(&jpeg);
    jpeg_destroy_decompress(&jpeg);
    return pixels;
}

static uint8_t weigh(const uint8_t *pixels, size_t step, const Axis *axis, int output) {
    int64_t sum = 1 << (PRECISION - 1);
    for (int k = 0; k < axis->count[output]; k++)
        sum += (int64_t)pixels[(size_t)(axis->first[output] + k) * step] *
               axis->coefficients[(size_t)output * (size_t)axis->taps + (size_t)k];
    sum >>= PRECISION;
    return (uint8_t)(sum < 0 ? 0 : sum > 255 ? 255 : sum);
}

/* Two passes over whole planes; out is uint8 [out_height, out_width, 3]. */
static void resize_all(const uint8_t *photo, const Frame *frame, const Geometry *g, uint8_t *out) {
    Axis across, down;
    size_t width = (size_t)g->out_width;
    uint8_t *rows = malloc(3 * width * (size_t)g->height);
    REQUIRE(rows);
    REQUIRE(make_axis(&across, g->width, g->full_width, g->out_left, g->out_width, g->filter, g->flip));
    REQUIRE(make_axis(&down, g->height, g->full_height, g->out_top, g->out_height, g->filter, 0));
    for (int y = 0; y < g->height; y++)
        for (size_t x = 0; x < width; x++)
            for (size_t c = 0; c < 3; c++)
                rows[((size_t)y * width + x) * 3 + c] =
                    weigh(photo + 4 * ((size_t)(g->top + y) * frame->width + (size_t)g->left) + c, 4, &across, (int)x);
    for (int y = 0; y < g->out_height; y++)
        for (size_t x = 0; x < 3 * width; x++)
            out[(size_t)y * 3 * width + x] = weigh(rows + x, 3 * width, &down, y);
    free_axis(&across);
    free_axis(&down);
    free(rows);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Frame frame;
    state = 14695981039346656037u; /* FNV-1a */
    for (size_t i = 0; i < size; i++) state = (state ^ data[i]) * 1099511628211u;
    state |= 1;
    if (!read_frame(data, size, &frame) || (uint64_t)frame.width * frame.height > LARGEST) return 0;
    Geometry g = draw_geometry(&frame);
    size_t bytes = 3 * (size_t)g.out_width * (size_t)g.out_height;
    uint8_t *made = malloc(bytes), *expected = malloc(bytes);
    REQUIRE(made && expected);
    int expecting = 0; /* whether `expected` holds the sample by a full decode */
    const struct {
        Decoders decoders;
        Simd simd;
    } ways[] = {{OWN, best_simd()}, {OWN, SCALAR}, {LIBJPEG, best_simd()}, {LIBJPEG, SCALAR}};
    Outcome outcomes[4];
    for (int i = 0; i < 4; i++) {
        outcomes[i] = make_sample(data, size, &frame, &g, ways[i].decoders, ways[i].simd, NULL, made);
        REQUIRE(i % 2 == 0 || outcomes[i] == outcomes[i - 1]);
        if (outcomes[i] != DONE) continue;
        if (!expecting) {
            uint8_t *photo = decode_all(data, size, &frame);
            REQUIRE(photo);
            resize_all(photo, &frame, &g, expected);
            free(photo);
            expecting = 1;
        }
        REQUIRE(memcmp(made, expected, bytes) == 0);
    }
    free(made);
    free(expected);
    return 0;
}

/* libFuzzer: any bytes, resized by both decoders, with AVX2 and without it, with an index, and by a full decode and a plain resize.
 *
 * It stops on a memory error (AddressSanitizer, UndefinedBehaviorSanitizer), on a difference of a byte, and when a file
 * is answered for that a full decode refuses. The geometry is drawn from a hash of the bytes. An index of the file is used as it is,
 * damaged, for a damaged file, and damaged with the hashes of a sound one: then the bytes may be any, and memory is all that counts. */
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>
#include <jerror.h>

#include "../src/hash.h"
#include "../src/index.h"
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

/* A few bytes of data[from, size) are others. */
static void damage(uint8_t *data, size_t from, size_t size) {
    for (int i = draw(1, 3); i > 0; i--) data[draw((int)from, (int)size - 1)] ^= (uint8_t)draw(1, 255);
}

/* The sample with an index; answers whether it was made, and `indexing` then says how the index fitted. */
static int sample_indexed(const uint8_t *data, size_t size, const Frame *frame, const Geometry *g, const uint8_t *given, size_t length,
                          Indexing *indexing, uint8_t *made) {
    uint8_t *exact = malloc(length); /* a read past its end is found */
    REQUIRE(exact);
    memcpy(exact, given, length);
    *indexing = (Indexing){.given = exact, .given_length = length, .fit = BROKEN, .step = (size_t)draw(0, 20)};
    Outcome outcome = make_sample(data, size, frame, g, OWN, draw(0, 1) ? SCALAR : best_simd(), indexing, made);
    free(indexing->made);
    free(exact);
    return outcome == DONE;
}

/* Indexes of the file: `expected` is its sample, of `bytes` bytes, as our own decoder makes it, if it `is_done`. */
static void use_indexes(const uint8_t *data, size_t size, const Frame *frame, const Geometry *g, int is_done, const uint8_t *expected,
                        size_t bytes) {
    Indexing making = {.step = (size_t)draw(1, 20)}, found;
    Indexing aside = {.step = making.step};
    uint8_t *made = malloc(bytes), *changed = malloc(size);
    REQUIRE(made && changed);
    int indexed = make_index(&making, data, size, frame, draw(0, 1) ? SCALAR : best_simd()) == DONE;
    REQUIRE(indexed == (making.made != NULL));
    Outcome outcome = make_sample(data, size, frame, g, OWN, best_simd(), &aside, made);
    REQUIRE((outcome == DONE) == is_done && (!is_done || memcmp(made, expected, bytes) == 0));
    if (outcome == DONE && indexed)
        REQUIRE(aside.made && aside.made_length == making.made_length && !memcmp(aside.made, making.made, aside.made_length));
    free(aside.made);
    if (indexed) {
        const size_t check = making.made_length - 8, first = 16; /* of an index, behind what binds it to the file */
        if (sample_indexed(data, size, frame, g, making.made, making.made_length, &found, made))
            REQUIRE(found.fit == FITS && is_done && memcmp(made, expected, bytes) == 0);
        else
            REQUIRE(!is_done);
        memcpy(changed, data, size); /* another file, of the same size */
        damage(changed, 0, size);
        Frame other;
        if (memcmp(changed, data, size) && read_frame(changed, size, &other) && other.width == frame->width && other.height == frame->height) {
            sample_indexed(changed, size, &other, g, making.made, making.made_length, &found, made);
            REQUIRE(found.fit != FITS);
        }
        size_t length = (size_t)draw(0, (int)making.made_length - 1);
        sample_indexed(data, size, frame, g, making.made, length, &found, made);
        REQUIRE(found.fit != FITS);
        damage(making.made, first, check);
        for (unsigned i = 0; i < 8; i++) making.made[check + i] = (uint8_t)(hash_of(making.made, check) >> 8 * i);
        sample_indexed(data, size, frame, g, making.made, making.made_length, &found, made);
        making.made[check] ^= 1;
        sample_indexed(data, size, frame, g, making.made, making.made_length, &found, made);
        REQUIRE(found.fit != FITS);
    }
    free(making.made);
    free(changed);
    free(made);
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
    use_indexes(data, size, &frame, &g, outcomes[0] == DONE, expected, bytes);
    free(made);
    free(expected);
    return 0;
}

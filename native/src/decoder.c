#include "decoder.h"

#include <stdlib.h>
#include <string.h>

#include "color.h"
#include "idct.h"
#include "scan.h"
#include "tables.h"
#include "unstuff.h"
#include "upsample.h"

enum {
    LONGEST_SIDE = 65500,  /* libjpeg's limit */
    FEWEST_SAMPLES = 3,    /* in a row of chroma halved across: fewer are not interpolated, neither across nor down */
    MOST_BLOCKS = 1 << 20, /* of a component: 2047 for each, the largest difference of a DC value, add up to less than 2**31 */
    EDGE = 64              /* bytes on either side of a row of samples */
};

/* The samples of one component under the window, of two rows of MCUs: MCU row m lies in half m % 2. */
typedef struct {
    uint8_t *samples; /* the first of half 0 */
    size_t stride;
    int rows;          /* of a half */
    int first;         /* the column of samples[0] in the photo's component */
    int width, height; /* of the photo's component */
    int halved_across, halved_down;
    int repeated; /* not interpolated */
} Plane;

typedef struct {
    Tables tables;
    Entropy entropy;
    Scan scan;
    Plane planes[3];
    int mcu_width, mcu_height;    /* pixels */
    int mcus, first_mcu, end_mcu; /* of a row, and of them those under the window */
    int next_row, end_row;        /* the row of MCUs that comes next, and the first that no pixel of the window needs */
    int16_t blocks[2 * MAX_BLOCKS][BLOCK_SIZE];
    uint8_t *memory;
} Decoder;

static int halved(int length, int halve) { return halve ? (length + 1) / 2 : length; }

static int divided_up(int length, int by) { return (length + by - 1) / by; }

static int at_least(int value, int least) { return value < least ? least : value; }

static int at_most(int value, int most) { return value > most ? most : value; }

/* The MCUs under the window, with those of the chroma samples beside it. 0 for photos that are too large for libjpeg. */
static int measure(Decoder *decoder, const Frame *frame, const Window *window) {
    const Tables *tables = &decoder->tables;
    int width = (int)frame->width, height = (int)frame->height;
    int across = tables->components == 1 ? 1 : tables->component[0].across;
    int down = tables->components == 1 ? 1 : tables->component[0].down;
    if (width > LONGEST_SIDE || height > LONGEST_SIDE) return 0;
    decoder->mcu_width = 8 * across;
    decoder->mcu_height = 8 * down;
    decoder->mcus = divided_up(width, decoder->mcu_width);
    int beside = across == 2 ? 2 : 0, above = down == 2 ? 1 : 0; /* pixels whose chroma samples count too */
    decoder->first_mcu = at_least(window->left - beside, 0) / decoder->mcu_width;
    decoder->end_mcu = divided_up(at_most(window->right + beside, width), decoder->mcu_width);
    decoder->next_row = at_least(window->top - above, 0) / decoder->mcu_height;
    decoder->end_row = divided_up(at_most(window->bottom + above, height), decoder->mcu_height);
    for (int i = 0; i < tables->components; i++) {
        Plane *plane = &decoder->planes[i];
        plane->halved_across = i && across == 2;
        plane->halved_down = i && down == 2;
        plane->rows = plane->halved_down ? 8 : decoder->mcu_height;
        plane->first = decoder->first_mcu * (plane->halved_across ? 8 : decoder->mcu_width);
        plane->width = halved(width, plane->halved_across);
        plane->height = halved(height, plane->halved_down);
        plane->repeated = plane->halved_across && plane->width < FEWEST_SAMPLES;
    }
    return 1;
}

static int allocate(Decoder *decoder) {
    size_t sizes[3] = {0}, all = 0;
    size_t mcus = (size_t)(decoder->end_mcu - decoder->first_mcu + 1); /* they are decoded by two */
    for (int i = 0; i < decoder->tables.components; i++) {
        Plane *plane = &decoder->planes[i];
        plane->stride = mcus * (size_t)(plane->halved_across ? 8 : decoder->mcu_width) + 2 * EDGE;
        sizes[i] = 2 * (size_t)plane->rows * plane->stride;
        all += sizes[i];
    }
    uint8_t *at = decoder->memory = calloc(all, 1);
    if (!at) return 0;
    for (int i = 0; i < decoder->tables.components; at += sizes[i++]) decoder->planes[i].samples = at + EDGE;
    return 1;
}

static uint8_t *row_of(const Plane *plane, int y) {
    return plane->samples + (size_t)(y / plane->rows % 2 * plane->rows + y % plane->rows) * plane->stride;
}

/* The samples of two MCUs of row `mcu_row`, the first of them number `mcu` under the window. */
static int transform_two(Decoder *decoder, int mcu_row, int mcu) {
    const int16_t(*first)[BLOCK_SIZE] = decoder->blocks, (*second)[BLOCK_SIZE] = first + decoder->scan.blocks;
    for (int i = 0; i < decoder->tables.components; i++) {
        const Plane *plane = &decoder->planes[i];
        int width = plane->halved_across ? 8 : decoder->mcu_width;
        for (int y = 0; y < plane->rows; y += 8)
            for (int x = 0; x < width; x += 8, first++, second++) {
                uint8_t *out = row_of(plane, mcu_row * plane->rows + y) + (size_t)(mcu * width + x);
                if (!inverse_dct(decoder->scan.simd, *first, *second, decoder->tables.component[i].quantization, out,
                                 out + width, plane->stride))
                    return 0;
            }
    }
    return 1;
}

/* Interpolation takes the photo's first and last samples for those beyond. */
static void extend_edges(const Plane *plane, int mcu_row, int columns) {
    for (int y = mcu_row * plane->rows; y < (mcu_row + 1) * plane->rows; y++) {
        uint8_t *row = row_of(plane, y);
        int last = plane->width - 1 - plane->first;
        if (plane->first == 0) row[-1] = row[0];
        if (last < columns) row[last + 1] = row[last];
    }
}

/* The next row of MCUs. What is right of the window in the last one that is needed is not read. */
static int decode_mcu_row(Decoder *decoder) {
    Scan *scan = &decoder->scan;
    int mcus = decoder->end_mcu - decoder->first_mcu, row = decoder->next_row++;
    if (!skip_mcus(scan, (size_t)decoder->first_mcu)) return 0;
    for (int mcu = 0; mcu < mcus; mcu += 2) {
        if (!decode_mcus(scan, (size_t)at_most(mcus - mcu, 2), decoder->blocks)) return 0;
        if (!transform_two(decoder, row, mcu)) return 0;
    }
    for (int i = 1; i < decoder->tables.components; i++)
        if (decoder->planes[i].halved_across) extend_edges(&decoder->planes[i], row, 8 * mcus);
    return decoder->next_row == decoder->end_row || skip_mcus(scan, (size_t)(decoder->mcus - decoder->end_mcu));
}

/* The chroma row of pixel row y beside row y / 2: the one above for the upper of its two pixel rows, and the one below. */
static int far_row(const Plane *plane, int y) { return at_most(at_least(y / 2 + (y % 2 ? 1 : -1), 0), plane->height - 1); }

/* `count` pixels of a component in row y of the photo, from column `left` on, an even one where the component is halved across:
 * at `spare`, or where the samples are. */
static const uint8_t *upsampled(const Plane *plane, Simd simd, int y, int left, int count, uint8_t *spare) {
    int column = (plane->halved_across ? left / 2 : left) - plane->first, samples = halved(count, plane->halved_across);
    const uint8_t *near = row_of(plane, plane->halved_down ? y / 2 : y) + column;
    const uint8_t *far = plane->halved_down ? row_of(plane, far_row(plane, y)) + column : NULL;
    if (plane->repeated)
        repeat_across(near, samples, spare);
    else if (plane->halved_across && far)
        double_both(simd, near, far, samples, spare);
    else if (plane->halved_across)
        double_across(simd, near, samples, spare);
    else if (far)
        double_down(simd, near, far, y % 2 == 0, samples, spare);
    else
        return near;
    return spare;
}

static Outcome give_rows(Decoder *decoder, const Window *window, const Taker *taker) {
    int left = window->left & ~1, count = window->right - left, height = decoder->planes[0].height;
    Simd simd = decoder->scan.simd;
    size_t room = (size_t)count + EDGE;
    uint8_t *memory = calloc(4 * ((size_t)at_least(taker->spare, EDGE) + (size_t)count) + ROW_PADDING + 2 * room, 1);
    if (!memory) return NO_MEMORY;
    uint8_t *chroma[2] = {memory, memory + room}, *rgbx = memory + 2 * room;
    int sound = 1;
    for (int y = window->top; y < window->bottom && sound; y++) {
        const Plane *planes = decoder->planes;
        int last = decoder->mcu_height == 16 ? at_most(y + 1, height - 1) : y; /* row of pixels whose samples count */
        while (sound && decoder->next_row <= last / decoder->mcu_height) sound = decode_mcu_row(decoder);
        const uint8_t *luma = upsampled(&planes[0], simd, y, left, count, NULL);
        if (decoder->tables.components == 1)
            grey_to_rgbx(luma, count, rgbx);
        else
            ycc_to_rgbx(simd, luma, upsampled(&planes[1], simd, y, left, count, chroma[0]),
                        upsampled(&planes[2], simd, y, left, count, chroma[1]), count, rgbx);
        taker->take(taker->context, rgbx + 4 * (size_t)(window->left - left));
    }
    free(memory);
    return sound && is_inside(&decoder->scan) ? DONE : NOT_HANDLED;
}

static Outcome decode(Decoder *decoder, const uint8_t *data, size_t size, const Frame *frame, const Window *window,
                      Simd simd, const Taker *taker) {
    if (!read_tables(&decoder->tables, data, frame->scan) || !measure(decoder, frame, window)) return NOT_HANDLED;
    size_t interval = decoder->tables.restart_interval;
    size_t mcus = (size_t)decoder->mcus * (size_t)divided_up((int)frame->height, decoder->mcu_height);
    if (mcus * (size_t)(decoder->mcu_width * decoder->mcu_height / BLOCK_SIZE) > MOST_BLOCKS) return NOT_HANDLED;
    size_t segments = interval ? (mcus + interval - 1) / interval : 1;
    switch (unstuff(&decoder->entropy, data + frame->scan, size - frame->scan, segments)) {
        case FAULTY:
            return NOT_HANDLED;
        case OUT_OF_MEMORY:
            return NO_MEMORY;
        case WHOLE:
            break;
    }
    if (!allocate(decoder)) return NO_MEMORY;
    make_scan(&decoder->scan, &decoder->tables, &decoder->entropy, simd);
    if (!skip_mcus(&decoder->scan, (size_t)decoder->next_row * (size_t)decoder->mcus)) return NOT_HANDLED;
    return give_rows(decoder, window, taker);
}

Outcome decode_window(const uint8_t *data, size_t size, const Frame *frame, const Window *window, Simd simd,
                      const Taker *taker) {
    Decoder *decoder = calloc(1, sizeof *decoder);
    if (!decoder) return NO_MEMORY;
    Outcome outcome = decode(decoder, data, size, frame, window, simd, taker);
    free_entropy(&decoder->entropy);
    free(decoder->memory);
    free(decoder);
    return outcome;
}

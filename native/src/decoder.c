#include "decoder.h"

#include <stdlib.h>
#include <string.h>

#include "color.h"
#include "idct.h"
#include "tables.h"
#include "unstuff.h"
#include "upsample.h"

enum {
    FEWEST_SAMPLES = 3, /* in a row of chroma halved across: fewer are not interpolated, neither across nor down */
    EDGE = 64           /* bytes on either side of a row of samples */
};

/* The samples of one component under the window, of the last few rows of MCUs: MCU row m lies in part m % kept. */
typedef struct {
    uint8_t *samples; /* the first of part 0 */
    size_t stride;
    int rows, kept;    /* rows of a part, and how many parts there are */
    int first;         /* the column of samples[0] in the photo's component */
    int width, height; /* of the photo's component */
    int halved_across, halved_down;
    int repeated; /* not interpolated */
} Plane;

typedef struct {
    Tables tables;
    Entropy entropy[2];
    Scan scan[2]; /* with an index the second one reads the row of MCUs below the first one's */
    Plane planes[3];
    Grid grid;
    int first_mcu, end_mcu; /* of a row, those under the window */
    int next_row, end_row;  /* the row of MCUs that comes next, and the first that no pixel of the window needs */
    int16_t blocks[2][2 * MAX_BLOCKS][BLOCK_SIZE]; /* of each scan */
    uint8_t *memory;
    const uint8_t *coded; /* [coded_size] the file from the scan on */
    size_t coded_size;
    Index index; /* of count 0: the scan is read from its first MCU on */
    Notes notes;
} Decoder;

static int halved(int length, int halve) { return halve ? (length + 1) / 2 : length; }

static int at_least(int value, int least) { return value < least ? least : value; }

static int at_most(int value, int most) { return value > most ? most : value; }

/* The MCUs under the window, with those of the chroma samples beside it. */
static void measure(Decoder *decoder, const Frame *frame, const Window *window) {
    const Tables *tables = &decoder->tables;
    const Grid *grid = &decoder->grid;
    int width = (int)frame->width, height = (int)frame->height;
    int across = grid->mcu_width / 8, down = grid->mcu_height / 8;
    int beside = across == 2 ? 2 : 0, above = down == 2 ? 1 : 0; /* pixels whose chroma samples count too */
    decoder->first_mcu = at_least(window->left - beside, 0) / grid->mcu_width;
    decoder->end_mcu = divided_up(at_most(window->right + beside, width), grid->mcu_width);
    decoder->next_row = at_least(window->top - above, 0) / grid->mcu_height;
    decoder->end_row = divided_up(at_most(window->bottom + above, height), grid->mcu_height);
    for (int i = 0; i < tables->components; i++) {
        Plane *plane = &decoder->planes[i];
        plane->halved_across = i && across == 2;
        plane->halved_down = i && down == 2;
        plane->rows = plane->halved_down ? 8 : grid->mcu_height;
        plane->kept = decoder->index.count ? 3 : 2; /* those that are decoded at once, and the one above */
        plane->first = decoder->first_mcu * (plane->halved_across ? 8 : grid->mcu_width);
        plane->width = halved(width, plane->halved_across);
        plane->height = halved(height, plane->halved_down);
        plane->repeated = plane->halved_across && plane->width < FEWEST_SAMPLES;
    }
}

static int allocate(Decoder *decoder) {
    size_t sizes[3] = {0}, all = 0;
    size_t mcus = (size_t)(decoder->end_mcu - decoder->first_mcu + 1); /* they are decoded by two */
    for (int i = 0; i < decoder->tables.components; i++) {
        Plane *plane = &decoder->planes[i];
        plane->stride = mcus * (size_t)(plane->halved_across ? 8 : decoder->grid.mcu_width) + 2 * EDGE;
        sizes[i] = (size_t)(plane->kept * plane->rows) * plane->stride;
        all += sizes[i];
    }
    uint8_t *at = decoder->memory = calloc(all, 1);
    if (!at) return 0;
    for (int i = 0; i < decoder->tables.components; at += sizes[i++]) decoder->planes[i].samples = at + EDGE;
    return 1;
}

/* The first row of samples of a row of MCUs. */
static uint8_t *part_of_row(const Plane *plane, int mcu_row) {
    return plane->samples + (size_t)(mcu_row % plane->kept * plane->rows) * plane->stride;
}

static uint8_t *row_of(const Plane *plane, int y) {
    return part_of_row(plane, y / plane->rows) + (size_t)(y % plane->rows) * plane->stride;
}

/* The samples of two MCUs of row `mcu_row`, the first of them number `mcu` under the window, of the blocks of a scan. */
static int transform_two(Decoder *decoder, int mcu_row, int mcu, int scan) {
    const int16_t(*first)[BLOCK_SIZE] = decoder->blocks[scan], (*second)[BLOCK_SIZE] = first + decoder->scan[0].blocks;
    for (int i = 0; i < decoder->tables.components; i++) {
        const Plane *plane = &decoder->planes[i];
        int width = plane->halved_across ? 8 : decoder->grid.mcu_width;
        uint8_t *samples = part_of_row(plane, mcu_row) + (size_t)(mcu * width);
        for (int y = 0; y < plane->rows; y += 8)
            for (int x = 0; x < width; x += 8, first++, second++) {
                uint8_t *out = samples + (size_t)y * plane->stride + x;
                if (!inverse_dct(decoder->scan[0].simd, *first, *second, decoder->tables.component[i].quantization, out,
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

/* Memory for the largest parts. */
static int make_parts(Decoder *decoder) {
    size_t interval = decoder->tables.restart_interval, segments = interval ? (size_t)decoder->grid.mcus / interval + 3 : 1;
    size_t most = 0;
    for (int row = decoder->next_row; row < decoder->end_row; row++) {
        size_t size = part_of(&decoder->index, row, decoder->first_mcu, decoder->end_mcu, decoder->coded_size).size;
        if (size > most) most = size;
    }
    return make_room(&decoder->entropy[0], most, segments) && make_room(&decoder->entropy[1], most, segments);
}

/* Lets a scan go to the last entry of row `row` before the window, and answers how many MCUs are between them; -1 for a fault. */
static int begin_part(Decoder *decoder, int which, int row) {
    const Index *index = &decoder->index;
    Part part = part_of(index, row, decoder->first_mcu, decoder->end_mcu, decoder->coded_size);
    Start start = index->starts[part.entry];
    size_t column = part.entry % index->per_row * index->step, interval = decoder->tables.restart_interval;
    size_t mcu = (size_t)row * (size_t)decoder->grid.mcus + column;
    start.position -= 8 * part.from;
    size_t segment = interval ? mcu / interval : 0;
    if (unstuff_part(&decoder->entropy[which], decoder->coded + part.from, part.size, segment) != DONE) return -1;
    start_at(&decoder->scan[which], mcu, &start);
    return decoder->first_mcu - (int)column;
}

/* Goes to the window's first MCU of `rows` rows of MCUs: of two with an index alone. */
static int begin_rows(Decoder *decoder, int row, int rows) {
    Scan *scan = decoder->scan;
    if (!decoder->index.count) return skip_mcus(&scan[0], (size_t)decoder->first_mcu);
    int before = begin_part(decoder, 0, row); /* as many in the row below, whose entries are those of the same columns */
    if (before < 0 || (rows == 2 && begin_part(decoder, 1, row + 1) < 0)) return 0;
    return rows == 2 ? skip_both(&scan[0], &scan[1], (size_t)before) : skip_mcus(&scan[0], (size_t)before);
}

/* What is right of the window in the last row that is needed is not read; with an index, in no row. */
static int end_rows(Decoder *decoder, int rows) {
    Scan *scan = decoder->scan;
    if (decoder->index.count) return is_inside(&scan[0]) && (rows < 2 || is_inside(&scan[1]));
    return decoder->next_row == decoder->end_row || skip_mcus(&scan[0], (size_t)(decoder->grid.mcus - decoder->end_mcu));
}

/* The next row of MCUs, or with an index the next two. */
static int decode_mcu_rows(Decoder *decoder) {
    int mcus = decoder->end_mcu - decoder->first_mcu, row = decoder->next_row;
    int rows = decoder->index.count ? at_most(decoder->end_row - row, 2) : 1;
    decoder->next_row += rows;
    if (!begin_rows(decoder, row, rows)) return 0;
    Scan *scan = decoder->scan;
    for (int mcu = 0; mcu < mcus; mcu += 2) {
        size_t count = (size_t)at_most(mcus - mcu, 2);
        if (rows == 2 ? !decode_both(&scan[0], &scan[1], count, decoder->blocks[0], decoder->blocks[1])
                      : !decode_mcus(&scan[0], count, decoder->blocks[0]))
            return 0;
        for (int i = 0; i < rows; i++)
            if (!transform_two(decoder, row + i, mcu, i)) return 0;
    }
    for (int i = 1; i < decoder->tables.components; i++)
        for (int k = 0; k < rows; k++)
            if (decoder->planes[i].halved_across) extend_edges(&decoder->planes[i], row + k, 8 * mcus);
    return end_rows(decoder, rows);
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
    Simd simd = decoder->scan[0].simd;
    size_t room = (size_t)count + EDGE;
    uint8_t *memory = calloc(4 * ((size_t)at_least(taker->spare, EDGE) + (size_t)count) + ROW_PADDING + 2 * room, 1);
    if (!memory) return NO_MEMORY;
    uint8_t *chroma[2] = {memory, memory + room}, *rgbx = memory + 2 * room;
    int sound = 1;
    for (int y = window->top; y < window->bottom && sound; y++) {
        const Plane *planes = decoder->planes;
        int last = decoder->grid.mcu_height == 16 ? at_most(y + 1, height - 1) : y; /* row of pixels whose samples count */
        while (sound && decoder->next_row <= last / decoder->grid.mcu_height) sound = decode_mcu_rows(decoder);
        const uint8_t *luma = upsampled(&planes[0], simd, y, left, count, NULL);
        if (decoder->tables.components == 1)
            grey_to_rgbx(luma, count, rgbx);
        else
            ycc_to_rgbx(simd, luma, upsampled(&planes[1], simd, y, left, count, chroma[0]),
                        upsampled(&planes[2], simd, y, left, count, chroma[1]), count, rgbx);
        taker->take(taker->context, rgbx + 4 * (size_t)(window->left - left));
    }
    free(memory);
    return sound && is_inside(&decoder->scan[0]) ? DONE : NOT_HANDLED;
}

/* Finds where the scan is read from: the first MCU, with notes for an index if one is wanted, or with an index, wherever that
 * says. DONE when all is ready for rows. */
static Outcome open_scan(Decoder *decoder, Simd simd, Indexing *indexing) {
    const Tables *tables = &decoder->tables;
    if (decoder->index.count) {
        if (!make_parts(decoder)) return NO_MEMORY;
        for (int i = 0; i < 2; i++) make_scan(&decoder->scan[i], tables, &decoder->entropy[i], simd);
        return DONE;
    }
    if (indexing) indexing->reason = FAULTY_SCAN;
    Outcome outcome = unstuff(&decoder->entropy[0], decoder->coded, decoder->coded_size, segments_of(tables, &decoder->grid));
    if (outcome != DONE) return outcome;
    make_scan(&decoder->scan[0], tables, &decoder->entropy[0], simd);
    if (indexing && indexing->step) {
        if (!make_notes(&decoder->notes, &decoder->grid, indexing->step)) return NO_MEMORY;
        decoder->scan[0].notes = &decoder->notes;
    }
    return skip_mcus(&decoder->scan[0], (size_t)decoder->next_row * (size_t)decoder->grid.mcus) ? DONE : NOT_HANDLED;
}

/* Reads what is left of the scan for an index, which changes nothing of the rows. */
static Outcome finish_index(Decoder *decoder, const uint8_t *data, size_t size, const Frame *frame, Indexing *indexing) {
    Scan *scan = &decoder->scan[0];
    if (!skip_mcus(scan, (size_t)decoder->grid.mcus * (size_t)decoder->grid.rows - scan->mcu)) return DONE;
    return write_index(indexing, scan, data, size, frame) ? DONE : NO_MEMORY;
}

static Outcome decode(Decoder *decoder, const uint8_t *data, size_t size, const Frame *frame, const Window *window,
                      Simd simd, const Taker *taker, Indexing *indexing) {
    if (indexing) indexing->reason = OTHER_KIND;
    if (!read_tables(&decoder->tables, data, frame->scan) || !make_grid(&decoder->grid, &decoder->tables, frame))
        return NOT_HANDLED;
    decoder->coded = data + frame->scan;
    decoder->coded_size = size - frame->scan;
    if (indexing && indexing->given) {
        indexing->fit =
            read_index(&decoder->index, indexing->given, indexing->given_length, data, size, frame, &decoder->grid);
        if (indexing->fit != FITS) decoder->index = (Index){0};
    }
    measure(decoder, frame, window);
    Outcome outcome = open_scan(decoder, simd, indexing);
    if (outcome == DONE && !allocate(decoder)) outcome = NO_MEMORY;
    if (outcome == DONE) outcome = give_rows(decoder, window, taker);
    if (outcome == DONE && decoder->scan[0].notes) outcome = finish_index(decoder, data, size, frame, indexing);
    return outcome;
}

Outcome decode_window(const uint8_t *data, size_t size, const Frame *frame, const Window *window, Simd simd,
                      const Taker *taker, Indexing *indexing) {
    Decoder *decoder = calloc(1, sizeof *decoder);
    if (!decoder) return NO_MEMORY;
    Outcome outcome = decode(decoder, data, size, frame, window, simd, taker, indexing);
    for (int i = 0; i < 2; i++) free_entropy(&decoder->entropy[i]);
    free(decoder->index.starts);
    free(decoder->notes.starts);
    free(decoder->memory);
    free(decoder);
    return outcome;
}

#include "index.h"

#include <stdlib.h>
#include <string.h>

#include "hash.h"
#include "unstuff.h"

enum {
    HEADER = 34,
    CHECK = 8,                 /* bytes of the hash at the end, which let a reader of bits load 8 bytes anywhere before */
    LONGEST_POSITION = 40,     /* bits */
    LONGEST_VALUE = 26,
    LARGEST_VALUE = 1 << 24    /* of DC, which what a row adds does not bring near 2**31 */
};

static const uint8_t magic[4] = {'j', 'i', 'x', INDEX_VERSION};

static size_t entries_of_row(size_t mcus, size_t step) { return (mcus + step - 1) / step; }

/* The next `width` bits, up to 57, at bit number *at. */
static uint64_t take_bits(const uint8_t *bytes, uint64_t *at, unsigned width) {
    uint64_t word = little_endian(bytes + *at / 8, 8) >> *at % 8;
    *at += width;
    return word & ((UINT64_C(1) << width) - 1);
}

static void put_bits(uint8_t *bytes, uint64_t *at, unsigned width, uint64_t value) {
    for (unsigned i = 0; i < width; i++, ++*at) bytes[*at / 8] |= (uint8_t)((value >> i & 1) << *at % 8);
}

static void put_number(uint8_t *bytes, size_t at, unsigned count, uint64_t value) {
    for (unsigned i = 0; i < count; i++) bytes[at + i] = (uint8_t)(value >> 8 * i);
}

/* The entries, or 0 where they do not grow, or go beyond `size` bytes. */
static int read_entries(Index *index, const uint8_t *bytes, size_t size) {
    uint64_t at = 0, position = 0;
    int64_t least[3];
    for (int c = 0; c < 3; c++) least[c] = (int32_t)little_endian(bytes + 22 + 4 * c, 4);
    for (size_t i = 0; i < index->count; i++) {
        Start *start = &index->starts[i];
        uint64_t further = take_bits(bytes + HEADER, &at, bytes[18]);
        position += further;
        if ((further == 0) != (i == 0) || position / 8 >= size) return 0;
        start->position = position;
        for (int c = 0; c < 3; c++) {
            int64_t value = least[c] + (int64_t)take_bits(bytes + HEADER, &at, bytes[19 + c]);
            if (value < -LARGEST_VALUE || value > LARGEST_VALUE) return 0;
            start->prediction[c] = (int32_t)value;
        }
    }
    return 1;
}

Fit read_index(Index *index, const uint8_t *bytes, size_t length, const uint8_t *data, size_t size, const Frame *frame,
               const Grid *grid) {
    if (length < HEADER + CHECK) return CUT_SHORT;
    if (memcmp(bytes, magic, sizeof magic)) return OTHER_VERSION;
    if (little_endian(bytes + length - CHECK, CHECK) != hash_of(bytes, length - CHECK)) return BROKEN;
    if (little_endian(bytes + 4, 4) != size || little_endian(bytes + 8, 8) != hash_of(data, size)) return OTHER_FILE;
    size_t step = (size_t)little_endian(bytes + 16, 2);
    if (!step || bytes[18] > LONGEST_POSITION) return BROKEN;
    uint64_t bits = bytes[18];
    for (int c = 0; c < 3; c++) {
        if (bytes[19 + c] > LONGEST_VALUE) return BROKEN;
        bits += bytes[19 + c];
    }
    size_t per_row = entries_of_row((size_t)grid->mcus, step);
    *index = (Index){.count = per_row * (size_t)grid->rows, .per_row = per_row, .step = step};
    if (length != HEADER + (index->count * bits + 7) / 8 + CHECK) return BROKEN;
    index->starts = malloc(index->count * sizeof *index->starts);
    if (!index->starts) return NO_ROOM;
    if (read_entries(index, bytes, size - frame->scan)) return FITS;
    free(index->starts);
    return BROKEN;
}

Part part_of(const Index *index, int row, int first, int end, size_t size) {
    size_t before = (size_t)row * index->per_row, entry = before + (size_t)first / index->step;
    size_t behind = before + ((size_t)end + index->step - 1) / index->step;
    size_t from = (size_t)(index->starts[entry].position / 8), stop = size;
    if (behind < index->count && index->starts[behind].position / 8 + 2 < stop) /* of its byte, which may be FF 00 */
        stop = (size_t)(index->starts[behind].position / 8) + 2;
    return (Part){entry, from, stop - from};
}

int make_notes(Notes *notes, const Grid *grid, size_t step) {
    size_t mcus = (size_t)grid->mcus, per_row = entries_of_row(mcus, step);
    *notes = (Notes){.mcus = mcus, .step = (mcus + per_row - 1) / per_row};
    notes->starts = malloc(entries_of_row(mcus, notes->step) * (size_t)grid->rows * sizeof *notes->starts);
    return notes->starts != NULL;
}

/* Turns positions in unstuffed data into positions in the file's, data[0, size). */
static void stuff_positions(const Notes *notes, const uint8_t *data, size_t size) {
    uint64_t before = 0; /* unstuffed bytes before `at` */
    const uint8_t *at = data, *end = data + size, *marker = NULL;
    for (size_t i = 0; i < notes->count; i++) {
        uint64_t wanted = notes->starts[i].position / 8;
        for (;; at = marker + 2, marker = NULL) {
            if (!marker) marker = memchr(at, 0xFF, (size_t)(end - at)); /* there is one: the whole scan was read */
            uint64_t here = before + (uint64_t)(marker - at) + (marker[1] == 0);
            if (wanted < here) break;
            before = here;
        }
        notes->starts[i].position = 8 * ((uint64_t)(at - data) + wanted - before) + notes->starts[i].position % 8;
    }
}

static unsigned width_of(uint64_t value) { return value ? 64 - (unsigned)__builtin_clzll(value) : 0; }

int write_index(Indexing *indexing, const Scan *scan, const uint8_t *data, size_t size, const Frame *frame) {
    const Notes *notes = scan->notes;
    indexing->reason = FAULTY_SCAN;
    if (!is_at_end(scan) || size > UINT32_MAX) return 1;
    stuff_positions(notes, data + frame->scan, size - frame->scan);
    int32_t least[3], most[3];
    memcpy(least, notes->starts[0].prediction, sizeof least);
    memcpy(most, least, sizeof most);
    uint64_t furthest = 0, before = 0;
    for (size_t i = 0; i < notes->count; before = notes->starts[i++].position) {
        uint64_t further = notes->starts[i].position - before;
        if (further > furthest) furthest = further;
        for (int c = 0; c < 3; c++) {
            int32_t value = notes->starts[i].prediction[c];
            if (value < least[c]) least[c] = value;
            if (value > most[c]) most[c] = value;
        }
    }
    unsigned widths[4] = {width_of(furthest)}, bits = widths[0];
    for (int c = 0; c < 3; c++) {
        if (least[c] < -LARGEST_VALUE || most[c] > LARGEST_VALUE) return 1;
        bits += widths[1 + c] = width_of((uint64_t)(most[c] - least[c]));
    }
    size_t length = HEADER + (notes->count * bits + 7) / 8 + CHECK;
    uint8_t *bytes = calloc(length, 1);
    if (!bytes) return 0;
    memcpy(bytes, magic, sizeof magic);
    put_number(bytes, 4, 4, size);
    put_number(bytes, 8, 8, hash_of(data, size));
    put_number(bytes, 16, 2, notes->step);
    for (unsigned i = 0; i < 4; i++) bytes[18 + i] = (uint8_t)widths[i];
    for (unsigned c = 0; c < 3; c++) put_number(bytes, 22 + 4 * c, 4, (uint32_t)least[c]);
    uint64_t at = before = 0;
    for (size_t i = 0; i < notes->count; before = notes->starts[i++].position) {
        put_bits(bytes + HEADER, &at, widths[0], notes->starts[i].position - before);
        for (int c = 0; c < 3; c++)
            put_bits(bytes + HEADER, &at, widths[1 + c], (uint64_t)(notes->starts[i].prediction[c] - least[c]));
    }
    put_number(bytes, length - CHECK, CHECK, hash_of(bytes, length - CHECK));
    indexing->made = bytes;
    indexing->made_length = length;
    indexing->reason = HAS_INDEX;
    return 1;
}

static Outcome read_scan(Indexing *indexing, Scan *scan, Notes *notes, Tables *tables, Entropy *entropy, const uint8_t *data,
                         size_t size, const Frame *frame, Simd simd) {
    Grid grid;
    indexing->reason = OTHER_KIND;
    if (!read_tables(tables, data, frame->scan) || !make_grid(&grid, tables, frame)) return NOT_HANDLED;
    indexing->reason = FAULTY_SCAN;
    Outcome outcome = unstuff(entropy, data + frame->scan, size - frame->scan, segments_of(tables, &grid));
    if (outcome != DONE) return outcome;
    if (!make_notes(notes, &grid, indexing->step)) return NO_MEMORY;
    make_scan(scan, tables, entropy, simd);
    scan->notes = notes;
    if (!skip_mcus(scan, (size_t)grid.mcus * (size_t)grid.rows)) return NOT_HANDLED;
    return write_index(indexing, scan, data, size, frame) ? DONE : NO_MEMORY;
}

Outcome make_index(Indexing *indexing, const uint8_t *data, size_t size, const Frame *frame, Simd simd) {
    Tables *tables = calloc(1, sizeof *tables);
    if (!tables) return NO_MEMORY;
    Scan scan;
    Notes notes = {0};
    Entropy entropy = {0};
    Outcome outcome = read_scan(indexing, &scan, &notes, tables, &entropy, data, size, frame, simd);
    free(notes.starts);
    free_entropy(&entropy);
    free(tables);
    return outcome == DONE && !indexing->made ? NOT_HANDLED : outcome;
}

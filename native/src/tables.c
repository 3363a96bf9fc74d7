#include "tables.h"

#include <string.h>

enum { DHT = 0xC4, SOF0 = 0xC0, SOF1 = 0xC1, SOS = 0xDA, DQT = 0xDB, DRI = 0xDD, APP0 = 0xE0, APP14 = 0xEE };

enum {
    LONGEST_SIDE = 65500, /* libjpeg's limit */
    MOST_BLOCKS = 1 << 20 /* of a component: 2047 for each, the largest difference of a DC value, add up to less than 2**31 */
};

/* T.81, Figure 5: from one diagonal to the next, up and down in turn. */
const uint8_t zigzag[NO_ENTRY + BLOCK_SIZE] = {
     0,  1,  8, 16,  9,  2,  3, 10, 17, 24, 32, 25, 18, 11,  4,  5,
    12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13,  6,  7, 14, 21, 28,
    35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51,
    58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63};

/* The bodies of the last segments that say it. */
typedef struct {
    const uint8_t *frame, *scan;
    const uint8_t *quantization[4]; /* [64], as coded */
    const uint8_t *huffman[2][4];   /* 16 counts and the symbols */
    int jfif, adobe;                /* adobe: -1 for none, or the number of a transform */
} Segments;

static uint32_t be16(const uint8_t *bytes) { return (uint32_t)bytes[0] << 8 | bytes[1]; }

static int read_quantization(Segments *segments, const uint8_t *body, size_t size) {
    for (; size >= 65 && body[0] < 4; body += 65, size -= 65) segments->quantization[body[0]] = body + 1;
    return size == 0;
}

static int read_huffman(Segments *segments, const uint8_t *body, size_t size) {
    while (size >= 17) {
        size_t symbols = 0;
        for (int i = 1; i <= 16; i++) symbols += body[i];
        if (body[0] >> 4 > 1 || (body[0] & 15) > 3 || symbols > 256 || symbols > size - 17) return 0;
        segments->huffman[body[0] >> 4][body[0] & 15] = body + 1;
        body += 17 + symbols;
        size -= 17 + symbols;
    }
    return size == 0;
}

static int read_segment(Segments *segments, Tables *tables, int marker, const uint8_t *body, size_t size) {
    switch (marker) {
        case DQT:
            return read_quantization(segments, body, size);
        case DHT:
            return read_huffman(segments, body, size);
        case DRI:
            tables->restart_interval = size == 2 ? be16(body) : 0;
            return size == 2;
        case SOF0:
        case SOF1:
            segments->frame = body;
            return 1;
        case SOS:
            segments->scan = body;
            return 1;
        case APP0:
            segments->jfif |= size >= 14 && memcmp(body, "JFIF", 5) == 0;
            return 1;
        case APP14:
            if (size >= 12 && memcmp(body, "Adobe", 5) == 0) segments->adobe = body[11];
            return 1;
        default:
            return 1;
    }
}

/* Whether libjpeg takes the three components for YCbCr, without a doubt. */
static int is_ycbcr(const Segments *segments) {
    const uint8_t *ids = segments->frame + 6;
    if (segments->adobe >= 0) return segments->adobe == 1;
    return segments->jfif || (ids[0] == 1 && ids[3] == 2 && ids[6] == 3);
}

/* A Huffman table of the file, made when the first component names it. */
static const Huffman *named(Tables *tables, const Segments *segments, int ac, int number, int *made) {
    if (number > 3 || !segments->huffman[ac][number]) return NULL;
    Huffman *table = &tables->huffman[ac][number];
    const uint8_t *counts = segments->huffman[ac][number];
    if (*made >> (4 * ac + number) & 1) return table;
    *made |= 1 << (4 * ac + number);
    return make_huffman(table, counts, counts + 16, ac) ? table : NULL;
}

static int put_together(Tables *tables, const Segments *segments) {
    const uint8_t *frame = segments->frame + 6, *scan = segments->scan + 1;
    int made = 0;
    tables->components = segments->frame[5];
    if (tables->components == 3 && !is_ycbcr(segments)) return 0;
    for (int i = 0; i < tables->components; i++, frame += 3, scan += 2) {
        Component *component = &tables->component[i];
        for (int other = 0; other < i; other++)
            if (segments->frame[6 + 3 * other] == frame[0]) return 0;
        if (scan[0] != frame[0] || frame[2] > 3 || !segments->quantization[frame[2]]) return 0;
        for (int k = 0; k < BLOCK_SIZE; k++) component->quantization[zigzag[k]] = segments->quantization[frame[2]][k];
        component->across = frame[1] >> 4;
        component->down = frame[1] & 15;
        component->dc = named(tables, segments, 0, scan[1] >> 4, &made);
        component->ac = named(tables, segments, 1, scan[1] & 15, &made);
        if (!component->dc || !component->ac) return 0;
    }
    return scan[0] == 0 && scan[1] == BLOCK_SIZE - 1 && scan[2] == 0; /* all coefficients, all bits */
}

int read_tables(Tables *tables, const uint8_t *data, size_t scan) {
    Segments segments = {.adobe = -1};
    tables->restart_interval = 0;
    for (size_t at = 2; at < scan;) {
        size_t length = be16(data + at + 2);
        if (!read_segment(&segments, tables, data[at + 1], data + at + 4, length - 2)) return 0;
        at += 2 + length;
    }
    return put_together(tables, &segments);
}

int make_grid(Grid *grid, const Tables *tables, const Frame *frame) {
    int width = (int)frame->width, height = (int)frame->height;
    int across = tables->components == 1 ? 1 : tables->component[0].across;
    int down = tables->components == 1 ? 1 : tables->component[0].down;
    if (width > LONGEST_SIDE || height > LONGEST_SIDE) return 0;
    *grid = (Grid){8 * across, 8 * down, divided_up(width, 8 * across), divided_up(height, 8 * down)};
    return (size_t)grid->mcus * (size_t)grid->rows * (size_t)(across * down) <= MOST_BLOCKS;
}

size_t segments_of(const Tables *tables, const Grid *grid) {
    size_t interval = tables->restart_interval, mcus = (size_t)grid->mcus * (size_t)grid->rows;
    return interval ? (mcus + interval - 1) / interval : 1;
}

/* What the segments before the scan say about how it is coded. */
#ifndef TABLES_H
#define TABLES_H

#include <stddef.h>
#include <stdint.h>

#include "huffman.h"
#include "markers.h"

typedef struct {
    int across, down; /* sampling factors: blocks of an MCU */
    const Huffman *dc, *ac;
    int16_t quantization[BLOCK_SIZE]; /* in rows, from 0 to 255 */
} Component;

typedef struct {
    int components;
    Component component[3];
    uint32_t restart_interval; /* MCUs; 0 for none */
    Huffman huffman[2][4];     /* DC and AC; those that no component names are not filled */
} Tables;

/* The photo in MCUs. */
typedef struct {
    int mcu_width, mcu_height; /* pixels */
    int mcus, rows;            /* MCUs of a row, and rows of them */
} Grid;

static inline int divided_up(int length, int by) { return (length + by - 1) / by; }

/* 0 for photos that are too large for libjpeg, or whose DC values could add up to too much. */
int make_grid(Grid *grid, const Tables *tables, const Frame *frame);

/* How many segments there are between restart markers. */
size_t segments_of(const Tables *tables, const Grid *grid);

/* The places of the coefficients in rows, in the order in which they are coded; 0 for all that may follow. */
extern const uint8_t zigzag[NO_ENTRY + BLOCK_SIZE];

/* Of a file of which read_frame() found the scan at `scan`. 0 where they say what only libjpeg answers for: other colours,
 * other orders, 16-bit quantization, tables that are missing or broken. */
int read_tables(Tables *tables, const uint8_t *data, size_t scan);

#endif

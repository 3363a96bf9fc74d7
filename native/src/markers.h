/* What the segments before a JPEG's scan say, and whether this decoder answers for the file. */
#ifndef MARKERS_H
#define MARKERS_H

#include <stddef.h>
#include <stdint.h>

#define MAX_PIXELS (1u << 26) /* larger photos are Pillow's, which warns of decompression bombs from 2**26.4 on */

typedef struct {
    uint32_t width, height; /* pixels */
    size_t scan;            /* where the entropy-coded data begin, in bytes from the file's first */
} Frame;

/* 1 and *frame for a file whose every segment is of a plain sequential Huffman JPEG, and certain to be opened by
 * Pillow; 0 for everything else. Reads nothing outside data[0, size). */
int read_frame(const uint8_t *data, size_t size, Frame *frame);

/* Whether entropy-coded data[0, size) are ended by an EOI marker, with no other marker but RSTn before it. Then a full
 * decode ends without an error, however broken the data between are. */
int ends_with_eoi(const uint8_t *data, size_t size);

/* Whether entropy-coded data[0, size) hold no fill bytes, FF FF, before their EOI marker. libjpeg's fast Huffman decoder takes
 * FF FF 00 for a marker, leaves coefficients of its attempt behind, and hands the block to the slow one, which takes it for
 * data. Which of them decodes a block depends on how many bytes lie ahead in the buffer: the whole file here, 64 KB in Pillow. */
int has_no_fill(const uint8_t *data, size_t size);

#endif

/* A decoder of baseline JPEG for crops. */
#ifndef DECODER_H
#define DECODER_H

#include "index.h"
#include "rows.h"

/* Gives the window's rows, with the bytes of libjpeg-turbo, of a file that read_frame() accepts. NOT_HANDLED for files that
 * this decoder leaves to others: it is strict where libjpeg warns, or where its platforms differ.
 * `indexing`, which may be NULL, says what is known of the file, and takes what is found out; it changes no byte. */
Outcome decode_window(const uint8_t *data, size_t size, const Frame *frame, const Window *window, Simd simd,
                      const Taker *taker, Indexing *indexing);

#endif

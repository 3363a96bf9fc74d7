/* Entropy-coded data as bits: the zero after each FF is taken out once, so that the reader of bits need not look for it. */
#ifndef UNSTUFF_H
#define UNSTUFF_H

#include <stddef.h>
#include <stdint.h>

#include "rows.h"

/* The segments between the restart markers, one behind the other. */
typedef struct {
    uint8_t *bytes;  /* followed by BITS_PADDING zeros */
    size_t *ends;    /* [segments] where each ends; the next one begins there */
    size_t segments; /* 1 in a scan without restarts */
    size_t first;    /* the number of the first segment in the scan */
    size_t room;     /* for how many segments there is memory */
} Entropy;

/* Reads data[0, size) up to its EOI marker. NOT_HANDLED where there is none, where another marker comes first, fill bytes
 * (FF FF), or restart markers that are not RST0, RST1 … in order, or at least `most` of them. To be freed in all cases. */
Outcome unstuff(Entropy *entropy, const uint8_t *data, size_t size, size_t most);

/* Memory for the parts of a scan, each of at most `size` bytes and `segments` segments. 0 where there is none. */
int make_room(Entropy *entropy, size_t size, size_t segments);

/* The same for data[0, size), a part of a scan that begins in segment number `first` and may end anywhere, in memory of
 * make_room(): DONE or NOT_HANDLED. */
Outcome unstuff_part(Entropy *entropy, const uint8_t *data, size_t size, size_t first);

void free_entropy(Entropy *entropy);

#endif

/* Huffman tables of ITU-T T.81, Annexes C and F, for a decoder that looks up the first bits of what comes. */
#ifndef HUFFMAN_H
#define HUFFMAN_H

#include <stddef.h>
#include <stdint.h>

#include "bits.h"

enum { LOOK_BITS = 10, SKIP_BITS = 10 };

/* A code and the bits of its value, in one word: from bit 0 the length of both together (1 to 27), from bit 8 the length of
 * the code, from bit 16 by how much less than 63 bits the value has, and from bit 24 by how many coefficients it goes forward: run + 1 for
 * AC, 0 for DC, or one of these. The lengths are where a shift can take them, which looks at six bits alone. */
typedef uint32_t Entry;
enum {
    AT_END = 128,   /* the end of the block */
    NO_ENTRY = 192, /* a code that the table has not, or a symbol that baseline JPEG has not */
    BLOCK_SIZE = 64
};

static inline uint32_t forward(Entry entry) { return entry >> 24; }

typedef struct {
    Entry look[1 << LOOK_BITS]; /* by the next bits; 0 for a code longer than these */
    /* By the next bits, as many whole AC codes with their values as they hold, for blocks of which only the end counts: from
     * bit 0 the length, from bit 6 by how many coefficients they go forward; + AT_END where the last of them is the end.
     * Up to 63 coefficients without the end; BLOCK_SIZE where the bits hold no whole code. */
    uint16_t skip[1 << SKIP_BITS];
    uint32_t limit[17]; /* by length: the first 16 bits that are beyond the codes of this length and all shorter ones */
    int32_t offset[17]; /* by length: the place of a code's symbol less the code */
    uint8_t symbols[256];
    int ac;
} Huffman;

/* From a DHT segment: `counts`, how many codes have 1 to 16 bits, and as many symbols. 0 for what is not a prefix code
 * without the code of ones alone. `skip` is filled for AC alone. */
int make_huffman(Huffman *table, const uint8_t counts[16], const uint8_t *symbols, int ac);

Entry long_entry(const Huffman *table, uint64_t window);

static inline Entry entry_of(const Huffman *table, uint64_t window) {
    Entry entry = table->look[window >> (64 - LOOK_BITS)];
    return __builtin_expect(entry != 0, 1) ? entry : long_entry(table, window);
}

/* The value whose bits follow the entry's code, by EXTEND of T.81, F.2.2.1: one that begins with 1 stands for itself, and one
 * that begins with 0 for its complement's negative. An empty one is 0. */
static inline int32_t value_of(Entry entry, uint64_t window) {
    uint64_t rest = window << (entry >> 8 & 63);
    int64_t negative = ~((int64_t)rest >> 63); /* 0 or -1 */
    int64_t magnitude = (int64_t)((rest ^ (uint64_t)negative) >> 1 >> (entry >> 16 & 63));
    return (int32_t)((magnitude ^ negative) - negative);
}

#endif

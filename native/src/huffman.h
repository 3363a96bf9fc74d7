/* Huffman tables of ITU-T T.81, Annexes C and F, for a decoder that looks up the first bits of what comes. */
#ifndef HUFFMAN_H
#define HUFFMAN_H

#include <stddef.h>
#include <stdint.h>

#include "bits.h"

enum { LOOK_BITS = 10 };

/* What the next bits say, in one word: a code and the value behind it, and where its bits hold that, the next code and value too.
 * The lengths are where a shift can take them, which looks at six bits alone. From bit
 *   0  the length of everything, up to 27
 *   8  the length of the first code, and 16 that of its value, less than 63
 *  24  by how many coefficients it goes forward: run + 1 for AC, 0 for DC, or AT_END or NO_ENTRY
 *  32  the length of everything before the second value, and 40 that of this value, less than 63; an empty one where there is none
 *  48  by how many coefficients both go forward
 * 0 stands for a first code that is longer than LOOK_BITS. */
typedef uint64_t Entry;
enum {
    AT_END = 128,   /* the end of the block */
    NO_ENTRY = 192, /* a code that the table has not, or a symbol that baseline JPEG has not */
    BLOCK_SIZE = 64
};

typedef struct {
    Entry look[1 << LOOK_BITS]; /* by the next bits; with a second code for AC alone */
    uint32_t limit[17];         /* by length: the first 16 bits that are beyond the codes of this length and all shorter ones */
    int32_t offset[17];         /* by length: the place of a code's symbol less the code */
    uint8_t symbols[256];
    int ac;
} Huffman;

/* From a DHT segment: `counts`, how many codes have 1 to 16 bits, and as many symbols. 0 for what is not a prefix code
 * without the code of ones alone. */
int make_huffman(Huffman *table, const uint8_t counts[16], const uint8_t *symbols, int ac);

Entry long_entry(const Huffman *table, uint64_t window);

static inline Entry entry_of(const Huffman *table, uint64_t window) {
    Entry entry = table->look[window >> (64 - LOOK_BITS)];
    return __builtin_expect(entry != 0, 1) ? entry : long_entry(table, window);
}

static inline uint32_t first_forward(Entry entry) { return entry >> 24 & 255; }

static inline uint32_t forward(Entry entry) { return (uint32_t)(entry >> 48); }

/* Of the first code and its value. */
static inline uint32_t first_length(Entry entry) { return (uint32_t)((entry >> 8 & 63) + 63 - (entry >> 16 & 63)); }

/* The value before which `before` bits stand, and which has `less` bits less than 63, by EXTEND of T.81, F.2.2.1: one that begins
 * with 1 stands for itself, and one that begins with 0 for its complement's negative. An empty one is 0. */
static inline int32_t value_behind(uint64_t window, uint64_t before, uint64_t less) {
    uint64_t rest = window << (before & 63);
    int64_t negative = ~((int64_t)rest >> 63); /* 0 or -1 */
    int64_t magnitude = (int64_t)((rest ^ (uint64_t)negative) >> 1 >> (less & 63));
    return (int32_t)((magnitude ^ negative) - negative);
}

static inline int32_t first_value(Entry entry, uint64_t window) { return value_behind(window, entry >> 8, entry >> 16); }

static inline int32_t second_value(Entry entry, uint64_t window) { return value_behind(window, entry >> 32, entry >> 40); }

#endif

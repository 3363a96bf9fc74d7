/* The MCUs of a scan, one after the other: decoded to coefficients, or skipped for what they add to the DC values. */
#ifndef SCAN_H
#define SCAN_H

#include "bits.h"
#include "resize.h"
#include "tables.h"
#include "unstuff.h"

enum { MAX_BLOCKS = 6 }; /* of an MCU: 4:2:0 */

/* Where an MCU begins, and all that must be known of the ones before it. */
typedef struct {
    uint64_t position;     /* bits from the first of Entropy.bytes */
    int32_t prediction[3]; /* the DC values of the components' last blocks */
} Start;

/* Where the MCUs of an index begin, written down on the way: the first of each row, and every `step` from there. */
typedef struct {
    Start *starts;     /* room for all of them */
    size_t count;      /* how many are written */
    size_t next;       /* the MCU of the next one */
    size_t mcus, step; /* MCUs of a row, and from one to the next */
} Notes;

typedef struct {
    const Entropy *entropy;
    int blocks; /* of an MCU */
    int component[MAX_BLOCKS];
    const Huffman *dc[MAX_BLOCKS], *ac[MAX_BLOCKS];
    Bits bits;
    int32_t prediction[3];
    size_t mcu;     /* the number of the next one */
    Notes *notes;   /* NULL: nobody wants any */
    size_t segment; /* between two restart markers, of Entropy */
    uint32_t interval, left; /* MCUs of a segment, and how many of them are left; 0, 0 without restarts */
    Simd simd;
} Scan;

void make_scan(Scan *scan, const Tables *tables, const Entropy *entropy, Simd simd);

/* Continue at MCU number `mcu`, which begins there. */
void start_at(Scan *scan, size_t mcu, const Start *start);

/* The next `count` MCUs. 0 where libjpeg would warn of a fault, or where another decoder could make other pixels of them. */
int skip_mcus(Scan *scan, size_t count);

/* The same, and the coefficients of all blocks in rows to int16 [count, blocks, 64], as coded: not multiplied yet. */
int decode_mcus(Scan *scan, size_t count, int16_t (*blocks)[BLOCK_SIZE]);

/* The same two of two scans of one photo at once, which is faster: neither has notes. */
int skip_both(Scan *scan, Scan *other, size_t count);
int decode_both(Scan *scan, Scan *other, size_t count, int16_t (*blocks)[BLOCK_SIZE], int16_t (*other_blocks)[BLOCK_SIZE]);

/* Whether all that was read was there. */
int is_inside(const Scan *scan);

/* Whether nothing is left of the data but the padding of the last byte. */
int is_at_end(const Scan *scan);

#endif

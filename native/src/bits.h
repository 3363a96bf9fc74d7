/* The bits of entropy-coded data from which the stuffed zeros are gone (unstuff.h), first bit of a byte first. */
#ifndef BITS_H
#define BITS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define BITS_PADDING 512 /* bytes of 0 behind the data: more than a block takes, so one check a block is enough */

typedef struct {
    const uint8_t *at; /* the first byte of which not all bits count yet */
    uint64_t window;   /* the next bits from the top; below those that count, bits of *at may stand already */
    uint64_t count;    /* bits of the window that count, in the lower six bits; those above them mean nothing */
} Bits;

static inline uint64_t load_big_endian(const uint8_t *at) {
    uint64_t word;
    memcpy(&word, at, sizeof word);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    word = __builtin_bswap64(word);
#endif
    return word;
}

/* At least 56 bits count afterwards. It takes as many whole bytes as there is room for, without a branch: of the 8 bytes that
 * are loaded, those that do not fit are loaded again next time, and put the same bits into the same place. */
static inline void refill(Bits *bits) {
    bits->window |= load_big_endian(bits->at) >> (bits->count & 63);
    bits->at += ~bits->count >> 3 & 7;
    bits->count |= 56; /* + 8 for each byte that was taken */
}

/* `length` in the lower six bits; those above them mean nothing. */
static inline void consume(Bits *bits, uint64_t length) {
    bits->window <<= length & 63;
    bits->count -= length;
}

static inline Bits bits_from(const uint8_t *bytes, uint64_t position) {
    Bits bits = {.at = bytes + position / 8};
    refill(&bits);
    consume(&bits, position % 8);
    return bits;
}

/* In bits from the first of `bytes`. */
static inline uint64_t position_of(const Bits *bits, const uint8_t *bytes) {
    return 8 * (uint64_t)(bits->at - bytes) - (bits->count & 63);
}

#endif

/* XXH64 with seed 0: tells bytes from others, as long as nobody chooses them to be alike. */
#ifndef HASH_H
#define HASH_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* A number of `count` bytes, up to 8, least byte first. */
static inline uint64_t little_endian(const uint8_t *at, size_t count) {
    uint64_t word = 0;
    memcpy(&word, at, count);
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
    word = __builtin_bswap64(word);
#endif
    return word;
}

uint64_t hash_of(const uint8_t *data, size_t size);

#endif

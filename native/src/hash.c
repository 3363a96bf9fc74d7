/* By its published specification. Four sums of 8 bytes each go side by side, so that a multiplication need not wait for the one
 * before it: about 10 bytes a nanosecond, without vector instructions. */
#include "hash.h"

static const uint64_t PRIME_1 = 0x9E3779B185EBCA87, PRIME_2 = 0xC2B2AE3D27D4EB4F, PRIME_3 = 0x165667B19E3779F9,
                      PRIME_4 = 0x85EBCA77C2B2AE63, PRIME_5 = 0x27D4EB2F165667C5;

static uint64_t rotated(uint64_t value, int by) { return value << by | value >> (64 - by); }

static uint64_t round_of(uint64_t sum, uint64_t word) { return rotated(sum + word * PRIME_2, 31) * PRIME_1; }

uint64_t hash_of(const uint8_t *data, size_t size) {
    uint64_t sums[4] = {PRIME_1 + PRIME_2, PRIME_2, 0, 0 - PRIME_1}, hash = PRIME_5;
    size_t left = size;
    for (; left >= 32; data += 32, left -= 32)
        for (int i = 0; i < 4; i++) sums[i] = round_of(sums[i], little_endian(data + 8 * i, 8));
    if (size >= 32) {
        hash = rotated(sums[0], 1) + rotated(sums[1], 7) + rotated(sums[2], 12) + rotated(sums[3], 18);
        for (int i = 0; i < 4; i++) hash = (hash ^ round_of(0, sums[i])) * PRIME_1 + PRIME_4;
    }
    hash += size;
    for (; left >= 8; data += 8, left -= 8) hash = rotated(hash ^ round_of(0, little_endian(data, 8)), 27) * PRIME_1 + PRIME_4;
    if (left >= 4) {
        hash = rotated(hash ^ little_endian(data, 4) * PRIME_1, 23) * PRIME_2 + PRIME_3;
        data += 4;
        left -= 4;
    }
    for (; left; data++, left--) hash = rotated(hash ^ *data * PRIME_5, 11) * PRIME_1;
    hash = (hash ^ hash >> 33) * PRIME_2;
    hash = (hash ^ hash >> 29) * PRIME_3;
    return hash ^ hash >> 32;
}

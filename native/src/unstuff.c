#include "unstuff.h"

#include <stdlib.h>
#include <string.h>

#include "bits.h"

enum { RST0 = 0xD0, EOI = 0xD9 };

Unstuffed unstuff(Entropy *entropy, const uint8_t *data, size_t size, size_t most) {
    size_t room = most < size / 2 ? most : size / 2;
    *entropy = (Entropy){.bytes = malloc(size + BITS_PADDING), .ends = malloc((room + 1) * sizeof *entropy->ends)};
    if (!entropy->bytes || !entropy->ends) return OUT_OF_MEMORY;
    const uint8_t *end = data + size, *marker;
    uint8_t *out = entropy->bytes;
    for (; (marker = memchr(data, 0xFF, (size_t)(end - data))) && marker + 1 < end; data = marker + 2) {
        size_t length = (size_t)(marker - data);
        int stuffed = marker[1] == 0;
        memcpy(out, data, length + (size_t)stuffed);
        out += length + (size_t)stuffed;
        if (stuffed) continue;
        entropy->ends[entropy->segments++] = (size_t)(out - entropy->bytes);
        if (marker[1] == EOI) {
            memset(out, 0, BITS_PADDING);
            return WHOLE;
        }
        if (marker[1] != RST0 + (entropy->segments - 1) % 8 || entropy->segments >= room) return FAULTY;
    }
    return FAULTY;
}

void free_entropy(Entropy *entropy) {
    free(entropy->bytes);
    free(entropy->ends);
    *entropy = (Entropy){0};
}

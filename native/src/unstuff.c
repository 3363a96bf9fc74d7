#include "unstuff.h"

#include <stdlib.h>
#include <string.h>

#include "bits.h"

enum { RST0 = 0xD0, EOI = 0xD9 };

/* The last segment ends at `out`. */
static Outcome end_data(Entropy *entropy, uint8_t *out) {
    entropy->ends[entropy->segments++] = (size_t)(out - entropy->bytes);
    memset(out, 0, BITS_PADDING);
    return DONE;
}

static Outcome take_out(Entropy *entropy, const uint8_t *data, size_t size, int is_part) {
    const uint8_t *end = data + size, *marker;
    uint8_t *out = entropy->bytes;
    for (; (marker = memchr(data, 0xFF, (size_t)(end - data))) && marker + 1 < end; data = marker + 2) {
        size_t length = (size_t)(marker - data);
        int stuffed = marker[1] == 0;
        memcpy(out, data, length + (size_t)stuffed);
        out += length + (size_t)stuffed;
        if (stuffed) continue;
        if (marker[1] == EOI) return end_data(entropy, out);
        entropy->ends[entropy->segments++] = (size_t)(out - entropy->bytes);
        if (marker[1] != RST0 + (entropy->first + entropy->segments - 1) % 8 || entropy->segments >= entropy->room)
            return NOT_HANDLED;
    }
    if (!is_part) return NOT_HANDLED;
    memcpy(out, data, (size_t)((marker ? marker : end) - data));
    return end_data(entropy, out + ((marker ? marker : end) - data));
}

int make_room(Entropy *entropy, size_t size, size_t segments) {
    *entropy = (Entropy){.bytes = malloc(size + BITS_PADDING), .ends = malloc((segments + 1) * sizeof *entropy->ends)};
    entropy->room = segments;
    return entropy->bytes && entropy->ends;
}

Outcome unstuff(Entropy *entropy, const uint8_t *data, size_t size, size_t most) {
    return make_room(entropy, size, most < size / 2 ? most : size / 2) ? take_out(entropy, data, size, 0) : NO_MEMORY;
}

Outcome unstuff_part(Entropy *entropy, const uint8_t *data, size_t size, size_t first) {
    entropy->first = first;
    entropy->segments = 0;
    return take_out(entropy, data, size, 1);
}

void free_entropy(Entropy *entropy) {
    free(entropy->bytes);
    free(entropy->ends);
    *entropy = (Entropy){0};
}

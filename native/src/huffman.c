#include "huffman.h"

#include <string.h>

enum { LARGEST_AC = 10, LARGEST_DC = 11, ZERO_RUN = 15, NO_SYMBOL = 255 }; /* sizes of a value, T.81, Tables F.1 and F.2 */

static Entry make_entry(unsigned symbol, unsigned length, int ac) {
    unsigned size = symbol & 15, run = symbol >> 4, forward = run + 1;
    if (!ac)
        forward = symbol > LARGEST_DC ? NO_ENTRY : 0;
    else if (symbol == 0)
        forward = AT_END;
    else if (size > LARGEST_AC || (size == 0 && run != ZERO_RUN))
        forward = NO_ENTRY;
    if (forward == NO_ENTRY) size = 0;
    return (length + size) | length << 8 | (Entry)(63 - size) << 16 | (Entry)forward << 24 | (Entry)63 << 40 |
           (Entry)forward << 48;
}

/* Puts a second code into each entry that is not the last of a block and has the bits for it. */
static void add_second_codes(Huffman *table) {
    for (uint32_t bits = 0; bits < 1 << LOOK_BITS; bits++) {
        Entry entry = table->look[bits];
        uint32_t before = first_length(entry);
        if (entry == 0 || first_forward(entry) >= BLOCK_SIZE || before >= LOOK_BITS) continue;
        Entry second = table->look[bits << before & ((1 << LOOK_BITS) - 1)];
        uint32_t code = second >> 8 & 63;
        if (second == 0 || first_forward(second) == NO_ENTRY || before + code > LOOK_BITS) continue;
        entry &= 0xFFFFFF00;
        entry |= (before + first_length(second)) | (Entry)(before + code) << 32 | (second >> 16 & 63) << 40;
        table->look[bits] = entry | (Entry)(first_forward(entry) + first_forward(second)) << 48;
    }
}

int make_huffman(Huffman *table, const uint8_t counts[16], const uint8_t *symbols, int ac) {
    uint32_t code = 0, place = 0; /* the next code has `length` bits: T.81, C.2 */
    table->ac = ac;
    memset(table->look, 0, sizeof table->look);
    for (unsigned length = 1; length <= 16; length++, code <<= 1) {
        table->offset[length] = (int32_t)place - (int32_t)code;
        if (place + counts[length - 1] > 256) return 0;
        for (unsigned end = place + counts[length - 1]; place < end; place++, code++) {
            if (!ac && symbols[place] > 15) return 0; /* libjpeg refuses the table, even if nothing uses the code */
            table->symbols[place] = symbols[place];
            if (length > LOOK_BITS || code >= 1u << length) continue;
            Entry entry = make_entry(symbols[place], length, ac);
            uint32_t first = code << (LOOK_BITS - length), last = (code + 1) << (LOOK_BITS - length);
            for (uint32_t bits = first; bits < last; bits++) table->look[bits] = entry;
        }
        if (counts[length - 1] && code >= 1u << length) return 0;
        table->limit[length] = code << (16 - length);
    }
    if (ac) add_second_codes(table);
    return 1;
}

Entry long_entry(const Huffman *table, uint64_t window) {
    uint32_t bits = (uint32_t)(window >> 48);
    for (unsigned length = LOOK_BITS + 1; length <= 16; length++)
        if (bits < table->limit[length])
            return make_entry(table->symbols[(int32_t)(bits >> (16 - length)) + table->offset[length]], length, table->ac);
    return make_entry(NO_SYMBOL, 16, table->ac);
}

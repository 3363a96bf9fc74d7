/* The loop that most of the time goes into. A code's length decides where the next code begins, so the chain from one look-up to
 * the next must be short: no test for markers or the end of the data (the end of a segment is compared once a segment, the
 * end of the buffer once a block), two codes from one refill, and no branch for the sign of a value. */
#include "scan.h"

#include <string.h>

enum { LARGEST_DC_VALUE = 8191 }; /* four times what T.81 allows */

#define INLINE static inline __attribute__((always_inline))

void make_scan(Scan *scan, const Tables *tables, const Entropy *entropy, Simd simd) {
    *scan = (Scan){.entropy = entropy, .interval = tables->restart_interval, .simd = simd};
    for (int i = 0; i < tables->components; i++) {
        const Component *component = &tables->component[i];
        int blocks = tables->components == 1 ? 1 : component->across * component->down;
        for (; blocks > 0; blocks--, scan->blocks++) {
            scan->component[scan->blocks] = i;
            scan->dc[scan->blocks] = component->dc;
            scan->ac[scan->blocks] = component->ac;
        }
    }
    start_at(scan, 0, &(Start){0});
}

void start_at(Scan *scan, size_t mcu, const Start *start) {
    scan->bits = bits_from(scan->entropy->bytes, start->position);
    memcpy(scan->prediction, start->prediction, sizeof scan->prediction);
    scan->mcu = mcu;
    scan->segment = scan->interval ? mcu / scan->interval - scan->entropy->first : 0;
    scan->left = scan->interval ? scan->interval - (uint32_t)(mcu % scan->interval) : 0;
}

int is_inside(const Scan *scan) {
    return position_of(&scan->bits, scan->entropy->bytes) <= 8 * (uint64_t)scan->entropy->ends[scan->segment];
}

/* Of a segment's last byte some bits may be left, but not a whole one: libjpeg may warn of it. */
static int ends_segment(const Scan *scan) {
    uint64_t end = scan->entropy->ends[scan->segment];
    return is_inside(scan) && position_of(&scan->bits, scan->entropy->bytes) + 8 > 8 * end;
}

int is_at_end(const Scan *scan) { return scan->segment + 1 == scan->entropy->segments && ends_segment(scan); }

static int next_segment(Scan *scan) {
    uint64_t end = scan->entropy->ends[scan->segment];
    if (!ends_segment(scan)) return 0;
    if (++scan->segment == scan->entropy->segments) return 0;
    scan->bits = bits_from(scan->entropy->bytes, 8 * end);
    memset(scan->prediction, 0, sizeof scan->prediction);
    scan->left = scan->interval;
    return 1;
}

/* Whether k is how a sound block ends: after its last coefficient, or AT_END further than before it. Coefficients beyond the
 * last give 65 to 79, and NO_ENTRY 193 and more. */
INLINE int is_end(uint32_t k) { return k == BLOCK_SIZE || k / BLOCK_SIZE == AT_END / BLOCK_SIZE; }

/* The same, and where a block ended after its last coefficient, puts back a second code of the last entry, which is the next
 * block's. */
static inline int end_block(Bits *bits, Entry last, uint32_t k) {
    if (__builtin_expect(is_end(k), 1)) return 1;
    uint64_t back = (bits->count & 63) + (last & 63) - first_length(last);
    *bits = bits_from(bits->at - (back + 7) / 8, -back % 8);
    return is_end(k - forward(last) + first_forward(last));
}

/* The DC code: the value's difference from the prediction. */
INLINE int decode_dc(Bits *bits, const Huffman *dc, int32_t *prediction) {
    Entry entry = entry_of(dc, bits->window);
    *prediction += first_value(entry, bits->window);
    consume(bits, entry);
    return forward(entry) != NO_ENTRY;
}

/* One or two AC codes and their values, of which nothing is kept where `block` is NULL; answers the next k. The first value goes in last: where there is no second, both have
 * the same place. A run of 16 zeros writes one of them; what lies behind the last coefficient, such as the end's value, 0,
 * goes to the first place, which the DC value takes at last. */
INLINE uint32_t decode_ac(const Bits *bits, Entry entry, uint32_t k, int16_t *block) {
    uint32_t first = k + first_forward(entry), second = k + forward(entry);
    if (!block) return second;
    block[zigzag[second - 1]] = (int16_t)second_value(entry, bits->window);
    block[zigzag[first - 1]] = (int16_t)first_value(entry, bits->window);
    return second;
}

INLINE int decode_block(Bits *bits, const Huffman *dc, const Huffman *ac, int32_t *prediction, int16_t *block) {
    refill(bits);
    if (!decode_dc(bits, dc, prediction)) return 0;
    Entry entry;
    uint32_t k = 1;
    for (;;) {
        entry = entry_of(ac, bits->window);
        k = decode_ac(bits, entry, k, block);
        consume(bits, entry);
        if (k >= BLOCK_SIZE) break;
        refill(bits);
        entry = entry_of(ac, bits->window);
        k = decode_ac(bits, entry, k, block);
        consume(bits, entry);
        if (k >= BLOCK_SIZE) break;
    }
    if (block) block[0] = (int16_t)*prediction;
    return end_block(bits, entry, k);
}

/* One or two codes of a block: answers the next k. */
INLINE uint32_t decode_step(Bits *bits, const Huffman *ac, uint32_t k, int16_t *block, Entry *entry) {
    *entry = entry_of(ac, bits->window);
    k = decode_ac(bits, *entry, k, block);
    consume(bits, *entry);
    return k;
}

/* What is left of a block from coefficient k on, which may be nothing: answers where it ends. */
INLINE uint32_t finish_block(Bits *bits, const Huffman *ac, uint32_t k, int16_t *block, Entry *entry) {
    while (k < BLOCK_SIZE) {
        refill(bits);
        k = decode_step(bits, ac, k, block, entry);
        if (k >= BLOCK_SIZE) break;
        k = decode_step(bits, ac, k, block, entry);
    }
    return k;
}

/* A block of each of two scans: while a step of one waits for its look-up, a step of the other goes on. */
INLINE int decode_two_blocks(Bits *bits, Bits *others, const Huffman *dc, const Huffman *ac, int32_t *prediction,
                             int32_t *other_prediction, int16_t *block, int16_t *other_block) {
    refill(bits);
    refill(others);
    if (!decode_dc(bits, dc, prediction) || !decode_dc(others, dc, other_prediction)) return 0;
    Entry entry, other;
    uint32_t k = 1, other_k = 1;
    for (;;) {
        k = decode_step(bits, ac, k, block, &entry);
        other_k = decode_step(others, ac, other_k, other_block, &other);
        if ((k | other_k) >= BLOCK_SIZE) break;
        refill(bits);
        refill(others);
        k = decode_step(bits, ac, k, block, &entry);
        other_k = decode_step(others, ac, other_k, other_block, &other);
        if ((k | other_k) >= BLOCK_SIZE) break;
    }
    k = finish_block(bits, ac, k, block, &entry);
    other_k = finish_block(others, ac, other_k, other_block, &other);
    if (block) block[0] = (int16_t)*prediction;
    if (block) other_block[0] = (int16_t)*other_prediction;
    return end_block(bits, entry, k) && end_block(others, other, other_k);
}

/* The end of a scan's bytes. */
static const uint8_t *end_of(const Scan *scan) { return scan->entropy->bytes + scan->entropy->ends[scan->entropy->segments - 1]; }

static int is_wide(int32_t value) { return value > LARGEST_DC_VALUE || value < -LARGEST_DC_VALUE; }

/* `count` MCUs of each of two scans, to blocks, or skipped. */
INLINE int run_both(Scan *scan, Scan *other, size_t count, int skipped, int16_t (*blocks)[BLOCK_SIZE],
                    int16_t (*other_blocks)[BLOCK_SIZE]) {
    Bits bits = scan->bits, other_bits = other->bits;
    const uint8_t *end = end_of(scan), *other_end = end_of(other);
    int wide = 0;
    for (; count; count--)
        for (int i = 0; i < scan->blocks; i++) {
            int component = scan->component[i];
            int32_t *one = &scan->prediction[component], *two = &other->prediction[component];
            int16_t *block = skipped ? NULL : *blocks++, *other_block = skipped ? NULL : *other_blocks++;
            if (!decode_two_blocks(&bits, &other_bits, scan->dc[i], scan->ac[i], one, two, block, other_block)) return 0;
            wide |= is_wide(*one) | is_wide(*two);
            if (bits.at > end + 16 || other_bits.at > other_end + 16) return 0;
        }
    scan->bits = bits;
    other->bits = other_bits;
    return skipped || !wide;
}

/* The same of one scan, within a segment. */
INLINE int run_mcus(Scan *scan, size_t count, int skipped, int16_t (*blocks)[BLOCK_SIZE]) {
    Bits bits = scan->bits;
    const uint8_t *end = end_of(scan);
    int wide = 0;
    for (; count; count--)
        for (int i = 0; i < scan->blocks; i++) {
            int32_t *prediction = &scan->prediction[scan->component[i]];
            if (!decode_block(&bits, scan->dc[i], scan->ac[i], prediction, skipped ? NULL : *blocks++)) return 0;
            wide |= is_wide(*prediction);
            if (bits.at > end + 16) return 0;
        }
    scan->bits = bits;
    return skipped || !wide;
}

static int skip_plain(Scan *scan, size_t count) { return run_mcus(scan, count, 1, NULL); }

static int decode_plain(Scan *scan, size_t count, int16_t (*blocks)[BLOCK_SIZE]) { return run_mcus(scan, count, 0, blocks); }

static int both_plain(Scan *scan, Scan *other, size_t count, int16_t (*blocks)[BLOCK_SIZE], int16_t (*other_blocks)[BLOCK_SIZE]) {
    return run_both(scan, other, count, 0, blocks, other_blocks);
}

static int skip_both_plain(Scan *scan, Scan *other, size_t count) { return run_both(scan, other, count, 1, NULL, NULL); }

#if defined(__x86_64__) && defined(__GNUC__)
/* The same with shifts by a variable that take one instruction. */
__attribute__((target("bmi,bmi2"))) static int skip_bmi2(Scan *scan, size_t count) { return run_mcus(scan, count, 1, NULL); }

__attribute__((target("bmi,bmi2"))) static int decode_bmi2(Scan *scan, size_t count, int16_t (*blocks)[BLOCK_SIZE]) {
    return run_mcus(scan, count, 0, blocks);
}

__attribute__((target("bmi,bmi2"))) static int both_bmi2(Scan *scan, Scan *other, size_t count, int16_t (*blocks)[BLOCK_SIZE],
                                                         int16_t (*other_blocks)[BLOCK_SIZE]) {
    return run_both(scan, other, count, 0, blocks, other_blocks);
}

__attribute__((target("bmi,bmi2"))) static int skip_both_bmi2(Scan *scan, Scan *other, size_t count) {
    return run_both(scan, other, count, 1, NULL, NULL);
}
#else
#define skip_bmi2 skip_plain
#define decode_bmi2 decode_plain
#define both_bmi2 both_plain
#define skip_both_bmi2 skip_both_plain
#endif

static int run(Scan *scan, size_t count, int16_t (*blocks)[BLOCK_SIZE]) {
    if (!blocks) return scan->simd == AVX2 ? skip_bmi2(scan, count) : skip_plain(scan, count);
    memset(blocks, 0, count * (size_t)scan->blocks * sizeof *blocks);
    return scan->simd == AVX2 ? decode_bmi2(scan, count, blocks) : decode_plain(scan, count, blocks);
}

/* Writes down where the next MCU begins, if the index wants it; answers how many MCUs come before the next one that it wants. */
static size_t note_start(Scan *scan) {
    Notes *notes = scan->notes;
    if (scan->mcu == notes->next) {
        Start *start = &notes->starts[notes->count++];
        start->position = position_of(&scan->bits, scan->entropy->bytes);
        memcpy(start->prediction, scan->prediction, sizeof start->prediction);
        size_t left = notes->mcus - scan->mcu % notes->mcus; /* of the row */
        notes->next += notes->step < left ? notes->step : left;
    }
    return notes->next - scan->mcu;
}

/* A segment ends where its MCUs do; the next one begins only when there is an MCU to read. */
static int run_segments(Scan *scan, size_t count, int16_t (*blocks)[BLOCK_SIZE]) {
    while (count) {
        if (scan->interval && !scan->left && !next_segment(scan)) return 0;
        size_t some = scan->interval && scan->left < count ? scan->left : count;
        size_t before = scan->notes ? note_start(scan) : some;
        if (before < some) some = before;
        if (!run(scan, some, blocks)) return 0;
        scan->left -= scan->interval ? (uint32_t)some : 0;
        scan->mcu += some;
        count -= some;
        if (blocks) blocks += some * (size_t)scan->blocks;
    }
    return 1;
}

int skip_mcus(Scan *scan, size_t count) { return run_segments(scan, count, NULL); }

int decode_mcus(Scan *scan, size_t count, int16_t (*blocks)[BLOCK_SIZE]) { return run_segments(scan, count, blocks); }

int decode_both(Scan *scan, Scan *other, size_t count, int16_t (*blocks)[BLOCK_SIZE], int16_t (*other_blocks)[BLOCK_SIZE]) {
    if (scan->interval) return decode_mcus(scan, count, blocks) && decode_mcus(other, count, other_blocks);
    memset(blocks, 0, count * (size_t)scan->blocks * sizeof *blocks);
    memset(other_blocks, 0, count * (size_t)scan->blocks * sizeof *other_blocks);
    scan->mcu += count;
    other->mcu += count;
    return scan->simd == AVX2 ? both_bmi2(scan, other, count, blocks, other_blocks)
                              : both_plain(scan, other, count, blocks, other_blocks);
}

int skip_both(Scan *scan, Scan *other, size_t count) {
    if (scan->interval) return skip_mcus(scan, count) && skip_mcus(other, count);
    scan->mcu += count;
    other->mcu += count;
    return scan->simd == AVX2 ? skip_both_bmi2(scan, other, count) : skip_both_plain(scan, other, count);
}

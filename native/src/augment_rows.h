/* Rows of pixels: augment.c includes this once for each instruction set, with NAME and TARGET. The compiler vectorises
 * the loops; floats are multiplied and added one after the other (-ffp-contract=off), so that all make the same bytes. */

/* degenerate + alpha (pixel - degenerate), cut off. */
TARGET static void NAME(blend)(uint8_t *restrict out, const uint8_t *restrict degenerate, size_t n, float alpha) {
    for (size_t i = 0; i < n; i++) {
        float product = alpha * (float)((int)out[i] - (int)degenerate[i]);
        int value = (int)((float)degenerate[i] + product);
        out[i] = (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
    }
}

/* Between each byte and the one of the next pixel, or of the next row. */
TARGET static void NAME(between)(uint8_t *restrict out, const uint8_t *restrict first, const uint8_t *restrict second,
                                 size_t n, uint32_t weight) {
    uint32_t rest = ((uint32_t)1 << BILINEAR_BITS) - weight;
    for (size_t i = 0; i < n; i++) out[i] = (uint8_t)((first[i] * rest + second[i] * weight) >> BILINEAR_BITS);
}

/* The mean of a pixel, counted five times, and of its eight neighbours: rounded thirteenths. */
TARGET static void NAME(smooth)(uint8_t *restrict out, const uint8_t *restrict above, const uint8_t *restrict row,
                                const uint8_t *restrict below, size_t n) {
    for (size_t i = 0; i < n; i++) {
        uint32_t sum = (uint32_t)above[i] + above[i + 3] + above[i + 6] + row[i] + 5u * row[i + 3] + row[i + 6] +
                       below[i] + below[i + 3] + below[i + 6];
        out[i] = (uint8_t)((2 * sum + 13) * 40330 >> 20); /* divided by 26 */
    }
}

/* A box of one pixel, or of three, and parts of two more. */
TARGET static void NAME(box_1)(uint8_t *restrict out, const uint8_t *restrict before, const uint8_t *restrict at,
                               const uint8_t *restrict after, size_t n, uint32_t whole, uint32_t part) {
    for (size_t i = 0; i < n; i++)
        out[i] = (uint8_t)((at[i] * whole + ((uint32_t)before[i] + after[i]) * part + (1u << 23)) >> 24);
}

TARGET static void NAME(box_3)(uint8_t *restrict out, const uint8_t *const restrict rows[5], size_t n, uint32_t whole,
                               uint32_t part) {
    const uint8_t *restrict a = rows[0], *restrict b = rows[1], *restrict c = rows[2], *restrict d = rows[3];
    const uint8_t *restrict e = rows[4];
    for (size_t i = 0; i < n; i++)
        out[i] = (uint8_t)((((uint32_t)b[i] + c[i] + d[i]) * whole + ((uint32_t)a[i] + e[i]) * part + (1u << 23)) >> 24);
}

/* Grey values of pixels. */
TARGET static void NAME(grey)(uint8_t *restrict out, const uint8_t *restrict pixels, size_t n) {
    for (size_t i = 0; i < n; i++)
        out[i] = (uint8_t)((19595u * pixels[3 * i] + 38470u * pixels[3 * i + 1] + 7471u * pixels[3 * i + 2] + (1u << 15)) >> 16);
}

static const Rows NAME(rows) = {NAME(blend), NAME(between), NAME(smooth), NAME(box_1), NAME(box_3), NAME(grey)};

#include "augment.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    void (*blend)(uint8_t *restrict, const uint8_t *restrict, size_t, float);
    void (*between)(uint8_t *restrict, const uint8_t *restrict, const uint8_t *restrict, size_t, uint32_t);
    void (*smooth)(uint8_t *restrict, const uint8_t *restrict, const uint8_t *restrict, const uint8_t *restrict, size_t);
    void (*box_1)(uint8_t *restrict, const uint8_t *restrict, const uint8_t *restrict, const uint8_t *restrict, size_t,
                  uint32_t, uint32_t);
    void (*box_3)(uint8_t *restrict, const uint8_t *const restrict[5], size_t, uint32_t, uint32_t);
    void (*grey)(uint8_t *restrict, const uint8_t *restrict, size_t);
} Rows;

#define NAME(name) name##_plain
#define TARGET
#include "augment_rows.h"
#undef NAME
#undef TARGET

#if defined(__x86_64__) && defined(__GNUC__)
#define NAME(name) name##_avx2
#define TARGET __attribute__((target("avx2")))
#include "augment_rows.h"
static const Rows *rows_for(Simd simd) { return simd == AVX2 ? &rows_avx2 : &rows_plain; }
#else
static const Rows *rows_for(Simd simd) {
    (void)simd;
    return &rows_plain;
}
#endif

static size_t row_bytes(const Image *image) { return 3 * (size_t)image->width; }

static size_t image_bytes(const Image *image) { return row_bytes(image) * (size_t)image->height; }

/* Geometry: each row of the output takes its pixels from a line through a copy of the image, which has a rim of one
 * pixel around it, so that bilinear neighbours need no test. */

static int64_t floor_div(int64_t a, int64_t b) { return a >= 0 ? a / b : -((-a + b - 1) / b); } /* b > 0 */

/* Narrows [*first, *end) to the x with 0 <= start + step x < limit. */
static void narrow(int64_t start, int64_t step, int64_t limit, int64_t *first, int64_t *end) {
    int64_t from = 0, to = *end;
    if (step > 0) {
        from = -floor_div(start, step);
        to = -floor_div(start - limit, step);
    } else if (step < 0) {
        from = floor_div(start - limit, -step) + 1;
        to = floor_div(start, -step) + 1;
    } else if (start < 0 || start >= limit)
        to = 0;
    if (from > *first) *first = from;
    if (to < *end) *end = to;
    if (*end < *first) *end = *first;
}

static void copy_with_rim(const Image *image, uint8_t *copy, size_t stride) {
    size_t bytes = row_bytes(image);
    for (int y = -1; y <= image->height; y++) {
        int source = y < 0 ? 0 : y == image->height ? y - 1 : y;
        const uint8_t *row = image->pixels + (size_t)source * bytes;
        uint8_t *to = copy + (size_t)(y + 1) * stride;
        memcpy(to, row, 3);
        memcpy(to + 3, row, bytes);
        memcpy(to + 3 + bytes, row + bytes - 3, 3);
    }
}

static void nearest_row(uint8_t *out, const uint8_t *origin, size_t stride, int64_t u, int64_t v, const int64_t *matrix,
                        int64_t n) {
    if (matrix[0] == 1 << NEAREST_BITS && matrix[3] == 0) {
        memcpy(out, origin + (size_t)(v >> NEAREST_BITS) * stride + 3 * (size_t)(u >> NEAREST_BITS), 3 * (size_t)n);
        return;
    }
    for (int64_t i = 0; i < n; i++, u += matrix[0], v += matrix[3], out += 3) {
        const uint8_t *from = origin + (size_t)(v >> NEAREST_BITS) * stride + 3 * (size_t)(u >> NEAREST_BITS);
        out[0] = from[0];
        out[1] = from[1];
        out[2] = from[2];
    }
}

/* u and v count from the centre of the rim's first pixel, so that they are never negative. */
static void bilinear_row(const Rows *rows, uint8_t *out, const uint8_t *copy, size_t stride, int64_t u, int64_t v,
                         const int64_t *matrix, int64_t n) {
    const int64_t mask = ((int64_t)1 << BILINEAR_BITS) - 1;
    if (matrix[0] == 1 << BILINEAR_BITS && matrix[3] == 0 && (v & mask) == 0) { /* a shift of a row, with one weight */
        const uint8_t *from = copy + (size_t)(v >> BILINEAR_BITS) * stride + 3 * (size_t)(u >> BILINEAR_BITS);
        if (u & mask)
            rows->between(out, from, from + 3, 3 * (size_t)n, (uint32_t)(u & mask));
        else
            memcpy(out, from, 3 * (size_t)n);
        return;
    }
    if (matrix[0] == 1 << BILINEAR_BITS && (u & mask) == 0) { /* between two rows alone */
        for (int64_t i = 0; i < n; i++, u += matrix[0], v += matrix[3], out += 3) {
            const uint8_t *from = copy + (size_t)(v >> BILINEAR_BITS) * stride + 3 * (size_t)(u >> BILINEAR_BITS);
            const uint8_t *under = from + stride;
            uint32_t weight = (uint32_t)(v & mask), rest = ((uint32_t)1 << BILINEAR_BITS) - weight;
            out[0] = (uint8_t)((from[0] * rest + under[0] * weight) >> BILINEAR_BITS);
            out[1] = (uint8_t)((from[1] * rest + under[1] * weight) >> BILINEAR_BITS);
            out[2] = (uint8_t)((from[2] * rest + under[2] * weight) >> BILINEAR_BITS);
        }
        return;
    }
    for (int64_t i = 0; i < n; i++, u += matrix[0], v += matrix[3], out += 3) {
        const uint8_t *from = copy + (size_t)(v >> BILINEAR_BITS) * stride + 3 * (size_t)(u >> BILINEAR_BITS);
        int32_t across = (int32_t)(u & mask), down = (int32_t)(v & mask);
        const uint8_t *under = from + stride;
        for (int c = 0; c < 3; c++) {
            int32_t upper = ((int32_t)from[c] << BILINEAR_BITS) + (from[c + 3] - from[c]) * across;
            int32_t lower = ((int32_t)under[c] << BILINEAR_BITS) + (under[c + 3] - under[c]) * across;
            out[c] = (uint8_t)((((int64_t)upper << BILINEAR_BITS) + (int64_t)(lower - upper) * down) >>
                               (2 * BILINEAR_BITS));
        }
    }
}

static void fill_pixels(uint8_t *out, int64_t n, const uint8_t fill[3]) {
    if (fill[0] == fill[1] && fill[1] == fill[2])
        memset(out, fill[0], 3 * (size_t)n);
    else
        for (int64_t i = 0; i < n; i++) memcpy(out + 3 * i, fill, 3);
}

int move_pixels(const Image *image, const int64_t matrix[6], int bits, const uint8_t fill[3]) {
    size_t bytes = row_bytes(image), stride = bytes + 6;
    uint8_t *copy = malloc(stride * ((size_t)image->height + 2));
    if (!copy) return 0;
    copy_with_rim(image, copy, stride);
    const Rows *rows = rows_for(image->simd);
    for (int y = 0; y < image->height; y++) {
        uint8_t *out = image->pixels + (size_t)y * bytes;
        int64_t u = matrix[2] + matrix[1] * y, v = matrix[5] + matrix[4] * y, first = 0, end = image->width;
        narrow(u, matrix[0], (int64_t)image->width << bits, &first, &end);
        narrow(v, matrix[3], (int64_t)image->height << bits, &first, &end);
        if (first > image->width) first = end = image->width;
        fill_pixels(out, first, fill);
        fill_pixels(out + 3 * end, image->width - end, fill);
        u += matrix[0] * first;
        v += matrix[3] * first;
        int64_t half = (int64_t)1 << (bits - 1);
        if (end > first && bits == NEAREST_BITS)
            nearest_row(out + 3 * first, copy + stride + 3, stride, u, v, matrix, end - first);
        else if (end > first)
            bilinear_row(rows, out + 3 * first, copy, stride, u + half, v + half, matrix, end - first);
    }
    free(copy);
    return 1;
}

void look_up(const Image *image, const uint8_t table[768]) {
    uint8_t *pixel = image->pixels;
    for (size_t n = (size_t)image->width * (size_t)image->height; n--; pixel += 3) {
        pixel[0] = table[pixel[0]];
        pixel[1] = table[256 + pixel[1]];
        pixel[2] = table[512 + pixel[2]];
    }
}

/* Blends. */

enum { BLOCK = 256 }; /* pixels whose grey values are made at a time */

void blend_with_mean(const Image *image, float alpha) {
    const Rows *rows = rows_for(image->simd);
    uint8_t grey[BLOCK], table[768];
    uint64_t sum = 0, n = (uint64_t)image->width * (uint64_t)image->height;
    for (uint64_t at = 0; at < n; at += BLOCK) {
        size_t count = n - at < BLOCK ? (size_t)(n - at) : BLOCK;
        rows->grey(grey, image->pixels + 3 * at, count);
        uint32_t part = 0;
        for (size_t i = 0; i < count; i++) part += grey[i];
        sum += part;
    }
    uint8_t mean[256];
    memset(mean, (int)((2 * sum + n) / (2 * n)), sizeof mean);
    for (int i = 0; i < 256; i++) table[i] = (uint8_t)i;
    rows_plain.blend(table, mean, 256, alpha);
    memcpy(table + 256, table, 256);
    memcpy(table + 512, table, 256);
    look_up(image, table);
}

int blend_with_grey(const Image *image, float alpha) {
    const Rows *rows = rows_for(image->simd);
    uint8_t grey[BLOCK], thrice[3 * BLOCK];
    size_t n = (size_t)image->width * (size_t)image->height;
    for (size_t at = 0; at < n; at += BLOCK) {
        size_t count = n - at < BLOCK ? n - at : BLOCK;
        rows->grey(grey, image->pixels + 3 * at, count);
        for (size_t i = 0; i < count; i++) thrice[3 * i] = thrice[3 * i + 1] = thrice[3 * i + 2] = grey[i];
        rows->blend(image->pixels + 3 * at, thrice, 3 * count, alpha);
    }
    return 1;
}

void make_grey(const Image *image) {
    const Rows *rows = rows_for(image->simd);
    uint8_t grey[BLOCK];
    size_t n = (size_t)image->width * (size_t)image->height;
    for (size_t at = 0; at < n; at += BLOCK) {
        size_t count = n - at < BLOCK ? n - at : BLOCK;
        uint8_t *pixel = image->pixels + 3 * at;
        rows->grey(grey, pixel, count);
        for (size_t i = 0; i < count; i++) pixel[3 * i] = pixel[3 * i + 1] = pixel[3 * i + 2] = grey[i];
    }
}

int blend_with_smooth(const Image *image, float alpha) {
    if (image->width < 3 || image->height < 3) return 1; /* all is rim, which stays */
    size_t bytes = row_bytes(image), inner = bytes - 6;
    uint8_t *before = malloc(3 * bytes); /* the row above and this one as they were, and what smoothing makes of this one */
    if (!before) return 0;
    const Rows *rows = rows_for(image->simd);
    uint8_t *above = before, *row = before + bytes, *smooth = before + 2 * bytes;
    memcpy(above, image->pixels, bytes);
    for (int y = 1; y < image->height - 1; y++) {
        uint8_t *out = image->pixels + (size_t)y * bytes;
        memcpy(row, out, bytes);
        rows->smooth(smooth, above, row, out + bytes, inner);
        rows->blend(out + 3, smooth, inner, alpha);
        uint8_t *next = above;
        above = row;
        row = next;
    }
    free(before);
    return 1;
}

/* Histograms. */

static void count_values(const Image *image, uint32_t counts[3][256]) {
    static const size_t SETS = 2; /* neighbours are alike: two sets do not wait for each other */
    uint32_t sets[2][3][256] = {{{0}}};
    const uint8_t *pixel = image->pixels;
    size_t n = (size_t)image->width * (size_t)image->height;
    for (size_t i = 0; i < n; i++, pixel += 3)
        for (int c = 0; c < 3; c++) sets[i % SETS][c][pixel[c]]++;
    for (int c = 0; c < 3; c++)
        for (int v = 0; v < 256; v++) counts[c][v] = sets[0][c][v] + sets[1][c][v];
}

void stretch_contrast(const Image *image) {
    uint32_t counts[3][256];
    uint8_t table[768];
    count_values(image, counts);
    for (int c = 0; c < 3; c++) {
        int low = 0, high = 255;
        while (low < 255 && !counts[c][low]) low++;
        while (high > 0 && !counts[c][high]) high--;
        double scale = high > low ? 255.0 / (high - low) : 1.0, offset = high > low ? -low * scale : 0.0;
        for (int v = 0; v < 256; v++) {
            double product = v * scale;
            int value = (int)(product + offset);
            table[256 * c + v] = (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
        }
    }
    look_up(image, table);
}

void equalize_histogram(const Image *image) {
    uint32_t counts[3][256];
    uint8_t table[768];
    count_values(image, counts);
    uint64_t n = (uint64_t)image->width * (uint64_t)image->height;
    for (int c = 0; c < 3; c++) {
        int last = 255;
        while (last > 0 && !counts[c][last]) last--;
        uint64_t step = (n - counts[c][last]) / 255, sum = step / 2; /* of one value alone: 0 */
        for (int v = 0; v < 256; v++) {
            uint64_t value = step ? sum / step : (uint64_t)v;
            table[256 * c + v] = (uint8_t)(value > 255 ? 255 : value);
            sum += counts[c][v];
        }
    }
    look_up(image, table);
}

/* Blur: three boxes across, three down. */

static void box(const Rows *rows, uint8_t *out, const uint8_t *const around[5], int radius, size_t n, uint32_t whole,
                uint32_t part) {
    if (radius == 0)
        rows->box_1(out, around[1], around[2], around[3], n, whole, part);
    else
        rows->box_3(out, around, n, whole, part);
}

static void blur_across(const Rows *rows, uint8_t *row, uint8_t *line, size_t bytes, int radius, uint32_t whole,
                        uint32_t part) {
    for (int pass = 0; pass < 3; pass++) {
        memcpy(line + 6, row, bytes);
        for (int i = 0; i < 2; i++) {
            memcpy(line + 3 * i, row, 3);
            memcpy(line + 6 + bytes + 3 * i, row + bytes - 3, 3);
        }
        const uint8_t *around[5] = {line, line + 3, line + 6, line + 9, line + 12};
        box(rows, row, around, radius, bytes, whole, part);
    }
}

int blur_by_boxes(const Image *image, int radius, uint32_t whole, uint32_t part) {
    size_t bytes = row_bytes(image);
    uint8_t *line = malloc(bytes + 12), *copy = malloc(image_bytes(image));
    const Rows *rows = rows_for(image->simd);
    int done = line && copy;
    if (done) {
        for (int y = 0; y < image->height; y++)
            blur_across(rows, image->pixels + (size_t)y * bytes, line, bytes, radius, whole, part);
        for (int pass = 0; pass < 3; pass++) {
            memcpy(copy, image->pixels, image_bytes(image));
            for (int y = 0; y < image->height; y++) {
                const uint8_t *around[5];
                for (int i = 0; i < 5; i++) {
                    int from = y + i - 2;
                    from = from < 0 ? 0 : from >= image->height ? image->height - 1 : from;
                    around[i] = copy + (size_t)from * bytes;
                }
                box(rows, image->pixels + (size_t)y * bytes, around, radius, bytes, whole, part);
            }
        }
    }
    free(line);
    free(copy);
    return done;
}

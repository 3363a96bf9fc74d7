#include "resize.h"

#include <stdlib.h>

#include "resize_avx2.h"

static uint8_t round_to_uint8(int32_t sum) {
    sum = (sum + (1 << (PRECISION - 1))) >> PRECISION;
    return (uint8_t)(sum < 0 ? 0 : sum > 255 ? 255 : sum);
}

static void resize_row_scalar(const Axis *axis, const uint8_t *row, uint8_t *out) {
    for (int i = 0; i < axis->outputs; i++, out += 3) {
        const uint8_t *pixel = row + 4 * (size_t)axis->first[i];
        const int32_t *coefficient = axis->coefficients + (size_t)i * (size_t)axis->taps;
        int32_t red = 0, green = 0, blue = 0;
        for (int k = 0; k < axis->count[i]; k++, pixel += 4) {
            red += pixel[0] * coefficient[k];
            green += pixel[1] * coefficient[k];
            blue += pixel[2] * coefficient[k];
        }
        out[0] = round_to_uint8(red);
        out[1] = round_to_uint8(green);
        out[2] = round_to_uint8(blue);
    }
}

/* In blocks, so that the sums stay in registers or the first cache and the compiler can vectorise the inner loops. */
static void blend_rows_scalar(const uint8_t *const *rows, const int32_t *coefficients, int taps, uint8_t *out,
                              size_t bytes) {
    enum { BLOCK = 64 };
    for (size_t at = 0; at < bytes; at += BLOCK) {
        int32_t sums[BLOCK] = {0};
        size_t length = bytes - at < BLOCK ? bytes - at : BLOCK;
        for (int k = 0; k < taps; k++)
            for (size_t i = 0; i < length; i++) sums[i] += rows[k][at + i] * coefficients[k];
        for (size_t i = 0; i < length; i++) out[at + i] = round_to_uint8(sums[i]);
    }
}

Simd best_simd(void) { return has_avx2() ? AVX2 : SCALAR; }

int make_horizontal(Horizontal *pass, const Axis *axis, Simd simd) {
    *pass = (Horizontal){.axis = axis, .simd = simd};
    if (simd == SCALAR) return 1;
    pass->table = make_table_avx2(axis);
    return pass->table != NULL;
}

void free_horizontal(Horizontal *pass) {
    free(pass->table);
    *pass = (Horizontal){0};
}

void resize_row(const Horizontal *pass, const uint8_t *row, uint8_t *out) {
    if (pass->simd == AVX2)
        resize_row_avx2(pass->axis, pass->table, row, out);
    else
        resize_row_scalar(pass->axis, row, out);
}

void blend_rows(Simd simd, const uint8_t *const *rows, const int32_t *coefficients, int taps, uint8_t *out,
                size_t bytes) {
    if (simd == AVX2)
        blend_rows_avx2(rows, coefficients, taps, out, bytes);
    else
        blend_rows_scalar(rows, coefficients, taps, out, bytes);
}

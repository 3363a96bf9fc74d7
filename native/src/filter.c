/* The filter's support, centres and rounding are Pillow's (its ImagingResample for images of 8 bits), to the last bit:
 * double precision, without fused multiply-add (-ffp-contract=off), then 22 fractional bits, halves away from zero. */
#include "filter.h"

#include <math.h>
#include <stdlib.h>

static double triangle(double x) {
    x = fabs(x);
    return x < 1.0 ? 1.0 - x : 0.0;
}

/* Keys, "Cubic convolution interpolation for digital image processing", 1981, with a = -1/2. */
static double cubic(double x) {
    const double a = -0.5;
    x = fabs(x);
    if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
    return x < 2.0 ? (((x - 5) * x + 8) * x - 4) * a : 0.0;
}

int make_axis(Axis *axis, int inputs, int length, int start, int outputs, Filter filter, int mirrored) {
    double (*weight)(double) = filter == BICUBIC ? cubic : triangle;
    double scale = (double)inputs / length, stretch = scale < 1.0 ? 1.0 : scale;
    double support = (filter == BICUBIC ? 2.0 : 1.0) * stretch, inverse = 1.0 / stretch;
    int widest = (int)ceil(support) * 2 + 1;
    double *weights = malloc((size_t)widest * sizeof *weights);
    *axis = (Axis){.outputs = outputs};
    axis->first = malloc((size_t)outputs * sizeof *axis->first);
    axis->count = malloc((size_t)outputs * sizeof *axis->count);
    if (!weights || !axis->first || !axis->count) goto failed;
    for (int i = 0; i < outputs; i++) {
        double centre = (start + (mirrored ? outputs - 1 - i : i) + 0.5) * scale;
        int first = (int)(centre - support + 0.5), end = (int)(centre + support + 0.5);
        axis->first[i] = first < 0 ? 0 : first;
        axis->count[i] = (end > inputs ? inputs : end) - axis->first[i];
        if (axis->count[i] > axis->taps) axis->taps = axis->count[i];
    }
    axis->taps += axis->taps & 1;
    axis->coefficients = calloc((size_t)outputs * (size_t)axis->taps, sizeof *axis->coefficients);
    if (!axis->coefficients) goto failed;
    for (int i = 0; i < outputs; i++) {
        double centre = (start + (mirrored ? outputs - 1 - i : i) + 0.5) * scale, sum = 0.0;
        int32_t *row = axis->coefficients + (size_t)i * (size_t)axis->taps;
        for (int k = 0; k < axis->count[i]; k++) {
            weights[k] = weight((k + axis->first[i] - centre + 0.5) * inverse);
            sum += weights[k];
        }
        for (int k = 0; k < axis->count[i]; k++) {
            double w = (sum != 0.0 ? weights[k] / sum : weights[k]) * (1 << PRECISION);
            row[k] = (int32_t)(w < 0 ? w - 0.5 : w + 0.5);
        }
    }
    free(weights);
    return 1;
failed:
    free(weights);
    free_axis(axis);
    return 0;
}

void free_axis(Axis *axis) {
    free(axis->first);
    free(axis->count);
    free(axis->coefficients);
    *axis = (Axis){0};
}

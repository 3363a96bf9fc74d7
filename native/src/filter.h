/* Pillow's antialiased resize along one axis, as a table of integer coefficients. */
#ifndef FILTER_H
#define FILTER_H

#include <stdint.h>

#define PRECISION 22 /* fractional bits of a coefficient: 32 - 8 of the pixel - 2 for overshoot */

typedef enum { BILINEAR, BICUBIC } Filter;

typedef struct {
    int outputs;    /* how many */
    int taps;       /* coefficients of each output, a multiple of 2; those beyond count[i] are 0 */
    int *first;     /* [outputs] the first input that counts */
    int *count;     /* [outputs] how many count */
    int32_t *coefficients; /* [outputs, taps], fixed point with PRECISION fractional bits */
} Axis;

/* The axis that resizes `inputs` pixels to `length`, of which outputs [start, start + outputs) are wanted, in reverse
 * order if `mirrored`. 0 when there is no memory. */
int make_axis(Axis *axis, int inputs, int length, int start, int outputs, Filter filter, int mirrored);

void free_axis(Axis *axis);

#endif

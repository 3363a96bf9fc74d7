/* A kept row is `words` 64-bit words: its RGB pixels and zeros, then one word that is the row's check. Checking costs one
 * addition to each of two sums for every 8 bytes, while the row is on its way into the cache for the resize anyway. */
#include "kept.h"

#include <stdlib.h>
#include <string.h>

#include "resize.h"
#include "sample.h"

#define LONGEST 65500

/* The sum of the words and the sum of all partial sums, from `seed` on: a word in another place has another check. */
static uint64_t check_of(const uint8_t *row, size_t words, uint64_t seed) {
    uint64_t sum = seed, sums = 0;
    for (size_t i = 0; i < words; i++) {
        uint64_t word;
        memcpy(&word, row + 8 * i, 8);
        sum += word;
        sums += sum;
    }
    return sum ^ (sums << 32 | sums >> 32);
}

static int is_whole(const uint8_t *row, size_t words, uint64_t seed) {
    uint64_t check;
    memcpy(&check, row + 8 * (words - 1), 8);
    return check == check_of(row, words - 1, seed);
}

static void add_fourth(const uint8_t *rgb, int pixels, uint8_t *rgbx) {
    for (int x = 0; x < pixels; x++, rgb += 3, rgbx += 4) {
        rgbx[0] = rgb[0];
        rgbx[1] = rgb[1];
        rgbx[2] = rgb[2];
    }
}

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>

/* Four pixels at a time; a load takes 16 bytes of which 12 count, so the last six pixels go one by one. */
__attribute__((target("avx2"))) static void add_fourth_avx2(const uint8_t *rgb, int pixels, uint8_t *rgbx) {
    const __m128i order = _mm_setr_epi8(0, 1, 2, -1, 3, 4, 5, -1, 6, 7, 8, -1, 9, 10, 11, -1);
    int x = 0;
    for (; x + 6 <= pixels; x += 4) {
        __m128i packed = _mm_loadu_si128((const __m128i *)(rgb + 3 * (size_t)x));
        _mm_storeu_si128((__m128i *)(rgbx + 4 * (size_t)x), _mm_shuffle_epi8(packed, order));
    }
    add_fourth(rgb + 3 * (size_t)x, pixels - x, rgbx + 4 * (size_t)x);
}
#else
#define add_fourth_avx2 add_fourth
#endif

/* The rows of a rectangle of a photo: `first` is its first row's left pixel's byte, counted from the row's beginning. */
typedef struct {
    const uint8_t *rows;
    size_t words, first;
    uint64_t seed; /* of the first row's check; that of each further row is one more */
} Kept;

/* Everything that a call owns. */
typedef struct {
    Axis across, down;
    Horizontal horizontal;
    uint8_t *line, *narrow; /* one row as RGBX; all rows that count after the horizontal pass */
    const uint8_t **taps;
} Work;

static Outcome resize(Work *work, const Kept *kept, const Geometry *g, Simd simd, uint8_t *out) {
    Axis *across = &work->across, *down = &work->down;
    if (!make_axis(across, g->width, g->full_width, g->out_left, g->out_width, g->filter, g->flip) ||
        !make_axis(down, g->height, g->full_height, g->out_top, g->out_height, g->filter, 0) ||
        !make_horizontal(&work->horizontal, across, simd))
        return NO_MEMORY;
    int top = down->first[0], last = down->outputs - 1, bottom = down->first[last] + down->count[last];
    size_t out_bytes = 3 * (size_t)g->out_width, stride = out_bytes + ROW_PADDING;
    work->line = calloc(4 * ((size_t)g->width + (size_t)across->taps) + ROW_PADDING, 1);
    work->narrow = malloc((size_t)(bottom - top) * stride);
    work->taps = malloc((size_t)down->taps * sizeof *work->taps);
    if (!work->line || !work->narrow || !work->taps) return NO_MEMORY;
    for (int y = top; y < bottom; y++) {
        const uint8_t *row = kept->rows + 8 * kept->words * (size_t)y;
        if (!is_whole(row, kept->words, kept->seed + (uint64_t)y)) return NOT_HANDLED;
        (simd == AVX2 ? add_fourth_avx2 : add_fourth)(row + kept->first, g->width, work->line);
        resize_row(&work->horizontal, work->line, work->narrow + (size_t)(y - top) * stride);
    }
    for (int i = 0; i < down->outputs; i++) {
        for (int k = 0; k < down->taps; k++) { /* taps beyond count have coefficient 0: any row does for them */
            int y = down->first[i] + k < bottom ? down->first[i] + k : bottom - 1;
            work->taps[k] = work->narrow + (size_t)(y - top) * stride;
        }
        blend_rows(simd, work->taps, down->coefficients + (size_t)i * (size_t)down->taps, down->taps,
                   out + (size_t)i * out_bytes, out_bytes);
    }
    return DONE;
}

static Outcome sample_of(const Kept *kept, const Geometry *geometry, Simd simd, uint8_t *out) {
    Work work;
    memset(&work, 0, sizeof work);
    Outcome outcome = resize(&work, kept, geometry, simd, out);
    free_axis(&work.across);
    free_axis(&work.down);
    free_horizontal(&work.horizontal);
    free(work.line);
    free(work.narrow);
    free(work.taps);
    return outcome;
}

static int fits(int start, int length, int whole) { return start >= 0 && length > 0 && length <= whole - start; }

/* Whether everything lies inside everything else; sets an exception if not. */
static int check(const Geometry *g, int photo_width, Py_ssize_t row_bytes, Py_ssize_t out_bytes) {
    if (g->out_width > LONGEST || g->out_height > LONGEST || photo_width > LONGEST || g->height > LONGEST)
        PyErr_SetString(PyExc_ValueError, "a side may have 65500 pixels");
    else if (!fits(g->left, g->width, photo_width) || g->height <= 0)
        PyErr_SetString(PyExc_ValueError, "box is not inside the photo");
    else if (row_bytes != (Py_ssize_t)8 * g->height * ((3 * (Py_ssize_t)photo_width + 7) / 8 + 1))
        PyErr_SetString(PyExc_ValueError, "rows must be those of box");
    else if (!fits(g->out_left, g->out_width, g->full_width) || !fits(g->out_top, g->out_height, g->full_height))
        PyErr_SetString(PyExc_ValueError, "window is not inside full");
    else if (out_bytes != (Py_ssize_t)3 * g->out_width * g->out_height)
        PyErr_SetString(PyExc_ValueError, "out is not as large as window");
    else
        return 1;
    return 0;
}

PyDoc_STRVAR(resample_rows_doc,
             "resample_rows(rows, seed, width, out, box, full, window, bicubic, flip, scalar=False)\n--\n\n"
             "As resample(), of the kept rows of a photo of `width` pixels.\n\n"
             "rows: bytes-like: as many rows as `box` has, which is (left, width, height). Each is RGB, padded by zeros\n"
             "to 8 bytes, and its check. seed: of the first row's check.\n\n"
             "True when it is done. False where a row is damaged: then `out` holds anything.");

static PyObject *resample_rows(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer rows, out;
    Geometry g;
    unsigned long long seed;
    int width, bicubic, scalar = 0;
    if (!PyArg_ParseTuple(args, "y*Kiw*(iii)(ii)(iiii)pp|p:resample_rows", &rows, &seed, &width, &out, &g.left, &g.width,
                          &g.height, &g.full_width, &g.full_height, &g.out_left, &g.out_top, &g.out_width, &g.out_height,
                          &bicubic, &g.flip, &scalar))
        return NULL;
    g.top = 0;
    g.filter = bicubic ? BICUBIC : BILINEAR;
    Outcome outcome = NOT_HANDLED;
    if (check(&g, width, rows.len, out.len)) {
        Kept kept = {rows.buf, (3 * (size_t)width + 7) / 8 + 1, 3 * (size_t)g.left, seed};
        Py_BEGIN_ALLOW_THREADS;
        outcome = sample_of(&kept, &g, scalar ? SCALAR : best_simd(), out.buf);
        Py_END_ALLOW_THREADS;
    }
    PyBuffer_Release(&rows);
    PyBuffer_Release(&out);
    if (PyErr_Occurred()) return NULL;
    if (outcome == NO_MEMORY) return PyErr_NoMemory();
    return PyBool_FromLong(outcome == DONE);
}

static PyMethodDef functions[] = {{"resample_rows", resample_rows, METH_VARARGS, resample_rows_doc}, {NULL, NULL, 0, NULL}};

int add_kept(PyObject *module) { return PyModule_AddFunctions(module, functions); }

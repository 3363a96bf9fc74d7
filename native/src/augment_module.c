/* Each function takes pixels, uint8 [height, width, 3], writable and C-contiguous, which it changes in place, and works
 * without the GIL. The last argument, scalar=False, keeps it from vector instructions, for tests. */
#include "augment_module.h"

#include <math.h>
#include <string.h>

#include "augment.h"

#define LONGEST 65500

/* The image in `object`; 0 with an exception. The buffer is to be released. */
static int open_image(PyObject *object, int scalar, Py_buffer *buffer, Image *image) {
    if (PyObject_GetBuffer(object, buffer, PyBUF_WRITABLE | PyBUF_C_CONTIGUOUS | PyBUF_FORMAT)) return 0;
    const Py_ssize_t *shape = buffer->shape;
    int fits = buffer->ndim == 3 && buffer->itemsize == 1 && shape[2] == 3 && shape[0] > 0 && shape[1] > 0 &&
               shape[0] <= LONGEST && shape[1] <= LONGEST && (!buffer->format || !strcmp(buffer->format, "B"));
    if (!fits) {
        PyBuffer_Release(buffer);
        PyErr_SetString(PyExc_ValueError, "pixels must be uint8 [height, width, 3]");
        return 0;
    }
    *image = (Image){buffer->buf, (int)shape[1], (int)shape[0], scalar ? SCALAR : best_simd()};
    return 1;
}

/* Runs `call`, an expression that is 0 without memory, on `image` of `object`. */
#define ON_IMAGE(object, scalar, call)                                     \
    Py_buffer buffer;                                                      \
    Image image;                                                           \
    if (!open_image(object, scalar, &buffer, &image)) return NULL;         \
    int done;                                                              \
    Py_BEGIN_ALLOW_THREADS;                                                \
    done = (call);                                                         \
    Py_END_ALLOW_THREADS;                                                  \
    PyBuffer_Release(&buffer);                                             \
    if (!done) return PyErr_NoMemory();                                    \
    Py_RETURN_NONE

static PyObject *refuse(const char *sentence) {
    PyErr_SetString(PyExc_ValueError, sentence);
    return NULL;
}

PyDoc_STRVAR(affine_doc, "affine(pixels, matrix, bits, fill, scalar=False)\n--\n\n"
                         "Move pixels: six integers of 16 (nearest) or 20 (bilinear) fractional bits, and a colour.");

static PyObject *affine(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *object;
    long long m[6];
    int bits, colour[3], scalar = 0;
    if (!PyArg_ParseTuple(args, "O(LLLLLL)i(iii)|p:affine", &object, &m[0], &m[1], &m[2], &m[3], &m[4], &m[5], &bits,
                          &colour[0], &colour[1], &colour[2], &scalar))
        return NULL;
    if (bits != NEAREST_BITS && bits != BILINEAR_BITS) return refuse("bits must be 16 or 20");
    int64_t matrix[6];
    uint8_t fill[3];
    for (int i = 0; i < 6; i++) {
        long long most = 1LL << (i % 3 == 2 ? 40 : 24);
        if (m[i] < -most || m[i] > most) return refuse("the matrix has a number that is too large");
        matrix[i] = m[i];
    }
    for (int c = 0; c < 3; c++) {
        if (colour[c] < 0 || colour[c] > 255) return refuse("fill must be three values from 0 to 255");
        fill[c] = (uint8_t)colour[c];
    }
    ON_IMAGE(object, scalar, move_pixels(&image, matrix, bits, fill));
}

PyDoc_STRVAR(table_doc, "table(pixels, values, scalar=False)\n--\n\nReplace each value by that of 256, or of 768, bytes.");

static PyObject *table(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *object;
    const char *values;
    Py_ssize_t count;
    int scalar = 0;
    if (!PyArg_ParseTuple(args, "Oy#|p:table", &object, &values, &count, &scalar)) return NULL;
    if (count != 256 && count != 768) return refuse("values must be 256 or 768 bytes");
    uint8_t all[768];
    for (int i = 0; i < 768; i++) all[i] = (uint8_t)values[i % count];
    ON_IMAGE(object, scalar, (look_up(&image, all), 1));
}

PyDoc_STRVAR(contrast_doc, "contrast(pixels, alpha, scalar=False)\n--\n\nBlend with the mean grey value.");

static PyObject *contrast(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *object;
    float alpha;
    int scalar = 0;
    if (!PyArg_ParseTuple(args, "Of|p:contrast", &object, &alpha, &scalar)) return NULL;
    if (!(fabsf(alpha) <= 100)) return refuse("alpha must be a number up to 100");
    ON_IMAGE(object, scalar, (blend_with_mean(&image, alpha), 1));
}

PyDoc_STRVAR(color_doc, "color(pixels, alpha, scalar=False)\n--\n\nBlend with the grey image.");

static PyObject *color(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *object;
    float alpha;
    int scalar = 0;
    if (!PyArg_ParseTuple(args, "Of|p:color", &object, &alpha, &scalar)) return NULL;
    if (!(fabsf(alpha) <= 100)) return refuse("alpha must be a number up to 100");
    ON_IMAGE(object, scalar, (blend_with_grey(&image, alpha), 1));
}

PyDoc_STRVAR(sharpness_doc, "sharpness(pixels, alpha, scalar=False)\n--\n\nBlend with the smoothed image.");

static PyObject *sharpness(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *object;
    float alpha;
    int scalar = 0;
    if (!PyArg_ParseTuple(args, "Of|p:sharpness", &object, &alpha, &scalar)) return NULL;
    if (!(fabsf(alpha) <= 100)) return refuse("alpha must be a number up to 100");
    ON_IMAGE(object, scalar, blend_with_smooth(&image, alpha));
}

PyDoc_STRVAR(autocontrast_doc, "autocontrast(pixels, scalar=False)\n--\n\nStretch each channel to 0 ... 255.");

static PyObject *autocontrast(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *object;
    int scalar = 0;
    if (!PyArg_ParseTuple(args, "O|p:autocontrast", &object, &scalar)) return NULL;
    ON_IMAGE(object, scalar, (stretch_contrast(&image), 1));
}

PyDoc_STRVAR(equalize_doc, "equalize(pixels, scalar=False)\n--\n\nGive each channel an even histogram.");

static PyObject *equalize(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *object;
    int scalar = 0;
    if (!PyArg_ParseTuple(args, "O|p:equalize", &object, &scalar)) return NULL;
    ON_IMAGE(object, scalar, (equalize_histogram(&image), 1));
}

PyDoc_STRVAR(grey_doc, "grey(pixels, scalar=False)\n--\n\nMake the channels equal.");

static PyObject *grey(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *object;
    int scalar = 0;
    if (!PyArg_ParseTuple(args, "O|p:grey", &object, &scalar)) return NULL;
    ON_IMAGE(object, scalar, (make_grey(&image), 1));
}

PyDoc_STRVAR(blur_doc, "blur(pixels, radius, weight, scalar=False)\n--\n\n"
                       "Three boxes across and three down. radius: below 2. weight: of a whole pixel, 24 fractional bits.");

static PyObject *blur(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *object;
    double radius;
    long long weight;
    int scalar = 0;
    if (!PyArg_ParseTuple(args, "OdL|p:blur", &object, &radius, &weight, &scalar)) return NULL;
    if (!(radius >= 0 && radius < 2)) return refuse("radius must be from 0 to below 2");
    long long pixels = 2 * (int)radius + 1;
    if (weight < 0 || pixels * weight > 1 << 24) return refuse("weight must leave the sum of all at most 1");
    uint32_t part = (uint32_t)(((1 << 24) - pixels * weight) / 2);
    ON_IMAGE(object, scalar, blur_by_boxes(&image, (int)radius, (uint32_t)weight, part));
}

static PyMethodDef methods[] = {{"affine", affine, METH_VARARGS, affine_doc},
                                {"table", table, METH_VARARGS, table_doc},
                                {"contrast", contrast, METH_VARARGS, contrast_doc},
                                {"color", color, METH_VARARGS, color_doc},
                                {"sharpness", sharpness, METH_VARARGS, sharpness_doc},
                                {"autocontrast", autocontrast, METH_VARARGS, autocontrast_doc},
                                {"equalize", equalize, METH_VARARGS, equalize_doc},
                                {"grey", grey, METH_VARARGS, grey_doc},
                                {"blur", blur, METH_VARARGS, blur_doc},
                                {NULL, NULL, 0, NULL}};

int add_augment(PyObject *module) {
    return PyModule_AddIntConstant(module, "AUGMENT_VERSION", AUGMENT_VERSION) || PyModule_AddFunctions(module, methods)
               ? -1
               : 0;
}

/* The Python module. Stable ABI of Python 3.11; works without the GIL while it computes. */
#include "module.h"

#include "augment_module.h"
#include "index_module.h"
#include "kept.h"
#include "libjpeg.h"
#include "markers.h"

#define SAMPLE_VERSION 1 /* VERSION of etl/spec.py: the definition of the pixels */
#define REVISION 2 /* of the answers: raised where an older module's were not Pillow's; etl/sample.py asks for the newest */
#define LONGEST 65500 /* pixels on a side of an output; as libjpeg's limit for a photo */
#define TEXT(x) #x
#define DECIMAL(x) TEXT(x)

PyDoc_STRVAR(size_doc, "size(data)\n--\n\n"
                       "(width, height) in pixels of a JPEG that resample() is likely to handle; None for anything "
                       "else.\n\ndata: bytes-like. Reads the segments before the scan alone.");

static PyObject *size(PyObject *module, PyObject *argument) {
    (void)module;
    Py_buffer data;
    if (PyObject_GetBuffer(argument, &data, PyBUF_SIMPLE)) return NULL;
    Frame frame;
    int found = read_frame(data.buf, (size_t)data.len, &frame);
    PyBuffer_Release(&data);
    if (!found) Py_RETURN_NONE;
    return Py_BuildValue("II", (unsigned)frame.width, (unsigned)frame.height);
}

PyDoc_STRVAR(resample_doc,
             "resample(data, out, box, full, window, bicubic, flip, scalar=False, decoders=3)\n--\n\n"
             "Decode `box` of a JPEG, resize it to `full`, and write `window` of that to `out`.\n\n"
             "data: bytes-like. out: writable, C-contiguous, uint8 [height, width, 3] for RGB.\n"
             "box: (left, top, width, height) in pixels of the photo. full: (width, height).\n"
             "window: (left, top, width, height) in pixels of `full`. bicubic: else bilinear; both antialias.\n"
             "flip: mirror left and right. scalar: use no vector instructions (for tests).\n"
             "decoders: 1 for that of this module, 2 for libjpeg-turbo, 3 for both (for tests).\n\n"
             "True when it is done. False for a file that is not handled, such as a progressive or a damaged one: then\n"
             "`out` holds anything. Raises ValueError for rectangles that do not fit, MemoryError, BufferError.");

static int fits(int start, int length, int whole) { return start >= 0 && length > 0 && length <= whole - start; }

int check_geometry(const Geometry *g, const Frame *frame, Py_ssize_t out_bytes) {
    if (g->out_width > LONGEST || g->out_height > LONGEST)
        PyErr_SetString(PyExc_ValueError, "window may have " DECIMAL(LONGEST) " pixels on a side");
    else if (!fits(g->left, g->width, (int)frame->width) || !fits(g->top, g->height, (int)frame->height))
        PyErr_Format(PyExc_ValueError, "box is not inside the photo of %u x %u pixels", (unsigned)frame->width,
                     (unsigned)frame->height);
    else if (!fits(g->out_left, g->out_width, g->full_width) || !fits(g->out_top, g->out_height, g->full_height))
        PyErr_SetString(PyExc_ValueError, "window is not inside full");
    else if (out_bytes != (Py_ssize_t)3 * g->out_width * g->out_height)
        PyErr_Format(PyExc_ValueError, "out must have %zd bytes, not %zd", (Py_ssize_t)3 * g->out_width * g->out_height,
                     out_bytes);
    else
        return 1;
    return 0;
}

static PyObject *resample(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer data, out;
    Geometry g;
    int bicubic, scalar = 0, decoders = BOTH;
    Frame frame;
    if (!PyArg_ParseTuple(args, "y*w*(iiii)(ii)(iiii)pp|pi:resample", &data, &out, &g.left, &g.top, &g.width, &g.height,
                          &g.full_width, &g.full_height, &g.out_left, &g.out_top, &g.out_width, &g.out_height, &bicubic,
                          &g.flip, &scalar, &decoders))
        return NULL;
    g.filter = bicubic ? BICUBIC : BILINEAR;
    Outcome outcome = NOT_HANDLED;
    if (read_frame(data.buf, (size_t)data.len, &frame) && check_geometry(&g, &frame, out.len)) {
        Py_BEGIN_ALLOW_THREADS;
        outcome = make_sample(data.buf, (size_t)data.len, &frame, &g, (Decoders)decoders, scalar ? SCALAR : best_simd(),
                              NULL, out.buf);
        Py_END_ALLOW_THREADS;
    }
    PyBuffer_Release(&data);
    PyBuffer_Release(&out);
    if (PyErr_Occurred()) return NULL;
    if (outcome == NO_MEMORY) return PyErr_NoMemory();
    return PyBool_FromLong(outcome == DONE);
}

static PyMethodDef methods[] = {{"size", size, METH_O, size_doc},
                                {"resample", resample, METH_VARARGS, resample_doc},
                                {NULL, NULL, 0, NULL}};

static int add_constants(PyObject *module) {
    return add_augment(module) || add_index(module) || add_kept(module) ||
           PyModule_AddIntConstant(module, "SAMPLE_VERSION", SAMPLE_VERSION) ||
           PyModule_AddIntConstant(module, "REVISION", REVISION) ||
           PyModule_AddStringConstant(module, "SIMD", best_simd() == AVX2 ? "avx2" : "") ||
           PyModule_AddStringConstant(module, "LIBJPEG_TURBO", libjpeg_version()) ||
           PyModule_AddStringConstant(module, "__version__", VERSION);
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, add_constants}, {0, NULL}};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT,
                                        .m_name = "imagenet_ais_native",
                                        .m_doc = "Samples of baseline JPEGs with the bytes of Pillow's, decoding only "
                                                 "the rows and columns that count, and their augmentation.",
                                        .m_methods = methods,
                                        .m_slots = slots};

PyMODINIT_FUNC PyInit_imagenet_ais_native(void) { return PyModuleDef_Init(&definition); }

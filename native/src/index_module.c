#include "index_module.h"

#include <stdlib.h>

#include "hash.h"
#include "index.h"
#include "module.h"

enum { MOST_MCUS = 65535 }; /* from one entry of an index to the next; no photo has more in a row */

static const char *const fits[] = {
    [FITS] = "",
    [CUT_SHORT] = "cut short",
    [OTHER_VERSION] = "of another version, or no index",
    [BROKEN] = "damaged",
    [OTHER_FILE] = "of another file",
};

static const char *const reasons[] = {
    [HAS_INDEX] = "",
    [OTHER_KIND] = "no baseline JPEG that the decoder takes",
    [FAULTY_SCAN] = "damaged, or ends in an unusual way",
};

/* What was made: bytes, or str, the reason why not. Frees it. */
static PyObject *made_object(Indexing *indexing) {
    PyObject *object = indexing->made ? PyBytes_FromStringAndSize((char *)indexing->made, (Py_ssize_t)indexing->made_length)
                                      : PyUnicode_FromString(reasons[indexing->reason]);
    free(indexing->made);
    return object;
}

static int check_step(int step, int least) {
    if (step >= least && step <= MOST_MCUS) return 1;
    PyErr_Format(PyExc_ValueError, "step must be from %d to %d MCUs, not %d", least, MOST_MCUS, step);
    return 0;
}

PyDoc_STRVAR(make_doc, "make_index(data, step=16, scalar=False)\n--\n\n"
                       "The index of a JPEG for resample_indexed(), with an entry about every `step` MCUs of a row: bytes, after a pass\n"
                       "over the whole scan without a fault; or str, what the file is, of which none can be made.");

static PyObject *make(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer data;
    int step = 16, scalar = 0;
    if (!PyArg_ParseTuple(args, "y*|ip:make_index", &data, &step, &scalar)) return NULL;
    Indexing indexing = {.step = (size_t)step, .reason = OTHER_KIND};
    Outcome outcome = NOT_HANDLED;
    Frame frame;
    if (check_step(step, 1) && read_frame(data.buf, (size_t)data.len, &frame)) {
        Py_BEGIN_ALLOW_THREADS;
        outcome = make_index(&indexing, data.buf, (size_t)data.len, &frame, scalar ? SCALAR : best_simd());
        Py_END_ALLOW_THREADS;
    }
    PyBuffer_Release(&data);
    if (PyErr_Occurred()) return NULL;
    return outcome == NO_MEMORY ? PyErr_NoMemory() : made_object(&indexing);
}

PyDoc_STRVAR(resample_doc,
             "resample_indexed(data, out, box, full, window, bicubic, flip, index, step=0, scalar=False, decoders=3)\n--\n\n"
             "As resample(), and with an index, or without one (None), the same bytes. (done, fault, made):\n\n"
             "done: as resample()'s answer. fault: \"\" where the index was used, else what it is instead of one of this file.\n"
             "made: None where the index was used or step is 0; else a new one, as make_index() answers it.");

static PyObject *resample_indexed(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer data, out, index;
    Geometry g;
    int bicubic, step = 0, scalar = 0, decoders = BOTH;
    Frame frame;
    if (!PyArg_ParseTuple(args, "y*w*(iiii)(ii)(iiii)ppz*|ipi:resample_indexed", &data, &out, &g.left, &g.top, &g.width,
                          &g.height, &g.full_width, &g.full_height, &g.out_left, &g.out_top, &g.out_width, &g.out_height,
                          &bicubic, &g.flip, &index, &step, &scalar, &decoders))
        return NULL;
    g.filter = bicubic ? BICUBIC : BILINEAR;
    Indexing indexing = {.given = index.buf, .given_length = (size_t)index.len, .fit = BROKEN, .step = (size_t)step,
                         .reason = OTHER_KIND};
    Outcome outcome = NOT_HANDLED;
    if (check_step(step, 0) && read_frame(data.buf, (size_t)data.len, &frame) && check_geometry(&g, &frame, out.len)) {
        Py_BEGIN_ALLOW_THREADS;
        outcome = make_sample(data.buf, (size_t)data.len, &frame, &g, (Decoders)decoders, scalar ? SCALAR : best_simd(),
                              &indexing, out.buf);
        Py_END_ALLOW_THREADS;
    }
    int used = index.buf && indexing.fit == FITS, wanted = step && !used;
    const char *fault = index.buf ? fits[indexing.fit] : "missing";
    PyBuffer_Release(&data);
    PyBuffer_Release(&out);
    if (index.obj) PyBuffer_Release(&index);
    if (PyErr_Occurred() || outcome == NO_MEMORY || indexing.fit == NO_ROOM) {
        free(indexing.made);
        return PyErr_Occurred() ? NULL : PyErr_NoMemory();
    }
    PyObject *done = PyBool_FromLong(outcome == DONE);
    return wanted ? Py_BuildValue("NsN", done, fault, made_object(&indexing)) : Py_BuildValue("NsO", done, fault, Py_None);
}

PyDoc_STRVAR(hash_doc, "content_hash(data)\n--\n\nXXH64 of bytes, as in an index: int.");

static PyObject *content_hash(PyObject *module, PyObject *argument) {
    (void)module;
    Py_buffer data;
    if (PyObject_GetBuffer(argument, &data, PyBUF_SIMPLE)) return NULL;
    uint64_t hash;
    Py_BEGIN_ALLOW_THREADS;
    hash = hash_of(data.buf, (size_t)data.len);
    Py_END_ALLOW_THREADS;
    PyBuffer_Release(&data);
    return PyLong_FromUnsignedLongLong(hash);
}

static PyMethodDef methods[] = {{"make_index", make, METH_VARARGS, make_doc},
                                {"resample_indexed", resample_indexed, METH_VARARGS, resample_doc},
                                {"content_hash", content_hash, METH_O, hash_doc},
                                {NULL, NULL, 0, NULL}};

int add_index(PyObject *module) {
    return PyModule_AddIntConstant(module, "INDEX_VERSION", INDEX_VERSION) || PyModule_AddFunctions(module, methods) ? -1 : 0;
}

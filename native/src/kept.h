/* A sample from the decoded rows of a photo, as etl/decoded_cache.py keeps them. */
#ifndef KEPT_H
#define KEPT_H

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

/* Adds resample_rows() to the module; -1 with an exception. */
int add_kept(PyObject *module);

#endif

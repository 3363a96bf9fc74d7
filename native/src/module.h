/* What the functions of the Python module share. */
#ifndef MODULE_H
#define MODULE_H

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include "sample.h"

/* 0 with a ValueError where the rectangles do not fit the photo, or out_bytes. */
int check_geometry(const Geometry *g, const Frame *frame, Py_ssize_t out_bytes);

#endif

/* The functions of the module that etl/operations.py calls. */
#ifndef AUGMENT_MODULE_H
#define AUGMENT_MODULE_H

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#define AUGMENT_VERSION 1 /* of etl/operations.py: the definition of what they do */

/* Adds them; -1 with an exception. */
int add_augment(PyObject *module);

#endif

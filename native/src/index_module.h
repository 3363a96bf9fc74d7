/* The functions of the module that make and use indexes of JPEGs. */
#ifndef INDEX_MODULE_H
#define INDEX_MODULE_H

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

/* Adds them; -1 with an exception. */
int add_index(PyObject *module);

#endif

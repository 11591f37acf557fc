/* hashmill.hashing._kernel: hashers as a Python type. Limited API of CPython 3.11: one build serves all later ones. */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include "stream.h"
#include <string.h>

enum {
    KERNEL_VERSION = 1, /* to be raised when a state saved by the one before must not be taken up again */
    INLINE_MAX_BYTES = 2047, /* up to here letting go of the GIL costs more than hashing */
};

typedef struct {
    PyObject_HEAD
    hm_hasher hasher;
    uint8_t busy; /* somebody computes on it without the GIL; read and written under the GIL only */
} Fused;

typedef struct {
    PyTypeObject *fused;
} module_state;

static int refuse_busy(const Fused *h)
{
    if (h->busy)
        PyErr_SetString(PyExc_RuntimeError, "this hasher is being fed by another thread");
    return h->busy;
}

static int refuse_length(const Fused *h, Py_ssize_t more)
{
    int too_long = (h->hasher.length + (uint64_t)more) >> HM_LENGTH_BITS != 0;
    if (too_long)
        PyErr_SetString(PyExc_OverflowError, "more than 2^61 bytes");
    return too_long;
}

/* Return the kernel of that name (NULL: the best), or NULL with an error set. */
static const hm_kernel *kernel_named(const char *name)
{
    const char *why;
    int count;
    const hm_kernel *const *known = hm_kernels(&count, &why);
    if (!name)
        return known[0];
    for (int i = 0; i < count; i++)
        if (!strcmp(known[i]->name, name))
            return known[i];
    PyErr_Format(PyExc_ValueError, "no kernel of that name here: %s", name);
    return NULL;
}

static Fused *allocate(PyTypeObject *type)
{
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    return (Fused *)alloc(type, 0);
}

static PyObject *fused_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"mask", "kernel", NULL};
    int mask;
    const char *name = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "i|z", names, &mask, &name))
        return NULL;
    if (mask < 1 || mask > HM_ALL) {
        PyErr_Format(PyExc_ValueError, "no such mask of algorithms: %d", mask);
        return NULL;
    }
    const hm_kernel *kernel = kernel_named(name);
    Fused *h = kernel ? allocate(type) : NULL;
    if (h)
        hm_open(&h->hasher, mask, kernel);
    return (PyObject *)h;
}

static void fused_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type); /* an instance of a heap type holds its type */
}

static PyObject *fused_update(PyObject *self, PyObject *block)
{
    Fused *h = (Fused *)self;
    Py_buffer view;
    if (PyObject_GetBuffer(block, &view, PyBUF_SIMPLE)) /* may run Python code: ask for busy after it */
        return NULL;
    if (refuse_busy(h) || refuse_length(h, view.len)) {
        PyBuffer_Release(&view);
        return NULL;
    }
    hm_stream s = {&h->hasher, view.buf, (size_t)view.len};
    if (view.len > INLINE_MAX_BYTES) {
        h->busy = 1;
        Py_BEGIN_ALLOW_THREADS
        hm_feed(&s, 1);
        Py_END_ALLOW_THREADS
        h->busy = 0;
    } else
        hm_feed(&s, 1);
    PyBuffer_Release(&view);
    Py_RETURN_NONE;
}

static PyObject *fused_digest(PyObject *self, PyObject *arg)
{
    Fused *h = (Fused *)self;
    uint8_t out[HM_DIGEST_MAX];
    long bit = PyLong_AsLong(arg);
    if (bit == -1 && PyErr_Occurred())
        return NULL;
    if (refuse_busy(h))
        return NULL;
    if ((bit != HM_MD5 && bit != HM_SHA1 && bit != HM_SHA256) || !(bit & h->hasher.mask)) {
        PyErr_SetString(PyExc_ValueError, "not one of this hasher's algorithms");
        return NULL;
    }
    size_t n = hm_digest(&h->hasher, (int)bit, out);
    return PyBytes_FromStringAndSize((const char *)out, (Py_ssize_t)n);
}

static PyObject *fused_export(PyObject *self, PyObject *none)
{
    Fused *h = (Fused *)self;
    uint8_t out[HM_SAVED_MAX];
    (void)none;
    if (refuse_busy(h))
        return NULL;
    size_t n = hm_save(&h->hasher, out);
    return PyBytes_FromStringAndSize((const char *)out, (Py_ssize_t)n);
}

static PyObject *fused_restore(PyObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"", "kernel", NULL};
    Py_buffer view;
    const char *name = NULL, *fault = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "y*|z", names, &view, &name))
        return NULL;
    const hm_kernel *kernel = kernel_named(name);
    Fused *h = kernel ? allocate((PyTypeObject *)type) : NULL;
    if (h)
        fault = hm_load(&h->hasher, view.buf, (size_t)view.len, kernel);
    PyBuffer_Release(&view);
    if (fault) {
        PyErr_SetString(PyExc_ValueError, fault);
        Py_CLEAR(h);
    }
    return (PyObject *)h;
}

static PyObject *fused_kernel(PyObject *self, void *closure)
{
    (void)closure;
    return PyUnicode_FromString(((Fused *)self)->hasher.kernel->name);
}

static PyObject *fused_length(PyObject *self, void *closure)
{
    (void)closure;
    if (refuse_busy((Fused *)self))
        return NULL;
    return PyLong_FromUnsignedLongLong(((Fused *)self)->hasher.length);
}

static PyObject *fused_mask(PyObject *self, void *closure)
{
    (void)closure;
    return PyLong_FromLong(((Fused *)self)->hasher.mask);
}

/* update_many(((hasher, block), ...), /) */
static PyObject *update_many(PyObject *module, PyObject *arg)
{
    module_state *m = PyModule_GetState(module);
    Py_buffer views[HM_MANY_MAX];
    hm_stream s[HM_MANY_MAX] = {{NULL, NULL, 0}};
    Fused *hashers[HM_MANY_MAX];
    int n = 0, failed = 0;
    size_t total = 0;
    const int size = PyTuple_Check(arg) ? (int)PyTuple_Size(arg) : 0;
    if (size < 1 || size > HM_MANY_MAX) {
        PyErr_Format(PyExc_TypeError, "a tuple of 1 to %d pairs (hasher, block)", HM_MANY_MAX);
        return NULL;
    }
    for (; n < size; n++) {
        PyObject *item = PyTuple_GetItem(arg, n);
        PyObject *hasher = item && PyTuple_Check(item) && PyTuple_Size(item) == 2 ? PyTuple_GetItem(item, 0) : NULL;
        if (!hasher || !PyObject_TypeCheck(hasher, m->fused)) {
            PyErr_SetString(PyExc_TypeError, "each item must be (Fused, bytes-like)");
            failed = 1;
            break;
        }
        if (PyObject_GetBuffer(PyTuple_GetItem(item, 1), &views[n], PyBUF_SIMPLE)) {
            failed = 1;
            break;
        }
        hashers[n] = (Fused *)hasher;
        s[n] = (hm_stream){&hashers[n]->hasher, views[n].buf, (size_t)views[n].len};
        total += s[n].left;
    }
    /* No Python code runs from here until the GIL goes: nobody can take a hasher in between. */
    int marked = 0;
    for (; !failed && marked < n; marked++) {
        if (hashers[marked]->hasher.mask != hashers[0]->hasher.mask ||
            hashers[marked]->hasher.kernel != hashers[0]->hasher.kernel) {
            PyErr_SetString(PyExc_ValueError, "the hashers must be of the same algorithms and kernel");
            failed = 1;
            break;
        }
        /* Busy is also a hasher that stands in the tuple twice. */
        if (refuse_busy(hashers[marked]) || refuse_length(hashers[marked], views[marked].len)) {
            failed = 1;
            break;
        }
        hashers[marked]->busy = 1;
    }
    if (!failed && total > INLINE_MAX_BYTES) {
        Py_BEGIN_ALLOW_THREADS
        hm_feed(s, n);
        Py_END_ALLOW_THREADS
    } else if (!failed)
        hm_feed(s, n);
    for (int i = 0; i < marked; i++)
        hashers[i]->busy = 0;
    for (int i = 0; i < n; i++)
        PyBuffer_Release(&views[i]);
    if (failed)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *kernels(PyObject *module, PyObject *none)
{
    const char *why;
    int count;
    const hm_kernel *const *known = hm_kernels(&count, &why);
    (void)module, (void)none;
    PyObject *names = PyTuple_New(count);
    for (int i = 0; names && i < count; i++) {
        PyObject *name = PyUnicode_FromString(known[i]->name);
        if (!name || PyTuple_SetItem(names, i, name))
            Py_CLEAR(names);
    }
    return names;
}

static PyObject *why_slow(PyObject *module, PyObject *none)
{
    const char *why;
    int count;
    (void)module, (void)none;
    hm_kernels(&count, &why);
    return PyUnicode_FromString(why);
}

static PyMethodDef fused_methods[] = {
    {"update", fused_update, METH_O, NULL},
    {"digest", fused_digest, METH_O, NULL},
    {"export", fused_export, METH_NOARGS, NULL},
    {"restore", (PyCFunction)(void (*)(void))fused_restore, METH_VARARGS | METH_KEYWORDS | METH_CLASS, NULL},
    {NULL, NULL, 0, NULL},
};
static PyGetSetDef fused_getset[] = {
    {"kernel", fused_kernel, NULL, NULL, NULL},
    {"length", fused_length, NULL, NULL, NULL},
    {"mask", fused_mask, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyType_Slot fused_slots[] = {
    {Py_tp_new, (void *)fused_new},
    {Py_tp_dealloc, (void *)fused_dealloc},
    {Py_tp_methods, fused_methods},
    {Py_tp_getset, fused_getset},
    {0, NULL},
};
static PyType_Spec fused_spec = {"hashmill.hashing._kernel.Fused", sizeof(Fused), 0,
                                 Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, fused_slots};

static int module_exec(PyObject *module)
{
    module_state *m = PyModule_GetState(module);
    m->fused = (PyTypeObject *)PyType_FromModuleAndSpec(module, &fused_spec, NULL);
    if (!m->fused || PyModule_AddIntConstant(module, "VERSION", KERNEL_VERSION))
        return -1;
    return PyModule_AddType(module, m->fused);
}

static int module_traverse(PyObject *module, visitproc visit, void *arg)
{
    Py_VISIT(((module_state *)PyModule_GetState(module))->fused);
    return 0;
}

static int module_clear(PyObject *module)
{
    Py_CLEAR(((module_state *)PyModule_GetState(module))->fused);
    return 0;
}

/* calibrate() -> {mask: (group for 1 stream, ... for HM_MANY_MAX)} */
static PyObject *calibrate(PyObject *module, PyObject *none)
{
    const char *why;
    int count;
    const hm_kernel *best = hm_kernels(&count, &why)[0];
    (void)module, (void)none;
    hm_calibrate(best);
    PyObject *told = PyDict_New();
    for (int mask = 1; told && mask <= HM_ALL; mask++) {
        PyObject *key = PyLong_FromLong(mask), *groups = PyTuple_New(HM_MANY_MAX);
        int failed = !key || !groups;
        for (int live = 1; !failed && live <= HM_MANY_MAX; live++) {
            PyObject *group = PyLong_FromLong(hm_group(best, mask, live));
            failed = !group || PyTuple_SetItem(groups, live - 1, group);
        }
        if (failed || PyDict_SetItem(told, key, groups))
            Py_CLEAR(told);
        Py_XDECREF(key), Py_XDECREF(groups);
    }
    return told;
}

static PyMethodDef module_methods[] = {
    {"update_many", update_many, METH_O, NULL},
    {"kernels", kernels, METH_NOARGS, NULL},
    {"calibrate", calibrate, METH_NOARGS, NULL},
    {"why_slow", why_slow, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};
static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, (void *)module_exec}, {0, NULL}};
static struct PyModuleDef module_def = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "_kernel",
    .m_size = sizeof(module_state),
    .m_methods = module_methods,
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
};

PyMODINIT_FUNC PyInit__kernel(void) { return PyModuleDef_Init(&module_def); }

/* Reading records of TLS one behind another, as the loop in gateway/network/tls.py does.
 *
 * A client may make a record of ten bytes. The calls, numbers and views by which Python reads it cost as much as OpenSSL does. Here
 * they are made without the interpreter, by the session's own method: what decrypts stays Python's ssl.
 *
 * Invariants: only whole records are read, and only as long as the largest one has room. What the method raises is kept, and
 * given back with the bytes that were read before. Nobody writes into the room after `drain` has returned: as long as somebody
 * holds a view of it, the room stays locked, and the caller is told. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>

#define HEAD_BYTES 5 /* of a record: type, version, length */
#define RECORD_BYTES 16384 /* of content, at most */

/* The free part of the room, for one call of the method at a time. */
typedef struct {
    PyObject_HEAD
    char *at;
    Py_ssize_t left;
    int holders;
} window_t;

static int window_lend(PyObject *self, Py_buffer *view, int flags)
{
    window_t *window = (window_t *)self;
    int outcome = PyBuffer_FillInfo(view, self, window->at, window->left, 0, flags);
    window->holders += outcome == 0;
    return outcome;
}

static void window_take_back(PyObject *self, Py_buffer *view)
{
    ((window_t *)self)->holders--;
}

static PyBufferProcs window_buffer = {window_lend, window_take_back};

static PyTypeObject Window = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "gateway.network._draining.Window",
    .tp_basicsize = sizeof(window_t),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_as_buffer = &window_buffer,
};

/* The size of the record that begins at `at`; 0 if it is not whole. */
static Py_ssize_t whole(const uint8_t *wire, Py_ssize_t at, Py_ssize_t end)
{
    if (end - at < HEAD_BYTES)
        return 0;
    Py_ssize_t size = HEAD_BYTES + (wire[at + 3] << 8) + wire[at + 4];
    return size <= end - at ? size : 0;
}

/* Call the method once; the number of bytes that it has read, -1 after an exception. */
static Py_ssize_t read_once(PyObject *read, PyObject *most, window_t *window)
{
    PyObject *args[] = {most, (PyObject *)window};
    PyObject *read_bytes = PyObject_Vectorcall(read, args, 2, NULL);
    if (read_bytes == NULL)
        return -1;
    Py_ssize_t count = PyLong_AsSsize_t(read_bytes);
    Py_DECREF(read_bytes);
    if (count == -1 && PyErr_Occurred())
        return -1;
    if (count < 0 || count > window->left) {
        PyErr_SetString(PyExc_ValueError, "more bytes were read than there was room for");
        return -1;
    }
    return count;
}

/* Read the whole records in `wire`; the bytes that were read. It ends with the first call that reads none, or fails: with an
 * exception then. */
static Py_ssize_t read_all(PyObject *read, window_t *window, const Py_buffer *wire)
{
    PyObject *most = PyLong_FromLong(RECORD_BYTES);
    if (most == NULL)
        return 0;
    Py_ssize_t size = 0, at = 0, record;
    while (window->left >= RECORD_BYTES && (record = whole(wire->buf, at, wire->len)) > 0) {
        Py_ssize_t count = read_once(read, most, window);
        if (count == 0)
            PyErr_SetNone(PyExc_EOFError); /* the session has ended; its last record is read, so nobody would see it again */
        if (count <= 0)
            break;
        size += count;
        at += record;
        window->at += count;
        window->left -= count;
    }
    Py_DECREF(most);
    return size;
}

/* The exception that was raised, or None. */
static PyObject *raised(void)
{
    PyObject *type, *error, *traceback;
    PyErr_Fetch(&type, &error, &traceback);
    if (type == NULL)
        Py_RETURN_NONE;
    PyErr_NormalizeException(&type, &error, &traceback);
    Py_DECREF(type);
    Py_XDECREF(traceback);
    return error;
}

/* drain(read, room, wire): see draining.py. */
static PyObject *drain(PyObject *module, PyObject *const *args, Py_ssize_t given)
{
    if (given != 3) {
        PyErr_Format(PyExc_TypeError, "drain takes 3 arguments, not %zd", given);
        return NULL;
    }
    Py_buffer room, wire;
    if (PyObject_GetBuffer(args[1], &room, PyBUF_WRITABLE))
        return NULL;
    if (PyObject_GetBuffer(args[2], &wire, PyBUF_SIMPLE)) {
        PyBuffer_Release(&room);
        return NULL;
    }
    window_t *window = PyObject_New(window_t, &Window);
    if (window == NULL) {
        PyBuffer_Release(&wire);
        PyBuffer_Release(&room);
        return NULL;
    }
    window->at = room.buf;
    window->left = room.len;
    window->holders = 0;
    Py_ssize_t size = read_all(args[0], window, &wire);
    PyObject *error = raised();
    PyBuffer_Release(&wire);
    if (window->holders == 0)
        PyBuffer_Release(&room); /* else it stays locked, for good */
    else if (error == Py_None) {
        Py_DECREF(error);
        error = PyObject_CallFunction(PyExc_BufferError, "s", "a view of the room is still held");
    }
    window->left = 0;
    Py_DECREF(window);
    return error == NULL ? NULL : Py_BuildValue("(nN)", size, error);
}

static PyMethodDef functions[] = {
    {"drain", (PyCFunction)(void (*)(void))drain, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_draining", NULL, -1, functions, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__draining(void)
{
    return PyType_Ready(&Window) ? NULL : PyModule_Create(&definition);
}

/* Reading all that a session of Python's ssl can decrypt, by OpenSSL's own functions and without the interpreter's lock.
 *
 * Python shows nobody the session of OpenSSL that is below its own. But OpenSSL tells whoever has asked for a place in each of its
 * sessions (CRYPTO_get_ex_new_index) of every session that is made: the one that is made within `wrap` is the one. OpenSSL is the
 * library that Python's module has loaded. Its functions are found by their names, and are those of every version since 1.1.1.
 * Where OpenSSL is a part of the interpreter, and so has no names, importing this fails: see unsealing.py.
 *
 * Three things make a record cheap here: no call of Python's; one buffer of OpenSSL's for all of them, which Python's setting
 * (SSL_MODE_RELEASE_BUFFERS) has OpenSSL ask for and give back for each; and no buffer between the wire and OpenSSL.
 *
 * Invariants: OpenSSL sees whole records only, and nothing of the wire after `unseal` has returned. What it cannot make out at
 * the head of a record it sees at once, as it knows what to say. Between two calls it holds no buffer, unless the room ended
 * within a record. One thread at a time is in a session: who comes second gets an exception. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <dlfcn.h>
#include <stdint.h>

#define HEAD_BYTES 5 /* of a record: type, version, length */
#define RECORD_BYTES_MAX (HEAD_BYTES + 16384 + 2048)
#define VERSION_MAJOR 3 /* of every version of TLS */
#define LOCK_BYTES_MAX 4096 /* up to so many are decrypted with the lock, which takes less than to let go of it */

typedef struct ssl_st SSL;
typedef struct bio_st BIO;
typedef struct bio_method_st BIO_METHOD;
typedef int bio_read_t(BIO *, char *, int);
typedef long bio_ctrl_t(BIO *, int, long, void *);
typedef void made_t(void *, void *, void *, int, long, void *);

/* Numbers of OpenSSL's interface. */
enum {
    EX_INDEX_SSL = 0,
    ERROR_NONE = 0,
    ERROR_WANT_READ = 2,
    ERROR_ZERO_RETURN = 6,
    CTRL_MODE = 33,
    CTRL_CLEAR_MODE = 78,
    MODE_RELEASE_BUFFERS = 0x10,
    BIO_TYPE_SOURCE_SINK = 0x400,
    BIO_FLAGS_READ = 1,
    BIO_FLAGS_RETRY = 0xF,
    BIO_FLAGS_SHOULD_RETRY = 8,
};

#define FUNCTIONS(one) \
    one(int, CRYPTO_get_ex_new_index, (int, long, void *, made_t *, void *, void *)) \
    one(unsigned long, ERR_peek_last_error, (void)) \
    one(const char *, ERR_reason_error_string, (unsigned long)) \
    one(void, ERR_clear_error, (void)) \
    one(BIO_METHOD *, BIO_meth_new, (int, const char *)) \
    one(int, BIO_meth_set_read, (BIO_METHOD *, bio_read_t *)) \
    one(int, BIO_meth_set_ctrl, (BIO_METHOD *, bio_ctrl_t *)) \
    one(BIO *, BIO_new, (const BIO_METHOD *)) \
    one(int, BIO_up_ref, (BIO *)) \
    one(int, BIO_free, (BIO *)) \
    one(int, BIO_read, (BIO *, void *, int)) \
    one(void, BIO_set_init, (BIO *, int)) \
    one(void, BIO_set_data, (BIO *, void *)) \
    one(void *, BIO_get_data, (BIO *)) \
    one(void, BIO_set_flags, (BIO *, int)) \
    one(void, BIO_clear_flags, (BIO *, int)) \
    one(BIO *, SSL_get_rbio, (const SSL *)) \
    one(void, SSL_set0_rbio, (SSL *, BIO *)) \
    one(long, SSL_ctrl, (SSL *, int, long, void *)) \
    one(int, SSL_read_ex, (SSL *, void *, size_t, size_t *)) \
    one(int, SSL_get_error, (const SSL *, int))

#define MEMBER(result, name, arguments) result(*name) arguments;
static struct {
    FUNCTIONS(MEMBER)
} openssl;

static BIO_METHOD *wire_method;
static PyObject *SSLError;

/* Which session is made in this thread, while `wrap` waits for one. */
static __thread int is_watching, made_count;
static __thread SSL *made_last;

static void made(void *parent, void *pointer, void *data, int index, long number, void *argument)
{
    if (is_watching) {
        made_last = parent;
        made_count++;
    }
}

typedef struct {
    PyObject_HEAD
    PyObject *session; /* Python's, which keeps OpenSSL's */
    SSL *ssl;
    BIO *wire; /* from which the session reads, since the first call; NULL before */
    BIO *before; /* from which it read before, as long as that has something left */
    const uint8_t *at, *end; /* of the wire, during a call */
    int is_busy;
} unsealer_t;

/* --- What OpenSSL reads from ------------------------------------------------------------------------------------------------ */

static int wire_read(BIO *bio, char *to, int size)
{
    unsealer_t *one = openssl.BIO_get_data(bio);
    openssl.BIO_clear_flags(bio, BIO_FLAGS_RETRY);
    if (one != NULL && size > 0) {
        if (one->before != NULL) {
            int count = openssl.BIO_read(one->before, to, size);
            if (count > 0)
                return count;
            openssl.BIO_free(one->before);
            one->before = NULL;
        }
        Py_ssize_t left = one->end - one->at;
        if (left > 0) {
            size = size < left ? size : (int)left;
            memcpy(to, one->at, size);
            one->at += size;
            return size;
        }
    }
    openssl.BIO_set_flags(bio, BIO_FLAGS_READ | BIO_FLAGS_SHOULD_RETRY);
    return -1;
}

static long wire_ctrl(BIO *bio, int what, long number, void *pointer)
{
    return 0; /* nothing is flushed, no end comes, and the kernel does not decrypt */
}

/* Have the session read from here; 0 if there is no memory. */
static int take_over(unsealer_t *one)
{
    BIO *wire = openssl.BIO_new(wire_method), *before = openssl.SSL_get_rbio(one->ssl);
    if (wire == NULL)
        return 0;
    if (before != NULL && openssl.BIO_up_ref(before))
        one->before = before;
    openssl.BIO_set_data(wire, one);
    openssl.BIO_set_init(wire, 1);
    openssl.BIO_up_ref(wire);
    openssl.SSL_set0_rbio(one->ssl, wire);
    one->wire = wire;
    return 1;
}

/* --- Reading ---------------------------------------------------------------------------------------------------------------- */

/* Where the last whole record ends; the end of it all, if that cannot be TLS. */
static const uint8_t *whole(const uint8_t *at, const uint8_t *end)
{
    while (end - at >= HEAD_BYTES) {
        Py_ssize_t size = HEAD_BYTES + (at[3] << 8) + at[4];
        if (at[1] != VERSION_MAJOR || size > RECORD_BYTES_MAX)
            return end;
        if (size > end - at)
            break;
        at += size;
    }
    return at;
}

/* Fill the room; why it ended, by OpenSSL's numbers, and how many bytes were read. */
static int read_all(SSL *ssl, char *room, size_t left, size_t *size)
{
    size_t count;
    openssl.ERR_clear_error(); /* else OpenSSL takes others' errors for its own */
    long mode = openssl.SSL_ctrl(ssl, CTRL_MODE, 0, NULL) & MODE_RELEASE_BUFFERS;
    openssl.SSL_ctrl(ssl, CTRL_CLEAR_MODE, mode, NULL);
    int outcome = ERROR_NONE;
    while (left > 0) {
        if (openssl.SSL_read_ex(ssl, room, left, &count) <= 0) {
            outcome = openssl.SSL_get_error(ssl, 0);
            break;
        }
        room += count;
        left -= count;
        *size += count;
    }
    openssl.SSL_ctrl(ssl, CTRL_MODE, mode, NULL);
    if (mode && outcome == ERROR_WANT_READ) /* there is nothing to read: so OpenSSL gives its buffer back */
        openssl.SSL_read_ex(ssl, room, left, &count);
    return outcome;
}

/* Raise what OpenSSL says of its failure. */
static void *fail(int outcome)
{
    unsigned long code = openssl.ERR_peek_last_error();
    const char *reason = code ? openssl.ERR_reason_error_string(code) : NULL;
    PyObject *said = PyUnicode_FromString(reason == NULL ? "the session is broken" : reason);
    PyObject *error = said == NULL ? NULL : PyObject_CallFunction(SSLError, "iO", outcome, said);
    openssl.ERR_clear_error();
    if (error != NULL && !PyObject_SetAttrString(error, "reason", said)) /* as Python's own has it */
        PyErr_SetObject(SSLError, error);
    Py_XDECREF(error);
    Py_XDECREF(said);
    return NULL;
}

/* Read from the wire into the room; a tuple, NULL after an exception. */
static PyObject *read_from(unsealer_t *one, const Py_buffer *room, const Py_buffer *wire, Py_ssize_t at)
{
    if (at < 0 || at > wire->len)
        return PyErr_Format(PyExc_ValueError, "byte %zd of a wire of %zd", at, wire->len);
    if (one->is_busy)
        return PyErr_Format(PyExc_RuntimeError, "another thread reads from this session");
    if (one->wire == NULL && !take_over(one))
        return PyErr_NoMemory();
    const uint8_t *start = wire->buf;
    size_t size = 0;
    one->is_busy = 1;
    one->at = start + at;
    one->end = whole(one->at, start + wire->len);
    PyThreadState *state = one->end - one->at > LOCK_BYTES_MAX ? PyEval_SaveThread() : NULL;
    int outcome = read_all(one->ssl, room->buf, room->len, &size);
    if (state != NULL)
        PyEval_RestoreThread(state);
    at = one->at - start;
    one->at = one->end = NULL;
    one->is_busy = 0;
    if (outcome != ERROR_NONE && outcome != ERROR_WANT_READ && outcome != ERROR_ZERO_RETURN)
        return fail(outcome);
    PyObject *more = outcome == ERROR_NONE ? Py_True : Py_False, *goodbye = outcome == ERROR_ZERO_RETURN ? Py_True : Py_False;
    return Py_BuildValue("nnOO", (Py_ssize_t)size, at, more, goodbye);
}

/* unseal(room, wire, at): see unsealing.py. */
static PyObject *unseal(PyObject *self, PyObject *const *args, Py_ssize_t given)
{
    if (given != 3)
        return PyErr_Format(PyExc_TypeError, "unseal takes 3 arguments, not %zd", given);
    Py_buffer room, wire;
    Py_ssize_t at = PyLong_AsSsize_t(args[2]);
    if (at == -1 && PyErr_Occurred())
        return NULL;
    if (PyObject_GetBuffer(args[0], &room, PyBUF_WRITABLE))
        return NULL;
    if (PyObject_GetBuffer(args[1], &wire, PyBUF_SIMPLE)) {
        PyBuffer_Release(&room);
        return NULL;
    }
    PyObject *outcome = read_from((unsealer_t *)self, &room, &wire, at);
    PyBuffer_Release(&wire);
    PyBuffer_Release(&room);
    return outcome;
}

static void unsealer_free(PyObject *self)
{
    unsealer_t *one = (unsealer_t *)self;
    if (one->wire != NULL) {
        openssl.BIO_set_data(one->wire, NULL); /* the session may live on */
        openssl.BIO_free(one->wire);
    }
    if (one->before != NULL)
        openssl.BIO_free(one->before);
    Py_DECREF(one->session);
    PyObject_Free(self);
}

static PyMethodDef methods[] = {
    {"unseal", (PyCFunction)(void (*)(void))unseal, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static PyTypeObject Unsealer = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "gateway.network._unsealing.Unsealer",
    .tp_basicsize = sizeof(unsealer_t),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_dealloc = unsealer_free,
    .tp_methods = methods,
};

/* --- Making ----------------------------------------------------------------------------------------------------------------- */

/* wrap(make): see unsealing.py. */
static PyObject *wrap(PyObject *module, PyObject *make)
{
    is_watching = 1;
    made_count = 0;
    PyObject *session = PyObject_CallNoArgs(make);
    is_watching = 0;
    if (session == NULL)
        return NULL;
    if (made_count != 1)
        return Py_BuildValue("NO", session, Py_None);
    unsealer_t *one = PyObject_New(unsealer_t, &Unsealer);
    if (one == NULL) {
        Py_DECREF(session);
        return NULL;
    }
    one->session = Py_NewRef(session);
    one->ssl = made_last;
    one->wire = one->before = NULL;
    one->at = one->end = NULL;
    one->is_busy = 0;
    return Py_BuildValue("NN", session, one);
}

/* The file of Python's module; NULL if that is a part of the interpreter. A new reference to its name is in `held`. */
static const char *file_of_ssl(PyObject **held)
{
    PyObject *module = PyImport_ImportModule("_ssl");
    if (module == NULL)
        return NULL;
    SSLError = PyObject_GetAttrString(module, "SSLError");
    *held = PyObject_GetAttrString(module, "__file__");
    Py_DECREF(module);
    if (*held != NULL)
        return PyUnicode_AsUTF8(*held);
    if (SSLError != NULL)
        PyErr_Clear();
    return NULL;
}

/* Find OpenSSL's functions; 0 after an exception. */
static int found(void)
{
    PyObject *held = NULL;
    const char *file = file_of_ssl(&held);
    if (PyErr_Occurred()) {
        Py_XDECREF(held);
        return 0;
    }
    void *library = dlopen(file, RTLD_LAZY | (file == NULL ? 0 : RTLD_NOLOAD));
    Py_XDECREF(held);
    const char *missing = library == NULL ? "OpenSSL" : NULL;
    void *function = NULL;
#define FIND(result, name, arguments) \
    if (library != NULL && (function = dlsym(library, #name)) == NULL) \
        missing = #name; \
    memcpy(&openssl.name, &function, sizeof function);
    FUNCTIONS(FIND)
    if (missing != NULL)
        PyErr_Format(PyExc_ImportError, "%s is not found beside Python's ssl", missing);
    return missing == NULL;
}

static PyMethodDef functions[] = {
    {"wrap", wrap, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_unsealing", NULL, -1, functions, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__unsealing(void)
{
    if (PyType_Ready(&Unsealer) || !found())
        return NULL;
    wire_method = openssl.BIO_meth_new(BIO_TYPE_SOURCE_SINK, "a gateway's wire");
    if (wire_method == NULL)
        return PyErr_NoMemory();
    openssl.BIO_meth_set_read(wire_method, wire_read);
    openssl.BIO_meth_set_ctrl(wire_method, wire_ctrl);
    if (openssl.CRYPTO_get_ex_new_index(EX_INDEX_SSL, 0, NULL, made, NULL, NULL) < 0)
        return PyErr_NoMemory();
    return PyModule_Create(&definition);
}

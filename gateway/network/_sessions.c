/* Reading all that a session of Python's ssl can decrypt, and sealing what it is to send, by OpenSSL's own functions and without
 * the interpreter's lock.
 *
 * Python shows nobody the session of OpenSSL that is below its own. But OpenSSL tells whoever has asked for a place in each of its
 * sessions (CRYPTO_get_ex_new_index) of every session that is made: the one that is made within `wrap` is the one.
 *
 * Four things make a record cheap here: no call of Python's; one buffer of OpenSSL's for all of them, which Python's setting
 * (SSL_MODE_RELEASE_BUFFERS) has OpenSSL ask for and give back for each; no buffer between the wire and OpenSSL; and one reading
 * of the wire for a record, where OpenSSL asks for its head and its content one by one if it may not read ahead. It is never
 * given more than one record, so that it has nothing to move.
 *
 * Invariants: OpenSSL sees whole records only, and nothing of the wire after `unseal` has returned. What it cannot make out at
 * the head of a record it sees at once, as it knows what to say. Between two calls it holds no buffer, unless the room ended
 * within a record. One thread at a time is in a session: who comes second gets an exception. OpenSSL reads on behind a record
 * without data, which may cost it fifty times what others do, such as a change of keys: one call looks at IDLE_MAX of them. */

#include "_openssl.h"

#define HEAD_BYTES 5 /* of a record: type, version, length */
#define RECORD_CONTENT_BYTES 16384
#define OVERHEAD_BYTES 400 /* of a record, and of a change of keys that leaves before one: there is hardly ever more */
#define RECORD_BYTES_MAX (HEAD_BYTES + 16384 + 2048)
#define VERSION_MAJOR 3 /* of every version of TLS */
#define IDLE_MAX 32 /* records without data that one call looks at: a millisecond of changes of keys */
#define LOCK_BYTES_MAX 4096 /* up to so many are decrypted with the lock, which takes less than to let go of it */

static BIO_METHOD *wire_method, *out_method;

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
    BIO *records; /* to which it writes while answers are sealed; NULL before the first one */
    /* During a call: */
    const uint8_t *at, *end; /* of the wire */
    int idle; /* records that brought no data, before the last one that did */
    int given; /* records that OpenSSL was given since then */
    int is_held; /* there were too many of them */
    PyObject *sealed; /* the bytes object that records go to: here, and so much of it is left */
    uint8_t *out;
    size_t out_room;
    PyThreadState *state; /* NULL if the interpreter's lock is held */
    int is_busy;
} session_t;

/* --- What OpenSSL reads from ------------------------------------------------------------------------------------------------ */

/* The size of the record of which at least the head is there. */
static Py_ssize_t record_size(const uint8_t *at)
{
    return HEAD_BYTES + (at[3] << 8) + at[4];
}

/* The next record of what came with the handshake; 0 if there is none. */
static int read_before(BIO *before, char *to, int size)
{
    if (size <= HEAD_BYTES)
        return openssl.BIO_read(before, to, size);
    int count = openssl.BIO_read(before, to, HEAD_BYTES);
    if (count < HEAD_BYTES)
        return count;
    Py_ssize_t left = record_size((uint8_t *)to) - HEAD_BYTES;
    int more = openssl.BIO_read(before, to + HEAD_BYTES, left < size - HEAD_BYTES ? (int)left : size - HEAD_BYTES);
    return more > 0 ? count + more : count;
}

/* The next record: as much of it as there is, and as has room. 0 if there is none. */
static int read_record(session_t *one, char *to, int size)
{
    if (one->before != NULL) {
        int count = read_before(one->before, to, size);
        if (count > 0)
            return count;
        openssl.BIO_free(one->before);
        one->before = NULL;
    }
    Py_ssize_t left = one->end - one->at;
    if (left >= HEAD_BYTES && left > record_size(one->at))
        left = record_size(one->at);
    if (left > size)
        left = size;
    if (left <= 0)
        return 0;
    memcpy(to, one->at, left);
    one->at += left;
    return (int)left;
}

static int wire_read(BIO *bio, char *to, int size)
{
    session_t *one = openssl.BIO_get_data(bio);
    openssl.BIO_clear_flags(bio, BIO_FLAGS_RETRY);
    if (one != NULL && size > 0) {
        one->is_held = one->idle + one->given >= IDLE_MAX;
        int count = one->is_held ? 0 : read_record(one, to, size);
        if (count > 0) {
            one->given++;
            return count;
        }
    }
    openssl.BIO_set_flags(bio, BIO_FLAGS_READ | BIO_FLAGS_SHOULD_RETRY);
    return -1;
}

static long wire_ctrl(BIO *bio, int what, long number, void *pointer)
{
    return 0; /* nothing is flushed, no end comes, and the kernel does not decrypt */
}

/* Room for one more record: a client may have asked for small ones (RFC 6066, section 4), and OpenSSL's configuration for
 * padding. 0 after an exception. */
static int make_room(session_t *one, size_t size)
{
    if (one->sealed == NULL)
        return 0;
    if (one->state != NULL)
        PyEval_RestoreThread(one->state);
    Py_ssize_t used = PyBytes_GET_SIZE(one->sealed) - one->out_room;
    int is_made = _PyBytes_Resize(&one->sealed, used + used / 2 + size) == 0;
    one->out = is_made ? (uint8_t *)PyBytes_AS_STRING(one->sealed) + used : NULL;
    one->out_room = is_made ? used / 2 + size : 0;
    if (one->state != NULL)
        one->state = PyEval_SaveThread();
    return is_made;
}

static int out_write(BIO *bio, const char *from, int size)
{
    session_t *one = openssl.BIO_get_data(bio);
    if (size <= 0 || ((size_t)size > one->out_room && !make_room(one, size)))
        return -1;
    memcpy(one->out, from, size);
    one->out += size;
    one->out_room -= size;
    return size;
}

static long out_ctrl(BIO *bio, int what, long number, void *pointer)
{
    return what == CTRL_FLUSH; /* which a change of keys asks for */
}

/* Have the session read from here; 0 if there is no memory. */
static int take_over(session_t *one)
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
    openssl.SSL_set_read_ahead(one->ssl, 1);
    one->wire = wire;
    return 1;
}

/* --- Reading ---------------------------------------------------------------------------------------------------------------- */

/* Where the last whole record ends; the end of it all, if that cannot be TLS. */
static const uint8_t *whole(const uint8_t *at, const uint8_t *end)
{
    while (end - at >= HEAD_BYTES) {
        Py_ssize_t size = record_size(at);
        if (at[1] != VERSION_MAJOR || size > RECORD_BYTES_MAX)
            return end;
        if (size > end - at)
            break;
        at += size;
    }
    return at;
}

/* Fill the room; why it ended, by OpenSSL's numbers, and how many bytes were read. */
static int read_all(session_t *one, char *room, size_t left, size_t *size)
{
    SSL *ssl = one->ssl;
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
        if (one->given > 0) { /* else it is more of a record that had no room before */
            one->idle += one->given - 1;
            one->given = 0;
        }
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
static PyObject *read_from(session_t *one, const Py_buffer *room, const Py_buffer *wire, Py_ssize_t at)
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
    one->idle = one->given = one->is_held = 0;
    one->at = start + at;
    one->end = whole(one->at, start + wire->len);
    PyThreadState *state = one->end - one->at > LOCK_BYTES_MAX ? PyEval_SaveThread() : NULL;
    int outcome = read_all(one, room->buf, room->len, &size);
    if (state != NULL)
        PyEval_RestoreThread(state);
    at = one->at - start;
    one->at = one->end = NULL;
    one->is_busy = 0;
    if (outcome != ERROR_NONE && outcome != ERROR_WANT_READ && outcome != ERROR_ZERO_RETURN)
        return fail(outcome);
    PyObject *more = outcome == ERROR_NONE || (outcome == ERROR_WANT_READ && one->is_held) ? Py_True : Py_False;
    PyObject *goodbye = outcome == ERROR_ZERO_RETURN ? Py_True : Py_False;
    return Py_BuildValue("nnOOi", (Py_ssize_t)size, at, more, goodbye, one->idle + one->given);
}

/* unseal(room, wire, at): see sessions.py. */
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
    PyObject *outcome = read_from((session_t *)self, &room, &wire, at);
    PyBuffer_Release(&wire);
    PyBuffer_Release(&room);
    return outcome;
}

/* --- Writing ---------------------------------------------------------------------------------------------------------------- */

/* Seal the parts in records that are full, but for the last one; 1 if all are sealed. OpenSSL keeps its buffer until then. */
static int seal_all(session_t *one, const Py_buffer *parts, Py_ssize_t count, size_t total)
{
    SSL *ssl = one->ssl;
    char stage[RECORD_CONTENT_BYTES];
    size_t staged = 0, done;
    if (total == 0)
        return 1;
    openssl.ERR_clear_error();
    long mode = openssl.SSL_ctrl(ssl, CTRL_MODE, 0, NULL) & MODE_RELEASE_BUFFERS;
    openssl.SSL_ctrl(ssl, CTRL_CLEAR_MODE, mode, NULL);
    for (Py_ssize_t number = 0; number < count; number++) {
        const char *at = parts[number].buf;
        size_t left = parts[number].len;
        while (left > 0) {
            const char *from = at;
            size_t size = left < RECORD_CONTENT_BYTES - staged ? left : RECORD_CONTENT_BYTES - staged;
            at += size;
            left -= size;
            if (size < RECORD_CONTENT_BYTES) { /* it shares a record */
                memcpy(stage + staged, from, size);
                staged += size;
                if (staged < RECORD_CONTENT_BYTES && staged < total)
                    continue;
                from = stage;
                size = staged;
                staged = 0;
            }
            total -= size;
            if (total == 0)
                openssl.SSL_ctrl(ssl, CTRL_MODE, mode, NULL);
            if (openssl.SSL_write_ex(ssl, from, size, &done) <= 0 || done != size) {
                openssl.SSL_ctrl(ssl, CTRL_MODE, mode, NULL);
                return 0;
            }
        }
    }
    return 1;
}

/* Seal the parts; the records, NULL after an exception. */
static PyObject *sealed(session_t *one, const Py_buffer *parts, Py_ssize_t count)
{
    size_t total = 0;
    for (Py_ssize_t number = 0; number < count; number++)
        total += parts[number].len;
    if (one->is_busy)
        return PyErr_Format(PyExc_RuntimeError, "another thread works in this session");
    size_t room = total + (total / RECORD_CONTENT_BYTES + 2) * OVERHEAD_BYTES;
    BIO *former = openssl.SSL_get_wbio(one->ssl);
    if (one->records == NULL && (one->records = openssl.BIO_new(out_method)) != NULL) {
        openssl.BIO_set_data(one->records, one);
        openssl.BIO_set_init(one->records, 1);
    }
    if (one->records == NULL || former == NULL)
        return PyErr_NoMemory();
    if ((one->sealed = PyBytes_FromStringAndSize(NULL, room)) == NULL)
        return NULL;
    openssl.BIO_up_ref(former);
    openssl.BIO_up_ref(one->records);
    openssl.SSL_set0_wbio(one->ssl, one->records);
    one->is_busy = 1;
    one->out = (uint8_t *)PyBytes_AS_STRING(one->sealed);
    one->out_room = room;
    one->state = total > LOCK_BYTES_MAX ? PyEval_SaveThread() : NULL;
    int is_done = seal_all(one, parts, count, total);
    if (one->state != NULL)
        PyEval_RestoreThread(one->state);
    PyObject *records = one->sealed;
    size_t left = one->out_room;
    one->sealed = NULL;
    one->out = NULL;
    one->out_room = 0;
    one->state = NULL;
    one->is_busy = 0;
    openssl.SSL_set0_wbio(one->ssl, former);
    if (!is_done) {
        Py_XDECREF(records);
        if (!PyErr_Occurred())
            return fail(ERROR_SSL);
        openssl.ERR_clear_error();
        return NULL;
    }
    _PyBytes_Resize(&records, PyBytes_GET_SIZE(records) - left);
    return records;
}

/* seal(parts): see sessions.py. */
static PyObject *seal(PyObject *self, PyObject *given)
{
    PyObject *list = PySequence_Fast(given, "parts must be a sequence");
    if (list == NULL)
        return NULL;
    Py_ssize_t count = PySequence_Fast_GET_SIZE(list), had = 0;
    Py_buffer *parts = PyMem_New(Py_buffer, count + 1);
    PyObject *records = NULL;
    if (parts == NULL)
        PyErr_NoMemory();
    else {
        while (had < count && PyObject_GetBuffer(PySequence_Fast_GET_ITEM(list, had), &parts[had], PyBUF_SIMPLE) == 0)
            had++;
        if (had == count)
            records = sealed((session_t *)self, parts, count);
        while (had > 0)
            PyBuffer_Release(&parts[--had]);
        PyMem_Free(parts);
    }
    Py_DECREF(list);
    return records;
}

static void session_free(PyObject *self)
{
    session_t *one = (session_t *)self;
    if (one->wire != NULL) {
        openssl.BIO_set_data(one->wire, NULL); /* the session may live on */
        openssl.BIO_free(one->wire);
    }
    if (one->before != NULL)
        openssl.BIO_free(one->before);
    if (one->records != NULL)
        openssl.BIO_free(one->records); /* the session has it during a call only */
    Py_DECREF(one->session);
    PyObject_Free(self);
}

static PyMethodDef methods[] = {
    {"unseal", (PyCFunction)(void (*)(void))unseal, METH_FASTCALL, NULL},
    {"seal", seal, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyTypeObject Session = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "gateway.network._sessions.Session",
    .tp_basicsize = sizeof(session_t),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_dealloc = session_free,
    .tp_methods = methods,
};

/* --- Making ----------------------------------------------------------------------------------------------------------------- */

/* wrap(make): see sessions.py. */
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
    session_t *one = PyObject_New(session_t, &Session);
    if (one == NULL) {
        Py_DECREF(session);
        return NULL;
    }
    one->session = Py_NewRef(session);
    one->ssl = made_last;
    one->wire = one->before = one->records = NULL;
    one->sealed = NULL;
    one->state = NULL;
    one->at = one->end = one->out = NULL;
    one->out_room = 0;
    one->idle = one->given = one->is_held = one->is_busy = 0;
    return Py_BuildValue("NN", session, one);
}

static PyMethodDef functions[] = {
    {"wrap", wrap, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_sessions", NULL, -1, functions, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__sessions(void)
{
    if (PyType_Ready(&Session) || !found())
        return NULL;
    wire_method = openssl.BIO_meth_new(BIO_TYPE_SOURCE_SINK, "a gateway's wire");
    if (wire_method == NULL)
        return PyErr_NoMemory();
    openssl.BIO_meth_set_read(wire_method, wire_read);
    openssl.BIO_meth_set_ctrl(wire_method, wire_ctrl);
    out_method = openssl.BIO_meth_new(BIO_TYPE_SOURCE_SINK, "a gateway's records");
    if (out_method == NULL)
        return PyErr_NoMemory();
    openssl.BIO_meth_set_write(out_method, out_write);
    openssl.BIO_meth_set_ctrl(out_method, out_ctrl);
    if (openssl.CRYPTO_get_ex_new_index(EX_INDEX_SSL, 0, NULL, made, NULL, NULL) < 0)
        return PyErr_NoMemory();
    return PyModule_Create(&definition);
}

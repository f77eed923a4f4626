/* OpenSSL's functions, as the library has them that Python's ssl has loaded. For one file to include.
 *
 * They are found by their names, and are those of every version since 1.1.1: nothing is linked, no header of OpenSSL's is needed, and
 * no other version can be meant. Where OpenSSL is a part of the interpreter, and so has no names, `found` fails: see sessions.py. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <dlfcn.h>
#include <stdint.h>

typedef struct ssl_st SSL;
typedef struct bio_st BIO;
typedef struct bio_method_st BIO_METHOD;
typedef int bio_read_t(BIO *, char *, int);
typedef int bio_write_t(BIO *, const char *, int);
typedef long bio_ctrl_t(BIO *, int, long, void *);
typedef void made_t(void *, void *, void *, int, long, void *);

/* Numbers of OpenSSL's interface. */
enum {
    EX_INDEX_SSL = 0,
    ERROR_NONE = 0,
    ERROR_SSL = 1,
    ERROR_WANT_READ = 2,
    ERROR_ZERO_RETURN = 6,
    CTRL_FLUSH = 11, /* of a BIO */
    CTRL_MODE = 33, /* of a session, as the next */
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
    one(int, BIO_meth_set_write, (BIO_METHOD *, bio_write_t *)) \
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
    one(BIO *, SSL_get_wbio, (const SSL *)) \
    one(void, SSL_set0_rbio, (SSL *, BIO *)) \
    one(void, SSL_set0_wbio, (SSL *, BIO *)) \
    one(void, SSL_set_read_ahead, (SSL *, int)) \
    one(long, SSL_ctrl, (SSL *, int, long, void *)) \
    one(int, SSL_read_ex, (SSL *, void *, size_t, size_t *)) \
    one(int, SSL_write_ex, (SSL *, const void *, size_t, size_t *)) \
    one(int, SSL_get_error, (const SSL *, int))

#define MEMBER(result, name, arguments) result(*name) arguments;
static struct {
    FUNCTIONS(MEMBER)
} openssl;

static PyObject *SSLError; /* Python's */

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

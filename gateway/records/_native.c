/* The records of a batch, walked at the machine's speed. Optional: `gateway.records.record_check` and
 * `gateway.records.key_table` do the same in Python, and say what is right; tests hold this file against them.
 *
 *     record = length, attributes, timestamp delta, offset delta, key, value, headers
 *
 * Invariants:
 * - No byte outside of a buffer is read, whatever the bytes say: each position is compared with its end before the read.
 *   Positions and lengths are of 64 bits and lengths of at most 35, so that no sum of them wraps.
 * - No memory is taken for what is merely claimed: output is measured in a first pass, and is never larger than that.
 * - Bytes that are at fault raise `Fault(kind, place, a, b)`; the caller has the words for it.
 * - From GIL_HELD_BYTES_MAX on, the interpreter lock is free during the walk. Up to there, freeing it may cost more than
 *   the walk: taking it back waits for other threads. `are_as_claimed`, called on the event loop, always holds it.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define VERSION 1 /* of the functions below; Python refuses another one, which an old build would have */

#define HEADER_BYTES 61
#define SMALLEST_RECORD_BYTES 7
#define VARINT_BYTES_MAX 5
#define VARLONG_BYTES_MAX 10
#define HEADERS_MAX 1000000
#define HEADER_FIELD_BYTES_MIN 2
#define PLACES_MAX 100
#define GIL_HELD_BYTES_MAX 65536

/* The order is that of `_FAULTS` in gateway/records/native_walk.py. */
enum { FINE, CUT_SHORT, BAD_VARINT, BAD_LENGTH, BAD_KEY, BAD_VALUE, NOT_AS_LONG, BYTES_FOLLOW, MANY_HEADERS,
       BAD_HEADER_COUNT, NO_HEADER_KEY, BAD_HEADER_VALUE, BAD_OFFSET, TOO_FAR, BAD_FIELD };

typedef struct {
    int kind;
    int64_t place, a, b;
} fault_t;

typedef struct {
    const uint8_t *b;
    int64_t end;
} bytes_t;

static PyObject *Fault;

static int fail(fault_t *fault, int kind, int64_t a, int64_t b)
{
    fault->kind = kind;
    fault->a = a;
    fault->b = b;
    return -1;
}

static PyObject *raise_fault(const fault_t *fault)
{
    PyObject *args = Py_BuildValue("(iLLL)", fault->kind, (long long)fault->place, (long long)fault->a,
                                   (long long)fault->b);
    if (args != NULL) {
        PyErr_SetObject(Fault, args);
        Py_DECREF(args);
    }
    return NULL;
}

/* Numbers */

static int64_t zigzag(uint64_t value)
{
    return (int64_t)(value >> 1) ^ -(int64_t)(value & 1);
}

/* A varint that begins at *p and lies before `end`, which is within the buffer; it has at most `bytes_max` bytes. A number
 * of more than 64 bits sets `too_far`. */
static inline int read_number(const uint8_t *b, int64_t *p, int64_t end, int bytes_max, int64_t *number, bool *too_far,
                       fault_t *fault)
{
    uint64_t value = 0;
    int64_t at = *p;
    for (int n = 0; n < bytes_max && at < end; n++) {
        uint8_t byte = b[at++];
        if (n == VARLONG_BYTES_MAX - 1 && (byte & 0x7e))
            *too_far = true;
        value |= (uint64_t)(byte & 127) << (7 * n);
        if (byte < 128) {
            *number = zigzag(value);
            *p = at;
            return 0;
        }
    }
    return fail(fault, BAD_VARINT, 0, 0);
}

static inline int read_varint(const uint8_t *b, int64_t *p, int64_t end, int64_t *number, fault_t *fault)
{
    bool too_far = false; /* 35 bits never are */
    return read_number(b, p, end, VARINT_BYTES_MAX, number, &too_far, fault);
}

/* As `_read_front` reads a field: one byte may lie behind its record, which is found at the record's end; more may not. */
static inline int read_field(bytes_t content, int64_t *p, int64_t stop, int bytes_max, int64_t *number, bool *too_far,
                      fault_t *fault)
{
    if (*p >= content.end)
        return fail(fault, CUT_SHORT, 0, 0);
    uint8_t byte = content.b[*p];
    if (byte < 128) {
        *number = zigzag(byte);
        *p += 1;
        return 0;
    }
    return read_number(content.b, p, stop, bytes_max, number, too_far, fault);
}

static int varint_size(int64_t number)
{
    uint64_t value = ((uint64_t)number << 1) ^ (uint64_t)(number >> 63);
    int size = 1;
    while (value > 127) {
        value >>= 7;
        size++;
    }
    return size;
}

static uint8_t *write_varint(uint8_t *out, int64_t number)
{
    uint64_t value = ((uint64_t)number << 1) ^ (uint64_t)(number >> 63);
    while (value > 127) {
        *out++ = (uint8_t)(value | 128);
        value >>= 7;
    }
    *out++ = (uint8_t)value;
    return out;
}

/* A client's records, checked before they are stored */

typedef struct {
    int64_t p, stop, timestamp, offset, key;
    bool too_far;
} front_t;

static inline int read_front(bytes_t content, int64_t p, front_t *front, fault_t *fault)
{
    int64_t length;
    bool small;
    if (read_field(content, &p, content.end, VARINT_BYTES_MAX, &length, &small, fault))
        return -1;
    int64_t stop = p + length;
    if (length < SMALLEST_RECORD_BYTES - 1 || stop > content.end)
        return fail(fault, BAD_LENGTH, length, content.end - p);
    p++; /* attributes, of which none are defined */
    front->too_far = false;
    if (read_field(content, &p, stop, VARLONG_BYTES_MAX, &front->timestamp, &front->too_far, fault) ||
        read_field(content, &p, stop, VARINT_BYTES_MAX, &front->offset, &small, fault) ||
        read_field(content, &p, stop, VARINT_BYTES_MAX, &front->key, &small, fault))
        return -1;
    front->p = p;
    front->stop = stop;
    return 0;
}

static int check_headers(const uint8_t *b, int64_t *p, int64_t stop, int64_t count, int64_t left, fault_t *fault)
{
    if (left < 0)
        return fail(fault, MANY_HEADERS, 0, 0);
    if (count < 0 || count * HEADER_FIELD_BYTES_MIN > stop - *p)
        return fail(fault, BAD_HEADER_COUNT, count, stop - *p);
    for (int64_t n = 0; n < count; n++) {
        int64_t length;
        if (read_varint(b, p, stop, &length, fault))
            return -1;
        if (length < 0)
            return fail(fault, NO_HEADER_KEY, 0, 0);
        *p += length;
        if (read_varint(b, p, stop, &length, fault))
            return -1;
        if (length < -1)
            return fail(fault, BAD_HEADER_VALUE, length, 0);
        if (length > 0)
            *p += length;
    }
    return 0;
}

typedef struct {
    int64_t low, high, exempt; /* deltas of timestamps: outside of these a record is untimely, unless it is exempt */
    int64_t newest;
    bool are_numbered;
    int untimely_count, keyless_count;
    int64_t untimely[PLACES_MAX], keyless[PLACES_MAX];
} facts_t;

static int check_all(bytes_t content, int64_t count, facts_t *facts, fault_t *fault)
{
    int64_t position = 0, headers_left = HEADERS_MAX, newest = INT64_MIN, misnumbered = 0;
    facts->untimely_count = facts->keyless_count = 0;
    for (int64_t place = 0; place < count; place++) {
        front_t front;
        fault->place = place;
        if (read_front(content, position, &front, fault))
            return -1;
        int64_t p = front.p, number;
        bool small;
        if (front.too_far)
            return fail(fault, CUT_SHORT, 0, 0);
        misnumbered |= front.offset ^ place;
        if (front.timestamp > newest)
            newest = front.timestamp;
        if ((front.timestamp < facts->low || front.timestamp > facts->high) && front.timestamp != facts->exempt &&
            facts->untimely_count < PLACES_MAX)
            facts->untimely[facts->untimely_count++] = place;
        if (front.key >= 0)
            p += front.key;
        else if (front.key < -1)
            return fail(fault, BAD_KEY, front.key, 0);
        else if (facts->keyless_count < PLACES_MAX)
            facts->keyless[facts->keyless_count++] = place;
        if (read_field(content, &p, front.stop, VARINT_BYTES_MAX, &number, &small, fault))
            return -1;
        if (number > 0)
            p += number;
        else if (number < -1)
            return fail(fault, BAD_VALUE, number, 0);
        if (p >= content.end)
            return fail(fault, CUT_SHORT, 0, 0);
        if (content.b[p]) {
            if (read_varint(content.b, &p, front.stop, &number, fault))
                return -1;
            headers_left -= number;
            if (check_headers(content.b, &p, front.stop, number, headers_left, fault))
                return -1;
        } else
            p++;
        if (p != front.stop)
            return fail(fault, NOT_AS_LONG, 0, 0);
        position = front.stop;
    }
    if (position != content.end)
        return fail(fault, BYTES_FOLLOW, content.end - position, 0);
    facts->newest = newest;
    facts->are_numbered = !misnumbered;
    return 0;
}

/* Arguments */

static bool few(Py_ssize_t given, Py_ssize_t wanted)
{
    if (given == wanted)
        return false;
    PyErr_Format(PyExc_TypeError, "%zd arguments, not %zd", given, wanted);
    return true;
}

static bool number_of(PyObject *object, int64_t *number)
{
    long long value = PyLong_AsLongLong(object);
    *number = value;
    return !(value == -1 && PyErr_Occurred());
}

/* `from` bytes of the object are left out. The view is the caller's to release, if this returns true. */
static bool view_of(PyObject *object, int64_t from, Py_buffer *view, bytes_t *content)
{
    if (PyObject_GetBuffer(object, view, PyBUF_SIMPLE))
        return false;
    if (view->len < from) {
        PyBuffer_Release(view);
        PyErr_SetString(PyExc_ValueError, "bytes without a batch's header");
        return false;
    }
    content->b = (const uint8_t *)view->buf + from;
    content->end = view->len - from;
    return true;
}

#define FREE_LOCK_FOR(content, statement)        \
    do {                                         \
        if ((content).end > GIL_HELD_BYTES_MAX) { \
            Py_BEGIN_ALLOW_THREADS;              \
            statement;                           \
            Py_END_ALLOW_THREADS;                \
        } else {                                 \
            statement;                           \
        }                                        \
    } while (0)

static PyObject *places(const int64_t *found, int count)
{
    PyObject *list = PyList_New(count);
    for (int n = 0; list != NULL && n < count; n++) {
        PyObject *place = PyLong_FromLongLong(found[n]);
        if (place == NULL)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, n, place);
    }
    return list;
}

/* are_as_claimed(batch, count, newest_delta, with_keys) */
static PyObject *are_as_claimed(PyObject *module, PyObject *const *args, Py_ssize_t given)
{
    int64_t count, newest;
    Py_buffer view;
    bytes_t content;
    facts_t facts;
    fault_t fault = {0};
    if (few(given, 4) || !number_of(args[1], &count) || !number_of(args[2], &newest))
        return NULL;
    int with_keys = PyObject_IsTrue(args[3]);
    if (with_keys < 0 || !view_of(args[0], HEADER_BYTES, &view, &content))
        return NULL;
    facts.low = INT64_MIN;
    facts.high = INT64_MAX;
    facts.exempt = 0;
    bool are = count > 0 && !check_all(content, count, &facts, &fault) && facts.are_numbered &&
               facts.newest == newest && !(with_keys && facts.keyless_count);
    PyBuffer_Release(&view);
    return PyBool_FromLong(are);
}

/* check(content, count, low, high, exempt) -> (newest, untimely, keyless, are_numbered) */
static PyObject *check(PyObject *module, PyObject *const *args, Py_ssize_t given)
{
    int64_t count;
    Py_buffer view;
    bytes_t content;
    facts_t facts;
    fault_t fault = {0};
    int failed;
    if (few(given, 5) || !number_of(args[1], &count) || !number_of(args[2], &facts.low) ||
        !number_of(args[3], &facts.high) || !number_of(args[4], &facts.exempt) ||
        !view_of(args[0], 0, &view, &content))
        return NULL;
    FREE_LOCK_FOR(content, failed = check_all(content, count, &facts, &fault));
    PyBuffer_Release(&view);
    if (failed)
        return raise_fault(&fault);
    PyObject *untimely = places(facts.untimely, facts.untimely_count);
    PyObject *keyless = places(facts.keyless, facts.keyless_count);
    if (untimely == NULL || keyless == NULL) {
        Py_XDECREF(untimely);
        Py_XDECREF(keyless);
        return NULL;
    }
    return Py_BuildValue("(LNNO)", (long long)facts.newest, untimely, keyless, facts.are_numbered ? Py_True : Py_False);
}

/* Look-ups by time, in a stored batch: no more is read of a record than its front */

typedef struct {
    int64_t timestamp, offset;
    bool found;
} stamp_t;

static int look(bytes_t content, int64_t count, bool largest, int64_t timestamp_min, int64_t offset_min, stamp_t *stamp,
                fault_t *fault)
{
    int64_t position = 0;
    stamp->found = false;
    for (int64_t place = 0; place < count; place++) {
        front_t front;
        fault->place = place;
        if (read_front(content, position, &front, fault))
            return -1;
        if (front.too_far)
            return fail(fault, CUT_SHORT, 0, 0);
        position = front.stop;
        if (front.offset < offset_min || front.timestamp < timestamp_min || (stamp->found && front.timestamp <= stamp->timestamp))
            continue;
        stamp->timestamp = front.timestamp;
        stamp->offset = front.offset;
        stamp->found = true;
        if (!largest)
            return 0;
    }
    return 0;
}

/* look(content, count, largest, timestamp_min, offset_min) -> (timestamp delta, offset delta) | None */
static PyObject *look_up(PyObject *module, PyObject *const *args, Py_ssize_t given)
{
    int64_t count, timestamp_min, offset_min;
    Py_buffer view;
    bytes_t content;
    stamp_t stamp;
    fault_t fault = {0};
    int failed;
    if (few(given, 5) || !number_of(args[1], &count) || !number_of(args[3], &timestamp_min) ||
        !number_of(args[4], &offset_min))
        return NULL;
    int largest = PyObject_IsTrue(args[2]);
    if (largest < 0 || !view_of(args[0], 0, &view, &content))
        return NULL;
    FREE_LOCK_FOR(content, failed = look(content, count, largest, timestamp_min, offset_min, &stamp, &fault));
    PyBuffer_Release(&view);
    if (failed)
        return raise_fault(&fault);
    if (!stamp.found)
        Py_RETURN_NONE;
    return Py_BuildValue("(LL)", (long long)stamp.timestamp, (long long)stamp.offset);
}

/* Stored records, opened to be rewritten */

typedef struct {
    int64_t start, body, after_timestamp, after_offset, stop, timestamp, offset, key_at, key, value;
} stored_t;

/* The record at p; `offset_max` bounds its offset, `last` is the offset before it. */
static inline int read_stored(bytes_t content, int64_t p, int64_t last, int64_t offset_max, stored_t *record, fault_t *fault)
{
    int64_t length;
    bool too_far = false;
    record->start = p;
    if (read_varint(content.b, &p, content.end, &length, fault))
        return -1;
    int64_t stop = p + length;
    if (length < SMALLEST_RECORD_BYTES - 1 || stop > content.end)
        return fail(fault, BAD_LENGTH, length, content.end - p);
    record->body = p++;
    if (read_number(content.b, &p, stop, VARLONG_BYTES_MAX, &record->timestamp, &too_far, fault))
        return -1;
    record->after_timestamp = p;
    if (read_varint(content.b, &p, stop, &record->offset, fault))
        return -1;
    record->after_offset = p;
    if (too_far)
        return fail(fault, TOO_FAR, 0, 0);
    if (record->offset <= last || record->offset > offset_max)
        return fail(fault, BAD_OFFSET, record->offset, last);
    if (read_varint(content.b, &p, stop, &record->key, fault))
        return -1;
    if (record->key < -1 || record->key > stop - p)
        return fail(fault, BAD_FIELD, record->key, stop - p);
    record->key_at = p;
    if (record->key > 0)
        p += record->key;
    if (read_varint(content.b, &p, stop, &record->value, fault))
        return -1;
    if (record->value < -1 || record->value > stop - p)
        return fail(fault, BAD_FIELD, record->value, stop - p);
    record->stop = stop;
    return 0;
}

static int validate_stored(bytes_t content, int64_t count, int64_t offset_max, fault_t *fault)
{
    int64_t position = 0, last = -1;
    for (int64_t place = 0; place < count; place++) {
        stored_t record;
        fault->place = place;
        if (read_stored(content, position, last, offset_max, &record, fault))
            return -1;
        position = record.stop;
        last = record.offset;
    }
    if (position != content.end)
        return fail(fault, BYTES_FOLLOW, content.end - position, 0);
    return 0;
}

/* Each record with its place as its offset, or its timestamp moved by `shift`. Returns the size; writes if `out` is given,
 * at most `room` bytes. */
static int64_t rewrite(bytes_t content, int64_t count, bool number, int64_t shift, uint8_t *out, int64_t room,
                       fault_t *fault)
{
    int64_t position = 0, size = 0, last = -1, moved;
    for (int64_t place = 0; place < count; place++) {
        stored_t record;
        fault->place = place;
        if (read_stored(content, position, number ? INT64_MIN : last, INT64_MAX, &record, fault))
            return -1;
        last = record.offset;
        if (__builtin_add_overflow(record.timestamp, shift, &moved))
            return fail(fault, TOO_FAR, 0, 0);
        int64_t rest_at = number ? record.after_offset : record.after_timestamp;
        int64_t front = number ? record.after_timestamp - record.body + varint_size(place) : 1 + varint_size(moved);
        int64_t rest = record.stop - rest_at, length = front + rest;
        int64_t all = varint_size(length) + length;
        if (out != NULL) {
            if (all > room - size)
                return fail(fault, CUT_SHORT, 0, 0);
            out = write_varint(out, length);
            if (number) {
                memcpy(out, content.b + record.body, record.after_timestamp - record.body);
                out = write_varint(out + (record.after_timestamp - record.body), place);
            } else {
                *out++ = content.b[record.body];
                out = write_varint(out, moved);
            }
            memcpy(out, content.b + rest_at, rest);
            out += rest;
        }
        size += all;
        position = record.stop;
    }
    if (position != content.end)
        return fail(fault, BYTES_FOLLOW, content.end - position, 0);
    return size;
}

static PyObject *rewritten(PyObject *object, PyObject *count_object, bool number, int64_t shift)
{
    int64_t count, size, written = -1;
    Py_buffer view;
    bytes_t content;
    fault_t fault = {0};
    PyObject *out = NULL;
    if (!number_of(count_object, &count) || !view_of(object, 0, &view, &content))
        return NULL;
    FREE_LOCK_FOR(content, size = rewrite(content, count, number, shift, NULL, 0, &fault));
    if (size >= 0 && (out = PyByteArray_FromStringAndSize(NULL, size)) != NULL) {
        uint8_t *to = (uint8_t *)PyByteArray_AS_STRING(out);
        FREE_LOCK_FOR(content, written = rewrite(content, count, number, shift, to, size, &fault));
    }
    PyBuffer_Release(&view);
    if (size < 0 || (out != NULL && written != size)) {
        Py_XDECREF(out);
        return raise_fault(&fault);
    }
    return out;
}

/* numbered(content, count) */
static PyObject *numbered(PyObject *module, PyObject *const *args, Py_ssize_t given)
{
    return few(given, 2) ? NULL : rewritten(args[0], args[1], true, 0);
}

/* shifted(content, count, shift) */
static PyObject *shifted(PyObject *module, PyObject *const *args, Py_ssize_t given)
{
    int64_t shift;
    return few(given, 3) || !number_of(args[2], &shift) ? NULL : rewritten(args[0], args[1], false, shift);
}

/* Keys, known by SipHash-2-4 of 128 bits under a secret */

#define ROTATED(x, by) (((x) << (by)) | ((x) >> (64 - (by))))
#define SIP_ROUND()                                                                       \
    do {                                                                                  \
        v0 += v1; v1 = ROTATED(v1, 13); v1 ^= v0; v0 = ROTATED(v0, 32);                   \
        v2 += v3; v3 = ROTATED(v3, 16); v3 ^= v2;                                         \
        v0 += v3; v3 = ROTATED(v3, 21); v3 ^= v0;                                         \
        v2 += v1; v1 = ROTATED(v1, 17); v1 ^= v2; v2 = ROTATED(v2, 32);                   \
    } while (0)

static uint64_t little_endian(const uint8_t *b, int64_t size)
{
    uint64_t value = 0;
    for (int64_t n = 0; n < size; n++)
        value |= (uint64_t)b[n] << (8 * n);
    return value;
}

static void keyed_hash(const uint64_t secret[2], const uint8_t *b, int64_t size, uint64_t hash[2])
{
    uint64_t v0 = 0x736f6d6570736575 ^ secret[0], v1 = 0x646f72616e646f6d ^ secret[1] ^ 0xee;
    uint64_t v2 = 0x6c7967656e657261 ^ secret[0], v3 = 0x7465646279746573 ^ secret[1];
    int64_t whole = size & ~(int64_t)7;
    for (int64_t at = 0; at < whole; at += 8) {
        uint64_t word = little_endian(b + at, 8);
        v3 ^= word;
        SIP_ROUND(); SIP_ROUND();
        v0 ^= word;
    }
    uint64_t word = (uint64_t)size << 56 | little_endian(b + whole, size - whole);
    v3 ^= word;
    SIP_ROUND(); SIP_ROUND();
    v0 ^= word;
    v2 ^= 0xee;
    SIP_ROUND(); SIP_ROUND(); SIP_ROUND(); SIP_ROUND();
    hash[0] = v0 ^ v1 ^ v2 ^ v3;
    v1 ^= 0xdd;
    SIP_ROUND(); SIP_ROUND(); SIP_ROUND(); SIP_ROUND();
    hash[1] = v0 ^ v1 ^ v2 ^ v3;
}

static bool secret_of(PyObject *object, uint64_t secret[2])
{
    Py_buffer view;
    if (PyObject_GetBuffer(object, &view, PyBUF_SIMPLE))
        return false;
    bool fits = view.len == 16;
    if (fits) {
        secret[0] = little_endian(view.buf, 8);
        secret[1] = little_endian((const uint8_t *)view.buf + 8, 8);
    } else
        PyErr_SetString(PyExc_ValueError, "a secret has 16 bytes");
    PyBuffer_Release(&view);
    return fits;
}

/* hashed(secret, data): the hash, for tests */
static PyObject *hashed(PyObject *module, PyObject *const *args, Py_ssize_t given)
{
    uint64_t secret[2], hash[2];
    uint8_t out[16];
    Py_buffer view;
    bytes_t content;
    if (few(given, 2) || !secret_of(args[0], secret) || !view_of(args[1], 0, &view, &content))
        return NULL;
    keyed_hash(secret, content.b, content.end, hash);
    PyBuffer_Release(&view);
    for (int n = 0; n < 16; n++)
        out[n] = (uint8_t)(hash[n / 8] >> (8 * (n % 8)));
    return PyBytes_FromStringAndSize((const char *)out, 16);
}

/* The last offset of each key. Invariant: at least a quarter of the slots is empty. */

#define SLOTS_MIN 1024
#define EMPTY INT64_MIN

typedef struct {
    uint64_t hash[2];
    int64_t offset;
} slot_t;

typedef struct {
    PyObject_HEAD
    slot_t *slots;
    size_t mask, used;
    uint64_t secret[2];
} table_t;

static slot_t *new_slots(size_t count)
{
    slot_t *slots = PyMem_Malloc(count * sizeof(slot_t)); /* NULL if that wraps: count is at most 2^58 */
    for (size_t n = 0; slots != NULL && n < count; n++)
        slots[n].offset = EMPTY;
    return slots;
}

static slot_t *slot_for(slot_t *slots, size_t mask, const uint64_t hash[2])
{
    size_t n = (size_t)hash[0] & mask;
    while (slots[n].offset != EMPTY && (slots[n].hash[0] != hash[0] || slots[n].hash[1] != hash[1]))
        n = (n + 1) & mask;
    return &slots[n];
}

static bool grow(table_t *table)
{
    size_t count = 2 * (table->mask + 1);
    slot_t *slots = count > (size_t)1 << 40 ? NULL : new_slots(count);
    if (slots == NULL) {
        PyErr_NoMemory();
        return false;
    }
    for (size_t n = 0; n <= table->mask; n++)
        if (table->slots[n].offset != EMPTY)
            *slot_for(slots, count - 1, table->slots[n].hash) = table->slots[n];
    PyMem_Free(table->slots);
    table->slots = slots;
    table->mask = count - 1;
    return true;
}

static PyObject *table_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    PyObject *secret;
    if (!PyArg_ParseTuple(args, "O", &secret))
        return NULL;
    table_t *table = (table_t *)type->tp_alloc(type, 0);
    if (table == NULL)
        return NULL;
    table->slots = new_slots(SLOTS_MIN);
    table->mask = SLOTS_MIN - 1;
    table->used = 0;
    if (table->slots == NULL)
        PyErr_NoMemory();
    if (table->slots == NULL || !secret_of(secret, table->secret)) {
        Py_DECREF(table);
        return NULL;
    }
    return (PyObject *)table;
}

static void table_dealloc(PyObject *self)
{
    PyMem_Free(((table_t *)self)->slots);
    Py_TYPE(self)->tp_free(self);
}

static Py_ssize_t table_length(PyObject *self)
{
    return (Py_ssize_t)((table_t *)self)->used;
}

/* learn(content, count, offset_max, base) */
static PyObject *table_learn(PyObject *self, PyObject *const *args, Py_ssize_t given)
{
    table_t *table = (table_t *)self;
    int64_t count, offset_max, base, position = 0;
    Py_buffer view;
    bytes_t content;
    fault_t fault = {0};
    if (few(given, 4) || !number_of(args[1], &count) || !number_of(args[2], &offset_max) ||
        !number_of(args[3], &base) || !view_of(args[0], 0, &view, &content))
        return NULL;
    int failed = validate_stored(content, count, offset_max, &fault);
    for (int64_t place = 0; !failed && place < count; place++) {
        stored_t record;
        uint64_t hash[2];
        failed = read_stored(content, position, INT64_MIN, INT64_MAX, &record, &fault);
        if (failed)
            break;
        position = record.stop;
        if (record.key < 0)
            continue;
        keyed_hash(table->secret, content.b + record.key_at, record.key, hash);
        slot_t *slot = slot_for(table->slots, table->mask, hash);
        if (slot->offset == EMPTY) {
            if (4 * (table->used + 1) > 3 * (table->mask + 1)) {
                if (!grow(table)) {
                    PyBuffer_Release(&view);
                    return NULL;
                }
                slot = slot_for(table->slots, table->mask, hash);
            }
            slot->hash[0] = hash[0];
            slot->hash[1] = hash[1];
            table->used++;
        }
        slot->offset = (int64_t)((uint64_t)base + (uint64_t)record.offset);
    }
    PyBuffer_Release(&view);
    if (failed)
        return raise_fault(&fault);
    Py_RETURN_NONE;
}

/* sift(content, count, offset_max, base, without_tombstones) -> (kept, bytes or None for all, newest delta, tombstones) */
static PyObject *table_sift(PyObject *self, PyObject *const *args, Py_ssize_t given)
{
    table_t *table = (table_t *)self;
    int64_t count, offset_max, base, position = 0, run = 0, size = 0, kept = 0, newest = INT64_MIN;
    Py_buffer view;
    bytes_t content;
    fault_t fault = {0};
    PyObject *out = NULL;
    bool tombstones = false;
    if (few(given, 5) || !number_of(args[1], &count) || !number_of(args[2], &offset_max) || !number_of(args[3], &base))
        return NULL;
    int without_tombstones = PyObject_IsTrue(args[4]);
    if (without_tombstones < 0 || !view_of(args[0], 0, &view, &content))
        return NULL;
    int failed = validate_stored(content, count, offset_max, &fault);
    for (int64_t place = 0; !failed && place < count; place++) {
        stored_t record;
        uint64_t hash[2];
        failed = read_stored(content, position, INT64_MIN, INT64_MAX, &record, &fault);
        if (failed)
            break;
        position = record.stop;
        bool stays = record.key >= 0;
        if (stays) {
            keyed_hash(table->secret, content.b + record.key_at, record.key, hash);
            const slot_t *slot = slot_for(table->slots, table->mask, hash);
            int64_t offset = (int64_t)((uint64_t)base + (uint64_t)record.offset);
            stays = (slot->offset == EMPTY || offset >= slot->offset) && (record.value >= 0 || !without_tombstones);
        }
        if (stays) {
            kept++;
            tombstones |= record.value < 0;
            if (record.timestamp > newest)
                newest = record.timestamp;
            continue;
        }
        if (out == NULL && (out = PyBytes_FromStringAndSize(NULL, content.end)) == NULL) {
            PyBuffer_Release(&view);
            return NULL;
        }
        memcpy(PyBytes_AS_STRING(out) + size, content.b + run, record.start - run);
        size += record.start - run;
        run = record.stop;
    }
    if (!failed && out != NULL) {
        memcpy(PyBytes_AS_STRING(out) + size, content.b + run, content.end - run);
        size += content.end - run;
    }
    PyBuffer_Release(&view);
    if (failed) {
        Py_XDECREF(out);
        return raise_fault(&fault);
    }
    if (out == NULL)
        out = Py_NewRef(Py_None);
    else if (_PyBytes_Resize(&out, size))
        return NULL;
    return Py_BuildValue("(LNLO)", (long long)kept, out, (long long)newest, tombstones ? Py_True : Py_False);
}

#define FAST(function) ((PyCFunction)(void (*)(void))(function))

static PyMethodDef table_methods[] = {
    {"learn", FAST(table_learn), METH_FASTCALL, NULL},
    {"sift", FAST(table_sift), METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static PySequenceMethods table_sequence = {.sq_length = table_length};

static PyTypeObject KeyTable = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "gateway.records._native.KeyTable",
    .tp_basicsize = sizeof(table_t),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = table_new,
    .tp_dealloc = table_dealloc,
    .tp_methods = table_methods,
    .tp_as_sequence = &table_sequence,
};

static PyMethodDef functions[] = {
    {"are_as_claimed", FAST(are_as_claimed), METH_FASTCALL, NULL},
    {"check", FAST(check), METH_FASTCALL, NULL},
    {"look_up", FAST(look_up), METH_FASTCALL, NULL},
    {"numbered", FAST(numbered), METH_FASTCALL, NULL},
    {"shifted", FAST(shifted), METH_FASTCALL, NULL},
    {"hashed", FAST(hashed), METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_native", NULL, -1, functions, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__native(void)
{
    PyObject *module = PyModule_Create(&definition);
    if (module == NULL || PyType_Ready(&KeyTable))
        goto failed;
    Fault = PyErr_NewException("gateway.records._native.Fault", PyExc_Exception, NULL);
    if (Fault == NULL || PyModule_AddObjectRef(module, "Fault", Fault) ||
        PyModule_AddObjectRef(module, "KeyTable", (PyObject *)&KeyTable) ||
        PyModule_AddIntMacro(module, VERSION) || PyModule_AddIntMacro(module, GIL_HELD_BYTES_MAX))
        goto failed;
    return module;
failed:
    Py_XDECREF(module);
    return NULL;
}

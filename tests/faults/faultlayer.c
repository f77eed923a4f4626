/* A layer between a process and its files, loaded with LD_PRELOAD, that does what disks and power cuts do.
 *
 * It sees the calls that change what lies below FAULT_ROOT. They are counted over all threads of the process
 * (strace's injection counts per thread, so that a busy thread hides the others), in three ways usable at once:
 *
 *   FAULT_REPORT=FILE    one line for each counted call: number, name, path
 *   FAULT_CALLS=a,b      which calls count (default: fsync,fdatasync,rename,unlink)
 *   FAULT_MATCH=GLOB     which paths count (default: all)
 *   FAULT_AT=N           the N-th counted call is hit, and with FAULT_ONWARD=1 all after it
 *   FAULT_DO=kill|ERRNO  die there before the call takes place, or fail it with this error number
 *   FAULT_TALLY=FILE     two i64s in place of the process's own count and N, for it and all its descendants: they count
 *                        together, so one of them is hit once, and N may be changed at any moment (0: none is hit)
 *
 *   FAULT_SECTOR=AT      the disk cannot read the 4 KiB that hold this byte of a file that FAULT_MATCH names: a read over
 *                        them fails with EIO
 *
 *   FAULT_CLOCK=FILE     the wall clock is off by as many seconds as the i64 in this file says, at any moment
 *
 *   FAULT_SHADOW=DIR     keeps what a power cut would leave: of every file its content at its last sync, of every
 *                        directory its names at its last sync; `root` names FAULT_ROOT's own entry. See power.py,
 *                        which rebuilds a tree from that.
 *
 * Children are no part of an experiment that counts calls, unless it has a FAULT_TALLY. With FAULT_SHADOW they are: a
 * power cut is everybody's. They know by FAULT_CHILD that the shadow has begun, and take turns at it.
 *
 * A write with RWF_DSYNC counts as a write, then as an fdatasync. Where the latter is hit, the bytes are written without
 * their sync: that is the moment between the two.
 *
 * Keeps: a file's content is copied before its sync is passed on and counts only after the sync has succeeded, so the
 * shadow never holds more than was promised. A write with RWF_DSYNC promises its own bytes and no others.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <ftw.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static const char *root, *match, *calls, *shadow;
static long fail_with;
static long long sector = -1;
static int report_fd = -1, onward, turn_fd = -1;
static struct tally {
        atomic_llong counted, hit_at;
} own, *tally = &own;
static volatile const long long *clock_offset_s;
static pthread_mutex_t shadow_lock = PTHREAD_MUTEX_INITIALIZER;

#define SECTOR_BYTES 4096
#define REAL(name) ((typeof(&name))dlsym(RTLD_NEXT, #name))

static int below_root(const char *path) {
        size_t length = root ? strlen(root) : 0;
        return length && !strncmp(path, root, length) && (path[length] == '/' || !path[length]);
}

static int path_of(int fd, char *path) {
        char link[64];
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        ssize_t length = readlink(link, path, PATH_MAX - 1);
        if (length < 0)
                return 0;
        path[length] = 0;
        return below_root(path);
}

static int listed(const char *call) {
        size_t length = strlen(call);
        for (const char *at = calls; (at = strstr(at, call)); at += length)
                if ((at == calls || at[-1] == ',') && (!at[length] || at[length] == ','))
                        return 1;
        return 0;
}

/* Count a call; dies, or returns the error number that it is to fail with, or 0. */
static int counts(const char *call, const char *path) {
        if (!listed(call) || (match && fnmatch(match, path, 0)))
                return 0;
        long number = (long)atomic_fetch_add(&tally->counted, 1) + 1, hit_at = (long)tally->hit_at;
        if (report_fd >= 0) {
                char line[PATH_MAX + 64];
                int length = snprintf(line, sizeof line, "%ld %s %s\n", number, call, path);
                if (REAL(write)(report_fd, line, (size_t)length) != length)
                        abort();
        }
        if (!hit_at || (onward ? number < hit_at : number != hit_at))
                return 0;
        if (!fail_with) {
                kill(getpid(), SIGKILL);
                for (;;)
                        pause();
        }
        return (int)fail_with;
}

/* The shadow: one file per inode. An inode number is used again, so its birth time belongs to the key. */

static int key_of(const char *path, char *key) {
        struct statx state;
        if (statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, STATX_INO | STATX_BTIME | STATX_TYPE, &state))
                return -1;
        snprintf(key, 96, "%c-%llu-%lld-%u", S_ISDIR(state.stx_mode) ? 'd' : 'f', (unsigned long long)state.stx_ino,
                 (long long)state.stx_btime.tv_sec, state.stx_btime.tv_nsec);
        return S_ISDIR(state.stx_mode) ? 1 : 0;
}

static void copy_names(const char *path, FILE *out) {
        DIR *directory = opendir(path);
        for (struct dirent *entry; directory && (entry = readdir(directory));) {
                char child[PATH_MAX * 2], key[96];
                if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
                        continue;
                snprintf(child, sizeof child, "%s/%s", path, entry->d_name);
                if (key_of(child, key) >= 0)
                        fprintf(out, "%s %s\n", key, entry->d_name);
        }
        if (directory)
                closedir(directory);
}

static void copy_content(const char *path, FILE *out) {
        static char buffer[1 << 20];
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        for (ssize_t got; fd >= 0 && (got = read(fd, buffer, sizeof buffer)) > 0;)
                if (fwrite(buffer, 1, (size_t)got, out) != (size_t)got)
                        abort();
        if (fd >= 0)
                close(fd);
}

/* Copy what the path holds now; `keep` then makes that copy the shadow. Called with the lock held. */
static int copy(const char *path, char *key, char *temporary) {
        int directory = key_of(path, key);
        if (directory < 0)
                return -1;
        snprintf(temporary, PATH_MAX, "%s/new-%d", shadow, getpid());
        FILE *out = fopen(temporary, "we");
        if (!out)
                abort();
        (directory ? copy_names : copy_content)(path, out);
        return fclose(out);
}

static void keep(const char *key, const char *temporary) {
        char final[PATH_MAX];
        snprintf(final, sizeof final, "%s/%s", shadow, key);
        if (REAL(rename)(temporary, final))
                abort();
}

static int shadow_one(const char *path, const struct stat *state, int type, struct FTW *walk) {
        char key[96], temporary[PATH_MAX];
        (void)state, (void)type, (void)walk;
        if (!copy(path, key, temporary))
                keep(key, temporary);
        return 0;
}

__attribute__((constructor)) static void begin(void) {
        root = getenv("FAULT_ROOT");
        match = getenv("FAULT_MATCH");
        shadow = getenv("FAULT_SHADOW");
        calls = getenv("FAULT_CALLS") ? getenv("FAULT_CALLS") : "fsync,fdatasync,rename,unlink";
        own.hit_at = getenv("FAULT_AT") ? atol(getenv("FAULT_AT")) : 0;
        onward = getenv("FAULT_ONWARD") != NULL;
        fail_with = getenv("FAULT_DO") ? atol(getenv("FAULT_DO")) : 0;
        if (getenv("FAULT_SECTOR"))
                sector = atoll(getenv("FAULT_SECTOR")) / SECTOR_BYTES;
        if (shadow) {
                char path[PATH_MAX];
                snprintf(path, sizeof path, "%s/turn", shadow);
                turn_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
                if (turn_fd < 0)
                        abort();
        }
        if (getenv("FAULT_CHILD")) {
                own.hit_at = 0;
                calls = "";
                return;
        }
        if (getenv("FAULT_REPORT"))
                report_fd = open(getenv("FAULT_REPORT"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
        if (root && shadow) {
                char key[96], path[PATH_MAX];
                nftw(root, shadow_one, 16, FTW_PHYS);
                snprintf(path, sizeof path, "%s/root", shadow);
                FILE *out = fopen(path, "we");
                if (!out || key_of(root, key) != 1)
                        abort();
                fputs(key, out);
                fclose(out);
        }
        if (getenv("FAULT_CLOCK")) {
                int fd = open(getenv("FAULT_CLOCK"), O_RDONLY | O_CLOEXEC);
                void *mapped = mmap(NULL, sizeof *clock_offset_s, PROT_READ, MAP_SHARED, fd, 0);
                if (mapped == MAP_FAILED)
                        abort();
                clock_offset_s = mapped;
        }
        if (getenv("FAULT_TALLY")) {
                int fd = open(getenv("FAULT_TALLY"), O_RDWR | O_CLOEXEC);
                tally = mmap(NULL, sizeof *tally, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
                if (tally == MAP_FAILED)
                        abort();
        } else if (shadow)
                setenv("FAULT_CHILD", "1", 1);
        else
                unsetenv("LD_PRELOAD");
}

/* The calls */

static int synced(const char *call, int fd, int (*real)(int)) {
        char path[PATH_MAX], key[96], temporary[PATH_MAX];
        if (!path_of(fd, path))
                return real(fd);
        int error = counts(call, path);
        if (error) {
                errno = error;
                return -1;
        }
        if (!shadow)
                return real(fd);
        pthread_mutex_lock(&shadow_lock);
        flock(turn_fd, LOCK_EX);
        int copied = copy(path, key, temporary);
        int result = real(fd), why = errno;
        if (!copied && !result)
                keep(key, temporary);
        flock(turn_fd, LOCK_UN);
        pthread_mutex_unlock(&shadow_lock);
        errno = why;
        return result;
}

int fsync(int fd) { return synced("fsync", fd, REAL(fsync)); }
int fdatasync(int fd) { return synced("fdatasync", fd, REAL(fdatasync)); }

#define FAILS_BY_PATH(call, path)                                                                                      \
        do {                                                                                                           \
                int error = below_root(path) ? counts(call, path) : 0;                                                 \
                if (error) {                                                                                           \
                        errno = error;                                                                                 \
                        return -1;                                                                                     \
                }                                                                                                      \
        } while (0)

#define FAILS_BY_FD(call, fd)                                                                                          \
        do {                                                                                                           \
                char path[PATH_MAX];                                                                                   \
                int error = path_of(fd, path) ? counts(call, path) : 0;                                                \
                if (error) {                                                                                           \
                        errno = error;                                                                                 \
                        return -1;                                                                                     \
                }                                                                                                      \
        } while (0)

int rename(const char *from, const char *to) {
        FAILS_BY_PATH("rename", to);
        return REAL(rename)(from, to);
}

int renameat(int from_dir, const char *from, int to_dir, const char *to) {
        FAILS_BY_PATH("rename", to);
        return REAL(renameat)(from_dir, from, to_dir, to);
}

int unlink(const char *path) {
        FAILS_BY_PATH("unlink", path);
        return REAL(unlink)(path);
}

int unlinkat(int directory, const char *path, int flags) {
        FAILS_BY_PATH("unlink", path);
        return REAL(unlinkat)(directory, path, flags);
}

ssize_t write(int fd, const void *data, size_t size) {
        FAILS_BY_FD("write", fd);
        return REAL(write)(fd, data, size);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
        FAILS_BY_FD("write", fd);
        return REAL(writev)(fd, parts, count);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
        FAILS_BY_FD("write", fd);
        return REAL(pwrite)(fd, data, size, at);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
        FAILS_BY_FD("write", fd);
        return REAL(pwrite64)(fd, data, size, at);
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at) {
        FAILS_BY_FD("write", fd);
        return REAL(pwritev)(fd, parts, count, at);
}

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t at) {
        FAILS_BY_FD("write", fd);
        return REAL(pwritev64)(fd, parts, count, at);
}

static ssize_t promised(const char *path, const struct iovec *parts, int count, off64_t at, int flags, int fd) {
        char key[96], kept[PATH_MAX];
        pthread_mutex_lock(&shadow_lock);
        flock(turn_fd, LOCK_EX);
        ssize_t done = REAL(pwritev64v2)(fd, parts, count, at, flags), left = done;
        int why = errno;
        if (done > 0 && !key_of(path, key)) {
                snprintf(kept, sizeof kept, "%s/%s", shadow, key);
                int out = open(kept, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
                for (; out >= 0 && left > 0; at += (off64_t)parts->iov_len, left -= (ssize_t)parts++->iov_len) {
                        size_t size = (size_t)left < parts->iov_len ? (size_t)left : parts->iov_len;
                        if (REAL(pwrite64)(out, parts->iov_base, size, at) != (ssize_t)size)
                                abort();
                }
                if (out < 0 || close(out))
                        abort();
        }
        flock(turn_fd, LOCK_UN);
        pthread_mutex_unlock(&shadow_lock);
        errno = why;
        return done;
}

static ssize_t written(int fd, const struct iovec *parts, int count, off64_t at, int flags) {
        char path[PATH_MAX];
        int synced = flags & (RWF_DSYNC | RWF_SYNC), below = path_of(fd, path);
        int error = below ? counts("write", path) : 0;
        if (!error && below && synced && tally->hit_at && listed("fdatasync") && (!match || !fnmatch(match, path, 0))) {
                ssize_t done = REAL(pwritev64v2)(fd, parts, count, at, flags & ~(RWF_DSYNC | RWF_SYNC));
                if (done < 0)
                        return done;
        }
        if (!error && below && synced)
                error = counts("fdatasync", path);
        if (error) {
                errno = error;
                return -1;
        }
        if (below && synced && shadow)
                return promised(path, parts, count, at, flags, fd);
        return REAL(pwritev64v2)(fd, parts, count, at, flags);
}

ssize_t pwritev2(int fd, const struct iovec *parts, int count, off_t at, int flags) {
        return written(fd, parts, count, at, flags);
}

ssize_t pwritev64v2(int fd, const struct iovec *parts, int count, off64_t at, int flags) {
        return written(fd, parts, count, at, flags);
}

/* Whether a read of a file meets the sector that cannot be read. */
static int meets_sector(int fd, off64_t at, size_t size) {
        static char bad_key[96];
        char path[PATH_MAX], key[96];
        if (sector < 0 || at > (sector + 1) * SECTOR_BYTES - 1 || at + (off64_t)size <= sector * SECTOR_BYTES)
                return 0;
        if (!path_of(fd, path) || (match && fnmatch(match, path, 0)) || key_of(path, key) < 0)
                return 0;
        pthread_mutex_lock(&shadow_lock);
        if (!*bad_key)
                strcpy(bad_key, key);
        int bad = !strcmp(bad_key, key); /* a file that takes its name lies elsewhere */
        pthread_mutex_unlock(&shadow_lock);
        return bad;
}

static size_t total(const struct iovec *parts, int count) {
        size_t size = 0;
        while (count--)
                size += parts++->iov_len;
        return size;
}

#define FAILS_BY_SECTOR(fd, at, size)                                                                                  \
        do {                                                                                                           \
                if (sector >= 0 && meets_sector(fd, at, size)) {                                                       \
                        errno = EIO;                                                                                   \
                        return -1;                                                                                     \
                }                                                                                                      \
        } while (0)

ssize_t read(int fd, void *data, size_t size) {
        FAILS_BY_SECTOR(fd, lseek64(fd, 0, SEEK_CUR), size);
        return REAL(read)(fd, data, size);
}

ssize_t pread(int fd, void *data, size_t size, off_t at) {
        FAILS_BY_SECTOR(fd, at, size);
        return REAL(pread)(fd, data, size, at);
}

ssize_t pread64(int fd, void *data, size_t size, off64_t at) {
        FAILS_BY_SECTOR(fd, at, size);
        return REAL(pread64)(fd, data, size, at);
}

ssize_t preadv(int fd, const struct iovec *parts, int count, off_t at) {
        FAILS_BY_SECTOR(fd, at, total(parts, count));
        return REAL(preadv)(fd, parts, count, at);
}

ssize_t preadv64(int fd, const struct iovec *parts, int count, off64_t at) {
        FAILS_BY_SECTOR(fd, at, total(parts, count));
        return REAL(preadv64)(fd, parts, count, at);
}

ssize_t preadv2(int fd, const struct iovec *parts, int count, off_t at, int flags) {
        FAILS_BY_SECTOR(fd, at, total(parts, count));
        return REAL(preadv2)(fd, parts, count, at, flags);
}

ssize_t preadv64v2(int fd, const struct iovec *parts, int count, off64_t at, int flags) {
        FAILS_BY_SECTOR(fd, at, total(parts, count));
        return REAL(preadv64v2)(fd, parts, count, at, flags);
}

int clock_gettime(clockid_t clock, struct timespec *out) {
        static typeof(&clock_gettime) real;
        if (!real)
                real = REAL(clock_gettime);
        int result = real(clock, out);
        if (!result && clock_offset_s && clock == CLOCK_REALTIME)
                out->tv_sec += *clock_offset_s;
        return result;
}

static int allocates(int fd) {
        char path[PATH_MAX];
        return path_of(fd, path) ? counts("fallocate", path) : 0;
}

int posix_fallocate(int fd, off_t from, off_t size) {
        int error = allocates(fd);
        return error ? error : REAL(posix_fallocate)(fd, from, size);
}

int posix_fallocate64(int fd, off64_t from, off64_t size) {
        int error = allocates(fd);
        return error ? error : REAL(posix_fallocate64)(fd, from, size);
}

/*
 * Records what a process does to the files below one directory, in the order in which it does it, so that a test
 * can replay it up to a power cut. Loaded with LD_PRELOAD; the record is complete for programs that reach the kernel
 * through libc and neither map files for writing nor duplicate descriptors.
 *
 *   POWERCUT_ROOT        the directory, as the program names it
 *   POWERCUT_LOG         the record, appended to
 *   POWERCUT_KILL_AFTER  kills the process after this number of operations
 *   POWERCUT_NO_SYNC     files, separated by ':'. Their syncs succeed and are not recorded
 *   POWERCUT_FAIL_SYNC   a file. While it exists, every sync fails with EIO
 *
 * A record: u8 operation, u32 handle, u64 number, u32 length and bytes, u32 length and bytes; little endian.
 * Writes to standard output are recorded as marks. sync_file_range is not recorded: it makes nothing durable.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum operation {
    START, OPEN, CREATE, WRITE, TRUNCATE, SYNC, FAILED_SYNC, RENAME, LINK, UNLINK, MKDIR, RMDIR, MARK,
};

#define MAX_FD 4096

static pthread_mutex_t mutex = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
static const char *root;
static size_t root_len;
static int log_fd = -1;
static long kill_after;
static uint32_t handles[MAX_FD];
static char *paths[MAX_FD];
static uint32_t last_handle;

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

static void write_all(const void *bytes, size_t len) {
    REAL(ssize_t, "write", int, const void *, size_t);
    const char *next = bytes;
    while (len > 0) {
        ssize_t done = real(log_fd, next, len);
        if (done < 0) {
            static const char message[] = "powercut: cannot write the record\n";
            real(2, message, sizeof message - 1);
            _exit(99);
        }
        next += done;
        len -= (size_t)done;
    }
}

static void record(enum operation op, uint32_t handle, uint64_t number, const void *a, uint32_t a_len,
                   const void *b, uint32_t b_len) {
    if (log_fd < 0) return;
    int saved = errno;
    size_t len = 1 + 4 + 8 + 4 + a_len + 4 + b_len;
    char *bytes = malloc(len), *next = bytes;
    *next++ = (char)op;
    memcpy(next, &handle, 4), next += 4;
    memcpy(next, &number, 8), next += 8;
    memcpy(next, &a_len, 4), next += 4;
    if (a_len) memcpy(next, a, a_len), next += a_len;
    memcpy(next, &b_len, 4), next += 4;
    if (b_len) memcpy(next, b, b_len);
    write_all(bytes, len);
    free(bytes);
    if (kill_after > 0 && --kill_after == 0) kill(getpid(), SIGKILL);
    errno = saved;
}

static void record_paths(enum operation op, const char *a, const char *b) {
    record(op, 0, 0, a, (uint32_t)strlen(a), b, b ? (uint32_t)strlen(b) : 0);
}

__attribute__((constructor)) static void start(void) {
    root = getenv("POWERCUT_ROOT");
    const char *log = getenv("POWERCUT_LOG");
    if (!root || !log) return;
    root_len = strlen(root);
    const char *after = getenv("POWERCUT_KILL_AFTER");
    REAL(int, "open", const char *, int, ...);
    log_fd = real(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (log_fd < 0) _exit(99);
    record(START, 0, 0, NULL, 0, NULL, 0);
    kill_after = after ? atol(after) : 0;
}

static int inside(const char *path) {
    return log_fd >= 0 && path && strncmp(path, root, root_len) == 0 &&
           (path[root_len] == '/' || path[root_len] == '\0');
}

/* Resolves a path relative to an open directory. Rust's remove_dir_all uses such paths. */
static const char *resolve(int dir, const char *path, char *buffer, size_t len) {
    if (path[0] == '/' || dir == AT_FDCWD) return path;
    if (dir < 0 || dir >= MAX_FD || !paths[dir]) return path;
    snprintf(buffer, len, "%s/%s", paths[dir], path);
    return buffer;
}

static uint32_t handle_of(int fd) {
    return fd >= 0 && fd < MAX_FD ? handles[fd] : 0;
}

static void forget(int fd) {
    if (fd < 0 || fd >= MAX_FD) return;
    handles[fd] = 0;
    free(paths[fd]);
    paths[fd] = NULL;
}

static int opened(int fd, const char *path, int flags, int was_there) {
    if (fd < 0) return fd;
    if (fd >= MAX_FD) _exit(99);
    forget(fd);
    handles[fd] = ++last_handle;
    paths[fd] = strdup(path);
    record(was_there ? OPEN : CREATE, handles[fd], 0, path, (uint32_t)strlen(path), NULL, 0);
    if (was_there && (flags & O_TRUNC)) record(TRUNCATE, handles[fd], 0, NULL, 0, NULL, 0);
    return fd;
}

static int is_there(const char *path) {
    struct stat found;
    return lstat(path, &found) == 0;
}

#define MODE_ARGUMENT \
    mode_t mode = 0; \
    if (flags & (O_CREAT | O_TMPFILE)) { \
        va_list arguments; \
        va_start(arguments, flags); \
        mode = va_arg(arguments, mode_t); \
        va_end(arguments); \
    }

#define OPEN_FUNCTION(function) \
    int function(const char *path, int flags, ...) { \
        MODE_ARGUMENT \
        REAL(int, #function, const char *, int, ...); \
        if (!inside(path)) { \
            int fd = real(path, flags, mode); \
            if (fd >= 0) forget(fd); \
            return fd; \
        } \
        pthread_mutex_lock(&mutex); \
        int was_there = is_there(path); \
        int fd = opened(real(path, flags, mode), path, flags, was_there); \
        pthread_mutex_unlock(&mutex); \
        return fd; \
    }

OPEN_FUNCTION(open)
OPEN_FUNCTION(open64)

#define OPENAT_FUNCTION(function) \
    int function(int dir, const char *path, int flags, ...) { \
        MODE_ARGUMENT \
        REAL(int, #function, int, const char *, int, ...); \
        char buffer[8192]; \
        const char *whole = resolve(dir, path, buffer, sizeof buffer); \
        if (!inside(whole)) { \
            int fd = real(dir, path, flags, mode); \
            if (fd >= 0) forget(fd); \
            return fd; \
        } \
        pthread_mutex_lock(&mutex); \
        int was_there = is_there(whole); \
        int fd = opened(real(dir, path, flags, mode), whole, flags, was_there); \
        pthread_mutex_unlock(&mutex); \
        return fd; \
    }

OPENAT_FUNCTION(openat)
OPENAT_FUNCTION(openat64)

int close(int fd) {
    REAL(int, "close", int);
    pthread_mutex_lock(&mutex);
    forget(fd);
    int done = real(fd);
    pthread_mutex_unlock(&mutex);
    return done;
}

static ssize_t wrote(uint32_t handle, ssize_t done, const void *bytes, off_t offset) {
    if (done > 0) record(WRITE, handle, (uint64_t)offset, bytes, (uint32_t)done, NULL, 0);
    return done;
}

ssize_t write(int fd, const void *bytes, size_t len) {
    REAL(ssize_t, "write", int, const void *, size_t);
    uint32_t handle = handle_of(fd);
    if (log_fd < 0 || (!handle && fd != 1)) return real(fd, bytes, len);
    pthread_mutex_lock(&mutex);
    ssize_t done = real(fd, bytes, len);
    if (!handle) {
        if (done > 0) record(MARK, 0, 0, bytes, (uint32_t)done, NULL, 0);
    } else {
        done = wrote(handle, done, bytes, lseek(fd, 0, SEEK_CUR) - (done > 0 ? done : 0));
    }
    pthread_mutex_unlock(&mutex);
    return done;
}

#define PWRITE_FUNCTION(function, offset_type) \
    ssize_t function(int fd, const void *bytes, size_t len, offset_type offset) { \
        REAL(ssize_t, #function, int, const void *, size_t, offset_type); \
        uint32_t handle = handle_of(fd); \
        if (!handle) return real(fd, bytes, len, offset); \
        pthread_mutex_lock(&mutex); \
        ssize_t done = wrote(handle, real(fd, bytes, len, offset), bytes, offset); \
        pthread_mutex_unlock(&mutex); \
        return done; \
    }

PWRITE_FUNCTION(pwrite, off_t)
PWRITE_FUNCTION(pwrite64, off64_t)

ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(ssize_t, "writev", int, const struct iovec *, int);
    if (!handle_of(fd) && fd != 1) return real(fd, parts, count);
    /* Writes only the first part. The caller has to expect that. */
    return count > 0 ? write(fd, parts[0].iov_base, parts[0].iov_len) : 0;
}

#define TRUNCATE_FUNCTION(function, len_type) \
    int function(int fd, len_type len) { \
        REAL(int, #function, int, len_type); \
        uint32_t handle = handle_of(fd); \
        if (!handle) return real(fd, len); \
        pthread_mutex_lock(&mutex); \
        int done = real(fd, len); \
        if (done == 0) record(TRUNCATE, handle, (uint64_t)len, NULL, 0, NULL, 0); \
        pthread_mutex_unlock(&mutex); \
        return done; \
    }

TRUNCATE_FUNCTION(ftruncate, off_t)
TRUNCATE_FUNCTION(ftruncate64, off64_t)

static int is_one_of(const char *path, const char *list) {
    size_t len = strlen(path);
    for (const char *at = list; at; at = strchr(at, ':'), at = at ? at + 1 : NULL)
        if (strncmp(at, path, len) == 0 && (at[len] == ':' || at[len] == 0)) return 1;
    return 0;
}

static int synced(int fd, int (*real)(int)) {
    uint32_t handle = handle_of(fd);
    if (!handle) return real(fd);
    int done = 0;
    pthread_mutex_lock(&mutex);
    const char *fail = getenv("POWERCUT_FAIL_SYNC"), *omitted = getenv("POWERCUT_NO_SYNC");
    if (fail && is_there(fail)) {
        record(FAILED_SYNC, handle, 0, NULL, 0, NULL, 0);
        errno = EIO;
        done = -1;
    } else if (!omitted || !is_one_of(paths[fd], omitted)) {
        /* Only the order matters, so the real disk is not synced. */
        record(SYNC, handle, 0, NULL, 0, NULL, 0);
    }
    pthread_mutex_unlock(&mutex);
    return done;
}

int fsync(int fd) {
    REAL(int, "fsync", int);
    return synced(fd, real);
}

int fdatasync(int fd) {
    REAL(int, "fdatasync", int);
    return synced(fd, real);
}

#define TWO_PATHS(function, operation, parameters, arguments, from, to) \
    int function parameters { \
        static int (*real) parameters; \
        if (!real) real = (int (*) parameters)dlsym(RTLD_NEXT, #function); \
        if (!inside(from) && !inside(to)) return real arguments; \
        pthread_mutex_lock(&mutex); \
        int done = real arguments; \
        if (done == 0) record_paths(operation, from, to); \
        pthread_mutex_unlock(&mutex); \
        return done; \
    }

TWO_PATHS(rename, RENAME, (const char *from, const char *to), (from, to), from, to)
TWO_PATHS(renameat, RENAME, (int a, const char *from, int b, const char *to), (a, from, b, to), from, to)
TWO_PATHS(renameat2, RENAME, (int a, const char *from, int b, const char *to, unsigned flags),
          (a, from, b, to, flags), from, to)
TWO_PATHS(link, LINK, (const char *from, const char *to), (from, to), from, to)
TWO_PATHS(linkat, LINK, (int a, const char *from, int b, const char *to, int flags), (a, from, b, to, flags), from, to)

#define ONE_PATH(function, operation, parameters, arguments) \
    int function parameters { \
        static int (*real) parameters; \
        if (!real) real = (int (*) parameters)dlsym(RTLD_NEXT, #function); \
        if (!inside(path)) return real arguments; \
        pthread_mutex_lock(&mutex); \
        int done = real arguments; \
        if (done == 0) record_paths(operation, path, NULL); \
        pthread_mutex_unlock(&mutex); \
        return done; \
    }

ONE_PATH(unlink, UNLINK, (const char *path), (path))
ONE_PATH(mkdir, MKDIR, (const char *path, mode_t mode), (path, mode))
ONE_PATH(rmdir, RMDIR, (const char *path), (path))

int unlinkat(int dir, const char *path, int flags) {
    REAL(int, "unlinkat", int, const char *, int);
    char buffer[8192];
    const char *whole = resolve(dir, path, buffer, sizeof buffer);
    if (!inside(whole)) return real(dir, path, flags);
    pthread_mutex_lock(&mutex);
    int done = real(dir, path, flags);
    if (done == 0) record_paths(flags & AT_REMOVEDIR ? RMDIR : UNLINK, whole, NULL);
    pthread_mutex_unlock(&mutex);
    return done;
}

/* Records what a process does to the files of one folder, in order: preloaded (LD_PRELOAD) into a server by power.py.

   RECORD_DIR   the folder, absolute
   RECORD_LOG   where the record goes; outside of the folder
   RECORD_DEAF  a suffix of file names: their fsync is not recorded, as on a disk that lies or with synchronous=NORMAL
   RECORD_FAULT a file, looked at before each call: while it says "full", our files do not grow (ENOSPC); while it says
                "sync", they cannot be synced (EIO); if it says "kill", the process dies before it syncs one; while it
                says "hang", no sync of one returns. A suffix
                may follow ("sync.jsonl"): then only files whose names end so

   One entry, little-endian: u8 what, u32 length of the path, u64 offset, u64 length of the data; path; data.
     C created   W written at offset   T cut to offset   S synced (a file or the folder)   F could not be synced
     R renamed to data   L linked to data   U unlinked

   An entry is made after its call has succeeded, under one lock, so that the order is the order of the effects. Memory
   maps are not seen: SQLite keeps in one (the -shm file) only what it can make again. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define DESCRIPTORS 65536
#define REAL(name) ((__typeof__(&name))real(#name))

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char *paths[DESCRIPTORS];
static int log_fd = -1;

static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }

static int ours(const char *path) {
    const char *folder = getenv("RECORD_DIR");
    return folder && path && strncmp(path, folder, strlen(folder)) == 0;
}

static int ends(const char *path, const char *suffix) {
    return strlen(path) >= strlen(suffix) && strcmp(path + strlen(path) - strlen(suffix), suffix) == 0;
}

static int deaf(const char *path) {
    const char *suffix = getenv("RECORD_DEAF");
    return suffix && ends(path, suffix);
}

static int faulty(const char *path, const char *wanted) {
    const char *file = getenv("RECORD_FAULT");
    char found[64] = {0};
    int fd = file ? REAL(open)(file, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0) return 0;
    ssize_t size = read(fd, found, sizeof found - 1);
    REAL(close)(fd);
    return size >= 4 && strncmp(found, wanted, 4) == 0 && ends(path, found + 4);
}

static void note(char what, const char *path, uint64_t offset, const void *data, uint64_t length) {
    uint32_t named = strlen(path);
    unsigned char head[21] = {(unsigned char)what};
    memcpy(head + 1, &named, 4);
    memcpy(head + 5, &offset, 8);
    memcpy(head + 13, &length, 8);
    if (log_fd < 0) log_fd = REAL(open)(getenv("RECORD_LOG"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    struct iovec parts[3] = {{head, sizeof head}, {(void *)path, named}, {(void *)data, length}};
    if (log_fd < 0 || REAL(writev)(log_fd, parts, 3) != (ssize_t)(sizeof head + named + length)) abort();
}

static const char *path_of(int fd) { return fd >= 0 && fd < DESCRIPTORS ? paths[fd] : NULL; }

static int opened(const char *path, int flags, mode_t mode) {
    if (!ours(path)) return REAL(open)(path, flags, mode);
    pthread_mutex_lock(&lock);
    int existed = access(path, F_OK) == 0;
    int fd = REAL(open)(path, flags, mode);
    if (fd >= 0 && fd < DESCRIPTORS) {
        free(paths[fd]);
        paths[fd] = strdup(path);
        if (!existed) note('C', path, 0, "", 0);
        else if (flags & O_TRUNC) note('T', path, 0, "", 0);
    }
    pthread_mutex_unlock(&lock);
    return fd;
}

#define OPEN(name)                                                                                                     \
    int name(const char *path, int flags, ...) {                                                                       \
        va_list rest;                                                                                                  \
        va_start(rest, flags);                                                                                         \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;                                        \
        va_end(rest);                                                                                                  \
        return opened(path, flags, mode);                                                                              \
    }
OPEN(open)
OPEN(open64)

int close(int fd) {
    if (path_of(fd)) {
        pthread_mutex_lock(&lock);
        free(paths[fd]);
        paths[fd] = NULL;
        pthread_mutex_unlock(&lock);
    }
    return REAL(close)(fd);
}

static int full(int fd, off_t end) {
    struct stat now;
    return path_of(fd) && faulty(path_of(fd), "full") && fstat(fd, &now) == 0 && end > now.st_size;
}

static int unsynced(int fd) {
    if (!path_of(fd)) return 0;
    if (faulty(path_of(fd), "kill")) kill(getpid(), SIGKILL);
    while (faulty(path_of(fd), "hang")) usleep(10000);
    if (!faulty(path_of(fd), "sync")) return 0;
    pthread_mutex_lock(&lock);
    note('F', paths[fd], 0, "", 0);
    pthread_mutex_unlock(&lock);
    return 1;
}

/* The error of a call that a fault is for. */
#define FAILS(condition, code)                                                                                         \
    do {                                                                                                               \
        if (condition) {                                                                                               \
            errno = code;                                                                                              \
            return -1;                                                                                                 \
        }                                                                                                              \
    } while (0)

/* The call's result, with an entry if it did something to one of our files. */
#define RECORDED(condition, call, entry)                                                                               \
    do {                                                                                                               \
        if (!(condition)) return call;                                                                                 \
        pthread_mutex_lock(&lock);                                                                                     \
        __auto_type result = call;                                                                                     \
        if (result >= 0) entry;                                                                                        \
        pthread_mutex_unlock(&lock);                                                                                   \
        return result;                                                                                                 \
    } while (0)

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) {
    FAILS(full(fd, offset + size), ENOSPC);
    RECORDED(path_of(fd), REAL(pwrite)(fd, data, size, offset), note('W', paths[fd], offset, data, result));
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) {
    FAILS(full(fd, offset + size), ENOSPC);
    RECORDED(path_of(fd), REAL(pwrite64)(fd, data, size, offset), note('W', paths[fd], offset, data, result));
}

ssize_t write(int fd, const void *data, size_t size) {
    FAILS(full(fd, lseek(fd, 0, SEEK_CUR) + size), ENOSPC);
    RECORDED(
        path_of(fd), REAL(write)(fd, data, size),
        note('W', paths[fd], lseek(fd, 0, SEEK_CUR) - result, data, result));
}

int ftruncate(int fd, off_t size) {
    FAILS(full(fd, size), ENOSPC);
    RECORDED(path_of(fd), REAL(ftruncate)(fd, size), note('T', paths[fd], size, "", 0));
}

int ftruncate64(int fd, off64_t size) {
    FAILS(full(fd, size), ENOSPC);
    RECORDED(path_of(fd), REAL(ftruncate64)(fd, size), note('T', paths[fd], size, "", 0));
}

int fsync(int fd) {
    FAILS(unsynced(fd), EIO);
    RECORDED(path_of(fd) && !deaf(path_of(fd)), REAL(fsync)(fd), note('S', paths[fd], 0, "", 0));
}

int fdatasync(int fd) {
    FAILS(unsynced(fd), EIO);
    RECORDED(path_of(fd) && !deaf(path_of(fd)), REAL(fdatasync)(fd), note('S', paths[fd], 0, "", 0));
}

int rename(const char *from, const char *to) {
    RECORDED(ours(from), REAL(rename)(from, to), note('R', from, 0, to, strlen(to)));
}

int link(const char *from, const char *to) {
    RECORDED(ours(from), REAL(link)(from, to), note('L', from, 0, to, strlen(to)));
}

int unlink(const char *path) { RECORDED(ours(path), REAL(unlink)(path), note('U', path, 0, "", 0)); }

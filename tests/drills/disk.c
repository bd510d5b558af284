/* A disk with moods, preloaded into a real relay by tests/drills/slowdisk.rs: every write to a file below a folder
 * goes by the mood of that folder, a byte of a file that both processes have mapped.
 *
 *   0  as it is      h  no answer until the mood changes      e  EIO
 *
 * DRILL_MOODS names the file, DRILL_DISKS the folders with ':' between them, in the order of the bytes. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define DISKS 2

static volatile char *moods;
static char disks[DISKS][PATH_MAX];

__attribute__((constructor)) static void begin(void) {
    const char *file = getenv("DRILL_MOODS"), *folders = getenv("DRILL_DISKS");
    if (!file || !folders) return;
    int fd = open(file, O_RDONLY | O_CLOEXEC);
    void *mapped = fd < 0 ? MAP_FAILED : mmap(NULL, DISKS, PROT_READ, MAP_SHARED, fd, 0);
    if (mapped == MAP_FAILED) {
        fprintf(stderr, "disk.c: %s cannot be mapped\n", file);
        abort();
    }
    close(fd);
    for (int disk = 0; disk < DISKS && folders; disk++) {
        const char *end = strchrnul(folders, ':');
        snprintf(disks[disk], PATH_MAX, "%.*s/", (int)(end - folders), folders);
        folders = *end ? end + 1 : NULL;
    }
    moods = mapped;
}

/* 0, or the error that a write to `fd` ends with. */
static int fails(int fd) {
    if (!moods) return 0;
    for (int disk = 0; disk < DISKS; disk++) {
        if (!moods[disk]) continue;
        char link[64], path[PATH_MAX];
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        ssize_t length = readlink(link, path, sizeof path - 1);
        if (length < 0) continue;
        path[length] = 0;
        if (strncmp(path, disks[disk], strlen(disks[disk]))) continue;
        while (moods[disk] == 'h') nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
        if (moods[disk] == 'e') return EIO;
    }
    return 0;
}

#define AS_IT_IS(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define WRITE(type, name, parameters, fd, ...)                                                                         \
    type name parameters {                                                                                             \
        int error = fails(fd);                                                                                         \
        if (error) {                                                                                                   \
            errno = error;                                                                                             \
            return -1;                                                                                                 \
        }                                                                                                              \
        return AS_IT_IS(name)(__VA_ARGS__);                                                                            \
    }

WRITE(ssize_t, write, (int fd, const void *from, size_t size), fd, fd, from, size)
WRITE(ssize_t, writev, (int fd, const struct iovec *from, int count), fd, fd, from, count)
WRITE(ssize_t, pwrite, (int fd, const void *from, size_t size, off_t at), fd, fd, from, size, at)
WRITE(ssize_t, pwrite64, (int fd, const void *from, size_t size, off64_t at), fd, fd, from, size, at)
WRITE(int, ftruncate, (int fd, off_t size), fd, fd, size)
WRITE(int, ftruncate64, (int fd, off64_t size), fd, fd, size)
WRITE(int, fsync, (int fd), fd, fd)
WRITE(int, fdatasync, (int fd), fd, fd)
WRITE(int, sync_file_range, (int fd, off64_t at, off64_t size, unsigned int how), fd, fd, at, size, how)

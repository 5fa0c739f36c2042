/* Counts what a program and its children do to files below one folder, and kills all of them at one event.

   Loaded with LD_PRELOAD, so that it sees what Python, torch, safetensors and arrow do alike. An event is a file made
   or opened for writing, a write, a rename, a link, a deletion, a folder made, a file cut or flushed. The killed event
   does not happen; of a write that is killed, the first half does. Events are numbered by a counter in a shared file.

   KILL_ROOT     the folder, resolved
   KILL_COUNTER  a file of eight bytes, the number of events so far
   KILL_LOG      a file that gets a line an event, if set
   KILL_AT       the event that kills, 0 for none
   KILL_GROUP    the process group that it kills, besides this process

   The variables are read when `file_events_start` is called, or at the start of a program that has them. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sendfile.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static char root[PATH_MAX];
static size_t root_length;
static unsigned long *counter;
static unsigned long kill_at;
static pid_t group;
static int log_file = -1;

#define REAL(name) ((__typeof__(name) *)dlsym(RTLD_NEXT, #name))

void file_events_start(void) {
  const char *where = getenv("KILL_ROOT"), *count = getenv("KILL_COUNTER");
  root_length = 0;
  if (!where || !count) return;
  int file = syscall(SYS_openat, AT_FDCWD, count, O_RDWR | O_CLOEXEC);
  if (file < 0) return;
  void *shared = mmap(NULL, sizeof *counter, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  syscall(SYS_close, file);
  if (shared == MAP_FAILED) return;
  counter = shared;
  const char *at = getenv("KILL_AT"), *who = getenv("KILL_GROUP"), *log = getenv("KILL_LOG");
  kill_at = at ? strtoul(at, NULL, 10) : 0;
  group = who ? atoi(who) : 0;
  log_file = log ? (int)syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;
  snprintf(root, sizeof root, "%s", where);
  root_length = strlen(root);
}

__attribute__((constructor)) static void start(void) { file_events_start(); }

static int is_below(const char *path) {
  return !strncmp(path, root, root_length) && (path[root_length] == '/' || !path[root_length]);
}

static int find_descriptor(int descriptor, char *path) {
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
  ssize_t length = syscall(SYS_readlinkat, AT_FDCWD, link, path, PATH_MAX - 1);
  path[length > 0 ? length : 0] = 0;
  return length > 0;
}

/* Whether this event is the one that kills. */
static int count_event(const char *what, const char *path) {
  unsigned long number = __atomic_add_fetch(counter, 1, __ATOMIC_SEQ_CST);
  if (log_file >= 0) {
    char line[PATH_MAX + 64];
    int length = snprintf(line, sizeof line, "%lu %s %s\n", number, what, path + root_length);
    syscall(SYS_write, log_file, line, length < (int)sizeof line ? length : (int)sizeof line);
  }
  return kill_at && number == kill_at;
}

static void end(void) {
  if (group > 0) syscall(SYS_kill, -group, SIGKILL);
  syscall(SYS_kill, syscall(SYS_getpid), SIGKILL);
  for (;;) pause();
}

static void note(const char *what, int folder, const char *path) {
  int before = errno;
  char whole[PATH_MAX * 2], start_of_it[PATH_MAX];
  if (!root_length || !path) return;
  if (path[0] == '/') {
    snprintf(whole, sizeof whole, "%s", path);
  } else {
    if (folder == AT_FDCWD) {
      if (syscall(SYS_getcwd, start_of_it, sizeof start_of_it) < 0) return;
    } else if (!find_descriptor(folder, start_of_it)) {
      return;
    }
    snprintf(whole, sizeof whole, "%s/%s", start_of_it, path);
  }
  if (is_below(whole) && count_event(what, whole)) end();
  errno = before;
}

static int note_descriptor(const char *what, int descriptor, int tears) {
  int before = errno, hit = 0;
  char path[PATH_MAX];
  if (root_length && find_descriptor(descriptor, path) && is_below(path)) hit = count_event(what, path);
  if (hit && !tears) end();
  errno = before;
  return hit;
}

#define WRITES(flags) ((flags) & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC))
#define MODE(flags)                                                                                                    \
  mode_t mode = 0;                                                                                                     \
  if ((flags) & (O_CREAT | __O_TMPFILE)) {                                                                             \
    va_list rest;                                                                                                      \
    va_start(rest, flags);                                                                                             \
    mode = va_arg(rest, mode_t);                                                                                       \
    va_end(rest);                                                                                                      \
  }

int open(const char *path, int flags, ...) {
  MODE(flags)
  if (WRITES(flags)) note("open", AT_FDCWD, path);
  return syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}
int open64(const char *path, int flags, ...) {
  MODE(flags)
  if (WRITES(flags)) note("open", AT_FDCWD, path);
  return syscall(SYS_openat, AT_FDCWD, path, flags | O_LARGEFILE, mode);
}
int openat(int folder, const char *path, int flags, ...) {
  MODE(flags)
  if (WRITES(flags)) note("open", folder, path);
  return syscall(SYS_openat, folder, path, flags, mode);
}
int openat64(int folder, const char *path, int flags, ...) {
  MODE(flags)
  if (WRITES(flags)) note("open", folder, path);
  return syscall(SYS_openat, folder, path, flags | O_LARGEFILE, mode);
}
FILE *fopen(const char *path, const char *mode) {
  if (strpbrk(mode, "wa+")) note("open", AT_FDCWD, path);
  return REAL(fopen)(path, mode);
}
FILE *fopen64(const char *path, const char *mode) {
  if (strpbrk(mode, "wa+")) note("open", AT_FDCWD, path);
  return REAL(fopen64)(path, mode);
}
ssize_t write(int file, const void *data, size_t size) {
  if (note_descriptor("write", file, 1)) {
    syscall(SYS_write, file, data, size / 2);
    end();
  }
  return syscall(SYS_write, file, data, size);
}
ssize_t pwrite64(int file, const void *data, size_t size, off64_t place) {
  if (note_descriptor("write", file, 1)) {
    syscall(SYS_pwrite64, file, data, size / 2, place);
    end();
  }
  return syscall(SYS_pwrite64, file, data, size, place);
}
ssize_t pwrite(int file, const void *data, size_t size, off_t place) { return pwrite64(file, data, size, place); }
ssize_t writev(int file, const struct iovec *parts, int count) {
  note_descriptor("write", file, 0);
  return syscall(SYS_writev, file, parts, count);
}
ssize_t sendfile64(int to, int from, off64_t *place, size_t size) {
  if (note_descriptor("write", to, 1)) {
    struct stat facts;
    size_t left = fstat(from, &facts) ? 0 : (size_t)facts.st_size;
    syscall(SYS_sendfile, to, from, place, (left < size ? left : size) / 2);
    end();
  }
  return syscall(SYS_sendfile, to, from, place, size);
}
ssize_t sendfile(int to, int from, off_t *place, size_t size) { return sendfile64(to, from, place, size); }
ssize_t copy_file_range(int from, off64_t *from_place, int to, off64_t *to_place, size_t size, unsigned int flags) {
  note_descriptor("write", to, 0);
  return syscall(SYS_copy_file_range, from, from_place, to, to_place, size, flags);
}
int rename(const char *from, const char *to) {
  note("rename", AT_FDCWD, from);
  return syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}
int renameat(int from_folder, const char *from, int to_folder, const char *to) {
  note("rename", from_folder, from);
  return syscall(SYS_renameat2, from_folder, from, to_folder, to, 0);
}
int renameat2(int from_folder, const char *from, int to_folder, const char *to, unsigned int flags) {
  note("rename", from_folder, from);
  return syscall(SYS_renameat2, from_folder, from, to_folder, to, flags);
}
int link(const char *from, const char *to) {
  note("link", AT_FDCWD, to);
  return syscall(SYS_linkat, AT_FDCWD, from, AT_FDCWD, to, 0);
}
int linkat(int from_folder, const char *from, int to_folder, const char *to, int flags) {
  note("link", to_folder, to);
  return syscall(SYS_linkat, from_folder, from, to_folder, to, flags);
}
int symlink(const char *target, const char *path) {
  note("link", AT_FDCWD, path);
  return syscall(SYS_symlinkat, target, AT_FDCWD, path);
}
int symlinkat(const char *target, int folder, const char *path) {
  note("link", folder, path);
  return syscall(SYS_symlinkat, target, folder, path);
}
int unlink(const char *path) {
  note("unlink", AT_FDCWD, path);
  return syscall(SYS_unlinkat, AT_FDCWD, path, 0);
}
int unlinkat(int folder, const char *path, int flags) {
  note("unlink", folder, path);
  return syscall(SYS_unlinkat, folder, path, flags);
}
int rmdir(const char *path) {
  note("unlink", AT_FDCWD, path);
  return syscall(SYS_unlinkat, AT_FDCWD, path, AT_REMOVEDIR);
}
int mkdir(const char *path, mode_t mode) {
  note("mkdir", AT_FDCWD, path);
  return syscall(SYS_mkdirat, AT_FDCWD, path, mode);
}
int mkdirat(int folder, const char *path, mode_t mode) {
  note("mkdir", folder, path);
  return syscall(SYS_mkdirat, folder, path, mode);
}
int ftruncate64(int file, off64_t size) {
  note_descriptor("truncate", file, 0);
  return syscall(SYS_ftruncate, file, size);
}
int ftruncate(int file, off_t size) { return ftruncate64(file, size); }
int fsync(int file) {
  note_descriptor("fsync", file, 0);
  return syscall(SYS_fsync, file);
}
int fdatasync(int file) {
  note_descriptor("fsync", file, 0);
  return syscall(SYS_fdatasync, file);
}

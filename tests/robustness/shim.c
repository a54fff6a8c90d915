/* A disk that forgets: preloaded into a process, it records what was synced.

   Each fsync and fdatasync of a regular file leaves a record, named by the file's inode: a copy of a
   small file, the size of a large one. After a kill, the test brings every file back to its record.
   The control file, mapped, can make syncs slow or fail (EIO) and shift the clock of day.  */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define SMALL 65536

struct control { int64_t clock_ns, delay_us, eio, num_syncs; };

static struct control *control;
static const char *folder;
static pid_t owner;

static void look(void) {
  /* A forked child gets a variable of its own, some time after the fork. */
  pid_t now = getpid();
  const char *named = getenv("ROBUSTNESS_SHIM");
  if (owner == now && folder == named) return;
  owner = now;
  control = NULL;
  folder = named;
  if (!folder) return;
  char path[4096];
  snprintf(path, sizeof path, "%s/control", folder);
  int fd = open(path, O_RDWR | O_CLOEXEC);
  if (fd < 0) return;
  void *at = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  if (at != MAP_FAILED) control = at;
}

static void record(int fd, int64_t size, uint64_t inode) {
  char path[4096], part[4200], head[64];
  snprintf(path, sizeof path, "%s/%llu", folder, (unsigned long long)inode);
  snprintf(part, sizeof part, "%s.part", path);
  int out = open(part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (out < 0) return;
  int small = size >= 0 && size <= SMALL;
  int length = snprintf(head, sizeof head, "%c%lld\n", small ? 'C' : 'S', (long long)size);
  int whole = write(out, head, length) == length;
  if (small && whole) {
    /* The file may be open for writing only. */
    char own[64], data[SMALL];
    snprintf(own, sizeof own, "/proc/self/fd/%d", fd);
    int in = open(own, O_RDONLY | O_CLOEXEC);
    size_t wanted = size;
    whole = in >= 0 && pread(in, data, wanted, 0) == size && write(out, data, wanted) == size;
    if (in >= 0) close(in);
  }
  close(out);
  if (whole) rename(part, path);
}

static int synced(int fd, const char *name) {
  int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
  look();
  struct stat before;
  if (!control || fstat(fd, &before) || !S_ISREG(before.st_mode)) return real(fd);
  if (control->delay_us > 0) usleep(control->delay_us);
  if (control->eio) { errno = EIO; return -1; }
  int answer = real(fd);
  if (answer == 0) record(fd, before.st_size, before.st_ino);
  __atomic_add_fetch(&control->num_syncs, 1, __ATOMIC_RELAXED);
  return answer;
}

int fsync(int fd) { return synced(fd, "fsync"); }
int fdatasync(int fd) { return synced(fd, "fdatasync"); }

int clock_gettime(clockid_t id, struct timespec *at) {
  int answer = syscall(SYS_clock_gettime, id, at);
  look();
  if (answer == 0 && control && id == CLOCK_REALTIME && control->clock_ns) {
    int64_t ns = at->tv_nsec + control->clock_ns % 1000000000;
    at->tv_sec += control->clock_ns / 1000000000;
    if (ns < 0) { ns += 1000000000; at->tv_sec--; }
    if (ns >= 1000000000) { ns -= 1000000000; at->tv_sec++; }
    at->tv_nsec = ns;
  }
  return answer;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone) {
  struct timespec now;
  (void)zone;
  clock_gettime(CLOCK_REALTIME, &now);
  at->tv_sec = now.tv_sec;
  at->tv_usec = now.tv_nsec / 1000;
  return 0;
}

time_t time(time_t *at) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (at) *at = now.tv_sec;
  return now.tv_sec;
}

/* Loaded before all others: while the file that RIG_SLOW names is there, every sync takes a second longer. */
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
static void linger(void) {
  const char *file = getenv("RIG_SLOW");
  struct timespec second = {1, 0};
  if (file && access(file, F_OK) == 0) nanosleep(&second, NULL);
}
int fsync(int fd) {
  linger();
  return (int)syscall(SYS_fsync, fd);
}
int fdatasync(int fd) {
  linger();
  return (int)syscall(SYS_fdatasync, fd);
}

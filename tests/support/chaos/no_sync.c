/* Loaded before all others: every sync succeeds and does nothing. What a program without syncs would be. */
#include <sys/types.h>
int fsync(int fd) { (void)fd; return 0; }
int fdatasync(int fd) { (void)fd; return 0; }
int sync_file_range(int fd, off_t offset, off_t bytes, unsigned flags) {
  (void)fd; (void)offset; (void)bytes; (void)flags;
  return 0;
}

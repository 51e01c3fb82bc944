// Rows 18, 74: learn what others do with shared files: leases, notices, watches, pages in memory.
#include "attack.h"
#include <sys/inotify.h>
#include <sys/syscall.h>

int main(void) {
    int own = open("own", O_CREAT | O_RDONLY, 0600);
    TRY("lease", fcntl(own, F_SETLEASE, F_RDLCK));
    int directory = open("/usr/bin", O_RDONLY);
    TRY("directory notice", fcntl(directory, F_NOTIFY, DN_ACCESS));
    TRY("inotify", inotify_init1(0));
    TRY("inotify on a shared directory", inotify_add_watch(syscall(SYS_inotify_init1, 0), "/usr/bin", IN_OPEN));
    int file = open("/proc/self/exe", O_RDONLY);
    unsigned char present[16];
    void *pages = mmap(NULL, 4096, PROT_READ, MAP_SHARED, file, 0);
    TRY("mincore", mincore(pages, 4096, present));
    struct { uint64_t offset, length; } range = {0, 4096};
    uint64_t statistics[5];
    TRY("cachestat", syscall(451 /* cachestat */, file, &range, statistics, 0));
    TRY("drop shared pages", posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED) ? (errno = EINVAL, -1) : 0);
    unlink("own");
    return 0;
}

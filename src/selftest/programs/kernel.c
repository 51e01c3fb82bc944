// Rows 58, 59: the doors of the kernel that exploits come through, knocked at so that they would open.
#include "attack.h"
#include <linux/io_uring.h>
#include <linux/perf_event.h>

int main(void) {
    struct io_uring_params ring = {0};
    TRY_IN_CHILD("io_uring", syscall(SYS_io_uring_setup, 4, &ring));
    struct perf_event_attr event = {.type = PERF_TYPE_SOFTWARE, .size = sizeof event,
                                    .config = PERF_COUNT_SW_TASK_CLOCK, .exclude_kernel = 1, .exclude_hv = 1};
    TRY_IN_CHILD("perf_event_open", syscall(SYS_perf_event_open, &event, 0, -1, -1, 0));
    TRY_IN_CHILD("userfaultfd", syscall(SYS_userfaultfd, 1 /* UFFD_USER_MODE_ONLY */ | O_CLOEXEC));
    unsigned long contexts = 0;
    TRY_IN_CHILD("kernel aio", syscall(SYS_io_setup, 1, &contexts));
    struct { unsigned entry, base, limit, flags; } descriptor = {0, 0, 0, 0x28};
    TRY_IN_CHILD("modify_ldt", syscall(SYS_modify_ldt, 1, &descriptor, sizeof descriptor));
    int ends[2];
    if (pipe(ends)) return 2;
    struct { void *base; size_t length; } vector = {&ring, 16};
    TRY_IN_CHILD("vmsplice", syscall(SYS_vmsplice, ends[1], &vector, 1, 0));
    struct file_handle *handle = calloc(1, sizeof *handle + MAX_HANDLE_SZ);
    handle->handle_bytes = MAX_HANDLE_SZ;
    int mount;
    TRY_IN_CHILD("file handle", syscall(SYS_name_to_handle_at, AT_FDCWD, "/tmp", handle, &mount, 0));
    TRY_IN_CHILD("landlock again", syscall(SYS_landlock_create_ruleset, NULL, 0, 1));
    TRY_IN_CHILD("seccomp question", syscall(SYS_seccomp, 2, 0, &(unsigned){0x7fff0000}));
    TRY_IN_CHILD("memfd_secret", syscall(SYS_memfd_secret, 0));
    TRY_IN_CHILD("socket filter", ({
        struct { unsigned short code; unsigned char jt, jf; unsigned k; } accept_all = {6, 0, 0, 0xffffffff};
        struct { unsigned short length; void *filter; } filter = {1, &accept_all};
        int pair[2];
        socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
        setsockopt(pair[0], SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof filter);
    }));
    TRY_IN_CHILD("memory policy", syscall(SYS_set_mempolicy, 0, NULL, 0));
    return 0;
}

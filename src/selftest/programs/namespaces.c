// Rows 53, 54: namespaces of one's own, by each call that makes one, and those of others.
#include "attack.h"
#include <linux/sched.h>

static long make(int flags) { return unshare(flags); }

static long make_by_clone(long flags) {
    long child = syscall(SYS_clone, flags | SIGCHLD, NULL, NULL, NULL, NULL);
    if (child == 0) _exit(0);
    if (child > 0) waitpid(child, NULL, 0);
    return child;
}

static long make_by_clone3(uint64_t flags) {
    struct clone_args arguments = {.flags = flags, .exit_signal = SIGCHLD};
    long child = syscall(SYS_clone3, &arguments, sizeof arguments);
    if (child == 0) _exit(0);
    if (child > 0) waitpid(child, NULL, 0);
    return child;
}

int main(void) {
    const struct { const char *name; int flag; } kinds[] = {
        {"user", 0}, {"mount", CLONE_NEWNS}, {"net", CLONE_NEWNET}, {"pid", CLONE_NEWPID}, {"ipc", CLONE_NEWIPC},
        {"uts", CLONE_NEWUTS}, {"cgroup", CLONE_NEWCGROUP}, {"time", 0x80},
    };
    for (size_t index = 0; index < sizeof kinds / sizeof *kinds; index++) {
        char name[64];
        int flags = CLONE_NEWUSER | kinds[index].flag;
        snprintf(name, sizeof name, "unshare %s", kinds[index].name);
        TRY_IN_CHILD(name, make(flags));
        // The bit of the time namespace is part of the exit signal here.
        if (kinds[index].flag != 0x80) {
            snprintf(name, sizeof name, "clone %s", kinds[index].name);
            TRY_IN_CHILD(name, make_by_clone(flags));
        }
        snprintf(name, sizeof name, "clone3 %s", kinds[index].name);
        TRY_IN_CHILD(name, make_by_clone3(flags));
    }
    // With the high half set: the same flags for the kernel, another number for a careless filter.
    TRY_IN_CHILD("clone user, high bits set", make_by_clone(CLONE_NEWUSER | 1L << 32));
    TRY_IN_CHILD("setns by pid", ({
        unshare(CLONE_NEWUSER | CLONE_NEWUTS);
        syscall(SYS_setns, syscall(SYS_pidfd_open, getpid(), 0), CLONE_NEWUTS);
    }));
    TRY_IN_CHILD("setns by file", ({
        unshare(CLONE_NEWUSER | CLONE_NEWUTS);
        setns(open("/proc/self/ns/uts", O_RDONLY), CLONE_NEWUTS);
    }));
    return 0;
}

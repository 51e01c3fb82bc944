// What the attack programs share. Each attempt prints one line, `attempt: ok` when it succeeded and
// `attempt: ERRNO` when it was refused; the table of attacks says which lines are expected where.
//
// All programs are linked into one file, which `dispatch.c` enters (see build.rs): what would be `main` has another
// name there, and a program must not rely on the `return 0` that only `main` does by itself.
#pragma once
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

// The attempts that were asked for, between bars (`|bind|umount|`); NULL for all.
extern const char *attack_only;

__attribute__((unused)) static int wanted(const char *attempt) {
    char name[128];
    snprintf(name, sizeof name, "|%s|", attempt);
    return attack_only == NULL || strstr(attack_only, name) != NULL;
}

__attribute__((unused)) static void say(const char *attempt, int error) {
    if (!wanted(attempt)) return;
    printf("%s: %s\n", attempt, error == 0 ? "ok" : strerrorname_np(error));
    fflush(stdout);
}

// An expression with the convention of system calls: -1 and errno.
#define TRY(attempt, expression) \
    do { \
        if (!wanted(attempt)) break; \
        errno = 0; \
        long result_ = (long)(expression); \
        say(attempt, result_ == -1 ? errno : 0); \
    } while (0)

// For calls whose success the machine would feel: the arguments are wrong in a way that only the kernel's own code
// finds out, so any answer but these two means that it was reached.
#define REACH(attempt, expression) \
    do { \
        if (!wanted(attempt)) break; \
        errno = 0; \
        long result_ = (long)(expression); \
        say(attempt, result_ == -1 && (errno == EPERM || errno == ENOSYS) ? errno : 0); \
    } while (0)

// As TRY in a child, so that neither a success nor a fatal signal changes what comes after it.
#define TRY_IN_CHILD(attempt, expression) \
    do { \
        if (!wanted(attempt)) break; \
        pid_t child_ = fork(); \
        if (child_ == 0) { \
            errno = 0; \
            long result_ = (long)(expression); \
            _exit(result_ == -1 ? errno : 0); \
        } \
        int status_ = 0; \
        if (child_ == -1 || waitpid(child_, &status_, 0) == -1) say(attempt, errno); \
        else if (WIFSIGNALED(status_)) printf("%s: SIG%s\n", attempt, sigabbrev_np(WTERMSIG(status_))); \
        else say(attempt, WEXITSTATUS(status_)); \
        fflush(stdout); \
    } while (0)

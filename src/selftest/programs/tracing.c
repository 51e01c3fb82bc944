// Row 30: read and steer another process. Usage: tracing parent|child
#include "attack.h"
#include <sys/ptrace.h>
#include <sys/uio.h>

static int secret = 42;

int main(int count, char **arguments) {
    (void)count;
    pid_t target = strcmp(arguments[1], "parent") == 0 ? getppid() : 0, child = 0;
    if (target == 0 && (child = target = fork()) == 0) return pause();
    usleep(10000);
    TRY("ptrace", ptrace(PTRACE_SEIZE, target, NULL, NULL));
    ptrace(PTRACE_DETACH, target, NULL, NULL);
    int copy = 0;
    struct iovec local = {&copy, sizeof copy}, remote = {&secret, sizeof secret};
    TRY("process_vm_readv", process_vm_readv(target, &local, 1, &remote, 1, 0));
    TRY("process_vm_writev", process_vm_writev(target, &local, 1, &remote, 1, 0));
    TRY("kcmp", syscall(SYS_kcmp, getpid(), target, 2 /* KCMP_FILES */, 0, 0));
    TRY("pidfd_getfd", syscall(SYS_pidfd_getfd, syscall(SYS_pidfd_open, target, 0), 1, 0));
    if (child) kill(child, SIGKILL);
    return 0;
}

// Row 25: signals to the one that reaps, to the one that watches, to everybody. Usage: signals parent|PID HOST
#include "attack.h"
#include <sys/pidfd.h>

int main(int count, char **arguments) {
    (void)count;
    pid_t init = strcmp(arguments[1], "parent") == 0 ? getppid() : atoi(arguments[1]), host = atoi(arguments[2]);
    // Where the pid namespace was left out and the starter is gone, 1 is the machine's own.
    if (init <= 1 && getpid() > 64) return 2;
    TRY("question init", kill(init, 0));
    TRY("kill init", kill(init, SIGWINCH));
    TRY("tgkill init", syscall(SYS_tgkill, init, init, SIGWINCH));
    union sigval value = {0};
    TRY("sigqueue init", sigqueue(init, SIGWINCH, value));
    TRY("pidfd init", ({ int descriptor = pidfd_open(init, 0); descriptor == -1 ? -1 : pidfd_send_signal(descriptor, SIGWINCH, NULL, 0); }));
    TRY("continue init's group", kill(-init, SIGCONT));
    TRY("own init", fcntl(0, F_SETOWN, init) ? -1 : fcntl(0, F_SETFL, O_ASYNC) ? -1 : 0);
    TRY("kill a process of the host", kill(host, 0));
    TRY("pidfd of the host", pidfd_open(host, 0));
    return 0;
}

// Rows 59 to 61: every system call number on each of the processor's doors, every socket family, prctl option and
// ioctl. Prints `NUMBER END` a line. Usage: sweep x86_64|i386|x32|families|prctl|ioctl [FIRST LAST]
#include "attack.h"

static long by_interrupt(long number) {
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(0L), "c"(0L), "d"(0L) : "memory", "r8", "r9", "r10", "r11");
    if (result < 0 && result > -4096) return errno = -result, -1;
    return result;
}

static const char *end_of(int error) { return error ? strerrorname_np(error) : "ok"; }

// One call in a child of its own, with arguments of zero; how it ended, or `-` for a call that did not return in time.
static const char *call(const char *door, long number, int milliseconds) {
    int ends[2], status = 0;
    if (pipe(ends)) exit(2);
    pid_t child = fork();
    if (child == 0) {
        close(ends[0]);
        // What would wait for ever, or leave more children behind, is stopped by the clock.
        struct itimerval soon = {.it_value = {.tv_usec = milliseconds * 1000}};
        syscall(SYS_setitimer, 0 /* ITIMER_REAL */, &soon, NULL);
        errno = 0;
        long result;
        if (strcmp(door, "i386") == 0) result = by_interrupt(number);
        else if (strcmp(door, "x32") == 0) result = syscall(0x40000000 | number, 0, 0, 0, 0, 0, 0);
        else if (strcmp(door, "prctl") == 0) result = syscall(SYS_prctl, number, 0, 0, 0, 0);
        else result = syscall(number, 0, 0, 0, 0, 0, 0);
        int error = result == -1 ? errno : 0;
        if (write(ends[1], &error, sizeof error) < 0) _exit(1);
        _exit(0);
    }
    close(ends[1]);
    int error = 0;
    struct pollfd ready = {ends[0], POLLIN, 0};
    poll(&ready, 1, milliseconds + 200);
    int answered = read(ends[0], &error, sizeof error) == sizeof error;
    close(ends[0]);
    kill(child, SIGKILL);
    if (waitpid(child, &status, 0) == -1) exit(2);
    if (answered) return end_of(error);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS ? "SIGSYS" : "-";
}

static void tell(const char *door, long number) {
    fflush(stdout);
    const char *end = call(door, number, 30);
    // On a slow machine the clock may come before the call itself.
    if (strcmp(end, "-") == 0) end = call(door, number, 300);
    printf("%ld %s\n", number, end);
}

static void families(long first, long last) {
    const int types[] = {SOCK_STREAM, SOCK_DGRAM, SOCK_RAW, SOCK_SEQPACKET};
    for (long family = first; family <= last; family++) {
        printf("%ld", family);
        for (int index = 0; index < 4; index++) {
            int descriptor = socket((int)family, types[index], 0);
            printf(" %s", end_of(descriptor == -1 ? errno : 0));
            if (descriptor != -1) close(descriptor);
        }
        printf("\n");
    }
}

// On no descriptor at all, so that nothing can come of it: EBADF is the kernel's answer, any other the filter's. Every
// number of the terminal's, the console's and the network interfaces' drivers, with every size and direction that a
// structure of theirs could have, and what other drivers and file systems are known for.
static void ioctls(void) {
    const unsigned char drivers[] = {'T', 'K', 'V', 0x89, 0x8b, 't', 'f', 'X', 'v', 'u', 'B', 0x12, 0x94, 0xae, 0xaf, 'L', 'R', 'E', 'U'};
    const unsigned sizes[] = {0, 1, 2, 4, 8, 12, 16, 20, 24, 32, 36, 40, 44, 48, 60, 64, 128};
    int told = 0;
    for (size_t driver = 0; driver < sizeof drivers; driver++)
        for (unsigned number = 0; number < 256; number++)
            for (unsigned direction = 0; direction < 4; direction++)
                for (size_t size = 0; size < sizeof sizes / sizeof *sizes; size++) {
                    unsigned request = direction << 30 | sizes[size] << 16 | (unsigned)drivers[driver] << 8 | number;
                    // The high half of the number is the kernel's to ignore: a filter must not be fooled by it.
                    for (int high = 0; high < (drivers[driver] == 'T' ? 2 : 1); high++) {
                        // Where nothing is refused, the first thousand tell as much as all.
                        if (told > 1000) return;
                        errno = 0;
                        syscall(SYS_ioctl, -1, (unsigned long)request | (unsigned long)high << 32, 0);
                        // One that both halves allow is told once.
                        if (errno == EBADF && high == 0) told++, printf("0x%08x EBADF\n", request);
                        if (errno != ENOTTY && errno != EBADF) told++, printf("0x%08x %s\n", request, end_of(errno));
                    }
                }
}

int main(int count, char **arguments) {
    const char *kind = arguments[1];
    long first = count > 2 ? atol(arguments[2]) : 0, last = count > 3 ? atol(arguments[3]) : 600;
    setvbuf(stdout, NULL, _IOFBF, 1 << 16);
    if (strcmp(kind, "families") == 0) families(first, last);
    else if (strcmp(kind, "ioctl") == 0) ioctls();
    else {
        for (long number = first; number <= last; number++) tell(kind, number);
        // Options that are words, and one of the plain ones with the high half set.
        const long words[] = {0x59616d61, 0x53564d41, 0x41555856, 1L << 32 | 22, 0xffffffff};
        for (int index = 0; index < 5 && strcmp(kind, "prctl") == 0; index++) tell(kind, words[index]);
    }
    fflush(stdout);
    return 0;
}

// Rows 33 to 36: take memory of one kind until something says no. Usage: memory KIND
#include "attack.h"
#include <sys/msg.h>
#include <sys/shm.h>

enum { CHUNK = 1 << 20, MOST = 1 << 10 };

static void fill(int descriptor) {
    static char block[1 << 16];
    for (int index = 0; index < 16; index++)
        if (write(descriptor, block, sizeof block) == -1) return;
}

static int __attribute__((noinline)) dive(int depth) {
    volatile char frame[4096];
    frame[0] = (char)depth;
    return depth == 0 ? 0 : dive(depth - 1) + frame[0] * 0;
}

int main(int count, char **arguments) {
    const char *kind = arguments[1];
    long most = count > 2 ? atol(arguments[2]) : MOST;
    signal(SIGPIPE, SIG_IGN);
    if (strcmp(kind, "sparse") == 0) {
        // As runtimes do: a tebibyte reserved, little touched.
        char *place = mmap(NULL, 1L << 40, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (place == MAP_FAILED) return say(kind, errno), 0;
        place[1L << 39] = 1;
        return say(kind, 0), 0;
    }
    if (strcmp(kind, "stack") == 0) return dive(most << 8), say(kind, 0), 0;
    if (strcmp(kind, "raise stack") == 0) {
        struct rlimit limit = {RLIM_INFINITY, RLIM_INFINITY};
        return ({ TRY(kind, setrlimit(RLIMIT_STACK, &limit)); }), 0;
    }
    int error = 0;
    long taken = 0;
    for (; taken < most && !error; taken++) {
        errno = 0;
        if (strcmp(kind, "heap") == 0) {
            char *place = malloc(CHUNK);
            if (place) memset(place, 1, CHUNK);
            else error = errno;
        } else if (strcmp(kind, "mlock") == 0) {
            char *place = mmap(NULL, CHUNK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (mlock(place, CHUNK) == -1) error = errno;
        } else if (strcmp(kind, "memfd") == 0) {
            int descriptor = memfd_create("m", 0);
            if (descriptor == -1) error = errno;
            else fill(descriptor);
        } else if (strcmp(kind, "tmpfs") == 0) {
            char name[32];
            snprintf(name, sizeof name, "%s/t%ld", taken % 2 ? "/tmp" : "/work", taken);
            int descriptor = open(name, O_CREAT | O_WRONLY, 0600);
            if (descriptor == -1) error = errno;
            else errno = 0, fill(descriptor), error = errno, close(descriptor);
        } else if (strcmp(kind, "pipes") == 0) {
            int ends[2];
            if (pipe2(ends, O_NONBLOCK) == -1) error = errno;
            else fcntl(ends[1], F_SETPIPE_SZ, CHUNK), fill(ends[1]);
        } else if (strcmp(kind, "sockets") == 0) {
            int ends[2], size = CHUNK;
            if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends) == -1) error = errno;
            else setsockopt(ends[1], SOL_SOCKET, SO_SNDBUF, &size, sizeof size), fill(ends[1]);
        } else if (strcmp(kind, "shm") == 0) {
            int id = shmget(IPC_PRIVATE, CHUNK, 0600 | IPC_CREAT);
            char *place = id == -1 ? (char *)-1 : shmat(id, NULL, 0);
            if (place == (char *)-1) error = errno;
            else memset(place, 1, CHUNK), shmdt(place);
        } else if (strcmp(kind, "messages") == 0) {
            struct { long type; char text[8000]; } message = {1, {0}};
            int id = msgget(IPC_PRIVATE, 0600 | IPC_CREAT);
            if (id == -1) error = errno;
            else while (msgsnd(id, &message, sizeof message.text, IPC_NOWAIT) == 0) {}
        } else if (strcmp(kind, "page tables") == 0) {
            // One page in each 2 MiB: two pages of memory apiece, one of them a page table.
            char *place = mmap(NULL, 1L << 30, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
            if (place == MAP_FAILED) error = errno;
            else for (long offset = 0; offset < 1L << 30; offset += 2 << 20) (void)*(volatile char *)(place + offset);
        } else if (strcmp(kind, "children") == 0) {
            pid_t child = fork();
            if (child == -1) error = errno;
            else if (child == 0) {
                char *place = malloc(CHUNK);
                if (place) memset(place, 1, CHUNK);
                return pause();
            }
        } else return 2;
    }
    printf("%s: %s\n", kind, error ? strerrorname_np(error) : "ok");
    return 0;
}

// Row 73: one more than each limit allows. Where the limits are not set these values are below the host's own.
#include "attack.h"

int main(void) {
    const struct { const char *name; int resource; rlim_t beyond; } limits[] = {
        {"core", RLIMIT_CORE, 2},          {"cpu", RLIMIT_CPU, 12},          {"fsize", RLIMIT_FSIZE, (64 << 20) + 1},
        {"nofile", RLIMIT_NOFILE, 257},    {"stack", RLIMIT_STACK, (64 << 20) + 1}, {"nproc", RLIMIT_NPROC, 66},
        {"memlock", RLIMIT_MEMLOCK, 65537}, {"msgqueue", RLIMIT_MSGQUEUE, 1}, {"nice", RLIMIT_NICE, 1},
        {"rtprio", RLIMIT_RTPRIO, 1},      {"sigpending", RLIMIT_SIGPENDING, 257},
    };
    for (size_t index = 0; index < sizeof limits / sizeof *limits; index++) {
        struct rlimit beyond = {limits[index].beyond, limits[index].beyond};
        TRY_IN_CHILD(limits[index].name, setrlimit(limits[index].resource, &beyond));
    }
    return 0;
}

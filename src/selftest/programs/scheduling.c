// Row 31: get ahead of the neighbours. Usage: scheduling parent|self
#include "attack.h"

int main(int count, char **arguments) {
    struct sched_param parameters = {.sched_priority = 1};
    TRY_IN_CHILD("real time", sched_setscheduler(0, SCHED_FIFO, &parameters));
    TRY_IN_CHILD("round robin", sched_setscheduler(0, SCHED_RR, &parameters));
    TRY_IN_CHILD("nice -5", setpriority(PRIO_PROCESS, 0, -5));
    TRY_IN_CHILD("nice 5 and back", setpriority(PRIO_PROCESS, 0, 5) ? -1 : setpriority(PRIO_PROCESS, 0, 0));
    struct { uint32_t size, policy; uint64_t flags; int32_t nice; uint32_t priority; uint64_t runtime, deadline, period; }
        deadline = {48, 6 /* SCHED_DEADLINE */, 0, 0, 0, 1000000, 10000000, 10000000};
    TRY_IN_CHILD("deadline", syscall(SYS_sched_setattr, 0, &deadline, 0));
    TRY_IN_CHILD("ioprio", syscall(SYS_ioprio_set, 1, 0, 1 << 13 /* real time */));
    // The parent is init in the sandbox, whatever number it has; the control means itself.
    pid_t target = count > 1 && strcmp(arguments[1], "parent") == 0 ? getppid() : 0;
    TRY_IN_CHILD("priority of init", setpriority(PRIO_PROCESS, target, 19));
    cpu_set_t all;
    memset(&all, 0xff, sizeof all);
    // Only within the cpuset: harmless, and what thread pools do.
    TRY_IN_CHILD("affinity", sched_setaffinity(0, sizeof all, &all));
    return 0;
}

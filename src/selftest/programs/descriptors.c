// Rows 13, 50, 51, 78: descriptors that the payload was not given, and what could be done with one (CVE-2024-21626).
#include "attack.h"

int main(void) {
    for (int descriptor = 3; descriptor < 1024; descriptor++) {
        char path[64];
        snprintf(path, sizeof path, "/proc/self/fd/%d", descriptor);
        // 42 is the number the test lets leak; the others are reported when they are there.
        if (fcntl(descriptor, F_GETFD) == -1 && descriptor != 42) continue;
        char name[64];
        snprintf(name, sizeof name, "descriptor %d", descriptor);
        TRY(name, fcntl(descriptor, F_GETFD));
        snprintf(name, sizeof name, "work directory by %d", descriptor);
        TRY_IN_CHILD(name, chdir(path));
        snprintf(name, sizeof name, "open beneath %d", descriptor);
        TRY_IN_CHILD(name, openat(descriptor, "etc/hostname", O_RDONLY));
        snprintf(name, sizeof name, "escape by %d", descriptor);
        TRY_IN_CHILD(name, openat(descriptor, "../../../../proc/1/status", O_RDONLY));
    }
    return 0;
}

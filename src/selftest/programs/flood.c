// Rows 7, 8, 9: fill a directory with files or bytes. Usage: flood files|bytes|fallocate|sparse DIRECTORY MOST
#include "attack.h"

int main(int count, char **arguments) {
    (void)count;
    const char *mode = arguments[1];
    long most = atol(arguments[3]), made = 0;
    if (chdir(arguments[2])) return 2;
    errno = 0;
    // A cap on the file's size shall be an error here, not a death.
    signal(SIGXFSZ, SIG_IGN);
    if (strcmp(mode, "files") == 0) {
        char name[32];
        for (; made < most; made++) {
            snprintf(name, sizeof name, "f%ld", made);
            int descriptor = open(name, O_CREAT | O_WRONLY, 0600);
            if (descriptor == -1) break;
            close(descriptor);
        }
        say(mode, made < most ? errno : 0);
        for (long index = 0; index < made; index++) snprintf(name, sizeof name, "f%ld", index), unlink(name);
        return 0;
    }
    int descriptor = open("big", O_CREAT | O_WRONLY, 0600);
    if (strcmp(mode, "fallocate") == 0) {
        TRY(mode, fallocate(descriptor, 0, 0, most));
    } else if (strcmp(mode, "sparse") == 0) {
        TRY(mode, ftruncate(descriptor, most));
    } else {
        static char block[1 << 16];
        for (; made < most; made += sizeof block)
            if (write(descriptor, block, sizeof block) != sizeof block) break;
        say(mode, made < most ? errno ? errno : ENOSPC : 0);
    }
    unlink("big");
    return 0;
}

// Row 18: talk through the lock of a file that two cells see. Usage: locks hold|try FILE
#include "attack.h"
#include <sys/file.h>

int main(int count, char **arguments) {
    (void)count;
    int descriptor = open(arguments[2], O_RDONLY);
    if (descriptor == -1) return say("open", errno), 0;
    if (strcmp(arguments[1], "hold") == 0) {
        TRY("hold", flock(descriptor, LOCK_EX));
        // Until the test closes our stdin.
        char byte;
        return read(0, &byte, 1) < 0;
    }
    // `ok` would mean that the other cell's lock tells us something.
    say("see a neighbour's flock", flock(descriptor, LOCK_EX | LOCK_NB) == -1 && errno == EWOULDBLOCK ? 0 : ESRCH);
    return 0;
}

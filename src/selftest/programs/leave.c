// Rows 9, 37: files for the next run. Usage: leave (leave|find)…
#include "attack.h"

int main(int count, char **arguments) {
    const char *places[] = {"/tmp", "/work", "/dev/shm"};
    for (int index = 1; index < count; index++) {
        int flags = *arguments[index] == 'l' ? O_CREAT | O_WRONLY : O_RDONLY;
        for (size_t place = 0; place < sizeof places / sizeof *places; place++) {
            char path[64], name[64];
            snprintf(path, sizeof path, "%s/left-behind", places[place]);
            snprintf(name, sizeof name, "%s in %s", arguments[index], places[place]);
            TRY(name, open(path, flags, 0666));
        }
    }
    return 0;
}

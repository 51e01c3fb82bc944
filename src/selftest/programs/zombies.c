// Row 23: children that end and are not waited for, or whose parent ends first. Usage: zombies kept|orphans COUNT
#include "attack.h"

int main(int count, char **arguments) {
    (void)count;
    int orphans = *arguments[1] == 'o', wanted = atoi(arguments[2]), made = 0;
    for (; made < wanted; made++) {
        pid_t child = fork();
        if (child == -1) break;
        if (child == 0) {
            // At the limit of processes the orphan fails to be born; that is no matter here.
            if (orphans && fork() == 0) usleep(100);
            _exit(0);
        }
        if (orphans) waitpid(child, NULL, 0);
    }
    say(arguments[1], made == wanted ? 0 : errno);
    return 0;
}

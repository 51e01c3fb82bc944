// Row 22: multiply. Usage: bombs fork|vfork|thread|daemon|COUNT
#include "attack.h"
#include <pthread.h>

static void *sleeper(void *unused) { return pause(), unused; }

int main(int count, char **arguments) {
    (void)count;
    const char *mode = arguments[1];
    int wanted = atoi(mode);
    if (wanted > 0) {
        int made = 0;
        for (; made < wanted; made++) {
            pid_t child = fork();
            if (child == 0) return pause();
            if (child == -1) break;
        }
        return say("processes", made == wanted ? 0 : errno), 0;
    }
    for (;;) {
        if (*mode == 'f') fork();
        if (*mode == 'v') {
            if (vfork() == 0) {
                execl("/proc/self/exe", "bombs", "vfork", NULL);
                _exit(1);
            }
        }
        if (*mode == 't') {
            pthread_t thread;
            pthread_create(&thread, NULL, sleeper, NULL);
        }
        // Away from the process group, the session and the parent.
        if (*mode == 'd' && fork() == 0) {
            setsid();
            signal(SIGTERM, SIG_IGN);
            signal(SIGHUP, SIG_IGN);
            if (fork() != 0) _exit(0);
        }
    }
}

// Row 66: System V objects and message queues outlive processes. Usage: ipc leave|find|clear
#include "attack.h"
#include <mqueue.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>

enum { KEY = 0x5a4d4258 };

int main(int count, char **arguments) {
    (void)count;
    int flags = *arguments[1] == 'l' ? 0666 | IPC_CREAT : 0;
    int shared, queue, semaphore;
    const char *word = *arguments[1] == 'l' ? "leave" : "find";
    char name[64];
    snprintf(name, sizeof name, "%s shared memory", word);
    TRY(name, (shared = shmget(KEY, 4096, flags)));
    snprintf(name, sizeof name, "%s a queue", word);
    TRY(name, (queue = msgget(KEY, flags)));
    snprintf(name, sizeof name, "%s a semaphore", word);
    TRY(name, (semaphore = semget(KEY, 1, flags)));
    snprintf(name, sizeof name, "%s a posix queue", word);
    TRY(name, flags ? mq_open("/attack", O_CREAT | O_RDWR, 0666, NULL) : mq_open("/attack", O_RDWR));
    if (*arguments[1] == 'c') {
        shmctl(shared, IPC_RMID, NULL);
        msgctl(queue, IPC_RMID, NULL);
        semctl(semaphore, 0, IPC_RMID);
        mq_unlink("/attack");
    }
    return 0;
}

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *add(void *sum) {
    for (int n = 1; n <= 1000; n++) *(long *)sum += n;
    return NULL;
}

int main(int count, char **words) {
    const char *name = words[1];
    char line[128];
    if (!strcmp(name, "echo")) {
        for (int c; (c = getchar()) != EOF;) putchar(c);
    } else if (!strcmp(name, "args")) {
        for (int index = 2; index < count; index++) printf("[%s]\n", words[index]);
    } else if (!strcmp(name, "exit")) {
        return 3;
    } else if (!strcmp(name, "stderr")) {
        puts("to stdout");
        fputs("to stderr\n", stderr);
    } else if (!strcmp(name, "unicode")) {
        puts("žluťoučký 你好 🦀");
    } else if (!strcmp(name, "output")) {
        memset(line, 'x', 99), line[99] = 0;
        for (int n = 0; n < 10000; n++) puts(line);
    } else if (!strcmp(name, "uncaught")) {
        fputs("corpus failure\n", stderr);
        abort();
    } else if (!strcmp(name, "memory")) {
        for (;;) memset(malloc(1 << 20), 1, 1 << 20);
    } else if (!strcmp(name, "loop")) {
        for (;;) __asm__ volatile("");
    } else if (!strcmp(name, "threads")) {
        pthread_t threads[4];
        long sums[4] = {0}, total = 0;
        for (int index = 0; index < 4; index++) pthread_create(&threads[index], NULL, add, &sums[index]);
        for (int index = 0; index < 4; index++) pthread_join(threads[index], NULL), total += sums[index];
        printf("%ld\n", total);
    } else if (!strcmp(name, "missing")) {
        puts(fopen("absent.txt", "r") ? "there" : "missing");
    } else if (!strcmp(name, "workdir")) {
        FILE *file = fopen("out.txt", "w+");
        fputs("written\n", file), rewind(file);
        fputs(fgets(line, sizeof line, file), stdout);
    }
    return 0;
}

// The entry of all attack programs: `attack [--only=|ATTEMPT|…|] PROGRAM [ARGUMENTS…]`, or the file under a program's name.
#include "attack.h"

const char *attack_only;

// `PROGRAMS(X)` lists X(name) for every file; build.rs writes it.
#include "programs.inc"

#define DECLARE(name) int attack_##name();
#define ROW(name) {#name, attack_##name},

PROGRAMS(DECLARE)

static const struct { const char *name; int (*enter)(); } programs[] = {PROGRAMS(ROW)};

static int enter(int count, char **arguments) {
    const char *slash = strrchr(arguments[0], '/');
    const char *name = slash ? slash + 1 : arguments[0];
    for (size_t index = 0; index < sizeof programs / sizeof *programs; index++)
        if (strcmp(programs[index].name, name) == 0) exit(programs[index].enter(count, arguments));
    return 2;
}

int main(int count, char **arguments) {
    enter(count, arguments);
    count--, arguments++;
    if (count > 0 && strncmp(arguments[0], "--only=", 7) == 0) attack_only = arguments[0] + 7, count--, arguments++;
    if (count > 0) enter(count, arguments);
    fprintf(stderr, "attack: no such program\n");
    return 2;
}

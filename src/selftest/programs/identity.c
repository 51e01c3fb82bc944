// Rows 16, 69: become somebody else.
#include "attack.h"
#include <grp.h>
#include <linux/capability.h>
#include <sys/auxv.h>

int main(int count, char **arguments) {
    if (count > 1 && strcmp(arguments[1], "status") == 0) {
        char line[256];
        FILE *status = fopen("/proc/self/status", "r");
        const char *wanted[] = {"Uid:", "Gid:", "Groups:", "NoNewPrivs:", "Seccomp:", "CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"};
        while (status && fgets(line, sizeof line, status))
            for (size_t index = 0; index < sizeof wanted / sizeof *wanted; index++)
                if (strncmp(line, wanted[index], strlen(wanted[index])) == 0) fputs(line, stdout);
        return 0;
    }
    if (count > 1 && strcmp(arguments[1], "helper") == 0) {
        say("a set-user-id helper gains", getuid() != geteuid() || getauxval(AT_SECURE) ? 0 : EPERM);
        return 0;
    }
    TRY_IN_CHILD("become root", setresuid(0, 0, 0));
    TRY_IN_CHILD("become init's user", setresuid(999, 999, 999));
    TRY_IN_CHILD("root's group", setresgid(0, 0, 0));
    gid_t group = 0;
    TRY_IN_CHILD("set groups", setgroups(1, &group));
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2] = {{1, 1, 0}, {0, 0, 0}};
    TRY_IN_CHILD("take a capability", syscall(SYS_capset, &header, data));
    TRY_IN_CHILD("own a file as root", chown(".", 0, 0));
    return 0;
}

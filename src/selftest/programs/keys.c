// Row 62: keyrings outlive processes. Usage: keys add|find, or keys session COMMAND…
#include "attack.h"
#include <linux/keyctl.h>

int main(int count, char **arguments) {
    if (strcmp(arguments[1], "session") == 0 && count > 2) {
        // The outside of the attack: a key in a session keyring that the sandbox's supervisor inherits.
        if (syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL) == -1) return 2;
        long key = syscall(SYS_add_key, "user", "attack", "secret", 6L, KEY_SPEC_SESSION_KEYRING);
        if (key == -1) return 2;
        syscall(SYS_keyctl, KEYCTL_SETPERM, key, 0x3f3f3f3f);
        execv(arguments[2], arguments + 2);
        return 2;
    }
    if (strcmp(arguments[1], "add") == 0) {
        TRY("add to the user's keyring", syscall(SYS_add_key, "user", "attack", "secret", 6L, KEY_SPEC_USER_KEYRING));
        TRY("add to the session's keyring", syscall(SYS_add_key, "user", "attack", "secret", 6L, KEY_SPEC_SESSION_KEYRING));
    }
    TRY("find in the user's keyring", syscall(SYS_keyctl, KEYCTL_SEARCH, KEY_SPEC_USER_KEYRING, "user", "attack", 0));
    TRY("find in the session's keyring", syscall(SYS_keyctl, KEYCTL_SEARCH, KEY_SPEC_SESSION_KEYRING, "user", "attack", 0));
    TRY("request", syscall(SYS_request_key, "user", "attack", NULL, 0));
    return 0;
}

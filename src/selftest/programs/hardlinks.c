// Row 5: link every visible file into a directory of one's own. Usage: hardlinks TREE DIRECTORY
#include "attack.h"
#include <ftw.h>

static char destination[PATH_MAX];
static int made, last;

static int visit(const char *path, const struct stat *status, int kind, struct FTW *ftw) {
    (void)ftw, (void)kind;
    if (!S_ISREG(status->st_mode)) return 0;
    if (link(path, destination) == 0) made++, unlink(destination);
    else last = errno;
    if (linkat(AT_FDCWD, path, AT_FDCWD, destination, AT_SYMLINK_FOLLOW) == 0) made++, unlink(destination);
    return 0;
}

int main(int count, char **arguments) {
    snprintf(destination, sizeof destination, "%s/link", arguments[count - 1]);
    for (int index = 1; index < count - 1; index++) {
        made = last = 0;
        nftw(arguments[index], visit, 64, FTW_PHYS);
        char name[PATH_MAX];
        snprintf(name, sizeof name, "link a file of %s", arguments[index]);
        say(name, made ? 0 : last);
    }
    return 0;
}

// Rows 12, 56, 57: walk a tree; try to create in every directory and to open every file for writing, and print what
// lets itself be opened. Nothing is written. Usage: walk DIRECTORY
#include "attack.h"
#include <ftw.h>

static int refused;

static int visit(const char *path, const struct stat *status, int kind, struct FTW *ftw) {
    (void)ftw;
    if (S_ISLNK(status->st_mode)) return 0;
    if (kind == FTW_D || kind == FTW_DNR) {
        int descriptor = open(path, O_TMPFILE | O_WRONLY, 0600);
        char probe[PATH_MAX + 16];
        snprintf(probe, sizeof probe, "%s/.probe", path);
        if (descriptor == -1) descriptor = open(probe, O_CREAT | O_EXCL | O_WRONLY, 0600), unlink(probe);
        if (descriptor == -1) refused++;
        else printf("%s/: ok\n", path), close(descriptor);
        return 0;
    }
    int descriptor = open(path, O_WRONLY | O_NONBLOCK | O_NOCTTY);
    if (descriptor == -1) refused++;
    else printf("%s: ok\n", path), close(descriptor);
    return 0;
}

int main(int count, char **arguments) {
    (void)count;
    nftw(arguments[1], visit, 64, FTW_PHYS | FTW_MOUNT * 0);
    printf("anything refused: %s\n", refused ? "yes" : "no");
    return 0;
}

// Row 15: make a node of every major number, and open the devices that an exploit would like.
// Usage: devices make|open
#include "attack.h"
#include <sys/sysmacros.h>

static int make(void) {
    int made = 0, error = 0;
    for (int major = 0; major < 512; major++) {
        if (mknod("node", S_IFCHR | 0600, makedev(major, 0)) == 0) made++, unlink("node");
        else error = errno;
        if (mknodat(AT_FDCWD, "node", S_IFBLK | 0600, makedev(major, 0)) == 0) made++, unlink("node");
        else error = errno;
    }
    say("devices of all majors", made == 1024 ? 0 : error);
    if (made != 0 && made != 1024) printf("%d of 1024 nodes could be made\n", made);
    // The one device node that needs no capability: an overlay's whiteout.
    TRY("whiteout", mknod("whiteout", S_IFCHR, 0));
    unlink("whiteout");
    return 0;
}

int main(int count, char **arguments) {
    if (count < 2 || strcmp(arguments[1], "open") != 0) return make();
    int opened = 0;
    const char *devices[] = {"kmsg", "mem", "port", "kvm", "fuse", "net/tun", "vsock", "loop0", "loop-control", "tty",
                             "console", "ptmx", "hwrng", "userfaultfd", "btrfs-control", "vda", "zram0", "rtc0",
                             "cpu_dma_latency", "vhost-net", "vhost-vsock", "uinput", "snapshot", "autofs"};
    for (size_t index = 0; index < sizeof devices / sizeof *devices; index++) {
        char path[64];
        snprintf(path, sizeof path, "/dev/%s", devices[index]);
        int descriptor = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY);
        if (descriptor != -1) close(descriptor), opened++;
    }
    say("open any", opened ? 0 : ENOENT);
    return 0;
}

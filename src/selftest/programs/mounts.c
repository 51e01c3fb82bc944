// Rows 12, 13, 55: change the tree by every mount call there is, old and new; leave it by chroot and pivot_root.
#include "attack.h"
#include <linux/mount.h>

int main(void) {
    mkdir("m", 0755);
    TRY_IN_CHILD("mount tmpfs", mount("none", "m", "tmpfs", 0, NULL));
    TRY_IN_CHILD("mount cgroup", mount("none", "m", "cgroup2", 0, NULL));
    TRY_IN_CHILD("bind", mount("/etc", "m", NULL, MS_BIND | MS_REC, NULL));
    TRY_IN_CHILD("bind over a system file", mount("m", "/usr", NULL, MS_BIND, NULL));
    TRY_IN_CHILD("remount the root writable", mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND, NULL));
    TRY_IN_CHILD("umount", umount2("/proc", MNT_DETACH));
    TRY_IN_CHILD("fsopen", syscall(SYS_fsopen, "tmpfs", 0));
    TRY_IN_CHILD("fspick", syscall(SYS_fspick, AT_FDCWD, "/", 0));
    TRY_IN_CHILD("open_tree", syscall(SYS_open_tree, AT_FDCWD, "/tmp", OPEN_TREE_CLONE));
    TRY_IN_CHILD("move_mount", ({
        long tree = syscall(SYS_open_tree, AT_FDCWD, "/tmp", OPEN_TREE_CLONE);
        syscall(SYS_move_mount, tree == -1 ? AT_FDCWD : tree, tree == -1 ? "/tmp" : "", AT_FDCWD, "m",
                MOVE_MOUNT_F_EMPTY_PATH);
    }));
    TRY_IN_CHILD("chroot", chroot("/tmp"));
    TRY_IN_CHILD("pivot_root", ({
        mount("m", "m", NULL, MS_BIND, NULL);
        chdir("m") ? -1 : syscall(SYS_pivot_root, ".", ".");
    }));
    TRY_IN_CHILD("change propagation", mount(NULL, "/", NULL, MS_REC | MS_SHARED, NULL));
    rmdir("m");
    struct mount_attr attributes = {.attr_set = MOUNT_ATTR_RDONLY};
    TRY_IN_CHILD("mount_setattr", syscall(SYS_mount_setattr, AT_FDCWD, "/", 0, &attributes, sizeof attributes));
    TRY_IN_CHILD("sethostname", sethostname("attacked", 8));
    TRY_IN_CHILD("setdomainname", setdomainname("attacked", 8));
    return 0;
}

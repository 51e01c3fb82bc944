// Row 59: calls that are root's, over the whole machine.
#include "attack.h"
#include <linux/bpf.h>
#include <sys/fanotify.h>

int main(void) {
    union bpf_attr map = {.map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 4, .max_entries = 1};
    TRY("bpf", syscall(SYS_bpf, BPF_MAP_CREATE, &map, sizeof map));
    TRY("fanotify", syscall(SYS_fanotify_init, FAN_CLASS_CONTENT, 0));
    TRY("kernel log", syscall(SYS_syslog, 10 /* the buffer's size */, NULL, 0));
    TRY_IN_CHILD("ports", syscall(SYS_ioperm, 0x80, 1, 1));
    TRY_IN_CHILD("all ports", syscall(SYS_iopl, 3));
    REACH("load a module", syscall(SYS_init_module, NULL, 0, ""));
    REACH("load a module's file", syscall(SYS_finit_module, -1, "", 0));
    REACH("unload a module", syscall(SYS_delete_module, NULL, 0));
    REACH("kexec", syscall(SYS_kexec_load, 0, 100000, NULL, 0));
    REACH("reboot", syscall(SYS_reboot, 0, 0, 0, NULL));
    REACH("swapon", syscall(SYS_swapon, "/nonexistent", 0));
    REACH("swapoff", syscall(SYS_swapoff, "/nonexistent"));
    REACH("accounting", syscall(SYS_acct, "/nonexistent"));
    REACH("quota", syscall(SYS_quotactl, 0, "/nonexistent", 0, NULL));
    REACH("open by handle", syscall(SYS_open_by_handle_at, -1, NULL, 0));
    return 0;
}

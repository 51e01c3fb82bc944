// Rows 32, 59, 69: change what the sandbox has settled for this process.
#include "attack.h"
#include <asm/prctl.h>
#include <linux/prctl.h>
#include <linux/seccomp.h>
#include <sys/personality.h>

int main(void) {
    TRY_IN_CHILD("seccomp again", prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT, 0, 0, 0) == 0 ? syscall(SYS_exit, 0) : -1);
    TRY_IN_CHILD("keep capabilities", prctl(PR_SET_KEEPCAPS, 0, 0, 0, 0));
    TRY_IN_CHILD("securebits", prctl(PR_SET_SECUREBITS, 0, 0, 0, 0));
    TRY_IN_CHILD("ambient capability", prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0));
    TRY_IN_CHILD("speculation", prctl(PR_SET_SPECULATION_CTRL, 0, 2 /* ENABLE */, 0, 0));
    TRY_IN_CHILD("memory layout", prctl(PR_SET_MM, PR_SET_MM_MAP_SIZE, &(unsigned){0}, 0, 0));
    TRY_IN_CHILD("merge equal pages", prctl(67 /* PR_SET_MEMORY_MERGE */, 1, 0, 0, 0));
    TRY_IN_CHILD("timestamp counter", prctl(PR_SET_TSC, PR_TSC_ENABLE, 0, 0, 0));
    TRY_IN_CHILD("cpuid faulting", syscall(SYS_arch_prctl, ARCH_SET_CPUID, 1));
    TRY_IN_CHILD("no address randomisation", personality(ADDR_NO_RANDOMIZE));
    TRY_IN_CHILD("executable data", personality(READ_IMPLIES_EXEC));
    TRY_IN_CHILD("merge equal pages by madvise", madvise(sbrk(0) - 4096, 0, MADV_MERGEABLE));
    return 0;
}

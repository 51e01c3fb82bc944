// Lets User Mode Linux run on processors whose extended state is larger than its 6.1 release knows (Intel AMX: 11 kB
// instead of 2.7). The kernel refuses a state of another size than the processor's own (ptrace(2), PTRACE_SETREGSET), and
// the machine's first process dies of it. Preloaded, this keeps the part that UML does not know as it is.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/types.h>
#include <sys/uio.h>

long ptrace(enum __ptrace_request request, ...) {
    static long (*next)(enum __ptrace_request, ...);
    // More than any processor has; UML is one thread.
    static char bytes[64 << 10];
    va_list list;
    va_start(list, request);
    pid_t pid = va_arg(list, pid_t);
    void *address = va_arg(list, void *), *data = va_arg(list, void *);
    va_end(list);
    if (next == NULL) next = (long (*)(enum __ptrace_request, ...))dlsym(RTLD_NEXT, "ptrace");
    int reads = request == PTRACE_GETREGSET, writes = request == PTRACE_SETREGSET;
    if (!(reads || writes) || address != (void *)NT_X86_XSTATE) return next(request, pid, address, data);

    struct iovec *known = data, whole = {bytes, sizeof bytes};
    long result = next(PTRACE_GETREGSET, pid, address, &whole);
    if (result != 0) return result;
    if (known->iov_len > whole.iov_len) known->iov_len = whole.iov_len;
    memcpy(reads ? known->iov_base : bytes, reads ? bytes : known->iov_base, known->iov_len);
    return reads ? 0 : next(PTRACE_SETREGSET, pid, address, &whole);
}

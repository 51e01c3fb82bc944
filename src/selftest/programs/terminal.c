// Row 67: type into the terminal that one was started from. Without one, a terminal is made where that is possible.
#include "attack.h"
#include <linux/tiocl.h>
#include <pty.h>

int main(void) {
    int terminal = 0, master, side;
    setsid();
    if (!isatty(0) && openpty(&master, &side, NULL, NULL, NULL) == 0) {
        ioctl(side, TIOCSCTTY, 0);
        terminal = side;
    }
    TRY("type", ioctl(terminal, TIOCSTI, "x"));
    TRY("type, high bits set", syscall(SYS_ioctl, terminal, TIOCSTI | 1L << 32, "x"));
    TRY("open the terminal", open("/dev/tty", O_RDWR | O_NONBLOCK));
    char paste[2] = {TIOCL_PASTESEL};
    TRY("paste", ioctl(terminal, TIOCLINUX, paste));
    return 0;
}

// Row 61: sockets of every family, type and a few protocols. Usage: families FAMILY…, or nothing for 0 to 45
#include "attack.h"
#include <netinet/in.h>

static void knock(int family) {
    char name[32];
    snprintf(name, sizeof name, "family %d", family);
    int error = EAFNOSUPPORT;
    for (int type = 1; type <= 10 && error; type++) {
        int descriptor = socket(family, type, 0);
        if (descriptor != -1) error = 0, close(descriptor);
        else if (errno != EAFNOSUPPORT) error = errno;
        if (error) error = EAFNOSUPPORT;
    }
    if (error == 0 || family == AF_NETLINK) say(name, error);
}

int main(int count, char **arguments) {
    if (count > 1) {
        for (int index = 1; index < count; index++) knock(atoi(arguments[index]));
    } else {
        for (int family = 0; family <= 45; family++) knock(family);
    }
    TRY("raw", socket(AF_INET, SOCK_RAW, IPPROTO_ICMP));
    TRY("udp-lite", socket(AF_INET, SOCK_DGRAM, 136));
    TRY("mptcp", socket(AF_INET, SOCK_STREAM, 262));
    int pair[2];
    TRY("pair of another family", socketpair(AF_NETLINK, SOCK_RAW, 0, pair) == -1 && errno == EOPNOTSUPP ? 0 : -1);
    TRY("netlink, high bits set", syscall(SYS_socket, AF_NETLINK | 1L << 32, SOCK_RAW, 0));
    return 0;
}

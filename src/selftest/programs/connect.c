// Rows 63 to 65: reach what listens outside. Usage: connect (tcp PORT | udp PORT | abstract NAME | path PATH | far)…
#include "attack.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stddef.h>
#include <sys/un.h>

static long to_inet(int type, const char *address, int port) {
    struct sockaddr_in place = {.sin_family = AF_INET, .sin_port = htons(port)};
    inet_pton(AF_INET, address, &place.sin_addr);
    int descriptor = socket(AF_INET, type | SOCK_CLOEXEC, 0);
    if (descriptor == -1) return -1;
    if (type == SOCK_DGRAM) return sendto(descriptor, "attack", 6, 0, (void *)&place, sizeof place);
    return connect(descriptor, (void *)&place, sizeof place);
}

static long to_inet6(const char *address) {
    struct sockaddr_in6 place = {.sin6_family = AF_INET6, .sin6_port = htons(80)};
    inet_pton(AF_INET6, address, &place.sin6_addr);
    return connect(socket(AF_INET6, SOCK_STREAM, 0), (void *)&place, sizeof place);
}

static long to_unix(int abstract, const char *name) {
    struct sockaddr_un place = {.sun_family = AF_UNIX};
    strncpy(place.sun_path + abstract, name, sizeof place.sun_path - 2);
    socklen_t length = offsetof(struct sockaddr_un, sun_path) + abstract + strlen(name);
    return connect(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&place, length);
}

int main(int count, char **arguments) {
    for (int index = 1; index < count; index++) {
        const char *kind = arguments[index];
        if (strcmp(kind, "far") == 0) {
            // Never run outside an empty network namespace.
            TRY("metadata service", to_inet(SOCK_STREAM, "169.254.169.254", 80));
            TRY("name server", to_inet(SOCK_DGRAM, "192.0.2.53", 53));
            TRY("private network", to_inet6("fdaa::3"));
            TRY("loopback of version 6", to_inet6("::1"));
            continue;
        }
        const char *value = arguments[++index];
        if (strcmp(kind, "tcp") == 0) TRY("tcp", to_inet(SOCK_STREAM, "127.0.0.1", atoi(value)));
        if (strcmp(kind, "udp") == 0) TRY("udp", to_inet(SOCK_DGRAM, "127.0.0.1", atoi(value)));
        if (strcmp(kind, "abstract") == 0) TRY("abstract socket", to_unix(1, value));
        if (strcmp(kind, "path") == 0) TRY("socket by path", to_unix(0, value));
    }
    return 0;
}

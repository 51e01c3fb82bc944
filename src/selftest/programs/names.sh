# Rows 57, 72: what the machine tells of itself.
read -r name < /proc/sys/kernel/hostname 2>/dev/null && echo "/proc/sys: ok"
echo "name: $(uname -n)"
for path in /etc/machine-id /var/lib/dbus/machine-id /proc/sys/kernel/random/boot_id /proc/version /proc/cmdline \
    /proc/kallsyms /proc/cpuinfo /proc/meminfo /proc/loadavg /proc/uptime /proc/stat /proc/keys /proc/timer_list \
    /proc/modules /proc/config.gz /proc/kcore /proc/sysrq-trigger /proc/net /proc/pressure /proc/partitions /proc/mounts \
    /proc/1 /proc/1/cmdline /sys /sys/kernel /sys/class/net /sys/fs/cgroup /etc/resolv.conf /etc/shadow \
    /root /home /boot /var/run/docker.sock /run/systemd /opt; do
    if [ -e "$path" ]; then echo "$path: ok"; fi
done

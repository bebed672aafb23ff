@{PROC}=/proc/

profile shimd-default flags=(attach_disconnected,mediate_deleted) {

  network,
  capability,
  file,
  umount,

  # The daemon, and people on the host, signal containers; a container signals itself.
  signal (receive) peer=unconfined,
  signal (receive) peer="/usr/sbin/shimd",
  signal (receive) peer=runc,
  signal (receive) peer=crun,
  signal (send,receive) peer=shimd-default,
  ptrace (trace,read,tracedby,readby) peer=shimd-default,

  # Files directly in /proc, and directories there that are not processes' nor sys.
  deny @{PROC}/* w,
  deny @{PROC}/{[^1-9],[^1-9][^0-9],[^1-9s][^0-9y][^0-9s],[^1-9][^0-9][^0-9][^0-9]*}/** w,
  # Of /proc/sys only kernel/shm* can be written.
  deny @{PROC}/sys/[^k]** w,
  deny @{PROC}/sys/kernel/{?,??,[^s][^h][^m]**} w,
  deny @{PROC}/sysrq-trigger rwklx,
  deny @{PROC}/mem rwklx,
  deny @{PROC}/kmem rwklx,
  deny @{PROC}/kcore rwklx,

  deny mount,

  # Of /sys only the cgroups below /sys/fs/cgroup can be written.
  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/fs/cg[^r]*/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/security/** rwklx,
}

package launch

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/shimd/shimd/launch/mounts"
)

// device is a node in /dev.
type device struct {
	path         string
	mode         uint32 // with S_IFCHR, ...
	major, minor uint32
	uid, gid     uint32
}

// defaultDevices are those that every container has by the OCI spec.
func defaultDevices() []device {
	const char = unix.S_IFCHR | 0o666
	return []device{
		{"/dev/null", char, 1, 3, 0, 0}, {"/dev/zero", char, 1, 5, 0, 0}, {"/dev/full", char, 1, 7, 0, 0},
		{"/dev/random", char, 1, 8, 0, 0}, {"/dev/urandom", char, 1, 9, 0, 0}, {"/dev/tty", char, 5, 0, 0, 0},
	}
}

// devices makes the device nodes and links. Where /dev is bound from the host nothing is made in it.
func (b *containerBuilder) devices(tree *mounts.Tree) error {
	for _, m := range b.in.Spec.Mounts {
		if path.Clean(m.Destination) == "/dev" && m.Type != "tmpfs" {
			return nil
		}
	}
	wanted := defaultDevices()
	for _, d := range b.in.Spec.Linux.Devices {
		node, err := specDevice(d)
		if err != nil {
			return err
		}
		wanted = append(wanted, node)
	}
	dirs := map[string]*os.File{}
	defer func() {
		for _, f := range dirs {
			_ = f.Close()
		}
	}()
	in := func(name string) (*os.File, error) {
		if f := dirs[name]; f != nil {
			return f, nil
		}
		at, err := tree.Directory(name)
		if err != nil {
			return nil, err
		}
		if at.File == nil {
			return nil, invalid("linux.devices", "%s is inside of a kernel file system", name)
		}
		dirs[name] = at.File
		return at.File, nil
	}
	for _, d := range wanted {
		dir, err := in(path.Dir(d.path))
		if err == nil {
			err = b.device(dir, d)
		}
		if err != nil {
			return fmt.Errorf("making device %s: %w", d.path, err)
		}
	}
	dev, err := in("/dev")
	if err != nil {
		return err
	}
	for name, target := range map[string]string{
		"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2", "ptmx": "pts/ptmx", "core": "/proc/kcore",
	} {
		if err := unix.Symlinkat(target, int(dev.Fd()), name); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("making the link /dev/%s: %w", name, err)
		}
	}
	return nil
}

func specDevice(d specs.LinuxDevice) (device, error) {
	kinds := map[string]uint32{"c": unix.S_IFCHR, "u": unix.S_IFCHR, "b": unix.S_IFBLK, "p": unix.S_IFIFO}
	kind, ok := kinds[d.Type]
	if !ok || !path.IsAbs(d.Path) || path.Clean(d.Path) != d.Path || d.Path == "/" || d.Major < 0 || d.Minor < 0 {
		return device{}, invalid("linux.devices", "%q of type %q, %d:%d", d.Path, d.Type, d.Major, d.Minor)
	}
	node := device{path: d.Path, mode: kind | 0o666, major: uint32(d.Major), minor: uint32(d.Minor)}
	if d.FileMode != nil {
		node.mode = kind | uint32(d.FileMode.Perm())
	}
	if d.UID != nil {
		node.uid = *d.UID
	}
	if d.GID != nil {
		node.gid = *d.GID
	}
	return node, nil
}

// device makes one in an opened directory. What stands there already is taken if it is the very device, and is an error otherwise: an
// image's file or link must not stand in for one (CVE-2025-52565). Owner and mode are set through the node's own descriptor.
func (b *containerBuilder) device(dir *os.File, d device) error {
	linux := b.in.Spec.Linux
	name, number := path.Base(d.path), unix.Mkdev(d.major, d.minor)
	if d.mode&unix.S_IFMT == unix.S_IFIFO {
		number = 0
	}
	if err := unix.Mknodat(int(dir.Fd()), name, d.mode, int(number)); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != d.mode&unix.S_IFMT || st.Rdev != number {
		return fmt.Errorf("something else is there: mode %o, device %d:%d: %w", st.Mode, unix.Major(st.Rdev), unix.Minor(st.Rdev), errdefs.ErrFailedPrecondition)
	}
	if uid, gid := hostID(d.uid, linux.UIDMappings), hostID(d.gid, linux.GIDMappings); int(st.Uid) != uid || int(st.Gid) != gid {
		if err := unix.Fchownat(fd, "", uid, gid, unix.AT_EMPTY_PATH); err != nil {
			return err
		}
	}
	if st.Mode != d.mode {
		return unix.Chmod("/proc/thread-self/fd/"+strconv.Itoa(fd), d.mode&^unix.S_IFMT)
	}
	return nil
}

// terminal makes a pseudo terminal in the container's own devpts, so that its name is right there, and leaves its place at /dev/console.
// The master goes to the keeper.
func (b *containerBuilder) terminal(tree *mounts.Tree) error {
	dir, name := unix.AT_FDCWD, "/dev/ptmx"
	if b.plan.devpts != 0 {
		dir, name = int(b.fds.files[b.plan.devpts].Fd()), "ptmx"
	}
	master, slave, err := openTerminal(dir, name)
	for _, f := range []*os.File{master, slave} {
		if f != nil {
			b.fds.owned = append(b.fds.owned, f)
		}
	}
	if err != nil {
		return err
	}
	process := b.in.Spec.Process
	if err := ownTerminal(master, slave, hostID(process.User.UID, b.in.Spec.Linux.UIDMappings), process.ConsoleSize); err != nil {
		return err
	}
	b.console = master
	for i := range 3 {
		b.fds.files[i] = slave
	}
	if b.plan.devpts == 0 {
		return nil
	}
	at, err := tree.File("/dev/console")
	if err != nil {
		return err
	}
	b.plan.console = b.place("/dev/console", at)
	return nil
}

// openTerminal makes a pseudo terminal. The slave is opened through the master, never by a name that a container could have changed
// (CVE-2025-52565).
func openTerminal(dir int, name string) (master, slave *os.File, err error) {
	fd, err := unix.Openat(dir, name, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("opening the master: %w", err)
	}
	master = os.NewFile(uintptr(fd), "pty master")
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return master, nil, fmt.Errorf("unlocking: %w", err)
	}
	peer, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		return master, nil, fmt.Errorf("opening the slave: %w", errno)
	}
	return master, os.NewFile(peer, "pty slave"), nil
}

func ownTerminal(master, slave *os.File, uid int, size *specs.Box) error {
	if err := unix.Fchown(int(slave.Fd()), uid, -1); err != nil {
		return fmt.Errorf("giving it to the user: %w", err)
	}
	if size == nil {
		return nil
	}
	ws := unix.Winsize{Row: uint16(size.Height), Col: uint16(size.Width)}
	if err := unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, &ws); err != nil {
		return fmt.Errorf("setting its size: %w", err)
	}
	return nil
}

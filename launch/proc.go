package launch

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strconv"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/shimd/shimd/launch/mounts"
)

// procOf mounts proc for a PID namespace that others are in. Nobody with rights may enter that namespace before they are dropped, so the child can't make the mount:
// since 6.17 the file system takes the namespace as an option; before, the mount that the namespace's first process has is cloned.
func procOf(pidNS *os.File, attributes uint64) (*os.File, error) {
	fs, err := unix.Fsopen("proc", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("opening proc: %w", err)
	}
	defer unix.Close(fs) //nolint:errcheck // a context
	switch err := unix.FsconfigSetFd(fs, "pidns", int(pidNS.Fd())); {
	case errors.Is(err, unix.EINVAL):
		return clonedProc(pidNS, attributes)
	case err != nil:
		return nil, fmt.Errorf("mounting proc for a PID namespace: %w", err)
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, fmt.Errorf("creating proc for a PID namespace: %w", err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, int(attributes))
	if err != nil {
		return nil, fmt.Errorf("mounting proc for a PID namespace: %w", err)
	}
	return os.NewFile(uintptr(fd), "proc"), nil
}

func clonedProc(pidNS *os.File, attributes uint64) (*os.File, error) {
	pid, err := firstProcess(pidNS)
	if err != nil {
		return nil, err
	}
	type answer struct {
		file *os.File
		err  error
	}
	done := make(chan answer)
	go func() {
		goruntime.LockOSThread() // and never unlocked: the thread is in another mount namespace
		f, err := procIn(pid)
		done <- answer{f, err}
	}()
	a := <-done
	if a.err != nil {
		return nil, fmt.Errorf("cloning the proc of process %d: %w", pid, a.err)
	}
	if err := mounts.Apply(a.file, mounts.Options{Set: attributes}); err != nil {
		_ = a.file.Close()
		return nil, err
	}
	return a.file, nil
}

func procIn(pid int) (*os.File, error) {
	ns, err := os.Open(filepath.Join("/proc", strconv.Itoa(pid), "ns/mnt"))
	if err != nil {
		return nil, err
	}
	defer ns.Close() //nolint:errcheck // only read
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return nil, err
	}
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNS); err != nil {
		return nil, err
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, "/proc", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_SYMLINK_NOFOLLOW)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "proc")
	if err := isFilesystem(f, unix.PROC_SUPER_MAGIC); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// firstProcess finds the process that is number 1 in a PID namespace.
func firstProcess(pidNS *os.File) (int, error) {
	var want, st unix.Stat_t
	if err := unix.Fstat(int(pidNS.Fd()), &want); err != nil {
		return 0, err
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, err
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || unix.Stat("/proc/"+e.Name()+"/ns/pid", &st) != nil || st.Ino != want.Ino || st.Dev != want.Dev {
			continue
		}
		return pid, nil // any member sees the namespace in its proc; the lowest number is the oldest
	}
	return 0, fmt.Errorf("the PID namespace to join has no process left: %w", errdefs.ErrFailedPrecondition)
}

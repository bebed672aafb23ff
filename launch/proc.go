package launch

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strconv"
	"syscall"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/shimd/shimd/launch/mounts"
)

const procAttributes = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC

// PinProc mounts proc for a PID namespace at target, a directory, for containers that join the namespace later (ContainerInput.Proc takes a
// clone of it). It has to be called when nothing is in there but the pause process, which keeps no proc itself: whoever may trace it would
// see one that is not masked. Before 6.17 a child goes in to make the mount, with all of the host's rights. tmp is as in
// ContainerInput.TmpDir.
func PinProc(pidNS *os.File, target, tmp string) error {
	dir, err := os.Open(target)
	if err != nil {
		return fmt.Errorf("pinning proc: %w", err)
	}
	defer dir.Close()
	proc, err := newProc(pidNS, procAttributes)
	if errors.Is(err, errdefs.ErrNotImplemented) {
		return pinProcByChild(pidNS, dir, tmp)
	}
	if err != nil {
		return fmt.Errorf("pinning proc: %w", err)
	}
	defer proc.Close()
	if err := unix.MoveMount(int(proc.Fd()), "", int(dir.Fd()), "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH); err != nil {
		return fmt.Errorf("pinning proc at %s: %w", target, err)
	}
	return nil
}

// compilePinProc writes the program that makes the mount: proc shows the PID namespace of who opens it.
func compilePinProc(target int, files []string) *Program {
	p := &Program{files: files}
	context, mount := p.slot("proc.context"), p.slot("proc")
	p.do("opening proc", sysFsopen, p.str("proc"), named(unix.FSOPEN_CLOEXEC, "FSOPEN_CLOEXEC")).into(context)
	p.do("naming its source", sysFsconfig, p.value(context), named(unix.FSCONFIG_SET_STRING, "FSCONFIG_SET_STRING"), p.str("source"), p.str("proc"), num(0))
	p.do("creating proc", sysFsconfig, p.value(context), named(unix.FSCONFIG_CMD_CREATE, "FSCONFIG_CMD_CREATE"), num(0), num(0), num(0))
	p.do("mounting proc", sysFsmount, p.value(context), named(unix.FSMOUNT_CLOEXEC, "FSMOUNT_CLOEXEC"), named(procAttributes, attributeNames(procAttributes))).into(mount)
	p.attach("mounting it at its place", p.value(mount), p.fd(target))
	return p
}

func pinProcByChild(pidNS, target *os.File, tmp string) error {
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("pinning proc: %w", err)
	}
	fds := newDescriptors([3]*os.File{null, null, null})
	fds.owned = append(fds.owned, null)
	l := &Launch{what: "pinning proc"}
	l.Program = compilePinProc(fds.add("target", target), fds.names)
	if l.Executable, err = l.Program.Executable(tmp); err != nil {
		fds.close()
		return err
	}
	l.Files, l.owned = fds.files, append(fds.owned, l.Executable)
	defer l.Close()
	done := make(chan error)
	go func() {
		goruntime.LockOSThread() // and never unlocked: the thread's children are born in another PID namespace
		if err := unix.Setns(int(pidNS.Fd()), unix.CLONE_NEWPID); err != nil {
			done <- fmt.Errorf("pinning proc: entering the PID namespace: %w", err)
			return
		}
		done <- l.runHere()
	}()
	return <-done
}

// runHere runs a program that ends by itself as a child of this process, and waits for it.
func (l *Launch) runHere() error {
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("%s: %w", l.what, err)
	}
	defer r.Close()
	l.Files[ReportFD] = w
	highest := 0
	files := make([]uintptr, len(l.Files))
	for i, f := range l.Files {
		files[i] = f.Fd()
		highest = max(highest, int(f.Fd()))
	}
	// The child renumbers descriptors right above its highest; the program is named by number, so it has to be far from there.
	number, err := unix.FcntlInt(l.Executable.Fd(), unix.F_DUPFD_CLOEXEC, highest+len(files)+8)
	if err != nil {
		_ = w.Close()
		return fmt.Errorf("%s: %w", l.what, err)
	}
	pid, err := syscall.ForkExec("/proc/self/fd/"+strconv.Itoa(number), []string{"launch"}, &syscall.ProcAttr{Files: files})
	_, _ = unix.Close(number), w.Close()
	if err != nil {
		return fmt.Errorf("%s: %w", l.what, err)
	}
	_, failed, err := ReadReport(r)
	var status syscall.WaitStatus
	for {
		if _, waitErr := syscall.Wait4(pid, &status, 0, nil); !errors.Is(waitErr, unix.EINTR) {
			err = errors.Join(err, waitErr)
			break
		}
	}
	switch {
	case failed != nil:
		return l.Describe(failed.Op, failed.Errno)
	case err != nil:
		return fmt.Errorf("%s: %w", l.what, err)
	case status.ExitStatus() != 0:
		return fmt.Errorf("%s: the program ended with status %#x: %w", l.what, uint32(status), errdefs.ErrInternal)
	}
	return nil
}

// procOf mounts proc for a PID namespace that others are in. Nobody with rights may enter that namespace before they are dropped, so the
// child can't make the mount: since 6.17 the file system takes the namespace as an option; before, the mount that the namespace's first
// process has is cloned.
func procOf(pidNS *os.File, attributes uint64) (*os.File, error) {
	proc, err := newProc(pidNS, attributes)
	if errors.Is(err, errdefs.ErrNotImplemented) {
		return clonedProc(pidNS, attributes)
	}
	return proc, err
}

// newProc is ErrNotImplemented before 6.17.
func newProc(pidNS *os.File, attributes uint64) (*os.File, error) {
	fs, err := unix.Fsopen("proc", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("opening proc: %w", err)
	}
	defer unix.Close(fs)
	switch err := unix.FsconfigSetFd(fs, "pidns", int(pidNS.Fd())); {
	case errors.Is(err, unix.EINVAL):
		return nil, fmt.Errorf("mounting proc for a PID namespace: %w", errdefs.ErrNotImplemented)
	case err != nil:
		return nil, fmt.Errorf("mounting proc for a PID namespace: %w", err)
	}
	if err := unix.FsconfigSetString(fs, "source", "proc"); err != nil {
		return nil, fmt.Errorf("naming the source of proc: %w", err)
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
	defer ns.Close()
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

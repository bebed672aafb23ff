package server

import (
	"errors"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func endedChild(t *testing.T) (pid, pidfd int) {
	t.Helper()
	pidfd = -1
	pid, err := syscall.ForkExec("/bin/sh", []string{"sh", "-c", "exit 3"}, &syscall.ProcAttr{Sys: &syscall.SysProcAttr{PidFD: &pidfd}})
	if err != nil || pidfd < 0 {
		t.Skipf("no child with a pidfd: %v", err)
	}
	for pollNow(pidfd, unix.POLLIN) == 0 {
		pause()
	}
	t.Cleanup(func() {
		_ = unix.Close(pidfd)
		_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil)
	})
	return pid, pidfd
}

// Orphans are reaped, but never a child that somebody waits for, nor any while a start is under way whose child has no known number yet.
func TestReaper(t *testing.T) {
	r := newReaper()
	r.armed = true // no timer in this test
	known, knownFD := endedChild(t)
	r.add(known)
	r.orphans()
	if st, done, err := r.wait(known, knownFD); err != nil || !done || st.code != 3 {
		t.Errorf("a known child: %+v, %v, %v", st, done, err)
	}
	unknown, unknownFD := endedChild(t)
	r.hold()
	r.orphans()
	if _, err := waitid(unix.P_PID, unknown, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT); err != nil {
		t.Errorf("reaped during a start: %v", err)
	}
	r.release()
	r.orphans()
	if _, err := waitid(unix.P_PID, unknown, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT); !errors.Is(err, unix.ECHILD) {
		t.Errorf("an orphan stays: %v", err)
	}
	if _, _, err := r.wait(unknown, unknownFD); !errors.Is(err, unix.ECHILD) {
		t.Errorf("waiting for what was reaped: %v", err)
	}
	if st, ok := exitInfo(unknownFD); ok && st.code != 3 {
		t.Errorf("PIDFD_GET_INFO tells %+v", st)
	} else if !ok {
		t.Log("this kernel has no PIDFD_INFO_EXIT (6.15)")
	}
}

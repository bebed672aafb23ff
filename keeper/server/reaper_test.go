package server

import (
	"errors"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
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
	if !r.claim(known) {
		t.Error("a child cannot be claimed")
	}
	if r.claim(known) || r.claim(1) {
		t.Error("what is another's, or no child, can be claimed")
	}
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

// A process that only made the one that counts is collected at once, not when somebody looks for orphans.
func TestBuryBetween(t *testing.T) {
	s := &Server{reaper: newReaper()}
	pid, _ := endedChild(t)
	if err := s.buryBetween("exec", pid); err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := waitid(unix.P_PID, pid, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT); errors.Is(err, unix.ECHILD) {
			break
		}
		pause()
	}
	other, _ := endedChild(t)
	s.reaper.add(other)
	if err := s.buryBetween("exec", other); !errdefs.IsInternal(err) {
		t.Errorf("another's process: %v", err)
	}
}

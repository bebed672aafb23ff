package cgroups

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"strconv"
	"strings"
	"time"

	containerd "github.com/containerd/cgroups/v3"
	"golang.org/x/sys/unix"
)

// removeTimeout bounds Remove when its caller doesn't: a process in uninterruptible sleep can take for ever to die.
const removeTimeout = 30 * time.Second

// kill sends SIGKILL to every process of dir and below and answers their pidfds, to wait for. member tells by a process's own
// /proc/PID/cgroup whether it is (still) in the cgroup: between reading a pid and opening it, it can have become another's.
func kill(dir string, member func(procCgroup []byte) bool) ([]int, error) {
	pids, err := procsBelow(dir)
	if err != nil {
		return nil, err
	}
	var pidfds []int
	var errs []error
	for _, pid := range pids {
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			if !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.EINVAL) {
				errs = append(errs, fmt.Errorf("opening process %d: %w", pid, err))
			}
			continue
		}
		text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
		if err != nil || !member(text) {
			_ = unix.Close(fd)
			continue
		}
		if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("killing process %d: %w", pid, err))
		}
		pidfds = append(pidfds, fd)
	}
	return pidfds, errors.Join(errs...)
}

// isBelow tells whether a line of a /proc/PID/cgroup file ("4:memory:/a/b") names the cgroup or one below it.
func isBelow(procCgroup []byte, path Path) bool {
	byController, unified, err := containerd.ParseCgroupFromReaderUnified(bytes.NewReader(procCgroup))
	if err != nil {
		return false
	}
	for at := range maps.Values(byController) {
		if within(at, path) {
			return true
		}
	}
	return within(unified, path)
}

func within(at string, path Path) bool {
	rest, found := strings.CutPrefix(at, string(path))
	return found && (rest == "" || rest[0] == '/')
}

// awaitExits waits until each of the processes has ended or the time is over, and closes the pidfds.
func awaitExits(pidfds []int, limit time.Duration) {
	deadline := time.Now().Add(limit)
	for _, fd := range pidfds {
		for {
			left := time.Until(deadline).Milliseconds()
			if left <= 0 {
				break
			}
			poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
			if _, err := unix.Poll(poll, int(left)); !errors.Is(err, unix.EINTR) {
				break
			}
		}
		_ = unix.Close(fd)
	}
}

// backoff sleeps a little longer each time, up to 50 ms: for what the kernel gives no event for.
type backoff struct{ next time.Duration }

func (b *backoff) sleep(ctx context.Context) error {
	b.next = min(max(2*b.next, 200*time.Microsecond), 50*time.Millisecond)
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(b.next):
		return nil
	}
}

// isBusy tells whether a cgroup could not be removed because something is still in it.
func isBusy(err error) bool {
	return errors.Is(err, unix.EBUSY) || errors.Is(err, unix.ENOTEMPTY)
}

func isGone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV)
}

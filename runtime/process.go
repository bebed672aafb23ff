package runtime

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// identify tells a process from a later one with the same pid.
func identify(pid int) (processIdentity, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return processIdentity{}, err
	}
	// The command's name, in parentheses, may hold anything; field 22 is the 20th after it.
	const startTime = 19
	text := string(stat)
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(fields) <= startTime {
		return processIdentity{}, fmt.Errorf("/proc/%d/stat is short", pid)
	}
	ticks, err := strconv.ParseUint(fields[startTime], 10, 64)
	if err != nil {
		return processIdentity{}, fmt.Errorf("/proc/%d/stat: %w", pid, err)
	}
	return processIdentity{PID: pid, StartTime: ticks}, nil
}

// startedAt is when the process was made, to a hundredth of a second.
func (p processIdentity) startedAt() time.Time {
	const tick = time.Second / 100 // USER_HZ, which is 100 on all architectures that matter
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil || p.StartTime == 0 {
		return time.Now()
	}
	return time.Now().Add(time.Duration(p.StartTime)*tick - time.Duration(now.Nano()))
}

// openProcess opens the process if it is still there and the same. The descriptor is of a zombie too.
func openProcess(process processIdentity) (*os.File, error) {
	if process.PID == 0 {
		return nil, unix.ESRCH
	}
	fd, err := unix.PidfdOpen(process.PID, 0)
	if err != nil {
		return nil, err
	}
	// Looked at after it was opened: now the pid can't be reused unseen.
	now, err := identify(process.PID)
	if err != nil || now != process {
		unix.Close(fd)
		return nil, unix.ESRCH
	}
	return os.NewFile(uintptr(fd), "pidfd"), nil
}

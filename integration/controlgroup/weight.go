package controlgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// Shares of the processor, as cpu.shares counts them.
const (
	usualShares = 1024
	maxShares   = 262144
)

// CallersShares is what this process's session has of the processor, in the unit of cpu.shares. Where the kernel groups processes by session
// (sched_autogroup_enabled), a session's nice value weighs against groups; a group made for a nice one's children must weigh the same, or they starve.
func CallersShares() int {
	text, err := os.ReadFile("/proc/self/autogroup")
	var nice int
	if err != nil {
		return usualShares // no such thing here
	}
	if _, err := fmt.Sscanf(string(text), "/autogroup-%d nice %d", new(int), &nice); err != nil {
		return usualShares
	}
	// One step of nice is a quarter more, or less.
	return min(maxShares, max(2, int(usualShares*math.Pow(1.25, float64(-nice)))))
}

// SetShares gives a group its weight against its siblings, in the unit of cpu.shares.
func SetShares(name string, shares int) error {
	_, v2, err := cgroupRoots()
	if err != nil {
		return err
	}
	file, value := filepath.Join(hierarchies, "cpu", name, "cpu.shares"), shares
	if v2 {
		file, value = filepath.Join(hierarchies, name, "cpu.weight"), 1+(shares-2)*9999/(maxShares-2) // as runtimes convert it
	}
	err = os.WriteFile(file, []byte(strconv.Itoa(value)), 0o644)
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // a machine without that controller
		return fmt.Errorf("weighing a control group: %w", err)
	}
	return nil
}

// Join moves this process.
func Join(name string) error {
	roots, _, err := cgroupRoots()
	if err != nil {
		return err
	}
	for _, root := range roots {
		// "0" is the writer, whatever PID namespace it is in.
		err := os.WriteFile(filepath.Join(root, name, "cgroup.procs"), []byte("0"), 0o644)
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("joining the control group %s: %w", name, err)
		}
	}
	return nil
}

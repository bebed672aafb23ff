// Package enclosure runs a test program in namespaces of its own: mount, network, IPC and process IDs.
//
// In there mounts are shared (a runtime that propagates mounts needs that), ports, bridges and nftables tables cannot collide with the
// machine's, and whatever a failed or killed test leaves running dies with the program. Control groups and files are the machine's own.
// It knows nothing of shimd.
package enclosure

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Options choose what is left out.
type Options struct {
	// HostPIDs keeps the machine's process IDs. Wanted with the systemd cgroup driver: process IDs in D-Bus messages are those of systemd's namespace.
	HostPIDs bool
	// Files are open in the program inside too, as descriptors 3 and up: a listener of the machine's network, say. Only what the first caller has
	// counts. NewFile finds them.
	Files []*os.File
	// AtExit runs in the outermost process when all is over; nil for nothing.
	AtExit func() error
}

const (
	stageVariable = "SHIMD_TEST_ENCLOSURE"
	filesVariable = "SHIMD_TEST_ENCLOSURE_FILES"
	stageSetup    = "setup"
	stageInside   = "inside"
)

// Enter returns in the enclosure; the first caller is replaced: it runs this very program again inside, and exits with its status.
// Call it first in main or TestMain. Without root it returns at once, and false: nothing that needs an enclosure would work anyway.
func Enter(opts Options) bool {
	switch os.Getenv(stageVariable) {
	case stageInside:
		return true
	case stageSetup:
		exit(becomeInit(opts))
	}
	if os.Geteuid() != 0 {
		return false
	}
	exit(runInside(opts))
	return false
}

func exit(status int, err error) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "entering the test enclosure: %v\n", err)
		status = 1
	}
	os.Exit(status)
}

// runInside is the outermost process: it clones the first process of the namespaces and passes signals on.
func runInside(opts Options) (int, error) {
	flags := uintptr(unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWIPC)
	if !opts.HostPIDs {
		flags |= unix.CLONE_NEWPID
	}
	cmd, err := again(stageSetup, opts.Files)
	if err != nil {
		return 0, err
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags, Pdeathsig: syscall.SIGKILL}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT)
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("making namespaces: %w", err)
	}
	go func() {
		for s := range signals {
			_ = cmd.Process.Signal(s) // gone already: Wait tells
		}
	}()
	err = cmd.Wait()
	if opts.AtExit != nil {
		if cleanErr := opts.AtExit(); cleanErr != nil {
			return 0, fmt.Errorf("cleaning up: %w", cleanErr)
		}
	}
	if exited := new(exec.ExitError); err != nil && !errors.As(err, &exited) {
		return 0, err
	}
	return statusOf(cmd.ProcessState), nil
}

// again is this program with its own arguments, for the next stage.
func again(stage string, files []*os.File) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding this program: %w", err)
	}
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.ExtraFiles = files
	cmd.Env = append(os.Environ(), stageVariable+"="+stage, filesVariable+"="+strconv.Itoa(len(files)))
	return cmd, nil
}

// inherited are the files that the stage before has passed on.
func inherited() ([]*os.File, error) {
	n, err := strconv.Atoi(os.Getenv(filesVariable))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", filesVariable, err)
	}
	var files []*os.File
	for i := range n {
		files = append(files, NewFile(i))
	}
	return files, nil
}

// NewFile is the i-th of Options.Files, in the program inside.
func NewFile(i int) *os.File { return os.NewFile(uintptr(3+i), "file "+strconv.Itoa(i)) }

// becomeInit is the first process of the namespaces: it completes them, starts the program once more, and reaps whatever is orphaned to it.
func becomeInit(opts Options) (int, error) {
	// Private first: on a machine where / is shared, mounts made in here must not appear out there.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return 0, fmt.Errorf("making mounts private: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return 0, fmt.Errorf("making mounts shared: %w", err)
	}
	if !opts.HostPIDs {
		if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
			return 0, fmt.Errorf("mounting /proc: %w", err)
		}
	}
	loopback, err := netlink.LinkByName("lo")
	if err != nil {
		return 0, fmt.Errorf("finding the loopback interface: %w", err)
	}
	if err := netlink.LinkSetUp(loopback); err != nil {
		return 0, fmt.Errorf("raising the loopback interface: %w", err)
	}
	files, err := inherited()
	if err != nil {
		return 0, err
	}
	cmd, err := again(stageInside, files)
	if err != nil {
		return 0, err
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT)
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("starting the program inside: %w", err)
	}
	go func() {
		for s := range signals {
			_ = cmd.Process.Signal(s)
		}
	}()
	return reap(cmd.Process.Pid)
}

// reap waits for every child until the wanted one has ended. When this process ends, the kernel kills all others in its PID namespace.
func reap(wanted int) (int, error) {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("waiting for the program inside: %w", err)
		}
		if pid == wanted {
			if status.Signaled() {
				return 128 + int(status.Signal()), nil
			}
			return status.ExitStatus(), nil
		}
	}
}

func statusOf(state *os.ProcessState) int {
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal())
	}
	return state.ExitCode()
}

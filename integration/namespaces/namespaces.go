// Package namespaces starts programs inside the namespaces of a process that runs: what nsenter does, without it.
//
// Making namespaces is package enclosure's business, and that of the nodes of package cluster.
package namespaces

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// all are those that an enclosure or a node may have of its own. Joining one that is shared anyway does nothing.
const all = unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWPID

// Start starts a command in the namespaces of a process, and in its root directory. The command's paths count there; its open files are the caller's.
// It must not have Pdeathsig: that is tied to the thread that starts it, which ends with this call.
func Start(pid int, cmd *exec.Cmd) error {
	var err error
	onLostThread(func() {
		if err = join(pid); err == nil {
			err = cmd.Start()
		}
	})
	return err
}

// onLostThread calls on a thread that ends afterwards, so that it may leave this program's namespaces. It is never the main one: that one does not end, and
// /proc/self shows its namespaces as the program's.
func onLostThread(call func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			onLostThread(call) // on another one, as this one is taken
			runtime.UnlockOSThread()
			return
		}
		call() // never unlocked: the thread ends with the goroutine
	}()
	<-done
}

// join moves the calling thread; of the PID namespace only what it starts afterwards is part.
func join(pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("opening process %d: %w", pid, err)
	}
	defer unix.Close(fd)
	// The kernel moves no thread to a mount namespace that shares its root and working directory with others.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("taking a root directory of its own: %w", err)
	}
	if err := unix.Setns(fd, all); err != nil {
		return fmt.Errorf("joining the namespaces of process %d: %w", pid, err)
	}
	return nil
}

// Stage is the first argument with which Run runs this very program again, inside. Its main must hand all that follows to Exec.
const Stage = "exec-inside"

// Run is Start for a program that has nothing else to do: it lends the command its standard streams, passes signals on, ends it when it ends itself,
// and answers its exit status. It must be called by the main goroutine.
func Run(ctx context.Context, pid int, command ...string) (int, error) {
	// The thread stays until the end: the command's death signal is tied to it.
	runtime.LockOSThread()
	if err := join(pid); err != nil {
		return 0, err
	}
	// The link leads to this program wherever its file is, or isn't, in there.
	cmd := exec.CommandContext(ctx, "/proc/self/exe", append([]string{Stage}, command...)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT, syscall.SIGHUP)
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("starting %s: %w", command[0], err)
	}
	go func() {
		for s := range signals {
			_ = cmd.Process.Signal(s) // gone already: Wait tells
		}
	}()
	err := cmd.Wait()
	if exited := new(exec.ExitError); err != nil && !errors.As(err, &exited) {
		return 0, fmt.Errorf("waiting for %s: %w", command[0], err)
	}
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal()), nil
	}
	return cmd.ProcessState.ExitCode(), nil
}

// Exec replaces this program by a command that ends when its parent does. os/exec can't do that for a child in another PID namespace: it takes the parent
// that is not visible there for one that has ended.
func Exec(command []string) error {
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return fmt.Errorf("tying the command to its parent: %w", err)
	}
	if len(command) == 0 {
		return errors.New("no command is given")
	}
	if unix.Getppid() == 1 {
		return errors.New("the parent has ended")
	}
	path, err := exec.LookPath(command[0])
	if err != nil {
		return fmt.Errorf("finding the command: %w", err)
	}
	return fmt.Errorf("running %s: %w", path, unix.Exec(path, command, os.Environ()))
}

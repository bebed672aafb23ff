// Package keeper is the mechanism of shimd: one small process for the whole node, the parent of every container process.
//
// It starts launch programs, waits for processes, keeps their exit status and time until the daemon has acknowledged
// them, copies their output to CRI log files, and owns terminals. It knows no policy: no images, networks, cgroups or CRI. The
// daemon hands it everything as descriptors; nothing in a request is a path. This package holds the contract and the client, which the
// daemon uses; what cmd/shimd-keeper runs is package keeper/server, and what they say to each other keeper/internal/wire.
package keeper

import (
	"context"
	"fmt"
	"os"
	"syscall"
	"time"
)

// StartRequest starts one process.
type StartRequest struct {
	// ID names the process to the keeper: a container's ID, or the ID of an exec session. Starting an ID that exists is ErrAlreadyExists.
	ID string
	// Program is an executable launch program (package launch), a sealed memfd or a file.
	Program *os.File
	// Files are the descriptors that the child gets, as 0, 1, 2, 3, ...: 0 to 2 its standard streams, 3 the report pipe, which the keeper
	// makes itself (leave Files[3] nil), the rest what the program refers to. The keeper closes its copies after the start.
	Files []*os.File
	// CgroupDir, when set, is where the child is cloned into (cgroup v2).
	CgroupDir *os.File
	// NewPIDNamespace clones the child as the first process of a new PID namespace.
	NewPIDNamespace bool
	// Reparents is set when the program ends in clone3(CLONE_PARENT): the process that counts is the one whose pid the program reports.
	Reparents bool
	// IO says what the keeper does with the output; nil when the daemon keeps the other ends itself (exec).
	IO *IO
	// Lost processes: SIGKILL the process if the daemon's connection closes (exec sessions that nobody could end).
	KillOnDisconnect bool
}

// IO are the keeper's ends of a container's streams. The FIFOs live on tmpfs and the container holds its ends open for reading and writing,
// so they outlive the keeper.
type IO struct {
	Stdout, Stderr *os.File // read ends; Stderr nil with a terminal
	Stdin          *os.File // write end, or nil
	Terminal       *os.File // the pty's master instead of the three above
	StdinOnce      bool     // close stdin when the first attached client's stdin has ended
	Log            *os.File // the CRI log file, opened O_APPEND; nil for no log
	MaxLogLine     int      // bytes of content per log line before it is split into partial lines (P); 0: 16384, at most 131072
}

// Started is a process that was started.
type Started struct {
	PID       int
	PIDFD     *os.File // owned by the caller; a holder of it can read the exit status even if the keeper dies (6.15)
	StartedAt time.Time
}

// LaunchError is an op of a launch program that failed: its index in the program and the kernel's error.
type LaunchError struct {
	Op    int
	Errno int
}

func (e *LaunchError) Error() string {
	return fmt.Sprintf("operation %d of the launch program: %v", e.Op, syscall.Errno(e.Errno))
}

// Unwrap gives the kernel's error.
func (e *LaunchError) Unwrap() error { return syscall.Errno(e.Errno) }

// Exit is the end of a process.
type Exit struct {
	ID       string
	Code     int32 // exit code, or 128 + signal
	Signal   int   // 0 unless killed by a signal
	ExitedAt time.Time
	Unknown  bool // the kernel did not tell the status (a keeper was killed before 6.15)
}

// AdoptRequest gives a new keeper a process that an earlier one started.
type AdoptRequest struct {
	ID    string
	PIDFD *os.File
	IO    *IO
}

// AttachRequest connects a client's streams to a container's. Each may be nil. The keeper owns them from then on and closes Done's peer at
// the end.
type AttachRequest struct {
	ID                    string
	Stdin, Stdout, Stderr *os.File
}

// Keeper is what the daemon needs of the keeper. All methods may run at the same time.
// Errors are of the kinds of github.com/containerd/errdefs; ErrUnavailable while no keeper is connected.
type Keeper interface {
	// Start launches a process and answers once its program has executed the final execve, or with a *LaunchError.
	Start(ctx context.Context, req StartRequest) (Started, error)
	// Adopt makes the keeper wait for a process it did not start and serve its streams. Idempotent.
	Adopt(ctx context.Context, req AdoptRequest) error
	// Signal sends a signal by pidfd. ErrNotFound when the process is gone.
	Signal(ctx context.Context, id string, signal int) error
	// Attach connects streams; it returns when the output has ended, the client's descriptors have closed, or ctx is done.
	Attach(ctx context.Context, req AttachRequest) error
	// Resize sets a terminal's size.
	Resize(ctx context.Context, id string, columns, rows uint16) error
	// SetLog replaces the log file: later lines go to it. Nothing is lost or split.
	SetLog(ctx context.Context, id string, log *os.File) error
	// List tells what the keeper has: processes running, and exits that were not acknowledged. For a restarted daemon.
	List(ctx context.Context) ([]Process, error)
	// Acknowledge lets the keeper forget an exit. Idempotent.
	Acknowledge(ctx context.Context, id string) error
}

// Process is one that the keeper knows.
type Process struct {
	ID    string
	PID   int
	PIDFD *os.File // running only; owned by the caller
	Exit  *Exit    // nil while it runs
}

package launch

import (
	"errors"
	"fmt"
	"os"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Launch is everything that the keeper needs to start one process.
type Launch struct {
	Program    *Program
	Executable *os.File   // the program's executable
	Files      []*os.File // the child's descriptors 0, 1, 2, ...; Files[ReportFD] is nil, the keeper's report pipe

	NewPIDNamespace bool     // clone the child as the first process of a new PID namespace
	Reparents       bool     // the process that counts is the one whose pid is reported
	CgroupDir       *os.File // clone the child into this cgroup (v2)
	Console         *os.File // the master of the terminal; closed by Close like the rest, so duplicate it to keep it

	what, where string // "launching it", "in the image"
	owned       []*os.File
}

// Close closes what preparing has opened: mounts that were not attached go away with it. It may be called as soon as the keeper has its own
// copies.
func (l *Launch) Close() error {
	var errs []error
	for _, f := range l.owned {
		if err := f.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
			errs = append(errs, err)
		}
	}
	l.owned = nil
	return errors.Join(errs...)
}

// Describe makes a sentence of a failure: which step, why, and what is likely to be wrong. It is ErrInvalidArgument where the request or
// the image is at fault.
func (l *Launch) Describe(op, errno int) error {
	if op < 0 || op >= len(l.Program.ops) {
		return fmt.Errorf("%s: step %d of a program of %d failed: %w: %w", l.what, op, len(l.Program.ops), errnoOf(errno), errdefs.ErrInternal)
	}
	o := &l.Program.ops[op]
	cause := errnoOf(errno)
	kind, hint := error(errdefs.ErrInternal), " ("+o.call.String()+")"
	switch o.role {
	case roleExec:
		kind, hint = errdefs.ErrInvalidArgument, l.execHint(cause)
	case roleWorkingDir:
		kind, hint = errdefs.ErrInvalidArgument, l.directoryHint(cause)
	}
	return fmt.Errorf("%s: %s: %w%s: %w", l.what, o.purpose, cause, hint, kind)
}

func (l *Launch) execHint(cause error) string {
	switch {
	case errors.Is(cause, unix.ENOENT), errors.Is(cause, unix.ENOTDIR):
		return " " + l.where + " (or the interpreter that it names is missing)"
	case errors.Is(cause, unix.EACCES):
		return " (it is a directory, not executable for this user, or on a volume mounted noexec)"
	case errors.Is(cause, unix.ENOEXEC):
		return " (it is built for another architecture, or a script without #!)"
	case errors.Is(cause, unix.E2BIG):
		return " (arguments and environment are too large)"
	}
	return ""
}

func (l *Launch) directoryHint(cause error) string {
	switch {
	case errors.Is(cause, unix.ENOENT):
		return " " + l.where
	case errors.Is(cause, unix.ELOOP):
		return " (it leads through a link of proc to outside of the container)"
	case errors.Is(cause, unix.EACCES):
		return " (the user may not go there)"
	}
	return ""
}

package launch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"syscall"
)

// The report pipe. A launch program writes to descriptor 3, the end of a pipe that is close-on-exec by the time of the last execve. Records
// are 8 bytes, little endian, written whole (a pipe never splits a write this small):
//
//	int32 op     index of the op that failed, or -1, or -2
//	int32 value  its errno; with op -1 the pid of the process that goes on, with -2 that of one that makes it
//
// -1 comes from a program that reparents (Launch.Reparents): the process that counts is a sibling of the one that was started, with the
// same parent, and the started one exits with 0 at once. The end of the file without a failure means that the execve was done:
//
//	EOF               running
//	{-1, pid} EOF     running, as pid
//	{-2, p} {-1, pid} EOF      the same, in either order; p was one in between (an exec into a cgroup v2) and has exited with 0 as well
//	{n, errno} EOF    op n failed; the process exits with 127
//	{-1, pid} {n, errno} EOF   as above, in the process pid, which may be faster than its parent: in either order
const (
	// ReportFD is the program's descriptor for its report.
	ReportFD = 3
	// FailedExitCode is what a program whose op failed exits with.
	FailedExitCode = 127

	reportSize = 8
	reparented = -1
	inBetween  = -2
)

// Failure is an op that failed.
type Failure struct {
	Op    int
	Errno int
}

func (f *Failure) Error() string {
	return fmt.Sprintf("launch program: op %d: %v", f.Op, syscall.Errno(f.Errno))
}

// ReadReport reads the report of a program to its end, so it returns when the program has executed its last execve, or has failed, or was
// killed. pid is the process that counts if the program reparented, else 0. failed is nil if none reported a failure. err is for a report
// that could not be read or makes no sense; lengths and values are checked because by then the writer may be under a container's influence.
func ReadReport(r io.Reader) (pid int, failed *Failure, err error) {
	var record [reportSize]byte
	between := false
	for {
		switch _, err := io.ReadFull(r, record[:]); {
		case errors.Is(err, io.EOF):
			return pid, failed, nil
		case err != nil:
			return pid, failed, fmt.Errorf("reading a launch program's report: %w", err)
		}
		op, value := int32(binary.LittleEndian.Uint32(record[:])), int32(binary.LittleEndian.Uint32(record[4:]))
		switch {
		case op == reparented && pid == 0 && value > 0:
			pid = int(value)
		case op == inBetween && !between && value > 0:
			between = true
		case failed != nil:
			return pid, failed, fmt.Errorf("reading a launch program's report: a record {%d, %d} after the failure", op, value)
		case op >= 0 && value > 0:
			failed = &Failure{Op: int(op), Errno: int(value)}
		default:
			return pid, failed, fmt.Errorf("reading a launch program's report: record {%d, %d} makes no sense", op, value)
		}
	}
}

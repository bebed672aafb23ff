package server

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
)

// reparentedOp is the operation number by which a program tells the process that it made: the second value is its number.
const reparentedOp = -1

// maxRecords is more than any program reports: one process and one failure of each of the two.
const maxRecords = 4

// readReport reads what a launch program says: records of 8 bytes, little endian {int32 operation, int32 errno}, until the end. It is
// written out here, and not taken from package launch, because that one builds programs, which the keeper needs nothing of.
func readReport(r io.Reader) (pid int, err error) {
	var record [8]byte
	for range maxRecords {
		n, rerr := io.ReadFull(r, record[:])
		switch {
		case errors.Is(rerr, io.EOF):
			return pid, err
		case errors.Is(rerr, io.ErrUnexpectedEOF):
			return pid, fmt.Errorf("launch program's report ends with %d bytes of a record: %w", n, errdefs.ErrInternal)
		case rerr != nil:
			return pid, fmt.Errorf("reading the launch program's report: %w", rerr)
		}
		op := int(int32(binary.LittleEndian.Uint32(record[:])))
		value := int(int32(binary.LittleEndian.Uint32(record[4:])))
		switch {
		case op == reparentedOp && pid == 0 && value > 0:
			pid = value
		case op >= 0:
			if err == nil { // the first one is the cause
				err = &launchError{op: op, errno: value}
			}
		default:
			return pid, fmt.Errorf("launch program reported {%d, %d}, which says nothing: %w", op, value, errdefs.ErrInternal)
		}
	}
	return pid, fmt.Errorf("launch program reported more than %d records: %w", maxRecords, errdefs.ErrInternal)
}

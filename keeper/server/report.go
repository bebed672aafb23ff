package server

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
)

// Operation numbers by which a program tells a process that it made; the second value is its number.
const (
	reparentedOp = -1 // the one that counts
	betweenOp    = -2 // one that made it, and has done its work
)

// maxRecords is more than any program reports: the two processes that it makes, and one failure of each of the three.
const maxRecords = 5

// report is what a launch program said of processes; 0 for none.
type report struct{ pid, between int }

// readReport reads what a launch program says: records of 8 bytes, little endian {int32 operation, int32 errno}, until the end. It is
// written out here, and not taken from package launch, because that one builds programs, which the keeper needs nothing of.
func readReport(r io.Reader) (said report, err error) {
	var record [8]byte
	for range maxRecords {
		n, rerr := io.ReadFull(r, record[:])
		switch {
		case errors.Is(rerr, io.EOF):
			return said, err
		case errors.Is(rerr, io.ErrUnexpectedEOF):
			return said, fmt.Errorf("launch program's report ends with %d bytes of a record: %w", n, errdefs.ErrInternal)
		case rerr != nil:
			return said, fmt.Errorf("reading the launch program's report: %w", rerr)
		}
		op := int(int32(binary.LittleEndian.Uint32(record[:])))
		value := int(int32(binary.LittleEndian.Uint32(record[4:])))
		switch {
		case op == reparentedOp && said.pid == 0 && value > 0:
			said.pid = value
		case op == betweenOp && said.between == 0 && value > 0:
			said.between = value
		case op >= 0:
			if err == nil { // the first one is the cause
				err = &launchError{op: op, errno: value}
			}
		default:
			return said, fmt.Errorf("launch program reported {%d, %d}, which says nothing: %w", op, value, errdefs.ErrInternal)
		}
	}
	return said, fmt.Errorf("launch program reported more than %d records: %w", maxRecords, errdefs.ErrInternal)
}

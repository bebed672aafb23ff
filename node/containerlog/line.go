package containerlog

import (
	"bytes"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
)

// Stream is where a container wrote.
type Stream string

// The two streams of CRI's format.
const (
	Stdout Stream = "stdout"
	Stderr Stream = "stderr"
)

// timestamp is how times are printed before lines: RFC 3339 with nine digits.
const timestamp = "2006-01-02T15:04:05.000000000Z07:00"

// Line is one line of a log file: a whole line of the container's, or a part of one.
type Line struct {
	Time   time.Time
	Stream Stream
	Text   []byte // with the newline that ended it, which a partial one does not have
}

// Parse reads one line of a file, with or without its newline:
//
//	2016-10-06T00:17:09.669794202Z stdout F the text
//
// The third word is a list of tags, separated by colons, whose first one is P for a part, and F for a whole line or the last part of one. The text
// is not copied.
func Parse(raw []byte) (Line, error) {
	moment, rest, ok := bytes.Cut(raw, []byte{' '})
	if !ok {
		return Line{}, fmt.Errorf("reading a log line: no time: %w", errdefs.ErrInvalidArgument)
	}
	at, err := time.Parse(time.RFC3339Nano, string(moment))
	if err != nil {
		return Line{}, fmt.Errorf("reading a log line: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	stream, rest, ok := bytes.Cut(rest, []byte{' '})
	if s := Stream(stream); !ok || s != Stdout && s != Stderr {
		return Line{}, fmt.Errorf("reading a log line: %q is no stream: %w", stream, errdefs.ErrInvalidArgument)
	}
	tags, text, ok := bytes.Cut(rest, []byte{' '})
	if !ok {
		return Line{}, fmt.Errorf("reading a log line: no tags: %w", errdefs.ErrInvalidArgument)
	}
	if first, _, _ := bytes.Cut(tags, []byte{':'}); string(first) == "P" {
		text = bytes.TrimSuffix(text, []byte{'\n'})
	}
	return Line{Time: at, Stream: Stream(stream), Text: text}, nil
}

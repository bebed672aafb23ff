// Package crilog turns a container's output into the log format of CRI, which the kubelet reads:
//
//	2016-10-06T00:17:09.669794202Z stdout F a whole line
//	2016-10-06T00:17:09.669794202Z stderr P a piece of a line; the rest follows
//
// Splitting output into such lines and appending them to a file belong here. Where output comes from does not.
package crilog

import (
	"bytes"
	"time"
)

// Bytes of content per log line. The default is what the other runtimes use; a line longer than the limit becomes several lines tagged P.
const (
	DefaultMaxLine = 16 << 10
	LargestMaxLine = 128 << 10
)

// timeFormat is RFC3339Nano, written out because the kubelet parses exactly this.
const timeFormat = "2006-01-02T15:04:05.999999999Z07:00"

// overhead is more than the longest time, stream name, tag and newline together.
const overhead = 64

// Splitter cuts one stream into log lines. It holds the beginning of a line whose end has not come yet, and nothing else.
type Splitter struct {
	stream  string
	max     int
	pending []byte // never longer than max
}

// NewSplitter makes one for "stdout" or "stderr", continuing a line that an earlier one began. max must be at most LargestMaxLine; 0 is the default.
func NewSplitter(stream string, max int, pending []byte) *Splitter {
	if max <= 0 {
		max = DefaultMaxLine
	}
	if len(pending) > max {
		max = len(pending)
	}
	return &Splitter{stream: stream, max: max, pending: append([]byte(nil), pending...)}
}

// Pending is the line that has begun.
func (s *Splitter) Pending() []byte { return s.pending }

// Max is the limit of a line.
func (s *Splitter) Max() int { return s.max }

// Prefix appends what all lines written at one time begin with, up to the tag. One reading of the clock serves all lines of one read:
// a clock per line costs more than everything else here.
func (s *Splitter) Prefix(dst []byte, at time.Time) []byte {
	dst = at.UTC().AppendFormat(dst, timeFormat)
	dst = append(dst, ' ')
	dst = append(dst, s.stream...)
	return append(dst, ' ')
}

// Format appends log lines for chunk to dst, as many as fit into dst's capacity, and returns what of chunk is left for the
// next call. An empty dst must hold one line: LargestMaxLine plus overhead. Nothing is allocated but for the beginning of a line at chunk's end.
func (s *Splitter) Format(dst, chunk, prefix []byte) (lines, rest []byte) {
	for len(chunk) > 0 {
		room := s.max - len(s.pending)
		end := bytes.IndexByte(chunk[:min(len(chunk), room+1)], '\n')
		tag, take, skip := byte('F'), end, 1
		if end < 0 {
			if len(chunk) <= room { // the line goes on in a later read
				s.pending = append(s.pending, chunk...)
				return dst, nil
			}
			tag, take, skip = 'P', room, 0
		}
		if cap(dst)-len(dst) < len(prefix)+len(s.pending)+take+3 {
			return dst, chunk
		}
		dst = appendLine(dst, prefix, tag, s.pending, chunk[:take])
		s.pending = nil // not [:0]: an idle stream holds no buffer
		chunk = chunk[take+skip:]
	}
	return dst, nil
}

// Finish appends the line that was begun as a piece: a stream that ends without a newline ends with a P line, as containerd writes it,
// so that readers who put pieces together show exactly the bytes that were written.
func (s *Splitter) Finish(dst, prefix []byte) []byte {
	if len(s.pending) == 0 {
		return dst
	}
	dst = appendLine(dst, prefix, 'P', s.pending, nil)
	s.pending = nil
	return dst
}

func appendLine(dst, prefix []byte, tag byte, a, b []byte) []byte {
	dst = append(dst, prefix...)
	dst = append(dst, tag, ' ')
	dst = append(dst, a...)
	dst = append(dst, b...)
	return append(dst, '\n')
}

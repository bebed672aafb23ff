package translate

import (
	"fmt"
	"path"
	"strings"
	"unicode"

	"github.com/containerd/errdefs"
)

// check collects the refusals of one request, so that a client learns of all of them at once.
type check struct {
	refusals []string
}

// refuse notes that field cannot be honoured and why.
func (c *check) refuse(field, format string, args ...any) {
	c.refusals = append(c.refusals, field+": "+fmt.Sprintf(format, args...))
}

// err is nil when nothing was refused, else of kind ErrInvalidArgument.
func (c *check) err() error {
	if len(c.refusals) == 0 {
		return nil
	}
	return fmt.Errorf("%s: %w", strings.Join(c.refusals, "; "), errdefs.ErrInvalidArgument)
}

// required refuses an empty value.
func (c *check) required(field, value string) {
	if value == "" {
		c.refuse(field, "is required")
	}
}

// absolute refuses paths that are not absolute or that the kernel could not take. ".." is allowed: it is resolved where the path is used.
func (c *check) absolute(field, value string) {
	switch {
	case !path.IsAbs(value):
		c.refuse(field, "%q is not an absolute path", value)
	case strings.ContainsRune(value, 0):
		c.refuse(field, "contains a NUL byte")
	case len(value) >= pathMax:
		c.refuse(field, "is longer than %d bytes", pathMax-1)
	}
}

// local refuses paths that are absolute, leave their root by "..", or that the kernel could not take.
func (c *check) local(field, value string) {
	switch {
	case path.IsAbs(value):
		c.refuse(field, "%q must be relative", value)
	case hasDotDot(value):
		c.refuse(field, "%q contains \"..\"", value)
	case strings.ContainsRune(value, 0):
		c.refuse(field, "contains a NUL byte")
	case len(value) >= pathMax:
		c.refuse(field, "is longer than %d bytes", pathMax-1)
	}
}

// line refuses values that would be more than one line, or a strange one, in the file or log they are written to.
func (c *check) line(field, value string) {
	if i := strings.IndexFunc(value, unicode.IsControl); i >= 0 {
		c.refuse(field, "contains the control character %q", value[i:i+1])
	}
}

// word refuses what line refuses, and white space.
func (c *check) word(field, value string) {
	if strings.IndexFunc(value, unicode.IsSpace) >= 0 {
		c.refuse(field, "%q contains white space", value)
		return
	}
	c.line(field, value)
}

// noNUL refuses strings that would be cut short as arguments of execve.
func (c *check) noNUL(field, value string) {
	if strings.ContainsRune(value, 0) {
		c.refuse(field, "contains a NUL byte")
	}
}

// between refuses numbers outside low..high.
func (c *check) between(field string, value, low, high int64) {
	if value < low || value > high {
		c.refuse(field, "%d is not between %d and %d", value, low, high)
	}
}

// pathMax is the kernel's PATH_MAX, with the terminating NUL.
const pathMax = 4096

func hasDotDot(p string) bool {
	for part := range strings.SplitSeq(p, "/") {
		if part == ".." {
			return true
		}
	}
	return false
}

// item names an element of a repeated field.
func item(field string, i int) string { return fmt.Sprintf("%s[%d]", field, i) }

// key names a value of a map field.
func key(field, k string) string { return fmt.Sprintf("%s[%q]", field, k) }

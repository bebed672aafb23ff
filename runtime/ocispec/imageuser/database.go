package imageuser

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

const (
	maxFileSize = 16 << 20 // bytes read of a file at most
	maxLine     = 1 << 20  // a longer line is an error
)

// openInRoot opens a regular file of the image for reading; nil when there is none. The path is resolved with root as "/", so symlinks cannot leave it.
// A device or a FIFO is never opened: only its inode is looked at first.
func openInRoot(root *os.File, name string) (*os.File, error) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	var fd int
	var err error
	for range 64 { // EAGAIN: something was renamed meanwhile
		if fd, err = unix.Openat2(int(root.Fd()), name, &how); !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			break
		}
	}
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("opening the image's /%s: %w", name, err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, fmt.Errorf("opening the image's /%s: %w", name, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, fmt.Errorf("the image's /%s is not a regular file: %w", name, errdefs.ErrInvalidArgument)
	}
	if st.Size > maxFileSize {
		return nil, fmt.Errorf("the image's /%s has %d bytes, more than %d: %w", name, st.Size, maxFileSize, errdefs.ErrInvalidArgument)
	}
	f, err := os.OpenFile("/proc/self/fd/"+strconv.Itoa(fd), os.O_RDONLY|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("opening the image's /%s: %w", name, err)
	}
	return f, nil
}

// database is a passwd or group file. github.com/moby/sys/user is not used: it reads a number that does not parse as zero.
type database struct {
	r io.ReadSeeker // nil: there is no file
}

func newDatabase(f *os.File) *database {
	if f == nil {
		return &database{}
	}
	return &database{r: f}
}

// each gives the fields of every line until it is told to stop.
func (d *database) each(line func(fields []string) bool) error {
	if d.r == nil {
		return nil
	}
	if _, err := d.r.Seek(0, io.SeekStart); err != nil {
		return err
	}
	s := bufio.NewScanner(io.LimitReader(d.r, maxFileSize))
	s.Buffer(nil, maxLine)
	for s.Scan() {
		text := strings.TrimSpace(s.Text())
		if text == "" || text[0] == '#' {
			continue
		}
		if !line(strings.Split(text, ":")) {
			return nil
		}
	}
	if err := s.Err(); err != nil {
		return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	return nil
}

// passwdEntry is a line of passwd: name:password:UID:GID:comment:home:shell.
type passwdEntry struct {
	name     string
	uid, gid uint32
	home     string
}

// parsePasswd refuses lines without both numbers: an entry must never become root's by a mistake.
func parsePasswd(fields []string) (passwdEntry, bool) {
	if len(fields) < 4 || fields[0] == "" {
		return passwdEntry{}, false
	}
	uid, uidOK, err1 := parseID(fields[2])
	gid, gidOK, err2 := parseID(fields[3])
	if err1 != nil || err2 != nil || !uidOK || !gidOK {
		return passwdEntry{}, false
	}
	e := passwdEntry{name: fields[0], uid: uid, gid: gid, home: "/"}
	if len(fields) > 5 {
		e.home = homeDir(fields[5])
	}
	return e, true
}

// homeDir keeps a home that is an absolute path of printable characters: it ends up in an environment, and in other programs' files (CVE-2022-4318).
func homeDir(home string) string {
	if !path.IsAbs(home) || strings.ContainsFunc(home, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return "/"
	}
	return home
}

// groupEntry is a line of group: name:password:GID:members.
type groupEntry struct {
	name    string
	gid     uint32
	members string
}

func parseGroup(fields []string) (groupEntry, bool) {
	if len(fields) < 3 || fields[0] == "" {
		return groupEntry{}, false
	}
	gid, ok, err := parseID(fields[2])
	if err != nil || !ok {
		return groupEntry{}, false
	}
	g := groupEntry{name: fields[0], gid: gid}
	if len(fields) > 3 {
		g.members = fields[3]
	}
	return g, true
}

package volume

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Remove takes away all of a pod. It is idempotent. Nothing is removed while anything is still mounted in it: removing through a subPath
// would empty the node's own directories.
func (s *Store) Remove(uid string) error {
	if err := s.remove(uid, ""); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.states, uid)
	s.freeUsers(uid)
	return nil
}

// Release takes away a pod's volumes, with what is in them: it has ended, and waits to be deleted. What tells of it stays: record, messages. It is
// idempotent.
func (s *Store) Release(uid string) error { return s.remove(uid, "subpaths", "volumes", "claims") }

// remove takes away some of a pod's directories, in their order.
func (s *Store) remove(uid string, parts ...string) error {
	if uid == "" || strings.ContainsAny(uid, "/\x00") || uid == "." || uid == ".." {
		return fmt.Errorf("removing the directory of pod %q: not an ID: %w", uid, errdefs.ErrInvalidArgument)
	}
	state := s.state(uid)
	state.mu.Lock()
	defer state.mu.Unlock()
	for _, part := range parts {
		if err := removeDirectory(s.pod(uid, part)); err != nil {
			return fmt.Errorf("removing the directory of pod %s: %w", uid, err)
		}
	}
	return nil
}

func removeDirectory(dir string) error {
	mounted, err := mountsBelow(dir)
	if err != nil {
		return err
	}
	slices.Reverse(mounted) // the last mounted first
	for _, target := range mounted {
		if err := unmount(target); err != nil {
			return err
		}
	}
	if left, err := mountsBelow(dir); err != nil {
		return err
	} else if len(left) > 0 {
		return fmt.Errorf("still mounted: %s: %w", strings.Join(left, ", "), errdefs.ErrFailedPrecondition)
	}
	return os.RemoveAll(dir) // does not follow links
}

func mountsBelow(dir string) ([]string, error) {
	file, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("listing mounts: %w", err)
	}
	defer file.Close()
	var found []string
	lines := bufio.NewReader(file)
	for {
		line, err := lines.ReadString('\n')
		if fields := strings.Fields(line); len(fields) > 4 {
			if target := unescape(fields[4]); strings.HasPrefix(target, dir+"/") {
				found = append(found, target)
			}
		}
		if err == io.EOF {
			return found, nil
		} else if err != nil {
			return nil, fmt.Errorf("listing mounts: %w", err)
		}
	}
}

// unescape undoes the kernel's \040 for a space and the like.
func unescape(text string) string {
	var out strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] == '\\' && i+3 < len(text) {
			if code, err := strconv.ParseUint(text[i+1:i+4], 8, 8); err == nil {
				out.WriteByte(byte(code))
				i += 3
				continue
			}
		}
		out.WriteByte(text[i])
	}
	return out.String()
}

// Bounds of a termination message, as the kubelet's.
const (
	maxMessage     = 4096
	maxLogMessage  = 2048
	maxLogLines    = 80
	logReadAtATime = 64 << 10
)

// Message is what a container wrote about its end.
func (s *Store) Message(uid, container string, attempt uint32) string {
	fd, err := unix.Open(s.messageFile(uid, container, attempt), unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return ""
	}
	file := os.NewFile(uintptr(fd), "termination message")
	defer file.Close()
	text := make([]byte, maxMessage)
	n, _ := io.ReadFull(file, text) // what there is
	return strings.ToValidUTF8(string(text[:n]), "?")
}

// RemoveMessage forgets the message of a run that is removed.
func (s *Store) RemoveMessage(uid, container string, attempt uint32) error {
	if err := os.Remove(s.messageFile(uid, container, attempt)); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("removing the termination message of container %s: %w", container, err)
	}
	return nil
}

// LogTail is the end of a CRI log, its lines without time and stream: what stands in for a message that a container did not write.
func LogTail(path string) string {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return ""
	}
	file := os.NewFile(uintptr(fd), path)
	defer file.Close()
	size, err := file.Seek(0, io.SeekEnd)
	if err != nil {
		return ""
	}
	text := make([]byte, min(size, logReadAtATime))
	n, _ := file.ReadAt(text, size-int64(len(text)))
	lines := strings.SplitAfter(string(text[:n]), "\n")
	if int64(len(text)) < size {
		lines = lines[1:] // begun before
	}
	lines = lines[max(0, len(lines)-maxLogLines-1):]
	var out strings.Builder
	for _, line := range lines {
		if parts := strings.SplitN(line, " ", 4); len(parts) == 4 { // time stream tag content
			content := parts[3]
			if parts[2] == "P" {
				content = strings.TrimSuffix(content, "\n")
			}
			out.WriteString(content)
		}
	}
	tail := out.String()
	return strings.ToValidUTF8(tail[max(0, len(tail)-maxLogMessage):], "")
}

package layer

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Measure counts the bytes on disk and the inodes of a tree that somebody may be changing meanwhile: what vanishes is not counted, and nothing outside is
// looked at, whatever is swapped for a link. The root itself is not counted.
func Measure(ctx context.Context, root *os.File) (bytes, inodes uint64, err error) {
	type inode struct{ dev, ino uint64 }
	linked := map[inode]bool{}
	pending := []string{"."}
	for len(pending) > 0 {
		if ctx.Err() != nil {
			return 0, 0, context.Cause(ctx)
		}
		name := pending[len(pending)-1]
		pending = pending[:len(pending)-1]
		fd, err := unix.Openat2(int(root.Fd()), name, &unix.OpenHow{
			Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC | unix.O_NOATIME,
			Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
		})
		if err != nil {
			if name == "." {
				return 0, 0, fmt.Errorf("measuring: %w", err)
			}
			continue // gone, replaced, or nested deeper than a path can say
		}
		dir := os.NewFile(uintptr(fd), name)
		for {
			entries, readErr := dir.Readdirnames(1024)
			for _, entry := range entries {
				var st unix.Stat_t
				if unix.Fstatat(fd, entry, &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
					continue
				}
				isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR
				if isDir {
					pending = append(pending, name+"/"+entry)
				} else if st.Nlink > 1 {
					key := inode{st.Dev, st.Ino}
					if linked[key] {
						continue
					}
					linked[key] = true
				}
				bytes += uint64(st.Blocks) * 512
				inodes++
			}
			if readErr != nil || len(entries) == 0 {
				if readErr != nil && !isEOF(readErr) && !errors.Is(readErr, unix.ENOENT) {
					_ = dir.Close()
					return 0, 0, fmt.Errorf("measuring %q: %w", name, readErr)
				}
				break
			}
		}
		_ = dir.Close()
	}
	return bytes, inodes, nil
}

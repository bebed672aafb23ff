package images

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// file is one entry of a layer. Directories above it are made by themselves.
type file struct {
	path     string // absolute, without ".."
	mode     int64  // permission bits with setuid and the like; 0 is 0644
	body     []byte
	hardlink string // absolute path of an earlier file of the same layer
	symlink  string
	dir      bool
	uid, gid int
}

// directories below are 0755 unless an entry of its own says otherwise.
const (
	fileMode = 0o644
	dirMode  = 0o755
)

// newLayer makes a layer that depends on nothing but its files: names sorted where order does not matter, no times, root owns what nobody else does.
func newLayer(files []file, options ...tarball.LayerOption) (v1.Layer, error) {
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	made := map[string]bool{"/": true}
	for _, f := range withLinksLast(files) {
		if err := writeParents(w, f.path, made); err != nil {
			return nil, err
		}
		made[f.path] = true
		if err := writeEntry(w, f); err != nil {
			return nil, fmt.Errorf("writing %s to a layer: %w", f.path, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("ending a layer: %w", err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(archive.Bytes())), nil
	}, append(options, tarball.WithCompressedCaching)...)
	if err != nil {
		return nil, fmt.Errorf("making a layer: %w", err)
	}
	return layer, nil
}

// withLinksLast sorts by path, hard links after everything else: they need their targets.
func withLinksLast(files []file) []file {
	sorted := slices.Clone(files)
	slices.SortStableFunc(sorted, func(a, b file) int {
		if (a.hardlink == "") != (b.hardlink == "") {
			if a.hardlink == "" {
				return -1
			}
			return 1
		}
		return strings.Compare(a.path, b.path)
	})
	return sorted
}

func writeParents(w *tar.Writer, name string, made map[string]bool) error {
	dir := path.Dir(name)
	if made[dir] {
		return nil
	}
	if err := writeParents(w, dir, made); err != nil {
		return err
	}
	made[dir] = true
	return writeEntry(w, file{path: dir, dir: true})
}

func writeEntry(w *tar.Writer, f file) error {
	header := &tar.Header{Name: strings.TrimPrefix(f.path, "/"), Mode: f.mode, Uid: f.uid, Gid: f.gid, Format: tar.FormatPAX}
	switch {
	case f.dir:
		header.Typeflag, header.Name = tar.TypeDir, header.Name+"/"
		if f.mode == 0 {
			header.Mode = dirMode
		}
	case f.hardlink != "":
		header.Typeflag, header.Linkname = tar.TypeLink, strings.TrimPrefix(f.hardlink, "/")
	case f.symlink != "":
		header.Typeflag, header.Linkname, header.Mode = tar.TypeSymlink, f.symlink, 0o777
	default:
		header.Typeflag, header.Size = tar.TypeReg, int64(len(f.body))
		if f.mode == 0 {
			header.Mode = fileMode
		}
	}
	if err := w.WriteHeader(header); err != nil {
		return err
	}
	if header.Typeflag != tar.TypeReg {
		return nil
	}
	_, err := w.Write(f.body)
	return err
}

// program is an executable file of a layer, read from the disk.
func program(path, source string) (file, error) {
	body, err := os.ReadFile(source)
	if err != nil {
		return file{}, fmt.Errorf("reading the program for %s: %w", path, err)
	}
	return file{path: path, mode: 0o755, body: body}, nil
}

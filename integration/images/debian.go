package images

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"

	"github.com/shimd/shimd/integration/tools"
)

// debianPackage fetches a package without installing it (busybox and busybox-static exclude each other), and answers the path of its file.
// What was fetched is kept in the cache.
func debianPackage(ctx context.Context, name, arch string) (string, error) {
	cache, err := tools.CacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "debian-"+arch)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("making the cache for Debian's packages: %w", err)
	}
	if found, err := filepath.Glob(filepath.Join(dir, name+"_*.deb")); err == nil && len(found) > 0 {
		return found[len(found)-1], nil
	}
	// Into a directory of its own and then renamed: a download that was cut short must not be taken for the package.
	draft, err := os.MkdirTemp(dir, "fetching-")
	if err != nil {
		return "", fmt.Errorf("fetching %s: %w", name, err)
	}
	defer os.RemoveAll(draft)
	cmd := exec.CommandContext(ctx, "apt-get", "download", "-q", name+":"+arch)
	cmd.Dir = draft
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("fetching Debian's package %s: %w: %s\ntest images are made of Debian's packages: run this on Debian or Ubuntu after apt-get update", name, err, out)
	}
	found, err := filepath.Glob(filepath.Join(draft, "*.deb"))
	if err != nil || len(found) != 1 {
		return "", fmt.Errorf("fetching Debian's package %s: %d files came, not 1 (%w)", name, len(found), errors.Join(err, os.ErrNotExist))
	}
	kept := filepath.Join(dir, filepath.Base(found[0]))
	return kept, os.Rename(found[0], kept)
}

// debianFiles reads files out of a package by their base names, following symbolic links within the package. Every name must be there.
func debianFiles(ctx context.Context, name, arch string, wanted ...string) (map[string][]byte, error) {
	deb, err := debianPackage(ctx, name, arch)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", deb)
	stream, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", deb, err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("reading %s: %w", deb, err)
	}
	found, readErr := pick(tar.NewReader(stream), wanted)
	_, drainErr := io.Copy(io.Discard, stream)
	if err := errors.Join(readErr, drainErr, cmd.Wait()); err != nil {
		return nil, fmt.Errorf("reading %s: %w", deb, err)
	}
	return found, nil
}

func pick(archive *tar.Reader, wanted []string) (map[string][]byte, error) {
	bodies, links := map[string][]byte{}, map[string]string{}
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		switch base := path.Base(header.Name); {
		case header.Typeflag == tar.TypeSymlink:
			links[base] = path.Base(header.Linkname)
		case header.Typeflag == tar.TypeReg && isProgramOrLibrary(header.Name):
			if bodies[base], err = io.ReadAll(archive); err != nil {
				return nil, err
			}
		}
	}
	found := map[string][]byte{}
	for _, name := range wanted {
		target := name
		if to, isLink := links[name]; isLink {
			target = to
		}
		body, ok := bodies[target]
		if !ok {
			return nil, fmt.Errorf("no %s in the package", name)
		}
		found[name] = body
	}
	return found, nil
}

func isProgramOrLibrary(name string) bool {
	name = strings.TrimPrefix(strings.TrimPrefix(name, "."), "/usr")
	return strings.HasPrefix(name, "/bin/") || strings.HasPrefix(name, "/lib/") || strings.HasPrefix(name, "/lib64/")
}

package images

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path"
	"slices"
	"strings"
)

// unwanted are parts of packages that no image needs: what slim images of Debian leave out too. Copyright files stay.
func unwanted(name string) bool {
	for _, dir := range []string{"/usr/share/man/", "/usr/share/info/", "/usr/share/locale/", "/usr/share/lintian/", "/usr/share/bug/"} {
		if strings.HasPrefix(name, dir) {
			return true
		}
	}
	return strings.HasPrefix(name, "/usr/share/doc/") && path.Base(name) != "copyright"
}

// merged is a path where Debian has it since /bin, /sbin and /lib are links into /usr; packages still name the old places.
func merged(name string) string {
	for _, dir := range []string{"/bin/", "/sbin/", "/lib/", "/lib64/"} {
		if strings.HasPrefix(name, dir) {
			return "/usr" + name
		}
	}
	return name
}

// mergedUsr are those links.
func mergedUsr() []file {
	var links []file
	for _, dir := range []string{"bin", "sbin", "lib", "lib64"} {
		links = append(links, file{path: "/" + dir, symlink: "usr/" + dir}, file{path: "/usr/" + dir, dir: true})
	}
	return links
}

// unpack reads all files of packages. Scripts that installing a package runs are not run: what they would have made, recipes add.
func unpack(ctx context.Context, debs []string) ([]file, error) {
	var all []file
	for _, deb := range debs {
		out, err := dpkgDeb(ctx, "--fsys-tarfile", deb)
		if err != nil {
			return nil, err
		}
		files, err := readFiles(bytes.NewReader(out))
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", path.Base(deb), err)
		}
		all = append(all, files...)
	}
	return all, nil
}

func dpkgDeb(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "dpkg-deb", args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w: %s", path.Base(args[len(args)-1]), err, stderr.String())
	}
	return out, nil
}

// readFiles turns a package's archive into files of a layer.
func readFiles(r io.Reader) ([]file, error) {
	var files []file
	archive := tar.NewReader(r)
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files, nil
		}
		if err != nil {
			return nil, err
		}
		f := file{path: merged(path.Clean("/" + header.Name)), mode: header.Mode & 0o7777, uid: header.Uid, gid: header.Gid}
		if f.path == "/" || unwanted(f.path) {
			continue
		}
		switch header.Typeflag {
		case tar.TypeDir:
			if slices.Contains([]string{"/bin", "/sbin", "/lib", "/lib64"}, f.path) {
				continue // links, where /usr is merged
			}
			f.dir = true
		case tar.TypeSymlink:
			f.symlink = header.Linkname
		case tar.TypeLink:
			f.hardlink = merged(path.Clean("/" + header.Linkname))
		case tar.TypeReg:
			if f.body, err = io.ReadAll(archive); err != nil {
				return nil, err
			}
		default:
			return nil, fmt.Errorf("%s is of type %q, which no image needs", header.Name, header.Typeflag)
		}
		files = append(files, f)
	}
}

// overlay puts files over others of the same path, the last one wins. A directory and another directory make one, with the mode of the last.
func overlay(files []file) []file {
	at := map[string]int{}
	var list []file
	for _, f := range files {
		if i, there := at[f.path]; there {
			list[i] = f
			continue
		}
		at[f.path] = len(list)
		list = append(list, f)
	}
	return list
}

// packageDatabase is what dpkg and apt keep of installed packages, so that more can be installed on top.
func packageDatabase(ctx context.Context, packages []debian, debs []string) ([]file, error) {
	var status bytes.Buffer
	var files []file
	for i, p := range packages {
		control, err := dpkgDeb(ctx, "--ctrl-tarfile", debs[i])
		if err != nil {
			return nil, err
		}
		parts, err := readFiles(bytes.NewReader(control))
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", path.Base(debs[i]), err)
		}
		prefix := "/var/lib/dpkg/info/" + p.name
		for _, part := range parts {
			if part.path == "/control" {
				installed := strings.Replace(strings.TrimRight(string(part.body), "\n"), "\n", "\nStatus: install ok installed\n", 1)
				if strings.Contains(installed, "\nMulti-Arch: same\n") {
					prefix += ":" + p.arch
				}
				fmt.Fprintf(&status, "%s\n\n", installed)
			}
		}
		for _, part := range parts {
			if part.path != "/control" {
				files = append(files, file{path: prefix + "." + path.Base(part.path), mode: part.mode, body: part.body})
			}
		}
		list, err := fileList(ctx, debs[i])
		if err != nil {
			return nil, err
		}
		files = append(files, file{path: prefix + ".list", body: list})
	}
	return append(files,
		file{path: "/var/lib/dpkg/status", body: status.Bytes()},
		file{path: "/var/lib/dpkg/available"},
		file{path: "/var/lib/dpkg/info/format", body: []byte("1\n")},
		file{path: "/var/lib/dpkg/triggers", dir: true},
		file{path: "/var/lib/dpkg/updates", dir: true},
		file{path: "/var/lib/apt/lists/partial", dir: true, mode: 0o700, uid: aptUser},
		file{path: "/var/cache/apt/archives/partial", dir: true, mode: 0o700, uid: aptUser},
	), nil
}

// fileList is the content of dpkg's NAME.list: every path of a package, as the package names it.
func fileList(ctx context.Context, deb string) ([]byte, error) {
	out, err := dpkgDeb(ctx, "--fsys-tarfile", deb)
	if err != nil {
		return nil, err
	}
	var list bytes.Buffer
	archive := tar.NewReader(bytes.NewReader(out))
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return list.Bytes(), nil
		}
		if err != nil {
			return nil, fmt.Errorf("listing %s: %w", path.Base(deb), err)
		}
		name := path.Clean("/" + header.Name)
		if name == "/" {
			name = "/."
		}
		fmt.Fprintln(&list, name)
	}
}

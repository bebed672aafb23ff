package images

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"path"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// aptUser is the user that apt reads archives as.
const aptUser = 42

// poolDir is where an image's own archive of packages is.
const poolDir = "/opt/packages"

const debianPasswd = `root:x:0:0:root:/root:/bin/bash
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin
bin:x:2:2:bin:/bin:/usr/sbin/nologin
sys:x:3:3:sys:/dev:/usr/sbin/nologin
man:x:6:12:man:/var/cache/man:/usr/sbin/nologin
mail:x:8:8:mail:/var/mail:/usr/sbin/nologin
www-data:x:33:33:www-data:/var/www:/usr/sbin/nologin
_apt:x:42:65534::/nonexistent:/usr/sbin/nologin
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
`

const debianGroup = `root:x:0:
daemon:x:1:
bin:x:2:
sys:x:3:
adm:x:4:
tty:x:5:
disk:x:6:
mail:x:8:
man:x:12:
kmem:x:15:
www-data:x:33:
shadow:x:42:
utmp:x:43:
staff:x:50:
users:x:100:
nogroup:x:65534:
`

// debianRoot is a Debian system as small as one that can install packages: the essential packages and apt, without what their installation scripts
// do, but for what counts, which is in files. It has no network to install from, so it brings an archive of some packages with it:
//
//	apt-get update && apt-get install -y hello && hello
func debianRoot() recipe {
	var shadow strings.Builder
	for line := range strings.Lines(debianPasswd) {
		user, _, _ := strings.Cut(line, ":")
		fmt.Fprintf(&shadow, "%s:*:20000:0:99999:7:::\n", user)
	}
	empty := func(path string) file { return file{path: path} }
	dir := func(path string) file { return file{path: path, dir: true} }
	return recipe{
		packages: strings.Fields(`apt base-files base-passwd bash bsdutils coreutils dash debianutils diffutils dpkg findutils grep gzip hostname
			init-system-helpers libc-bin login mawk ncurses-base ncurses-bin perl-base sed sysvinit-utils tar util-linux
			debian-archive-keyring iproute2 less procps`),
		database: true,
		pool:     []string{"figlet", "hello", "jq", "nginx", "tree"},
		files: baseFiles(
			file{path: "/etc/passwd", body: []byte(debianPasswd)},
			file{path: "/etc/group", body: []byte(debianGroup)},
			file{path: "/etc/shadow", mode: 0o640, gid: 42, body: []byte(shadow.String())},
			file{path: "/etc/apt/sources.list", body: []byte("# packages that the image brings: there is no network to fetch others from\ndeb [trusted=yes] file:" + poolDir + " ./\n")},
			file{path: "/etc/profile", body: []byte("PS1='\\u@\\h:\\w\\$ '\n")},
			file{path: "/root/.bashrc", body: []byte("PS1='\\u@\\h:\\w\\$ '\n")},
			// Installing a server does not start it: as in the published images of Debian and Ubuntu.
			file{path: "/usr/sbin/policy-rc.d", mode: 0o755, body: []byte("#!/bin/sh\nexit 101\n")},
			// Debian's alternatives.
			file{path: "/usr/bin/sh", symlink: "dash"},
			file{path: "/usr/bin/awk", symlink: "mawk"},
			file{path: "/usr/bin/pager", symlink: "less"},
			file{path: "/usr/bin/which", symlink: "which.debianutils"},
			empty("/var/lib/dpkg/diversions"), empty("/var/lib/dpkg/statoverride"), empty("/var/lib/apt/extended_states"),
			dir("/var/lib/dpkg/alternatives"), dir("/var/lib/dpkg/parts"), dir("/var/log/apt"), dir("/var/mail"), dir("/mnt"), dir("/srv"), dir("/opt"),
			file{path: "/var/lock", symlink: "../run/lock"}, dir("/run/lock"),
		),
		config: v1.Config{Env: []string{searchPath}, Cmd: []string{"/bin/bash"}},
	}
}

// localArchive is an archive of packages inside an image: the files of names and of all that they need and the image does not have, and an index.
func (b *builder) localArchive(index map[string]debian, installed []debian, names []string) ([]file, error) {
	var have []string
	for _, p := range installed {
		have = append(have, p.name)
	}
	packages, err := closure(index, names, have)
	if err != nil {
		return nil, err
	}
	debs, err := fetch(b.ctx, packages, b.opts.Arch)
	if err != nil {
		return nil, err
	}
	var list bytes.Buffer
	var files []file
	for i, p := range packages {
		body, err := os.ReadFile(debs[i])
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", path.Base(debs[i]), err)
		}
		files = append(files, file{path: poolDir + "/" + p.file(), body: body})
		for line := range strings.Lines(p.control) {
			if strings.HasPrefix(line, "Filename: ") {
				line = "Filename: ./" + p.file() + "\n"
			}
			list.WriteString(line)
		}
		list.WriteString("\n")
	}
	release := fmt.Sprintf("Origin: shimd\nLabel: packages of a test image\nSuite: stable\nDate: Thu, 01 Jan 2026 00:00:00 UTC\nArchitectures: %s\nSHA256:\n %x %d Packages\n",
		b.opts.Arch, sha256.Sum256(list.Bytes()), list.Len())
	return append(files,
		file{path: poolDir + "/Packages", body: list.Bytes()},
		file{path: poolDir + "/Release", body: []byte(release)}), nil
}

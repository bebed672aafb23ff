package images

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"

	"github.com/shimd/shimd/integration/tools"
)

const (
	kubernetes = "registry.k8s.io/"
	e2e        = kubernetes + "e2e-test-images/"
	criTools   = "gcr.io/k8s-staging-cri-tools/"
	oldName    = "k8s.gcr.io/" // registry.k8s.io's earlier name: critest pulls one image from both
)

const searchPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

const passwd = `root:x:0:0:root:/root:/bin/sh
www-data:x:33:33:www-data:/var/www:/bin/false
nobody:x:65534:65534:nobody:/home:/bin/false
`

const group = `root:x:0:
www-data:x:33:
nobody:x:65534:
`

// addCritest adds every image that critest 1.36 names (pkg/validate/consts.go and the constants of its other files).
func (b *builder) addCritest(set Set) error {
	base, err := b.busybox()
	if err != nil {
		return fmt.Errorf("building busybox: %w", err)
	}
	set[CRIBusybox] = base
	for _, add := range []func(Set, v1.Image) error{b.addUsers, b.addNamed, b.addServers, b.addSmall} {
		if err := add(set, base); err != nil {
			return err
		}
	}
	return nil
}

func shellConfig() v1.Config { return v1.Config{Env: []string{searchPath}, Cmd: []string{"sh"}} }

// busybox is Debian's dynamically linked busybox with its libraries. The static one will not do: its shell runs busybox's own ls even when
// /bin/ls is masked, which is what critest looks at. Names are hard links, so that masking one leaves the others.
func (b *builder) busybox() (v1.Image, error) {
	bodies, err := debianFiles(b.ctx, "busybox", b.opts.Arch, "busybox")
	if err != nil {
		return nil, err
	}
	loader := map[string]string{"amd64": "/lib64/ld-linux-x86-64.so.2", "arm64": "/lib/ld-linux-aarch64.so.1"}[b.opts.Arch]
	if loader == "" {
		return nil, fmt.Errorf("no test images for %s: amd64 and arm64 only", b.opts.Arch)
	}
	loaderName := loader[strings.LastIndex(loader, "/")+1:]
	libraries, err := debianFiles(b.ctx, "libc6", b.opts.Arch, loaderName, "libc.so.6", "libresolv.so.2")
	if err != nil {
		return nil, err
	}
	files := append(busyboxFiles(bodies["busybox"]),
		file{path: loader, mode: 0o755, body: libraries[loaderName]},
		file{path: "/lib/libc.so.6", mode: 0o755, body: libraries["libc.so.6"]},
		file{path: "/lib/libresolv.so.2", body: libraries["libresolv.so.2"]},
	)
	proctools, err := b.compile("proctools", "/usr/bin/ipcs", 0o755)
	if err != nil {
		return nil, err
	}
	files = append(files, proctools, file{path: "/usr/bin/pgrep", hardlink: "/usr/bin/ipcs"})
	return b.image(empty.Image, shellConfig(), files...)
}

// staticBusybox is an image of one program without libraries: what starts fastest, for measuring.
func (b *builder) staticBusybox() (v1.Image, error) {
	bodies, err := debianFiles(b.ctx, "busybox-static", b.opts.Arch, "busybox")
	if err != nil {
		return nil, err
	}
	return b.image(empty.Image, shellConfig(), busyboxFiles(bodies["busybox"])...)
}

func busyboxFiles(busybox []byte) []file {
	files := []file{
		{path: "/bin/busybox", mode: 0o755, body: busybox},
		{path: "/etc/passwd", body: []byte(passwd)},
		{path: "/etc/group", body: []byte(group)},
		{path: "/tmp", dir: true, mode: 0o1777},
		{path: "/root", dir: true, mode: 0o700},
		{path: "/home", dir: true},
		{path: "/var/www", dir: true},
		{path: "/var/run", dir: true},
	}
	for _, name := range applets() {
		files = append(files, file{path: "/bin/" + name, hardlink: "/bin/busybox"})
	}
	return files
}

// applets lists the names that the images link to busybox: fixed, not asked of the binary, which may be another architecture's.
func applets() []string {
	return strings.Fields(`[ ar awk base64 basename brctl cat chgrp chmod chown chroot clear cmp cp cut date dd df diff dirname dmesg du
		echo egrep env expand expr factor false fgrep find free getopt grep groups gunzip gzip head hexdump hostid hostname id ifconfig ip
		ipcalc kill killall less link ln logger ls md5sum mkdir mkfifo mknod mktemp more mount mv nc netstat nice nl nproc nslookup od paste
		pidof ping ping6 printf ps pwd readlink realpath renice reset rev rm rmdir route sed seq setsid sh sha256sum sleep sort stat strings
		stty sync sysctl tac tail tar tee telnet test time timeout top touch tr traceroute true truncate tty umount uname uniq unlink
		unshare uptime usleep uudecode uuencode vi watch wc wget which whoami xargs yes zcat`)
}

// addUsers adds the images whose user is set in four ways, and the one whose user belongs to a group by /etc/group alone.
func (b *builder) addUsers(set Set, base v1.Image) error {
	users := map[string]string{
		"test-image-user-uid":            "1002",
		"test-image-user-username":       "www-data",
		"test-image-user-uid-group":      "1003:1004",
		"test-image-user-username-group": "www-data:1004",
	}
	for _, name := range slices.Sorted(maps.Keys(users)) {
		config := shellConfig()
		config.User = users[name]
		image, err := b.image(base, config)
		if err != nil {
			return err
		}
		set[criTools+name+":latest"] = image
	}
	config := shellConfig()
	config.User = "1000"
	image, err := b.image(base, config,
		file{path: "/etc/passwd", body: []byte(passwd + "default-user:x:1000:1000:Linux User,,,:/home/default-user:/bin/sh\n")},
		file{path: "/etc/group", body: []byte(group + "default-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n")},
		file{path: "/home/default-user", dir: true})
	set[criTools+"test-image-predefined-group:latest"] = image
	return err
}

// addNamed adds the images that are pulled, listed and removed under many names, each with one small file of its own.
func (b *builder) addNamed(set Set, base v1.Image) error {
	content := map[string][]string{
		"test-image-1":      {"test-image-1:latest"},
		"test-image-2":      {"test-image-2:latest"},
		"test-image-3":      {"test-image-3:latest"},
		"test-image-latest": {"test-image-latest:latest"},
		"same-image":        {"test-image-tags:1", "test-image-tags:2", "test-image-tags:3"},
		"test":              {"test-image-tag:test"},
		"all":               {"test-image-tag:all"},
	}
	for _, mark := range slices.Sorted(maps.Keys(content)) {
		image, err := b.image(base, shellConfig(), file{path: "/" + mark})
		if err != nil {
			return err
		}
		for _, name := range content[mark] {
			set[criTools+name] = image
		}
	}
	// Never run, so it needs no program: its digest, which is compiled into critest, stays the same whatever Debian updates.
	pinned, err := b.image(empty.Image, shellConfig(), file{path: "/test-image-digest"})
	set[tools.PinnedImage+":latest"] = pinned
	return err
}

// addServers adds what stands for nginx (on the pod's network and on the host's) and httpd.
func (b *builder) addServers(set Set, base v1.Image) error {
	servers := []struct {
		name, binary, config, root, stop string
	}{
		{e2e + "nginx:1.14-2", "/usr/sbin/nginx", "listen 80;\n", "/usr/share/nginx/html", "SIGQUIT"},
		{criTools + "hostnet-nginx-" + b.opts.Arch + ":latest", "/usr/sbin/nginx", "listen 12003;\n", "/usr/share/nginx/html", "SIGQUIT"},
		{e2e + "httpd:2.4.39-4", "/usr/local/apache2/bin/httpd", "", "/usr/local/apache2/htdocs", "SIGWINCH"},
	}
	for _, s := range servers {
		binary, err := b.compile("server", s.binary, 0o755)
		if err != nil {
			return err
		}
		config := v1.Config{Env: []string{searchPath}, Entrypoint: []string{s.binary}, StopSignal: s.stop, ExposedPorts: map[string]struct{}{"80/tcp": {}}}
		image, err := b.image(base, config, binary,
			file{path: "/etc/nginx/conf.d/default.conf", body: []byte(s.config)},
			file{path: s.root + "/index.html", body: []byte("<html><body><h1>It works!</h1></body></html>\n")},
			file{path: "/usr/local/apache2/logs", dir: true})
		if err != nil {
			return err
		}
		set[s.name] = image
	}
	return nil
}

// addSmall adds images of one program each.
func (b *builder) addSmall(set Set, _ v1.Image) error {
	pause, err := b.compile("pause", "/pause", 0o755)
	if err != nil {
		return err
	}
	image, err := b.image(empty.Image, v1.Config{Entrypoint: []string{"/pause"}, User: "65535:65535"}, pause)
	if err != nil {
		return err
	}
	set[kubernetes+"pause:3.9"], set[oldName+"pause:3.9"] = image, image
	nnp, err := b.compile("nonewprivs", "/nnp", 0o4755) // setuid root
	if err != nil {
		return err
	}
	set[e2e+"nonewprivs:1.3"], err = b.image(empty.Image, v1.Config{Entrypoint: []string{"/nnp"}}, nnp)
	return err
}

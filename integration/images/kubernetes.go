package images

import (
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Directories of the tools' modules.
const (
	kubernetesTools = "integration/tools/kubernetes"
	corednsTools    = "integration/tools/coredns"
	sampleTools     = "integration/tools/sample-apiserver"

	kubernetesModule = "k8s.io/kubernetes"
	testImages       = kubernetesModule + "/test/images/"
)

// named is a recipe with the names that its image is pulled by.
type named struct {
	recipe recipe
	names  []string
}

// Images that more than one place refers to.
const (
	// Pause does nothing: what Kubernetes 1.36's suites run when they only need a container.
	Pause = kubernetes + "pause:3.10.2"
	// CoreDNS is the DNS server of a cluster.
	CoreDNS = kubernetes + "coredns/coredns:v1.15.0"
	// E2EBusybox is the busybox of Kubernetes 1.36's suites.
	E2EBusybox = e2e + "busybox:1.37.0-1"
	// Agnhost is the program of many servers and clients that most end-to-end specs use.
	Agnhost = e2e + "agnhost:2.63.0"
	// Etcd has etcd and etcdctl.
	Etcd = kubernetes + "etcd:3.6.8-0"
)

// noScripts are packages that others need only for their installation scripts, which are not run here.
func noScripts() []string {
	return []string{"debconf", "dpkg", "init-system-helpers", "lsb-base", "sysvinit-utils", "adduser", "install-info", "sensible-utils", "ucf", "perl-base"}
}

const nsswitch = "passwd: files\ngroup: files\nhosts: files dns\n"

// baseFiles are the files of /etc and the directories that programs expect.
func baseFiles(more ...file) []file {
	return append([]file{
		{path: "/etc/passwd", body: []byte(passwd)},
		{path: "/etc/group", body: []byte(group)},
		{path: "/etc/nsswitch.conf", body: []byte(nsswitch)},
		{path: "/tmp", dir: true, mode: 0o1777},
		{path: "/var/tmp", dir: true, mode: 0o1777},
		{path: "/root", dir: true, mode: 0o700},
		{path: "/home", dir: true},
		{path: "/run", dir: true},
		{path: "/var/run", symlink: "../run"},
		{path: "/var/www", dir: true},
	}, more...)
}

// shell is the image below all others that have a shell: Debian's static busybox under all its names. But its sh is bash: Debian's busybox runs its own
// applets (nc) before it looks for programs of their names, and drops environment variables whose names it does not like (data-1), which specs set.
func shell() recipe {
	return recipe{
		packages: []string{"busybox-static", "bash-static"},
		without:  noScripts(),
		applets:  true,
		files: baseFiles(
			file{path: "/usr/bin/bash", symlink: "bash-static"},
			file{path: "/usr/bin/sh", symlink: "bash-static"},
			file{path: "/usr/bin/nmeter", body: []byte(nmeter), mode: 0o755}),
		config: shellConfig(),
	}
}

// nmeter stands for busybox's, which Debian leaves out: node specs ask it for the time of day in milliseconds (`nmeter -d0 %3t | head -n1`), and
// for nothing else.
const nmeter = `#!/usr/bin/bash-static
now=$EPOCHREALTIME
printf '%(%T)T.%.3s\n' "${now%.*}" "${now#*.}"
`

// busybox is the shell image with two shells: bash by the name sh, for environment variables (see above), and busybox' own as /bin/sh, whose words for
// an error ("can't create /file: ...") a spec compares.
func busybox() recipe {
	base := shell()
	return recipe{
		from: &base,
		files: []file{
			{path: "/usr/local/bin/sh", symlink: "/usr/bin/bash-static"}, // earlier in PATH
			{path: "/usr/bin/sh", symlink: "busybox"},
		},
		config: shellConfig(),
	}
}

func onShell(r recipe) recipe {
	base := shell()
	r.from = &base
	if r.without == nil {
		r.without = noScripts()
	}
	if r.config.Env == nil {
		r.config.Env = []string{searchPath}
	}
	return r
}

func pause() recipe {
	return recipe{
		programs: []Program{{Package: "./integration/images/pause"}},
		config:   v1.Config{Entrypoint: []string{"/pause"}, User: "65535:65535"},
	}
}

func coredns() recipe {
	return recipe{
		programs: []Program{{Module: corednsTools, Package: ".", Path: "/coredns"}},
		files:    []file{{path: "/etc/passwd", body: []byte(passwd)}},
		config:   v1.Config{Entrypoint: []string{"/coredns"}, ExposedPorts: ports("53/tcp", "53/udp")},
	}
}

func ports(names ...string) map[string]struct{} {
	set := map[string]struct{}{}
	for _, name := range names {
		set[name] = struct{}{}
	}
	return set
}

const (
	agnhostUsers = "user-defined-in-image:x:1000:1000:Linux User,,,:/home/user-defined-in-image:/bin/sh\n"
	agnhostGroup = "user-defined-in-image:x:1000:\ngroup-defined-in-image:x:50000:user-defined-in-image\n"
	// A spec that mounts this image as a volume looks for the system that the published one is made of.
	osRelease = "NAME=\"Alpine Linux\"\nID=alpine\nPRETTY_NAME=\"Alpine Linux (a stand-in made of Debian's packages, for tests)\"\n"
)

// agnhost follows test/images/agnhost/Dockerfile.
func agnhost() recipe {
	porter := func(name string) source {
		return source{tools: kubernetesTools, module: kubernetesModule, name: "test/images/agnhost/porter/" + name, path: "/" + name}
	}
	return onShell(recipe{
		packages: []string{"bind9-dnsutils", "curl", "netcat-openbsd", "iproute2", "iperf", "util-linux", "mount", "libc-bin"},
		programs: []Program{
			{tool: "agnhost"},
			{Module: corednsTools, Package: ".", Path: "/coredns"},
		},
		sources: []source{porter("localhost.crt"), porter("localhost.key")},
		served:  []served{{name: "pause", tag: "testing", recipe: pause()}},
		files: []file{
			{path: "/agnhost-2", symlink: "agnhost"},
			{path: "/uploads", dir: true},
			{path: "/etc/os-release", body: []byte(osRelease)},
			{path: "/etc/passwd", body: []byte(passwd + agnhostUsers)},
			{path: "/etc/group", body: []byte(group + agnhostGroup)},
			{path: "/home/user-defined-in-image", dir: true, uid: 1000, gid: 1000},
			{path: "/usr/bin/nc", symlink: "nc.openbsd"},
			{path: "/usr/bin/netcat", symlink: "nc.openbsd"},
			{path: "/usr/local/bin/iperf", symlink: "/usr/bin/iperf"},
		},
		config: v1.Config{
			Entrypoint:   []string{"/agnhost"},
			Cmd:          []string{"pause"},
			ExposedPorts: ports("80/tcp", "8080/tcp", "8081/tcp", "9376/tcp", "5000/tcp"),
		},
	})
}

// animal is one of the two images of the update demo: agnhost with a picture.
func animal(name string) recipe {
	base := agnhost()
	html := func(file string) source {
		return source{tools: kubernetesTools, module: kubernetesModule, name: "test/images/" + name + "/html/" + file, path: "/" + file}
	}
	config := base.config
	config.Cmd = []string{"test-webserver"}
	return recipe{from: &base, sources: []source{html(name + ".jpg"), html("data.json")}, config: config}
}

// testProgram is the image of one of Kubernetes' test programs, with a shell.
func testProgram(name, path string, packages ...string) recipe {
	return onShell(recipe{
		packages: packages,
		programs: []Program{{Module: kubernetesTools, Package: testImages + name, Path: path}},
		config:   v1.Config{Entrypoint: []string{path}},
	})
}

func resourceConsumer() recipe {
	r := testProgram("resource-consumer", "/consumer", "stress")
	const helper = "/consume-cpu/consume-cpu" // which it runs
	r.programs = append(r.programs, Program{Module: kubernetesTools, Package: testImages + "resource-consumer/consume-cpu", Path: helper})
	r.config.ExposedPorts = ports("8080/tcp")
	return r
}

func nonewprivs() recipe {
	const path = "/usr/local/bin/nnp"
	return onShell(recipe{
		programs: []Program{{Module: kubernetesTools, Package: testImages + "nonewprivs", Path: path, Mode: 0o6755}}, // setuid and setgid root
		config:   v1.Config{Cmd: []string{"nnp"}},
	})
}

func sampleAPIServer() recipe {
	return onShell(recipe{
		programs: []Program{{Module: sampleTools, Package: "k8s.io/sample-apiserver"}},
		config:   v1.Config{Entrypoint: []string{"/sample-apiserver"}},
	})
}

func etcd() recipe {
	return onShell(recipe{
		programs: []Program{
			{tool: "etcd", Path: "/usr/local/bin/etcd"},
			{tool: "etcdctl", Path: "/usr/local/bin/etcdctl"},
		},
		files:  []file{{path: "/var/lib/etcd", dir: true, mode: 0o700}},
		config: v1.Config{Cmd: []string{"etcd"}, ExposedPorts: ports("2379/tcp", "2380/tcp")},
	})
}

func nonroot() recipe {
	base := shell()
	config := shellConfig()
	config.User = "1234"
	return recipe{from: &base, config: config}
}

// withPackages is a shell and some of Debian's packages.
func withPackages(packages []string, files ...file) recipe {
	return onShell(recipe{packages: packages, files: files, config: v1.Config{Cmd: []string{"sh"}}})
}

// iptables has the links that Debian's alternatives would make.
func iptables() recipe {
	var links []file
	for _, name := range []string{"iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore"} {
		links = append(links, file{path: "/usr/sbin/" + name, symlink: "xtables-nft-multi"})
	}
	return withPackages([]string{"iptables", "nftables", "conntrack", "ipset"}, links...)
}

func perl() recipe {
	r := withPackages([]string{"perl"})
	r.without = []string{"debconf", "dpkg"} // unlike elsewhere, perl-base is what is wanted
	return r
}

// clusterImages are what a cluster itself runs.
func clusterImages() []named {
	return []named{
		{pause(), []string{Pause, kubernetes + "pause:3.10.1", kubernetes + "pause:3.10", kubernetes + "pause:3.9"}},
		{coredns(), []string{CoreDNS}},
		{busybox(), []string{E2EBusybox, e2e + "busybox:1.36.1-1", Busybox, "docker.io/library/busybox:1.37"}},
	}
}

// conformanceImages are a cluster's, and those that specs with [Conformance] in their names pull: test/utils/image/manifest.go of Kubernetes 1.36.3.
func conformanceImages() []named {
	return append(clusterImages(), []named{
		{agnhost(), []string{Agnhost, e2e + "agnhost:2.55"}},
		{nginx("1.27"), []string{e2e + "nginx:1.15-4"}},
		{nginx("1.28"), []string{e2e + "nginx:1.27-0"}},
		{animal("kitten"), []string{e2e + "kitten:1.8"}},
		{animal("nautilus"), []string{e2e + "nautilus:1.8"}},
		{nonroot(), []string{e2e + "nonroot:1.5"}},
		{nonewprivs(), []string{e2e + "nonewprivs:1.4"}},
		{etcd(), []string{Etcd}},
		{withPackages([]string{"bind9-dnsutils", "libc-bin"}), []string{e2e + "glibc-dns-testing:2.0.0"}},
		{resourceConsumer(), []string{e2e + "resource-consumer:1.14"}},
		{iptables(), []string{kubernetes + "build-image/distroless-iptables:v0.9.6"}},
		{testProgram("regression-issue-74839", "/regression-issue-74839"), []string{e2e + "regression-issue-74839:1.4"}},
		{sampleAPIServer(), []string{e2e + "sample-apiserver:1.29.2"}},
	}...)
}

// nodeConformanceImages are a cluster's, and those that specs with [NodeConformance] pull.
func nodeConformanceImages() []named {
	return append(clusterImages(), []named{
		{agnhost(), []string{Agnhost, e2e + "agnhost:2.55"}},
		{nginx("1.27"), []string{e2e + "nginx:1.15-4"}},
		{animal("kitten"), []string{e2e + "kitten:1.8"}},
		{nonroot(), []string{e2e + "nonroot:1.5"}},
		{nonewprivs(), []string{e2e + "nonewprivs:1.4"}},
		{perl(), []string{e2e + "perl:5.26"}},
		{withPackages([]string{"util-linux"}), []string{e2e + "ipc-utils:1.4"}},
		{withPackages([]string{"bind9-dnsutils", "libc-bin"}), []string{e2e + "glibc-dns-testing:2.0.0"}},
		{testProgram("sample-device-plugin", "/sampledeviceplugin"), []string{e2e + "sample-device-plugin:1.7"}},
	}...)
}

// staticApplets are the names of Debian's static busybox, without those that manage a machine.
func staticApplets() []string {
	return strings.Fields(`[ [[ adjtimex ar arch arp arping ascii ash awk base64 basename bc blkdiscard blockdev brctl bunzip2 bzcat bzip2 cal cat chgrp chmod
		chown chroot clear cmp cp cpio crc32 crond crontab cut date dc dd depmod devmem df diff dirname dmesg dnsdomainname dos2unix du
		dumpleases echo ed egrep env expand expr factor fallocate false fatattr fdisk fgrep find findfs fold free freeramdisk fsfreeze fstrim
		ftpget ftpput getopt grep groups gunzip gzip head hexdump hostid hostname httpd hwclock id ifconfig ifdown ifup insmod ionice ip ipcalc
		ipneigh kill killall klogd last less link linux32 linux64 ln logger logname logread losetup ls lsmod lsscsi lzcat lzma lzop md5sum mdev
		mim mkdir mkdosfs mke2fs mkfifo mknod mkpasswd mkswap mktemp modinfo modprobe more mount mt mv nameif nc netstat nl nologin nproc
		nsenter nslookup od partprobe passwd paste patch pidof ping ping6 pivot_root printf ps pwd rdate readlink realpath renice reset rev rm
		rmdir rmmod route run-parts sed seq setpriv setsid sha1sum sha256sum sha3sum sha512sum shred shuf sleep sort ssl_client
		start-stop-daemon stat strings stty su sulogin swapoff swapon switch_root sync sysctl syslogd tac tail tar taskset tc tee telnet test
		tftp time timeout top touch tr traceroute traceroute6 true truncate ts tty tunctl ubirename udhcpc umount uname uncompress unexpand uniq
		unix2dos unlink unlzma unshare unxz unzip uptime usleep uudecode uuencode vconfig vi w watch watchdog wc wget which who whoami xargs xxd
		xz xzcat yes zcat`)
}

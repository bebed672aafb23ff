package integration

import (
	"archive/tar"
	"fmt"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/integration/criclient"
	"github.com/shimd/shimd/integration/daemon"
)

// attackByImages pulls each image, runs it with a writable and with a read-only root, and looks whether the host was changed or read.
func attackByImages(t *testing.T, attacks map[string]func(canary) v1.Image, command ...string) {
	t.Helper()
	_, client := start(t, daemon.Config{})
	host := newCanary(t)
	good := pull(t, client)
	set := map[string]v1.Image{}
	for name, attack := range attacks {
		set[name] = attack(host)
	}
	serve(t, set)
	p := runPod(t, client, "victim")
	for _, name := range sortedKeys(set) {
		image, err := client.Pull(t.Context(), hostileName(t, name))
		if err != nil {
			t.Logf("%s: refused at the pull: %v", name, err)
			host.wantUntouched(t)
			continue
		}
		for _, readonly := range []bool{false, true} {
			attacker := criclient.Container(name, image, command...)
			attacker.LogPath = fmt.Sprintf("%s-%t.log", name, readonly)
			attacker.Linux.SecurityContext.ReadonlyRootfs = readonly
			out, err := p.attempt(t, client, attacker)
			if strings.Contains(out, secretWord) {
				t.Errorf("%s: the host was read: %s", name, out)
			}
			if err != nil {
				t.Logf("%s: refused at the start: %v", name, err)
			}
			host.wantUntouched(t)
		}
	}
	wantAlive(t, client, p, good)
}

// inspect tries to read and write wherever the image leads.
const inspect = `
for f in /dev /proc /sys /etc /data /work /tmp; do ls $f/ 2>&1; cat $f/secret 2>/dev/null; echo pwned >> $f/secret; done 2>/dev/null
for f in /etc/hosts /etc/hostname /etc/resolv.conf /etc/mtab /etc/passwd /dev/null /dev/console /secret; do cat $f 2>/dev/null; echo pwned >> $f; done 2>/dev/null
chmod 777 /data /work /dev /etc/hosts 2>/dev/null; pwd; cat secret ../secret ../../secret 2>/dev/null; true`

// Also CVE-2025-52565, CVE-2025-31133, CVE-2019-19921 and their like, end to end: links in the image where the runtime mounts, makes devices or writes.
func TestCVE_2026_41579_CVE_2024_5154_LinksInTheImageLeadNowhere(t *testing.T) {
	needRoot(t)
	t.Parallel()
	attacks := map[string]func(canary) v1.Image{}
	for _, where := range []string{"dev", "proc", "sys", "etc", "dev/pts", "dev/shm", "dev/console", "dev/null", "etc/passwd", "etc/group",
		"etc/resolv.conf", "etc/hosts", "etc/hostname", "etc/mtab", "sys/fs/cgroup", "proc/sys", "proc/kcore"} {
		for kind, target := range map[string]func(canary) string{
			"absolute": func(c canary) string { return c.dir },
			"file":     func(c canary) string { return c.secret },
			"magic":    func(c canary) string { return "/proc/1/root" + c.secret },
		} {
			attacks[strings.ReplaceAll(where, "/", "-")+"-"+kind] = func(c canary) v1.Image {
				return hostileImage(t, busybox(), nil, entry{Header: tar.Header{Name: strings.Split(where, "/")[0], Typeflag: tar.TypeDir, Mode: 0o755}}, link(where, target(c)))
			}
		}
	}
	attackByImages(t, attacks, "sh", "-c", inspect)
}

func TestCVE_2022_23648_VolumesOfTheImageStayInside(t *testing.T) {
	needRoot(t)
	t.Parallel()
	attacks := map[string]func(canary) v1.Image{}
	for name, volume := range map[string]func(canary) string{
		"dots":     func(c canary) string { return "/../../../../../../../.." + c.dir },
		"relative": func(c canary) string { return "../../../../../../../.." + c.dir },
		"link":     func(canary) string { return "/data" },
		"through":  func(canary) string { return "/link/sub/.." },
		"magic":    func(c canary) string { return "/proc/1/root" + c.dir },
		"proc":     func(canary) string { return "/proc" },
		"self":     func(canary) string { return "/proc/self/fd" },
		"sys":      func(canary) string { return "/sys/kernel" },
		"root":     func(canary) string { return "/" },
		"newline":  func(canary) string { return "/a\nb" },
		"nul":      func(canary) string { return "/a\x00b" },
		"long":     func(canary) string { return "/" + strings.Repeat("x", 5000) },
	} {
		attacks[name] = func(c canary) v1.Image {
			return hostileImage(t, busybox(), func(config *v1.Config) { config.Volumes = map[string]struct{}{volume(c): {}} },
				link("data", c.dir), link("link", c.dir), directory("proc"), directory("sys"))
		}
	}
	attackByImages(t, attacks, "sh", "-c", inspect)
}

// Also CVE-2025-47290: end to end, as the unit tests of package layer look at one layer at a time.
func TestCVE_2021_32760_LayersStayInside(t *testing.T) {
	needRoot(t)
	t.Parallel()
	deep := strings.Repeat("d/", 2000)
	attacks := map[string]func(canary) v1.Image{}
	for name, entries := range map[string]func(canary) []entry{
		"dots":           func(c canary) []entry { return []entry{regular("../../../../../../../.."+c.secret, "pwned")} },
		"absolute":       func(c canary) []entry { return []entry{regular(c.secret, "pwned")} },
		"through-a-link": func(c canary) []entry { return []entry{link("l", c.dir), regular("l/secret", "pwned")} },
		"through-dots": func(c canary) []entry {
			return []entry{link("l", strings.Repeat("../", 30)+c.dir), regular("l/secret", "pwned")}
		},
		"directory-on-a-link": func(c canary) []entry {
			return []entry{link("l", c.dir), {Header: tar.Header{Name: "l/", Typeflag: tar.TypeDir, Mode: 0o777, Uid: 12, Gid: 13}}}
		},
		"hard-link-out":      func(c canary) []entry { return []entry{hardLink("secret", c.secret)} },
		"hard-link-dots":     func(c canary) []entry { return []entry{hardLink("secret", "../../../../../../../.."+c.secret)} },
		"hard-link-on-link":  func(c canary) []entry { return []entry{link("l", c.secret), hardLink("secret", "l")} },
		"hard-link-via-link": func(c canary) []entry { return []entry{link("l", c.dir), hardLink("secret", "l/secret")} },
		"hard-link-magic":    func(c canary) []entry { return []entry{hardLink("secret", "proc/1/root"+c.secret)} },
		"hard-link-twice": func(c canary) []entry {
			return []entry{link("l", c.secret), hardLink("m", "l"), {Header: tar.Header{Name: "m", Typeflag: tar.TypeReg, Mode: 0o4777}, body: "pwned"}}
		},
		"whiteout-of-the-parent": func(canary) []entry { return []entry{regular(".wh...", "")} },
		"whiteout-of-nothing":    func(canary) []entry { return []entry{regular(".wh.", "")} },
		"whiteout-of-itself":     func(canary) []entry { return []entry{regular(".wh..", "")} },
		"whiteout-via-link":      func(c canary) []entry { return []entry{link("l", c.dir), regular("l/.wh.secret", "")} },
		"opaque-via-link":        func(c canary) []entry { return []entry{link("l", c.dir), regular("l/.wh..wh..opq", "")} },
		"loop":                   func(canary) []entry { return []entry{link("a", "b"), link("b", "a"), regular("a/x", "x")} },
		"deep": func(canary) []entry {
			return []entry{directory(deep), link("l", "/"+deep), regular("l/"+strings.Repeat("e/", 1900)+"x", "x"), link("m", "/l/"+strings.Repeat("e/", 1900)), directory("m/" + strings.Repeat("f/", 1900))}
		},
		"names": func(canary) []entry {
			return []entry{regular("a\nb", "x"), regular("\x1b[31mred\r", "x"), regular("\xff\xfe", "x")}
		},
		"duplicates": func(c canary) []entry {
			return []entry{regular("x", "1"), directory("x"), link("x", c.dir), regular("x/secret", "pwned"), regular("x", "2"), link("x", c.secret), regular("x", "pwned")}
		},
		"devices": func(canary) []entry {
			return []entry{
				{Header: tar.Header{Name: "spot/mem", Typeflag: tar.TypeChar, Mode: 0o666, Devmajor: 1, Devminor: 1}},
				{Header: tar.Header{Name: "spot/secret", Typeflag: tar.TypeBlock, Mode: 0o666, Devmajor: 259, Devminor: 0}},
				{Header: tar.Header{Name: "spot/kmsg", Typeflag: tar.TypeChar, Mode: 0o666, Devmajor: 1, Devminor: 11}},
			}
		},
		"attributes": func(canary) []entry {
			return []entry{{Header: tar.Header{Name: "a", Typeflag: tar.TypeDir, Mode: 0o755, PAXRecords: map[string]string{
				"SCHILY.xattr.trusted.overlay.redirect": "/../../../etc", "SCHILY.xattr.trusted.overlay.metacopy": "", "SCHILY.xattr.security.capability": "x"}}}}
		},
	} {
		attacks[name] = func(c canary) v1.Image { return hostileImage(t, busybox(), nil, entries(c)...) }
	}
	attackByImages(t, attacks, "sh", "-c", inspect+`; for d in /spot/mem /spot/secret /spot/kmsg; do head -c 10 $d && echo `+secretWord+`; done; cat /l/secret /secret /m /x`)
}

// Also GHSA-xr7r of 2024, where a descriptor of the host as working directory led out of the container.
func TestCVE_2024_21626_WorkingDirectoriesStayInside(t *testing.T) {
	needRoot(t)
	t.Parallel()
	attacks := map[string]func(canary) v1.Image{}
	for n := range 16 {
		attacks[fmt.Sprintf("fd-%d", n)] = func(canary) v1.Image {
			return hostileImage(t, busybox(), func(config *v1.Config) { config.WorkingDir = fmt.Sprintf("/proc/self/fd/%d", n) }, directory("proc"))
		}
		attacks[fmt.Sprintf("link-%d", n)] = func(canary) v1.Image {
			return hostileImage(t, busybox(), func(config *v1.Config) { config.WorkingDir = "/l" }, directory("proc"), link("l", fmt.Sprintf("/proc/self/fd/%d/../../..", n)))
		}
	}
	attacks["dots"] = func(c canary) v1.Image {
		return hostileImage(t, busybox(), func(config *v1.Config) { config.WorkingDir = "/../../../../.." + c.dir })
	}
	attacks["magic"] = func(c canary) v1.Image {
		return hostileImage(t, busybox(), func(config *v1.Config) { config.WorkingDir = "/proc/1/root" + c.dir }, directory("proc"))
	}
	attacks["relative"] = func(canary) v1.Image {
		return hostileImage(t, busybox(), func(config *v1.Config) { config.WorkingDir = "../../.." })
	}
	attackByImages(t, attacks, "sh", "-c", inspect+`; cat ../../../../../../../../../../../../../../..`+"$PWD/secret; find / -xdev -name secret -maxdepth 6 | xargs cat")
}

// The program of the image is the container's own: /proc/self/exe names nothing of the host's.
func TestCVE_2019_5736_ProgramIsNotTheHosts(t *testing.T) {
	t.Parallel()
	_, client := start(t, daemon.Config{})
	serve(t, map[string]v1.Image{
		"exe":     hostileImage(t, busybox(), func(c *v1.Config) { c.Entrypoint = []string{"/proc/self/exe"} }, directory("proc")),
		"link":    hostileImage(t, busybox(), func(c *v1.Config) { c.Entrypoint = []string{"/run-me"} }, link("run-me", "/proc/self/exe")),
		"shebang": hostileImage(t, busybox(), func(c *v1.Config) { c.Entrypoint = []string{"/script"} }, entry{Header: tar.Header{Name: "script", Typeflag: tar.TypeReg, Mode: 0o755}, body: "#!/proc/self/exe\n"}),
		"nul": hostileImage(t, busybox(), func(c *v1.Config) {
			c.Entrypoint, c.Cmd, c.Env = []string{"env"}, nil, []string{"A=b\x00C=d", "no-equals", "=x", ""}
		}),
		"huge": hostileImage(t, busybox(), func(c *v1.Config) { c.Entrypoint, c.Env = []string{"env"}, []string{"A=" + strings.Repeat("x", 1<<20)} }),
	})
	p := runPod(t, client, "program")
	for _, name := range []string{"exe", "link", "shebang", "nul", "huge"} {
		image, err := client.Pull(t.Context(), hostileName(t, name))
		if err != nil {
			t.Logf("%s: %v", name, err)
			continue
		}
		out, err := p.attempt(t, client, criclient.Container(name, image))
		t.Logf("%s: %.300q, %v", name, out, err)
		if strings.Contains(out, "C=d\n") {
			t.Errorf("a NUL byte made another variable: %q", out)
		}
	}
	wantAlive(t, client, p, pull(t, client))
}

func TestCVE_2024_40635_CVE_2026_46680_UsersOfTheImage(t *testing.T) {
	t.Parallel()
	_, client := start(t, daemon.Config{})
	users := map[string]string{
		"overflow": "4294967296", "wraps": "18446744073709551616", "negative": "-1", "minus": "-4294967296", "plus": "+0", "hex": "0x0", "octal": "00", "spaces": " 0", "colon": ":0",
		"long": strings.Repeat("9", 5000), "newline": "1000\n0", "name": "ghost", "group": "1000:4294967296", "above": "4294967295", "empty-group": "1000:", "planted": "evil",
	}
	set := map[string]v1.Image{}
	for name, user := range users {
		set[name] = hostileImage(t, busybox(), func(c *v1.Config) { c.User = user }, regular("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nevil:x:4294967296:0::/:/bin/sh\nghost:x::0::/:\n"))
	}
	set["huge"] = hostileImage(t, busybox(), func(c *v1.Config) { c.User = "ghost" }, regular("etc/passwd", strings.Repeat("x", 40<<20)))
	set["fifo"] = hostileImage(t, busybox(), func(c *v1.Config) { c.User = "ghost" }, entry{Header: tar.Header{Name: "etc/passwd", Typeflag: tar.TypeFifo, Mode: 0o666}})
	set["device"] = hostileImage(t, busybox(), func(c *v1.Config) { c.User = "ghost" }, entry{Header: tar.Header{Name: "etc/passwd", Typeflag: tar.TypeChar, Mode: 0o666, Devmajor: 1, Devminor: 5}})
	serve(t, set)
	p := runPod(t, client, "users")
	for _, name := range sortedKeys(set) {
		image, err := client.Pull(t.Context(), hostileName(t, name))
		if err != nil {
			t.Logf("%s: %v", name, err)
			continue
		}
		answer, err := client.Images.ImageStatus(t.Context(), &criv1.ImageStatusRequest{Image: &criv1.ImageSpec{Image: image}})
		if err != nil || answer.Image == nil {
			t.Fatalf("%s: %v", name, err)
		}
		out, err := p.attempt(t, client, criclient.Container(name, image, "id", "-u"))
		isRoot := err == nil && strings.Contains(out, "F 0\n")
		// The kubelet's runAsNonRoot lets a number above zero and an unset one with a user's name (which it refuses) through.
		if isRoot && (answer.Image.Uid == nil || answer.Image.Uid.Value != 0) {
			t.Errorf("%s (USER %.40q) is root, but the image's status says uid %v, name %q", name, users[name], answer.Image.Uid, answer.Image.Username)
		}
		t.Logf("%s: root %t, uid %v, name %.40q, %v", name, isRoot, answer.Image.Uid, answer.Image.Username, err)
	}
	wantAlive(t, client, p, pull(t, client))
}

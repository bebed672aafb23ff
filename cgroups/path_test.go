package cgroups

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestPodParent(t *testing.T) {
	fs := &manager{driver: Cgroupfs, parent: "shimd"}
	sd := &manager{driver: Systemd, parent: "shimd"}
	for _, c := range []struct {
		m            *manager
		parent, want string // "" is an error of kind invalid argument
		owned        bool
	}{
		{fs, "", "/shimd/0a-b", true},
		{fs, "/", "/shimd/0a-b", true}, // the kubelet's --cgroups-per-qos=false
		{fs, "/kubepods/burstable/podX", "/kubepods/burstable/podX", false},
		{fs, "kubepods//podX/./", "/kubepods/podX", false},
		{fs, "kubepods-podX.slice", "", false},
		{fs, "..", "", false},
		{fs, "/a/../b", "", false},
		{fs, "/a/..", "", false},
		{fs, "/a\nb", "", false},
		{sd, "", `/shimd.slice/shimd-0a\x2db.slice`, true},
		{sd, "-.slice", `/shimd.slice/shimd-0a\x2db.slice`, true},
		{sd, "kubepods-burstable-pod1_2.slice", "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice", false},
		{sd, "/kubepods.slice/kubepods-podX.slice", "/kubepods.slice/kubepods-podX.slice", false},
		{sd, "/other.slice/kubepods-podX.slice", "", false},
		{sd, "kubepods/podX", "", false},
		{sd, "a/b.slice", "", false},
		{sd, "..slice", "/..slice", false}, // a slice named ".": odd, but inside
		{sd, "a--b.slice", "", false},
		{sd, "-a.slice", "", false},
		{sd, ".slice", "", false},
		{sd, "..", "", false},
		{sd, "../x.slice", "", false},
		{sd, "a b.slice", "", false},
		{sd, "a\x00.slice", "", false},
	} {
		path, owned, err := c.m.PodParent(c.parent, "0a-b")
		if c.want == "" {
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("%s %q: %q, %v", c.m.driver, c.parent, path, err)
			}
			continue
		}
		if string(path) != c.want || owned != c.owned || err != nil {
			t.Errorf("%s %q: %q, %v, %v, want %q", c.m.driver, c.parent, path, owned, err, c.want)
		}
	}
	want(t, "container", string(fs.ContainerPath("/a/b", "c")), "/a/b/c")
	want(t, "container", string(sd.ContainerPath("/a.slice/a-b.slice", "c")), "/a.slice/a-b.slice/a-b-c.slice")
	for _, id := range []string{"abc", "a-b", `a\b`, "x y", ""} {
		want(t, "escaped and back", unescapeUnit(escapeUnit(id)), id)
	}
}

func FuzzParsePath(f *testing.F) {
	f.Add("/kubepods/podX")
	f.Add("a/../b")
	f.Fuzz(func(t *testing.T, s string) {
		for _, parse := range []func(string) (Path, error){parsePath, cgroupfsParent, systemdParent} {
			p, err := parse(s)
			if err != nil {
				continue
			}
			if p == "" || p[0] != '/' || p[len(p)-1] == '/' || strings.Contains(string(p)+"/", "/../") || strings.Contains(string(p), "//") {
				t.Errorf("%q: %q", s, p)
			}
			if again, err := parsePath(string(p)); again != p || err != nil {
				t.Errorf("%q: %q, then %q", s, p, again)
			}
		}
	})
}

func TestParseLayout(t *testing.T) {
	const hybrid = `31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
42 31 0:32 /x /elsewhere/memory rw,relatime - cgroup cgroup rw,memory
`
	l, err := parseLayout([]byte(hybrid), "/sys/fs/cgroup")
	if err != nil || l.version != 1 || len(l.hierarchies) != 3 {
		t.Fatalf("%+v, %v", l, err)
	}
	want(t, "co-mounted", strings.Join(l.hierarchies[0].controllers, "+"), "cpu+cpuacct")
	want(t, "named", strings.Join(l.hierarchies[2].controllers, "+"), "name=systemd")
	l, err = parseLayout([]byte("29 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n"), "/sys/fs/cgroup")
	if err != nil || l.version != 2 {
		t.Errorf("%+v, %v", l, err)
	}
	if _, err = parseLayout(nil, "/sys/fs/cgroup"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("without any: %v", err)
	}
}

func TestChooseDriver(t *testing.T) {
	for _, c := range []struct {
		configured string
		version    int
		systemd    bool
		want       Driver
	}{
		{"", 2, true, Systemd}, {"auto", 2, false, Cgroupfs}, {"auto", 1, true, Cgroupfs}, {"cgroupfs", 2, true, Cgroupfs},
		{"systemd", 2, true, Systemd}, {"systemd", 1, true, ""}, {"systemd", 2, false, ""}, {"other", 2, true, ""},
	} {
		if got, err := chooseDriver(c.configured, c.version, c.systemd); got != c.want || (c.want == "") != (err != nil) {
			t.Errorf("%+v: %q, %v", c, got, err)
		}
	}
}

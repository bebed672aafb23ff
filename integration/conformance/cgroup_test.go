package conformance

import "testing"

func TestParseHierarchy(t *testing.T) {
	for _, c := range []struct {
		line string
		want hierarchy
		ok   bool
	}{
		{"47 46 0:28 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct", hierarchy{"/sys/fs/cgroup/cpu,cpuacct", "cgroup", "cpu,cpuacct"}, true},
		{"55 46 0:36 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/lib/systemd/x,name=systemd", hierarchy{"/sys/fs/cgroup/systemd", "cgroup", "none,name=systemd"}, true},
		{"56 46 0:37 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate", hierarchy{"/sys/fs/cgroup/unified", "cgroup2", ""}, true},
		{"56 46 0:37 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate", hierarchy{"/sys/fs/cgroup", "cgroup2", ""}, true},
		{"56 46 0:37 / /mnt/cgroup rw - cgroup2 cgroup2 rw", hierarchy{}, false},
		{"46 45 0:27 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755", hierarchy{}, false},
		{"nonsense", hierarchy{}, false},
	} {
		if got, ok := parseHierarchy(c.line); got != c.want || ok != c.ok {
			t.Errorf("%s: %+v, %v", c.line, got, ok)
		}
	}
}

func FuzzParseHierarchy(f *testing.F) {
	f.Add("47 46 0:28 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu")
	f.Fuzz(func(t *testing.T, line string) {
		if h, ok := parseHierarchy(line); ok && h.dir == "" {
			t.Errorf("%q has no place", line)
		}
	})
}

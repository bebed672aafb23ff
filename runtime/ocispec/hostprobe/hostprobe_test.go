package hostprobe

import (
	"testing"

	"github.com/containerd/errdefs"

	"github.com/shimd/shimd/runtime/request"
)

func TestHost(t *testing.T) {
	h, err := Host()
	if err != nil {
		t.Fatal(err)
	}
	if h.CgroupVersion != 1 && h.CgroupVersion != 2 || h.SeccompTarget.Kernel < 4 || h.Hostname == "" {
		t.Errorf("%+v", h)
	}
	if !h.Seccomp { // since 3.5, and in every distribution
		t.Error("the probe finds no seccomp filters")
	}
	t.Logf("%+v %+v", h, Machine())
}

func TestPageSizeName(t *testing.T) {
	for kb, want := range map[uint64]string{64: "64KB", 2048: "2MB", 1 << 20: "1GB", 16 << 20: "16GB"} {
		if got := pageSizeName(kb); got != want {
			t.Errorf("%d: %s", kb, got)
		}
	}
}

func TestDevices(t *testing.T) {
	list, err := Devices([]request.Device{{HostPath: "/dev/null", ContainerPath: "/dev/nothing", Permissions: "rw"}})
	if err != nil || len(list) != 1 || list[0].Major != 1 || list[0].Minor != 3 || list[0].Type != "c" || list[0].Path != "/dev/nothing" || list[0].Access != "rw" {
		t.Errorf("%+v, %v", list, err)
	}
	for _, p := range []string{"/dev/no-such-device", "/etc/passwd", t.TempDir()} {
		if _, err := Devices([]request.Device{{HostPath: p}}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", p, err)
		}
	}
	all, err := AllDevices()
	if err != nil || len(all) == 0 {
		t.Errorf("%d, %v", len(all), err)
	}
}

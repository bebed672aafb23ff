package launch

import (
	"os"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestDevices(t *testing.T) {
	dir := userImage(t)
	mode, uid := os.FileMode(0o640), uint32(33)
	for name, spec := range map[string]*specs.Spec{"plain": testSpec(), "user namespace": userSpec()} {
		spec.Process.Args = []string{"sh", "-c", "stat -c %n:%t:%T:%a:%u /dev/net/tun /dev/deep/fifo /dev/loop9; [ -p /dev/deep/fifo ]"}
		spec.Linux.Devices = []specs.LinuxDevice{
			{Path: "/dev/net/tun", Type: "c", Major: 10, Minor: 200, FileMode: &mode, UID: &uid},
			{Path: "/dev/deep/fifo", Type: "p"}, {Path: "/dev/loop9", Type: "b", Major: 7, Minor: 9},
		}
		t.Run(name, func(t *testing.T) {
			contains(t, mustRun(t, dir, spec, nil), "/dev/net/tun:a:c8:640:33\n", "/dev/loop9:7:9:666:0\n")
		})
	}
	bad := testSpec("true")
	bad.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/../x", Type: "c", Major: 1, Minor: 3}}
	prepareError(t, dir, bad, "linux.devices")
}

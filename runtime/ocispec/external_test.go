package ocispec_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shimd/shimd/image"
	"github.com/shimd/shimd/runtime/ocispec"
	"github.com/shimd/shimd/runtime/ocispec/hostprobe"
	"github.com/shimd/shimd/runtime/request"
)

// TestExternalRuntimesRunTheSpecification writes a specification as config.json and lets runc and crun run it.
func TestExternalRuntimesRunTheSpecification(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Skip("needs /bin/busybox, statically linked (Debian: busybox-static)")
	}
	for _, runtime := range []string{"runc", "crun"} {
		t.Run(runtime, func(t *testing.T) {
			program, err := exec.LookPath(runtime)
			if err != nil {
				t.Skipf("%s is not installed", runtime)
			}
			bundle := t.TempDir()
			bin := filepath.Join(bundle, "rootfs/bin")
			for _, dir := range []string{bin, filepath.Join(bundle, "rootfs/etc"), filepath.Join(bundle, "volumes/0")} {
				if err := os.MkdirAll(dir, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile(filepath.Join(bin, "busybox"), busybox, 0o755); err != nil {
				t.Fatal(err)
			}
			for _, name := range []string{"sh", "id", "grep", "cat"} {
				if err := os.Symlink("busybox", filepath.Join(bin, name)); err != nil {
					t.Fatal(err)
				}
			}
			id := fmt.Sprintf("shimd-test-ocispec-%s-%d", runtime, os.Getpid())
			writeBundle(t, bundle, id)
			state := filepath.Join(bundle, "state")
			defer func() {
				_ = exec.Command(program, "--root", state, "delete", "--force", id).Run()
			}()
			var out, errs bytes.Buffer
			command := []string{program, "--root", state, "run", "--bundle", bundle, id}
			if runtime == "crun" && hybridCgroups() {
				// crun refuses a host with controllers in both versions: in a mount namespace of its own it does not see the second.
				command = append([]string{"unshare", "--mount", "sh", "-ec", `umount /sys/fs/cgroup/unified; mount -t tmpfs none /sys/fs/cgroup/unified; exec "$@"`, "sh"}, command...)
			}
			cmd := exec.Command(command[0], command[1:]...)
			cmd.Stdout, cmd.Stderr = &out, &errs
			if err := cmd.Run(); err != nil {
				t.Fatalf("%v: %s%s", err, out.String(), errs.String())
			}
			for _, want := range []string{"uid=1000 gid=1000 groups=44,1000", "CapInh:\t0000000000000000", "Seccomp:\t2", "HOME=/home/app HOSTNAME=pod", "hosts of the pod"} {
				if !strings.Contains(out.String(), want) {
					t.Errorf("no %q in:\n%s", want, out.String())
				}
			}
		})
	}
}

// hybridCgroups: v1 hierarchies, beside a v2 one that has controllers.
func hybridCgroups() bool {
	list, err := os.ReadFile("/sys/fs/cgroup/unified/cgroup.controllers")
	return err == nil && len(bytes.TrimSpace(list)) > 0
}

// writeBundle writes the config.json of a container that shares the host's network and IPC, so that no namespace need be made for it.
func writeBundle(t *testing.T, bundle, id string) {
	t.Helper()
	host, err := hostprobe.Host()
	if err != nil {
		t.Fatal(err)
	}
	hosts := filepath.Join(bundle, "hosts")
	if err := os.WriteFile(hosts, []byte("hosts of the pod\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	script := `id; cat /proc/self/status; echo HOME=$HOME HOSTNAME=$HOSTNAME; cat /etc/hosts; true >/vol/file`
	out, err := ocispec.Generate(ocispec.Input{
		ID: id, SandboxID: "sandbox",
		Sandbox: request.Sandbox{Hostname: "pod"},
		Container: request.Container{
			Command:   []string{"sh", "-ec", script},
			Resources: &request.Resources{CPUShares: 100, MemoryLimit: 64 << 20},
			Security: request.Security{
				Namespaces:  request.Namespaces{Network: request.NamespaceNode, IPC: request.NamespaceNode, PID: request.NamespaceContainer},
				MaskedPaths: []string{"/proc/kcore", "/sys/firmware"}, ReadonlyPaths: []string{"/proc/sys"},
				Seccomp: request.SecurityProfile{Kind: request.ProfileRuntimeDefault},
			},
		},
		Image:      image.Config{Volumes: []string{"/vol"}},
		User:       ocispec.User{UID: 1000, GID: 1000, Groups: []uint32{1000, 44}, Home: "/home/app"},
		Host:       host,
		Files:      ocispec.Files{Hosts: hosts, Volumes: filepath.Join(bundle, "volumes")},
		RootfsPath: "rootfs",
		CgroupPath: "/" + id,
		PidsLimit:  100,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(bundle, "volumes/0"), 0o777); err != nil {
		t.Fatal(err)
	}
	for d := bundle; d != "/" && d != "/tmp"; d = filepath.Dir(d) {
		_ = os.Chmod(d, 0o755) // the container's user passes through
	}
	config, err := json.Marshal(out.Spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), config, 0o644); err != nil {
		t.Fatal(err)
	}
}

package translate

import (
	"encoding/json"
	"path"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/runtime/request"
)

// survives checks that what will stand in a record comes back from it.
func survives[T any](t *testing.T, want T) {
	t.Helper()
	text, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got T
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func FuzzSandbox(f *testing.F) {
	for _, seed := range []*criv1.RunPodSandboxRequest{{}, kubeletSandbox()} {
		data, _ := proto.Marshal(seed)
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		req := &criv1.RunPodSandboxRequest{}
		if proto.Unmarshal(data, req) != nil {
			return
		}
		got, err := Sandbox(req)
		if err != nil {
			if !errdefs.IsInvalidArgument(err) {
				t.Fatalf("error %v is of no kind", err)
			}
			return
		}
		survives(t, got)
		if got.LogDirectory != "" && (!path.IsAbs(got.LogDirectory) || strings.Contains(got.LogDirectory+"/", "/../")) {
			t.Errorf("log directory %q", got.LogDirectory)
		}
		for name, value := range got.Sysctls {
			file := path.Join("/proc/sys", strings.ReplaceAll(name, ".", "/"))
			ours := strings.HasPrefix(file, "/proc/sys/net/") || strings.HasPrefix(file, "/proc/sys/fs/mqueue/") || strings.HasPrefix(file, "/proc/sys/kernel/")
			if !ours || strings.ContainsAny(value, "\n\x00") || strings.Contains(name, "core_pattern") {
				t.Errorf("sysctl %q = %q", name, value)
			}
		}
		if got.Namespaces.User != nil && len(got.Namespaces.User.UIDs) == 0 {
			t.Error("a user namespace without mappings")
		}
	})
}

func FuzzContainer(f *testing.F) {
	for _, seed := range []*criv1.CreateContainerRequest{{}, kubeletContainer()} {
		data, _ := proto.Marshal(seed)
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		req := &criv1.CreateContainerRequest{}
		if proto.Unmarshal(data, req) != nil {
			return
		}
		got, err := Container(req)
		if err != nil {
			if !errdefs.IsInvalidArgument(err) {
				t.Fatalf("error %v is of no kind", err)
			}
			return
		}
		survives(t, got)
		const dir = "/var/log/pods/x"
		if log := path.Join(dir, got.LogPath); log != dir && !strings.HasPrefix(log, dir+"/") {
			t.Errorf("log path %q leaves its directory", got.LogPath)
		}
		for _, m := range got.Mounts {
			if !path.IsAbs(m.ContainerPath) || (m.Image == nil) == (m.HostPath == "") || m.Image != nil && !m.ReadOnly {
				t.Errorf("mount %+v", m)
			}
		}
		if s := got.Security; s.RunAsGroup != nil && s.RunAsUser == nil && s.RunAsUsername == "" {
			t.Error("a group without a user")
		}
	})
}

func FuzzIDList(f *testing.F) {
	f.Add("0-3,7")
	f.Add("0")
	f.Fuzz(func(t *testing.T, list string) {
		if checkIDList(list) == nil && strings.Trim(list, "0123456789,-") != "" {
			t.Errorf("%q was accepted", list)
		}
	})
}

func FuzzToSignal(f *testing.F) {
	f.Add("SIGTERM")
	f.Fuzz(func(t *testing.T, name string) {
		if _, known := criv1.Signal_name[int32(toSignal(name))]; !known {
			t.Errorf("%q has no signal", name)
		}
	})
}

// A record is read back into the same request, or a resumed create would be taken for another one.
func TestRequestsSurviveJSON(t *testing.T) {
	sb, err := Sandbox(kubeletSandbox())
	if err != nil {
		t.Fatal(err)
	}
	survives(t, sb)
	ct, err := Container(kubeletContainer())
	if err != nil {
		t.Fatal(err)
	}
	survives[request.Container](t, ct)
}

package security

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shimd/shimd/runtime/request"
)

func TestDefaultProfile(t *testing.T) {
	for name, c := range map[string]struct {
		daemon string
		exists bool
	}{"with-abstractions": {"unconfined", true}, "bare": {"/usr/sbin/shimd", false}} {
		got, err := defaultProfile(c.daemon, func(string) bool { return c.exists })
		if err != nil {
			t.Fatal(err)
		}
		golden := filepath.Join("testdata", name+".profile")
		if os.Getenv("UPDATE_GOLDEN") != "" {
			if err := os.WriteFile(golden, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != string(want) {
			t.Errorf("%s differs (UPDATE_GOLDEN=1 writes it anew):\n%s", golden, got)
		}
	}
	if _, err := defaultProfile("x\n}", nil); err == nil {
		t.Error("a profile's name broke out of its line")
	}
}

func TestProfileName(t *testing.T) {
	for line, want := range map[string]string{
		"shimd-default (enforce)": "shimd-default", "a (b) (complain)": "a (b)", "unconfined": "", "": "",
	} {
		if got := profileName(line); got != want {
			t.Errorf("%q: %q", line, got)
		}
	}
}

func TestLabelOptions(t *testing.T) {
	got, err := labelOptions(request.SELinuxLabel{Type: "container_t", Level: "s0:c1,c2"})
	if err != nil || strings.Join(got, " ") != "type:container_t level:s0:c1,c2" {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := labelOptions(request.SELinuxLabel{User: "u", Role: "r"}); err == nil {
		t.Error("user and role without a type")
	}
}

// TestCVE_2021_43816: a host file is relabelled only when the request asks for it.
func TestCVE_2021_43816(t *testing.T) {
	// Relabelling this path would fail, with or without SELinux.
	m := request.Mount{HostPath: "/proc/no/such/file"}
	if err := Relabel(m, "system_u:object_r:container_file_t:s0"); err != nil {
		t.Errorf("relabelled without being asked: %v", err)
	}
}

func TestWithoutSELinux(t *testing.T) {
	if SELinuxEnabled() {
		t.Skip("this kernel has SELinux")
	}
	p, m, err := Labels(request.SELinuxLabel{Type: "container_t"}, "", false)
	if p != "" || m != "" || err != nil {
		t.Errorf("%q %q %v", p, m, err)
	}
}

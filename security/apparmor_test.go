package security

import (
	"os"
	"testing"

	"github.com/containerd/errdefs"
)

func TestLoadDefault(t *testing.T) {
	if !AppArmorEnabled() {
		t.Skip("this kernel has no AppArmor")
	}
	before, err := AppArmorProfiles()
	if err != nil {
		t.Fatal(err)
	}
	if err := LoadDefault(t.Context()); errdefs.IsNotFound(err) {
		t.Skip(err)
	} else if err != nil {
		t.Fatal(err)
	}
	after, err := AppArmorProfiles()
	if err != nil || !after[DefaultProfileName] {
		t.Fatalf("not among the loaded: %v, %v", after, err)
	}
	if !before[DefaultProfileName] {
		if err := os.WriteFile("/sys/kernel/security/apparmor/.remove", []byte(DefaultProfileName), 0o200); err != nil {
			t.Error(err)
		}
	}
}

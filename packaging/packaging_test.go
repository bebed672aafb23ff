package packaging_test

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// systemd itself reads the units, with programs that exist in place of ours.
func TestUnitsPassSystemdAnalyze(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is not installed")
	}
	for _, unit := range []string{"shimd.service", "shimlet.service"} {
		text, err := os.ReadFile(unit)
		if err != nil {
			t.Fatal(err)
		}
		copied := filepath.Join(t.TempDir(), unit)
		changed := strings.NewReplacer("/usr/local/bin/shimd", "/bin/true", "/usr/local/bin/shimlet", "/bin/true", "/sbin/modprobe", "/bin/true").Replace(string(text))
		if err := os.WriteFile(copied, []byte(changed), 0o644); err != nil {
			t.Fatal(err)
		}
		out, err := exec.CommandContext(t.Context(), analyze, "verify", "--man=no", "--recursive-errors=no", copied).CombinedOutput()
		if err != nil || strings.Contains(string(out), unit+":") {
			t.Errorf("%s: %v\n%s", unit, err, out)
		}
	}
}

// Without these a restart of the daemon would kill the pods, or their control groups.
func TestPodsOutliveTheDaemonsUnit(t *testing.T) {
	file, err := os.Open("shimd.service")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	have := map[string]string{}
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if key, value, found := strings.Cut(lines.Text(), "="); found {
			have[key] = value
		}
	}
	for key, want := range map[string]string{"KillMode": "process", "Delegate": "yes", "Type": "notify", "RuntimeDirectoryPreserve": "yes"} {
		if have[key] != want {
			t.Errorf("%s=%s, not %s", key, have[key], want)
		}
	}
}

package tools_test

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/shimd/shimd/integration/tools"
)

// What is built runs, says its version, and critest knows the digest that it was given.
func TestBuildCRITools(t *testing.T) {
	root, err := tools.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	const digest = "sha256:00000000000000000000000000000000000000000000000000000000000000aa"
	built, err := tools.BuildCRITools(t.Context(), root, digest)
	if err != nil {
		t.Fatal(err)
	}
	for _, command := range [][]string{{built.Crictl, "--version"}, {built.Critest, "--version"}} {
		out, err := exec.CommandContext(t.Context(), command[0], command[1:]...).CombinedOutput()
		if err != nil || !strings.Contains(string(out), built.Version) {
			t.Errorf("%v: %v\n%s", command, err, out)
		}
	}
	if out, err := exec.CommandContext(t.Context(), built.Ginkgo, "version").CombinedOutput(); err != nil {
		t.Errorf("ginkgo version: %v\n%s", err, out)
	}
	if out, err := exec.CommandContext(t.Context(), "grep", "-c", digest, built.Critest).CombinedOutput(); err != nil {
		t.Errorf("critest does not hold the digest: %v\n%s", err, out)
	}
}

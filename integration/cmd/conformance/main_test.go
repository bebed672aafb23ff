package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shimd/shimd/integration/tools"
)

// The fast suite passes. It is part of continuous integration where Kubernetes is built already: building it takes half an hour.
func TestConformanceFast(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: the suite takes up to ten minutes")
	}
	if os.Geteuid() != 0 {
		t.Skip("root is needed: namespaces, mounts and control groups")
	}
	root, err := tools.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	var missing []string
	for _, name := range append(tools.ClusterPrograms(), "ginkgo", "e2e.test") {
		_, found, err := tools.FindProgram(t.Context(), root, name)
		if err != nil {
			t.Fatal(err)
		}
		if !found {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		t.Skipf("not in the cache: %s; `make conformance-fast` builds them, which takes half an hour", strings.Join(missing, ", "))
	}
	program := filepath.Join(t.TempDir(), "conformance")
	if err := (tools.Build{Dir: root, Package: "./integration/cmd/conformance", Out: program}).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program, "-suite", "conformance-fast", "-reports", filepath.Join(root, "bin", "conformance"))
	cmd.Dir = root
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // it takes the cluster down
	if err := cmd.Run(); err != nil {
		t.Error(err)
	}
}

package integration

import (
	"path/filepath"
	"testing"

	"github.com/shimd/shimd/integration/critest"
	"github.com/shimd/shimd/integration/daemon"
)

// The whole validation suite, as `make critest` runs it.
func TestCritest(t *testing.T) {
	if testing.Short() {
		t.Skip("critest takes minutes; run without -short")
	}
	d, _ := start(t, daemon.Config{})
	result, err := critest.Run(t.Context(), critest.Options{
		Bundle: shared.bundle, Endpoint: d.Endpoint(), LogFile: filepath.Join(t.TempDir(), "critest.log"),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Log(result)
	if err := result.Check(critest.MinimumRun); err != nil {
		t.Error(err)
	}
}

// The same with several specs at a time.
func TestCritestInParallel(t *testing.T) {
	if testing.Short() {
		t.Skip("critest takes minutes; run without -short")
	}
	d, _ := start(t, daemon.Config{})
	result, err := critest.Run(t.Context(), critest.Options{
		Bundle: shared.bundle, Endpoint: d.Endpoint(), Parallel: 4, LogFile: filepath.Join(t.TempDir(), "critest.log"),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Log(result)
	if err := result.Check(critest.MinimumRun); err != nil {
		t.Error(err)
	}
}

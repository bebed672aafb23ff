package stats

import (
	"os"
	"path/filepath"
	"testing"

	statsv1alpha1 "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/shimd/shimd/node/volume"
)

// CVE-2020-8557: what a pod writes to its /etc/hosts is part of its storage, so a limit on that holds.
func TestCVE_2020_8557_HostsFileCounts(t *testing.T) {
	c := New(Options{RootDir: t.TempDir()})
	file := volume.HostsFile(c.RootDir, "uid")
	if err := os.MkdirAll(filepath.Dir(file), 0o711); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, make([]byte, 1<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	pod := statsv1alpha1.PodStats{PodRef: statsv1alpha1.PodReference{UID: "uid"}}
	c.storage(&pod, &statsv1alpha1.FsStats{})
	if used := pod.EphemeralStorage.UsedBytes; used == nil || *used < 1<<20 {
		t.Errorf("used %v", used)
	}
}

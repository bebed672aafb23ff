package qos

import (
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"

	"github.com/shimd/shimd/cgroups"
)

// each runs a test with every driver of this machine, below a group of its own.
func each(t *testing.T, test func(t *testing.T, tree *Tree)) {
	for _, driver := range []cgroups.Driver{cgroups.Cgroupfs, cgroups.Systemd} {
		t.Run(string(driver), func(t *testing.T) {
			if os.Geteuid() != 0 {
				t.Skip("making cgroups needs root")
			}
			name := "shimdtestqos" + strconv.Itoa(os.Getpid())
			root := "/" + name
			if driver == cgroups.Systemd {
				root = "/" + name + ".slice"
			}
			manager, err := cgroups.New(t.Context(), cgroups.Options{Driver: string(driver)})
			if errdefs.IsFailedPrecondition(err) {
				t.Skip("this machine has no such driver:", err)
			}
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := manager.Remove(t.Context(), cgroups.Path(root)); err != nil && t.Context().Err() == nil {
					t.Error(err)
				}
			})
			group, err := manager.Create(t.Context(), cgroups.Path(root), nil)
			if err != nil {
				t.Fatal(err)
			}
			_ = group.Close()
			tree, err := Open(t.Context(), Config{Driver: string(driver), Root: root, Allocatable: list("cpu", "1", "memory", "1Gi"), Limits: Limits{Quota: true, Period: 100000, Pids: 77}})
			if err != nil {
				t.Fatal(err)
			}
			test(t, tree)
			if err := manager.Remove(t.Context(), cgroups.Path(root)); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestTree(t *testing.T) {
	each(t, func(t *testing.T, tree *Tree) {
		half := list("cpu", "500m", "memory", "100Mi")
		guaranteed, burst, effort := podOf(container(half, half)), podOf(container(half, nil)), podOf(container(nil, nil))
		guaranteed.UID, burst.UID, effort.UID = "aaaa-1", "bbbb-2", "cccc-3"
		all := []*corev1.Pod{guaranteed, burst, effort}
		for range 2 { // idempotent
			for _, pod := range all {
				if err := tree.Ensure(t.Context(), pod); err != nil {
					t.Fatal(err)
				}
			}
			if err := tree.Balance(t.Context(), all); err != nil {
				t.Fatal(err)
			}
		}
		for i, below := range []string{"kubepods/podaaaa-1", "kubepods/burstable/podbbbb-2", "kubepods/besteffort/podcccc-3"} {
			want := below
			if tree.cgroups.Driver() == cgroups.Systemd {
				want = strings.ReplaceAll(strings.ReplaceAll(below, "-", "_"), "/", "-") + ".slice"
			}
			if got := tree.Parent(all[i]); !strings.HasSuffix(got, want) || (tree.cgroups.Driver() == cgroups.Systemd) == strings.Contains(got, "/") {
				t.Errorf("parent %s, want …%s", got, want)
			}
			if _, err := tree.WorkingSet(all[i]); err != nil {
				t.Error(err)
			}
		}
		group, err := tree.cgroups.Open(tree.podPath(guaranteed))
		if err != nil {
			t.Fatal(err)
		}
		stats, err := group.Stats()
		if err != nil || stats.Memory.Limit != 100<<20 || stats.PidsLimit == nil || *stats.PidsLimit != 77 {
			t.Errorf("limits of the pod: %+v %v", stats, err)
		}
		_ = group.Close()
		if err := tree.RemoveOrphans(t.Context(), func(uid string) bool { return uid == "bbbb-2" }); err != nil {
			t.Fatal(err)
		}
		for _, pod := range all {
			if _, err := tree.WorkingSet(pod); (err == nil) != (pod == burst) || err != nil && !errdefs.IsNotFound(err) {
				t.Errorf("%s: %v", pod.UID, err)
			}
		}
		for range 2 {
			if err := tree.Remove(t.Context(), burst); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := tree.AllWorkingSet(); err != nil {
			t.Error(err)
		}
		burst.UID = "../x"
		if tree.Ensure(t.Context(), burst) == nil {
			t.Error("a path was taken for an ID")
		}
	})
}

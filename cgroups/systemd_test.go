package cgroups

import (
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// systemd applies its units' properties anew after a daemon-reload, which any package installation causes: limits and processes of
// containers must come out of it as they went in.
func TestLimitsSurviveDaemonReload(t *testing.T) {
	each(t, func(t *testing.T, m *manager) {
		if m.units == nil {
			t.Skip("only systemd reloads")
		}
		parent, c := pod(t, m, nil, limits(64<<20, 64<<20, 512, 50_000, 100_000, 50))
		run(t, c, "exec sleep 1000")
		if err := c.Update(t.Context(), &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(60))}}); err != nil {
			t.Fatal(err)
		}
		conn, err := m.units.connection(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := conn.ReloadContext(t.Context()); err != nil {
			t.Fatal(err)
		}
		// Another unit in the same slice makes systemd look at them all.
		if _, err := m.Create(t.Context(), m.ContainerPath(parent, "c2"), limits(32<<20, 32<<20, 2, 0, 0, 0)); err != nil {
			t.Fatal(err)
		}
		want(t, "memory", at(t, m, c.Path(), "", "memory.max"), "67108864")
		want(t, "swap", at(t, m, c.Path(), "", "memory.swap.max"), "0")
		want(t, "pids", at(t, m, c.Path(), "", "pids.max"), "60")
		want(t, "weight", at(t, m, c.Path(), "", "cpu.weight"), "59")
		want(t, "quota", at(t, m, c.Path(), "", "cpu.max"), "50000 100000")
		if pids, err := c.Procs(); err != nil || len(pids) != 1 {
			t.Errorf("Procs = %v, %v", pids, err)
		}
	})
}

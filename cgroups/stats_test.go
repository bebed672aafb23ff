package cgroups

import (
	"context"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
)

func TestParsers(t *testing.T) {
	psi := parsePSI([]byte("some avg10=1.50 avg60=0.07 avg300=100.00 total=123\nfull avg10=0.00 avg60=0.00 avg300=2.25 total=45\n"))
	if diff := cmp.Diff(&PSI{Some: PSIData{1.5, 0.07, 100, 123}, Full: PSIData{0, 0, 2.25, 45}}, psi); diff != "" {
		t.Error(diff)
	}
	if parsePSI(nil) != nil {
		t.Error("no pressure file is not zero pressure")
	}
	devices := parseIOStat([]byte("8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n7:1\n254:16 rbytes=9 wbytes=8 rios=7 wios=6 dbytes=0 dios=0\n"))
	if diff := cmp.Diff([]DeviceIO{{8, 0, 1, 2, 3, 4}, {254, 16, 9, 8, 7, 6}}, devices); diff != "" {
		t.Error(diff)
	}
	io := &IOStats{}
	io.addV1([]byte("8:0 Read 10\n8:0 Write 20\n8:0 Sync 1\n8:0 Total 30\nTotal 30\n"), func(d *DeviceIO) (*uint64, *uint64) { return &d.ReadBytes, &d.WriteBytes })
	if diff := cmp.Diff([]DeviceIO{{8, 0, 10, 20, 0, 0}}, io.Devices); diff != "" {
		t.Error(diff)
	}
	for text, value := range map[string]uint64{"max\n": 0, "9223372036854771712\n": 0, "4096\n": 4096, "": 0} {
		if got := parseValue([]byte(text)); got != value {
			t.Errorf("%q: %d", text, got)
		}
	}
	if !isBelow([]byte("4:memory:/a/b\n"), "/a") || isBelow([]byte("4:memory:/ab\n"), "/a") || !isBelow([]byte("1:cpu:/\n0::/a\n"), "/a") {
		t.Error("isBelow")
	}
}

func FuzzStatParsers(f *testing.F) {
	f.Add([]byte("some avg10=1.50 avg60=0.07 avg300=100.00 total=123\n"))
	f.Add([]byte("8:0 rbytes=1 wbytes=2\n8:0 Read 3\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		parsePSI(data)
		parseIOStat(data)
		(&IOStats{}).addV1(data, func(d *DeviceIO) (*uint64, *uint64) { return &d.ReadBytes, &d.WriteBytes })
		eachField(data, func([]byte, uint64) {})
	})
}

func benchManager(b *testing.B) *manager {
	b.Helper()
	m, err := New(b.Context(), Options{Driver: "cgroupfs", Parent: "shimd-test-bench"})
	if errdefs.IsFailedPrecondition(err) {
		b.Skip(err)
	}
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := m.Remove(context.Background(), "/shimd-test-bench"); err != nil {
			b.Error(err)
		}
	})
	return m.(*manager)
}

func BenchmarkStats(b *testing.B) {
	m := benchManager(b)
	c, err := m.Create(b.Context(), "/shimd-test-bench/pod", nil)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Stats(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCreateAndRemove(b *testing.B) {
	m := benchManager(b)
	if _, err := m.Create(b.Context(), "/shimd-test-bench/pod", nil); err != nil {
		b.Fatal(err)
	}
	res := limits(64<<20, 64<<20, 1024, 50_000, 100_000, 100)
	b.ReportAllocs()
	for b.Loop() {
		c, err := m.Create(b.Context(), "/shimd-test-bench/pod/c", res)
		if err != nil {
			b.Fatal(err)
		}
		_ = c.Close()
		if err := m.Remove(b.Context(), c.Path()); err != nil {
			b.Fatal(err)
		}
	}
}

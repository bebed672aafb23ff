package keeper_test

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"

	"github.com/shimd/shimd/keeper"
)

// Log throughput, 100-byte lines, from a FIFO to a log file.
func BenchmarkLog(b *testing.B) {
	n := newNode(b)
	c := n.start("writer", "exec sleep 1000", settings{})
	fifo := open(b, c.fifos+"/1", os.O_WRONLY)
	defer closeAll(fifo)
	chunk := bytes.Repeat(append(bytes.Repeat([]byte("x"), 99), '\n'), 10000)
	written := 0
	b.SetBytes(int64(len(chunk)))
	for b.Loop() {
		if _, err := fifo.Write(chunk); err != nil {
			b.Fatal(err)
		}
		written++
	}
	const header = 4 + 1 + 2 + 1 + 2 + 1 + 2 + 1 + 2 + 1 + 2 + 1 // without the fraction, whose zeros are cut
	eventually(b, "all is logged", func() bool {
		info, err := os.Stat(c.logPath)
		return err == nil && info.Size() > int64(written)*10000*(header+100)
	})
	_ = os.Truncate(c.logPath, 0)
}

// pauseProgram is an executable of a few instructions that closes its report pipe and waits: what a launch program costs at least.
func pauseProgram(t testing.TB) string {
	t.Helper()
	if runtime.GOARCH != "amd64" {
		t.Skip("the tiny program is written for amd64")
	}
	code := []byte{
		0xbf, 3, 0, 0, 0, 0xb8, 3, 0, 0, 0, 0x0f, 0x05, // close(3)
		0xb8, 34, 0, 0, 0, 0x0f, 0x05, // pause()
	}
	const base, headers = 0x400000, 64 + 56
	var elf bytes.Buffer
	elf.Write([]byte{0x7f, 'E', 'L', 'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	for _, v := range []any{
		uint16(2), uint16(62), uint32(1), uint64(base + headers), uint64(64), uint64(0), uint32(0), uint16(64), uint16(56), uint16(1), uint16(0), uint16(0), uint16(0),
		uint32(1), uint32(5), uint64(0), uint64(base), uint64(base), uint64(headers + len(code)), uint64(headers + len(code)), uint64(0x1000),
	} {
		_ = binary.Write(&elf, binary.LittleEndian, v)
	}
	elf.Write(code)
	path := filepath.Join(t.TempDir(), "pause")
	if err := os.WriteFile(path, elf.Bytes(), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

func (n *node) startPause(id, path string, io *keeper.IO) {
	n.t.Helper()
	program := open(n.t, path, os.O_RDONLY)
	defer closeAll(program)
	started, err := n.client.Start(n.t.Context(), keeper.StartRequest{ID: id, Program: program, IO: io})
	if err != nil {
		n.t.Fatal(err)
	}
	closeAll(started.PIDFD)
}

// The round trip of a start, seen from the daemon.
func BenchmarkStart(b *testing.B) {
	n := newNode(b)
	path := pauseProgram(b)
	count := 0
	for b.Loop() {
		id := strconv.Itoa(count)
		count++
		n.startPause(id, path, nil)
		b.StopTimer()
		_ = n.client.Signal(b.Context(), id, 9)
		n.exit(id)
		_ = n.client.Acknowledge(b.Context(), id)
		b.StartTimer()
	}
}

// pss reads the keeper's proportional memory, in KiB.
func pss(t testing.TB, pid int) int {
	t.Helper()
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/smaps_rollup")
	if err != nil {
		t.Skipf("no smaps_rollup: %v", err)
	}
	for line := range bytes.Lines(data) {
		if f := bytes.Fields(line); len(f) == 3 && string(f[0]) == "Pss:" {
			v, _ := strconv.Atoi(string(f[1]))
			return v
		}
	}
	t.Fatal("no Pss")
	return 0
}

// Memory: empty, and for each container that has written something and is idle.
func BenchmarkMemory(b *testing.B) {
	for b.Loop() {
		n := newNode(b)
		empty := pss(b, n.client.PID())
		path, fifos := pauseProgram(b), n.t.TempDir()
		const count = 200
		for i := range count {
			c := &container{fifos: filepath.Join(fifos, strconv.Itoa(i))}
			c.logPath = c.fifos + "/log"
			makeFIFOs(b, c.fifos)
			w1, w2 := open(b, c.fifos+"/1", os.O_RDWR), open(b, c.fifos+"/2", os.O_RDWR)
			io := c.ends(b, settings{})
			n.startPause(strconv.Itoa(i), path, io)
			closeAll(io.Stdout, io.Stderr, io.Log)
			_, _ = w1.WriteString("started\n")
			b.Cleanup(func() { closeAll(w1, w2) })
		}
		full := pss(b, n.client.PID())
		b.ReportMetric(float64(empty), "KiB-empty")
		b.ReportMetric(float64(full-empty)/count, "KiB/container")
	}
}

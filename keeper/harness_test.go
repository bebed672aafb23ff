package keeper_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/shimd/shimd/keeper"
)

const (
	scriptIndex = 4 // the descriptor of the launch stand-in's script
	patience    = 30 * time.Second
)

// The test's own executable stands for launch programs: executed as "launch" it does what the file at descriptor 4 says.
func TestMain(m *testing.M) {
	if os.Args[0] == "launch" {
		launch()
	}
	if os.Getenv("KEEPER_TEST_BINARIES") != "" { // built elsewhere, for a machine without a compiler
		os.Exit(m.Run())
	}
	directory, err := os.MkdirTemp("", "shimd-keeper-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for name, version := range map[string]string{"v1": "one", "v2": "two"} {
		build := exec.Command("go", "build", "-ldflags", "-s -w -X main.version="+version, "-o", filepath.Join(directory, name), "github.com/shimd/shimd/cmd/shimd-keeper")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "building shimd-keeper: %v\n%s", err, out)
			os.Exit(1)
		}
	}
	_ = os.Setenv("KEEPER_TEST_BINARIES", directory)
	code := m.Run()
	_ = os.RemoveAll(directory)
	os.Exit(code)
}

func report(op, value int) {
	var record [8]byte
	binary.LittleEndian.PutUint32(record[:], uint32(int32(op)))
	binary.LittleEndian.PutUint32(record[4:], uint32(int32(value)))
	_, _ = syscall.Write(3, record[:])
}

func launch() {
	syscall.CloseOnExec(3)
	script, err := io.ReadAll(os.NewFile(scriptIndex, "script"))
	if err != nil {
		report(1, int(syscall.EIO))
		os.Exit(1)
	}
	words := strings.SplitN(string(script), " ", 3)
	env := []string{"PATH=/usr/bin:/bin"}
	switch words[0] {
	case "fail": // fail OP ERRNO
		op, _ := strconv.Atoi(words[1])
		errno, _ := strconv.Atoi(words[2])
		report(op, errno)
		os.Exit(1)
	case "garbage":
		_, _ = syscall.Write(3, []byte("abc"))
		os.Exit(1)
	case "stranger": // names a process that is not the keeper's child
		report(-1, 1)
		os.Exit(0)
	case "hang":
		time.Sleep(time.Hour)
	case "between": // as an exec into a cgroup: one in between makes the one that counts
		next, err := unix.MemfdCreate("script", 0)
		if err == nil {
			_, err = unix.Pwrite(next, []byte("reparent "+strings.TrimPrefix(string(script), "between ")), 0)
		}
		pid := 0
		if err == nil {
			pid, err = syscall.ForkExec("/proc/self/exe", []string{"launch"},
				&syscall.ProcAttr{Env: env, Files: []uintptr{0, 1, 2, 3, uintptr(next)}, Sys: &syscall.SysProcAttr{Cloneflags: unix.CLONE_PARENT}})
		}
		if err != nil {
			report(7, int(syscall.EAGAIN))
			os.Exit(1)
		}
		report(-2, pid)
		os.Exit(0)
	case "reparent":
		pid, err := syscall.ForkExec("/bin/sh", []string{"sh", "-c", strings.TrimPrefix(string(script), "reparent ")},
			&syscall.ProcAttr{Env: env, Files: []uintptr{0, 1, 2}, Sys: &syscall.SysProcAttr{Cloneflags: unix.CLONE_PARENT}})
		if err != nil {
			report(7, int(syscall.EAGAIN))
			os.Exit(1)
		}
		report(-1, pid)
		os.Exit(0)
	}
	_ = syscall.Setpgid(0, 0)
	err = syscall.Exec("/bin/sh", []string{"sh", "-c", string(script)}, env)
	var errno syscall.Errno
	errors.As(err, &errno)
	report(2, int(errno))
	os.Exit(1)
}

// node is a state directory, its keeper and a client.
type node struct {
	t         testing.TB
	directory string
	client    *keeper.Client
	restarts  chan struct{}

	mu    sync.Mutex
	exits map[string]keeper.Exit
	more  chan struct{}
}

func keeperBinary(name string) string { return filepath.Join(os.Getenv("KEEPER_TEST_BINARIES"), name) }

func newNode(t testing.TB) *node {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("the keeper serves root only")
	}
	n := &node{t: t, directory: t.TempDir(), restarts: make(chan struct{}, 8)}
	n.connect("v1", "one")
	t.Cleanup(n.end)
	return n
}

func (n *node) connect(binary, version string) {
	n.t.Helper()
	n.mu.Lock()
	n.exits, n.more = map[string]keeper.Exit{}, make(chan struct{})
	n.mu.Unlock()
	client, err := keeper.Connect(context.Background(), keeper.Options{
		StateDir: n.directory, KeeperBinary: keeperBinary(binary), Version: version,
		OnRestart: func(context.Context) { n.restarts <- struct{}{} },
		OnExit: func(x keeper.Exit) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.exits[x.ID] = x
			close(n.more)
			n.more = make(chan struct{})
		},
	})
	if err != nil {
		log, _ := os.ReadFile(filepath.Join(n.directory, "keeper.log"))
		n.t.Fatalf("Connect: %v\n%s", err, log)
	}
	n.client = client
}

// end kills what runs, and the keeper.
func (n *node) end() {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	all, err := n.client.List(ctx)
	if err != nil {
		n.t.Errorf("List: %v", err)
	}
	for _, p := range all {
		if p.PIDFD != nil {
			_ = n.client.Signal(ctx, p.ID, int(syscall.SIGKILL))
			_ = p.PIDFD.Close()
			n.exit(p.ID)
		}
		if err := n.client.Acknowledge(ctx, p.ID); err != nil {
			n.t.Errorf("Acknowledge: %v", err)
		}
	}
	if err := n.client.Shutdown(ctx, false); err != nil {
		n.t.Errorf("Shutdown: %v", err)
	}
	if n.t.Failed() {
		log, _ := os.ReadFile(filepath.Join(n.directory, "keeper.log"))
		n.t.Logf("keeper's log:\n%s", log)
	}
}

// exit waits for an exit.
func (n *node) exit(id string) keeper.Exit {
	n.t.Helper()
	timeout := time.After(patience)
	for {
		n.mu.Lock()
		x, ok := n.exits[id]
		more := n.more
		n.mu.Unlock()
		if ok {
			return x
		}
		select {
		case <-more:
		case <-timeout:
			n.t.Fatalf("no exit of %s", id)
		}
	}
}

// container is a process with FIFOs and a log.
type container struct {
	id      string
	fifos   string
	logPath string
	started keeper.Started
}

type settings struct {
	reparents, killOnDisconnect, stdin, stdinOnce, pidNamespace bool
	maxLine                                                     int
}

func open(t testing.TB, path string, flags int) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, flags, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func scriptFile(t testing.TB, script string) *os.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(path, []byte(script), 0o600); err != nil {
		t.Fatal(err)
	}
	return open(t, path, os.O_RDONLY)
}

func self(t testing.TB) *os.File {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return open(t, path, os.O_RDONLY)
}

func closeAll(files ...*os.File) {
	for _, f := range files {
		if f != nil {
			_ = f.Close()
		}
	}
}

// ends opens the keeper's ends of the container's FIFOs.
func (c *container) ends(t testing.TB, set settings) *keeper.IO {
	io := &keeper.IO{MaxLogLine: set.maxLine, StdinOnce: set.stdinOnce}
	io.Stdout = open(t, c.fifos+"/1", os.O_RDONLY|syscall.O_NONBLOCK)
	io.Stderr = open(t, c.fifos+"/2", os.O_RDONLY|syscall.O_NONBLOCK)
	if set.stdin {
		io.Stdin = open(t, c.fifos+"/0", os.O_WRONLY|syscall.O_NONBLOCK)
	}
	io.Log = open(t, c.logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY)
	return io
}

func makeFIFOs(t testing.TB, directory string) {
	t.Helper()
	if err := os.MkdirAll(directory, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"/0", "/1", "/2"} {
		if err := unix.Mkfifo(directory+name, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func (n *node) tryStart(id, script string, set settings) (*container, error) {
	t := n.t
	t.Helper()
	c := &container{id: id, fifos: t.TempDir()}
	c.logPath = c.fifos + "/log"
	makeFIFOs(t, c.fifos)
	stdout, stderr := open(t, c.fifos+"/1", os.O_RDWR), open(t, c.fifos+"/2", os.O_RDWR)
	stdin := open(t, os.DevNull, os.O_RDONLY)
	if set.stdin {
		_ = stdin.Close()
		stdin = open(t, c.fifos+"/0", os.O_RDONLY|syscall.O_NONBLOCK)
		raw, _ := stdin.SyscallConn()
		_ = raw.Control(func(fd uintptr) { _ = syscall.SetNonblock(int(fd), false) })
	}
	io := c.ends(t, set)
	program, text := self(t), scriptFile(t, script)
	defer closeAll(stdin, stdout, stderr, program, text, io.Stdout, io.Stderr, io.Stdin, io.Log)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var err error
	c.started, err = n.client.Start(ctx, keeper.StartRequest{
		ID: id, Program: program, Files: []*os.File{stdin, stdout, stderr, nil, text}, IO: io,
		Reparents: set.reparents, KillOnDisconnect: set.killOnDisconnect, NewPIDNamespace: set.pidNamespace,
	})
	if err == nil {
		t.Cleanup(func() { _ = c.started.PIDFD.Close() })
	}
	return c, err
}

func (n *node) start(id, script string, set settings) *container {
	n.t.Helper()
	c, err := n.tryStart(id, script, set)
	if err != nil {
		n.t.Fatalf("Start: %v", err)
	}
	return c
}

var linePattern = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z (stdout|stderr) ([FP]) (.*)$`)

type logLine struct{ stream, tag, text string }

// readLog parses a log; every line must be whole.
func readLog(t testing.TB, path string) []logLine {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var lines []logLine
	for line := range strings.Lines(string(data)) {
		m := linePattern.FindStringSubmatch(strings.TrimSuffix(line, "\n"))
		if m == nil || !strings.HasSuffix(line, "\n") {
			t.Fatalf("%s has the line %q", path, line)
		}
		lines = append(lines, logLine{m[2], m[3], m[4]})
	}
	return lines
}

// content puts a stream's pieces together.
func content(lines []logLine, stream string) string {
	var b strings.Builder
	for _, l := range lines {
		if l.stream == stream {
			b.WriteString(l.text)
			if l.tag == "F" {
				b.WriteByte('\n')
			}
		}
	}
	return b.String()
}

// eventually waits for something that has no event.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

func linuxBefore(t testing.TB, major, minor int) bool {
	t.Helper()
	var name unix.Utsname
	var is [2]int
	if err := unix.Uname(&name); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &is[0], &is[1]); err != nil {
		t.Fatal(err)
	}
	return is[0] < major || is[0] == major && is[1] < minor
}

func descriptors(t testing.TB, pid int) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/" + strconv.Itoa(pid) + "/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// closedAll waits until the keeper holds no more descriptors than before.
func (n *node) closedAll(before int) {
	n.t.Helper()
	pid := n.client.PID()
	end := time.Now().Add(patience)
	for descriptors(n.t, pid) > before {
		if time.Now().After(end) {
			entries, _ := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/fd/*")
			for i := range entries {
				target, _ := os.Readlink(entries[i])
				entries[i] += " " + target
			}
			n.t.Fatalf("keeper holds more than %d descriptors:\n%s", before, strings.Join(entries, "\n"))
		}
		time.Sleep(5 * time.Millisecond)
	}
}

package keeper_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/shimd/shimd/keeper"
)

func TestStartAndExit(t *testing.T) {
	n := newNode(t)
	tests := map[string]struct {
		script string
		set    settings
		code   int32
		signal int
	}{
		"true":          {script: "exit 0"},
		"code":          {script: "exit 42", code: 42},
		"killed":        {script: "kill -9 $$", code: 137, signal: 9},
		"terminated":    {script: "kill -15 $$", code: 143, signal: 15},
		"reparented":    {script: "reparent exit 7", set: settings{reparents: true}, code: 7},
		"in between":    {script: "between exit 8", set: settings{reparents: true}, code: 8},
		"pid namespace": {script: `test $$ = 1 && exit 3`, set: settings{pidNamespace: true}, code: 3},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			before := time.Now()
			c := n.start(name, test.script, test.set)
			x := n.exit(name)
			if x.Code != test.code || x.Signal != test.signal || x.Unknown {
				t.Errorf("exit is %+v, want code %d, signal %d", x, test.code, test.signal)
			}
			if c.started.PID <= 0 || c.started.StartedAt.Before(before) || x.ExitedAt.Before(before) {
				t.Errorf("started %+v, exit %+v, begun at %v", c.started, x, before)
			}
			if err := n.client.Signal(t.Context(), name, 15); !errdefs.IsNotFound(err) {
				t.Errorf("signal to an ended process: %v", err)
			}
			for range 2 {
				if err := n.client.Acknowledge(t.Context(), name); err != nil {
					t.Error(err)
				}
			}
		})
	}
	if all, err := n.client.List(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("List: %v, %v", all, err)
	}
}

func TestStartFails(t *testing.T) {
	n := newNode(t)
	before := descriptors(t, n.client.PID())
	_, err := n.tryStart("a", "fail 5 13", settings{})
	var launch *keeper.LaunchError
	if !errors.As(err, &launch) || launch.Op != 5 || launch.Errno != 13 || !errors.Is(err, syscall.EACCES) {
		t.Errorf("failed operation: %v", err)
	}
	if _, err := n.tryStart("a", "garbage", settings{}); !errdefs.IsInternal(err) {
		t.Errorf("garbage in the report: %v", err)
	}
	if _, err := n.tryStart("a", "stranger", settings{reparents: true}); !errdefs.IsInternal(err) {
		t.Errorf("a process that is not the keeper's: %v", err)
	}
	if _, err := n.tryStart("a", "reparent exit 0", settings{reparents: false}); err != nil {
		t.Errorf("a report that nobody needs: %v", err)
	}
	n.exit("a")
	if _, err := n.tryStart("a", "exit 0", settings{}); !errdefs.IsAlreadyExists(err) {
		t.Errorf("ID that exists: %v", err)
	}
	if err := n.client.Acknowledge(t.Context(), "a"); err != nil {
		t.Error(err)
	}
	n.closedAll(before)
}

func TestStartGivenUp(t *testing.T) {
	n := newNode(t)
	before := descriptors(t, n.client.PID())
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	program, script := self(t), scriptFile(t, "hang")
	defer closeAll(program, script)
	_, err := n.client.Start(ctx, keeper.StartRequest{ID: "h", Program: program, Files: []*os.File{nil, nil, nil, nil, script}})
	if !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Start: %v", err)
	}
	n.start("h", "exit 0", settings{}) // the ID is free
	n.exit("h")
	if err := n.client.Acknowledge(t.Context(), "h"); err != nil {
		t.Error(err)
	}
	n.closedAll(before)
}

func TestOutput(t *testing.T) {
	n := newNode(t)
	script := `echo one; echo two >&2; printf 'abcdefghij\n'; printf 'abcdefghijk\n'; printf 'abcdefghijklmnopqrstuvwxyz'`
	c := n.start("out", script, settings{maxLine: 10})
	n.exit("out") // the log is complete now
	lines := readLog(t, c.logPath)
	if got, want := content(lines, "stdout"), "one\nabcdefghij\nabcdefghijk\nabcdefghijklmnopqrstuvwxyz"; got != want {
		t.Errorf("stdout is %q, want %q", got, want)
	}
	if got := content(lines, "stderr"); got != "two\n" {
		t.Errorf("stderr is %q", got)
	}
	if want := (logLine{"stdout", "P", "uvwxyz"}); !slices.Contains(lines, want) {
		t.Errorf("lines are %+v, want one %+v", lines, want)
	}
}

// Thousands of lines while the log is rotated: none is lost, split or out of order.
func TestSetLog(t *testing.T) {
	n := newNode(t)
	c := n.start("rotated", `i=0; while [ $i -lt 20000 ]; do i=$((i+1)); echo line $i of many; done`, settings{})
	paths := []string{c.logPath}
	for ended := false; !ended; {
		path := filepath.Join(c.fifos, "log"+strings.Repeat("x", len(paths)))
		log := open(t, path, os.O_CREATE|os.O_APPEND|os.O_WRONLY)
		if err := n.client.SetLog(t.Context(), "rotated", log); err != nil {
			t.Fatal(err)
		}
		_ = log.Close()
		paths = append(paths, path)
		time.Sleep(time.Millisecond)
		n.mu.Lock()
		_, ended = n.exits["rotated"]
		n.mu.Unlock()
		ended = ended || len(paths) > 150
	}
	n.exit("rotated")
	next := 0
	for _, path := range paths {
		for _, line := range readLog(t, path) {
			next++
			if want := "line " + itoa(next) + " of many"; line.text != want || line.tag != "F" {
				t.Fatalf("%s: %+v, want %q", path, line, want)
			}
		}
	}
	if next != 20000 {
		t.Errorf("%d lines in %d logs", next, len(paths))
	}
}

func itoa(i int) string {
	if i < 10 {
		return string(rune('0' + i))
	}
	return itoa(i/10) + string(rune('0'+i%10))
}

// A process that others write for after its end does not hold its exit back.
func TestExitWhileOthersWrite(t *testing.T) {
	n := newNode(t)
	n.start("noisy", `(while :; do echo noise; done) & exit 5`, settings{})
	x := n.exit("noisy")
	if x.Code != 5 {
		t.Errorf("exit is %+v", x)
	}
	// What makes the noise is in the process group of the launch.
	n.mu.Lock()
	defer n.mu.Unlock()
	all, err := n.client.List(t.Context())
	if err != nil || len(all) != 1 {
		t.Fatalf("List: %v, %v", all, err)
	}
	_ = syscall.Kill(-all[0].PID, syscall.SIGKILL)
}

func TestDaemonComesBack(t *testing.T) {
	n := newNode(t)
	c := n.start("ends", "echo early; sleep 0.3; echo late; exit 9", settings{})
	n.start("runs", "exec sleep 1000", settings{})
	n.start("session", "exec sleep 1000", settings{killOnDisconnect: true})
	pid := n.client.PID()
	if err := n.client.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := n.client.List(t.Context()); !errdefs.IsUnavailable(err) {
		t.Errorf("List of a closed client: %v", err)
	}
	eventually(t, "logs flow without a daemon", func() bool { return strings.Contains(content(readLog(t, c.logPath), "stdout"), "late") })
	n.connect("v1", "one")
	if n.client.PID() != pid {
		t.Errorf("keeper is process %d, was %d", n.client.PID(), pid)
	}
	if x := n.exit("ends"); x.Code != 9 {
		t.Errorf("exit is %+v", x)
	}
	if x := n.exit("session"); x.Signal != int(unix.SIGKILL) {
		t.Errorf("exec session without a client: %+v", x)
	}
	all, err := n.client.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		closeAll(p.PIDFD)
		if running := p.Exit == nil; running != (p.ID == "runs") {
			t.Errorf("%s: exit %+v", p.ID, p.Exit)
		}
	}
}

// The keeper is killed: containers live, their output waits in the FIFOs, and exits are known from the pidfd (Linux 6.15).
func TestKeeperKilled(t *testing.T) {
	n := newNode(t)
	release := filepath.Join(t.TempDir(), "go")
	c := n.start("survivor", `echo before; while [ ! -e `+release+` ]; do sleep 0.02; done; echo meanwhile; printf partial; while [ ! -e `+release+`2 ]; do sleep 0.02; done; echo " after"; exit 33`, settings{})
	eventually(t, "the first line is logged", func() bool { return content(readLog(t, c.logPath), "stdout") == "before\n" })
	pid := n.client.PID()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(release, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	select {
	case <-n.restarts:
	case <-time.After(patience):
		t.Fatal("no new keeper")
	}
	if n.client.PID() == pid {
		t.Error("keeper is still the same process")
	}
	for range 2 { // adopting is idempotent
		io := c.ends(t, settings{})
		if err := n.client.Adopt(t.Context(), keeper.AdoptRequest{ID: "survivor", PIDFD: c.started.PIDFD, IO: io}); err != nil {
			t.Fatal(err)
		}
		closeAll(io.Stdout, io.Stderr, io.Log)
	}
	all, err := n.client.List(t.Context())
	if err != nil || len(all) != 1 || all[0].PID != c.started.PID {
		t.Fatalf("List: %+v, %v; the process is %d", all, err, c.started.PID)
	}
	closeAll(all[0].PIDFD)
	if err := os.WriteFile(release+"2", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	x := n.exit("survivor")
	// By the version, not by a probe: one that looks as the keeper does would hide its bugs.
	if known := !linuxBefore(t, 6, 15); x.Unknown == known || known && x.Code != 33 {
		t.Errorf("exit is %+v; PIDFD_GET_INFO tells it from Linux 6.15 on", x)
	}
	if got := content(readLog(t, c.logPath), "stdout"); got != "before\nmeanwhile\npartial after\n" {
		t.Errorf("log is %q", got)
	}
}

// A newer keeper takes over in place while containers write: same process, all children, no line lost, exits kept.
func TestUpgrade(t *testing.T) {
	n := newNode(t)
	c := n.start("writer", `i=0; while [ $i -lt 60000 ]; do i=$((i+1)); echo line $i; [ $((i%1000)) = 0 ] && sleep 0.01; done; printf 'no newline'; exit 4`, settings{})
	n.start("ended", "exit 8", settings{})
	n.exit("ended")
	pid := n.client.PID()
	for range 3 {
		if err := n.client.Upgrade(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.client.Close(); err != nil {
		t.Fatal(err)
	}
	n.connect("v2", "two") // another version: upgraded by Connect
	if n.client.PID() != pid || n.client.Version() != "two" {
		t.Errorf("keeper is process %d of version %q, was %d", n.client.PID(), n.client.Version(), pid)
	}
	if x := n.exit("ended"); x.Code != 8 {
		t.Errorf("exit from before is %+v", x)
	}
	if x := n.exit("writer"); x.Code != 4 {
		t.Errorf("exit is %+v", x)
	}
	var want strings.Builder
	for i := 1; i <= 60000; i++ {
		want.WriteString("line " + itoa(i) + "\n")
	}
	want.WriteString("no newline")
	if got := content(readLog(t, c.logPath), "stdout"); got != want.String() {
		t.Errorf("log has %d bytes, want %d", len(got), want.Len())
	}
	select {
	case <-n.restarts:
		t.Error("an upgrade looks like a restart")
	default:
	}
}

// A program that cannot read the state is refused, and everything goes on.
func TestUpgradeRefused(t *testing.T) {
	n := newNode(t)
	n.start("runs", "exec sleep 1000", settings{})
	if err := n.client.Close(); err != nil {
		t.Fatal(err)
	}
	bad := filepath.Join(t.TempDir(), "bad")
	if err := os.WriteFile(bad, []byte("#!/bin/sh\nexit 1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	client, err := keeper.Connect(t.Context(), keeper.Options{StateDir: n.directory, KeeperBinary: bad, Version: "three"})
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Upgrade(t.Context()); err == nil {
		t.Error("upgrade to a program that is none")
	}
	if err := client.Close(); err != nil {
		t.Error(err)
	}
	n.connect("v1", "one")
	if err := n.client.Signal(t.Context(), "runs", 0); err != nil {
		t.Error(err)
	}
}

func TestShutdownRefused(t *testing.T) {
	n := newNode(t)
	n.start("runs", "exec sleep 1000", settings{})
	if err := n.client.Shutdown(t.Context(), false); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("Shutdown: %v", err)
	}
}

package keeper_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/shimd/shimd/keeper"
)

// pair is a pipe: what the test holds, and what the keeper gets.
func pair(t testing.TB, keeperReads bool) (mine, theirs *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	mine, theirs = r, w
	if keeperReads {
		mine, theirs = w, r
	}
	t.Cleanup(func() { closeAll(mine, theirs) })
	return mine, theirs
}

func (n *node) attach(ctx context.Context, req keeper.AttachRequest) <-chan error {
	done := make(chan error, 1)
	go func() { done <- n.client.Attach(ctx, req) }()
	return done
}

func wait(t testing.TB, done <-chan error) error {
	t.Helper()
	select {
	case err := <-done:
		return err
	case <-time.After(patience):
		t.Fatal("Attach does not return")
		return nil
	}
}

func read(t testing.TB, f *os.File, want string) {
	t.Helper()
	_ = f.SetReadDeadline(time.Now().Add(patience))
	got := make([]byte, len(want))
	if _, err := io.ReadFull(f, got); err != nil || string(got) != want {
		t.Fatalf("client got %q, %v; want %q", got, err, want)
	}
}

// Several clients see the same output; stdin reaches the process; the log has it too.
func TestAttach(t *testing.T) {
	n := newNode(t)
	c := n.start("echo", `while read line; do echo "out $line"; echo "err $line" >&2; [ "$line" = end ] && exit 6; done`, settings{stdin: true})
	in, theirIn := pair(t, true)
	out, theirOut := pair(t, false)
	errs, theirErr := pair(t, false)
	first := n.attach(t.Context(), keeper.AttachRequest{ID: "echo", Stdin: theirIn, Stdout: theirOut, Stderr: theirErr})
	_, _ = io.WriteString(in, "a\n")
	read(t, out, "out a\n")
	read(t, errs, "err a\n")

	in2, theirIn2 := pair(t, true)
	out2, theirOut2 := pair(t, false)
	second := n.attach(t.Context(), keeper.AttachRequest{ID: "echo", Stdin: theirIn2, Stdout: theirOut2})
	_, _ = io.WriteString(in2, "b\n")
	read(t, out2, "out b\n")
	read(t, out, "out b\n")

	// A client that goes ends its own attachment alone, without any output.
	_ = out2.Close()
	if err := wait(t, second); err != nil {
		t.Errorf("client that has gone: %v", err)
	}
	_, _ = io.WriteString(in, "end\n")
	if err := wait(t, first); err != nil {
		t.Errorf("output that ended: %v", err)
	}
	rest, _ := io.ReadAll(out)
	if string(rest) != "out end\n" {
		t.Errorf("rest of the output is %q", rest)
	}
	if x := n.exit("echo"); x.Code != 6 {
		t.Errorf("exit is %+v", x)
	}
	if got := content(readLog(t, c.logPath), "stdout"); got != "out a\nout b\nout end\n" {
		t.Errorf("log is %q", got)
	}
	if err := n.client.Attach(t.Context(), keeper.AttachRequest{ID: "nobody"}); !errdefs.IsNotFound(err) {
		t.Errorf("attaching to nothing: %v", err)
	}
}

func TestStdinOnce(t *testing.T) {
	n := newNode(t)
	c := n.start("cat", "cat; echo eof", settings{stdin: true, stdinOnce: true})
	in, theirIn := pair(t, true)
	done := n.attach(t.Context(), keeper.AttachRequest{ID: "cat", Stdin: theirIn})
	_, _ = io.WriteString(in, "text\n")
	_ = in.Close()
	if err := wait(t, done); err != nil {
		t.Error(err)
	}
	n.exit("cat")
	if got := content(readLog(t, c.logPath), "stdout"); got != "text\neof\n" {
		t.Errorf("log is %q", got)
	}
}

// CVE-2022-23471: whatever ends an attachment, nothing of it stays.
func TestCVE_2022_23471_AttachLeavesNothing(t *testing.T) {
	n := newNode(t)
	n.start("idle", "exec sleep 1000", settings{stdin: true})
	before, threads := descriptors(t, n.client.PID()), descriptors(t, os.Getpid())
	for range 20 {
		// The caller gives up, while stdin is stuffed: sleep reads nothing.
		ctx, cancel := context.WithCancel(t.Context())
		in, theirIn := pair(t, true)
		out, theirOut := pair(t, false)
		errs, theirErr := pair(t, false)
		done := n.attach(ctx, keeper.AttachRequest{ID: "idle", Stdin: theirIn, Stdout: theirOut, Stderr: theirErr})
		_ = in.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
		_, _ = in.Write(make([]byte, 300<<10))
		cancel()
		if err := wait(t, done); !errors.Is(err, context.Canceled) {
			t.Errorf("attachment given up: %v", err)
		}
		if rest, err := io.ReadAll(out); err != nil || len(rest) > 0 {
			t.Errorf("client's stdout: %q, %v", rest, err)
		}
		closeAll(in, out, errs)
		// The client's descriptors are closed.
		out, theirOut = pair(t, false)
		done = n.attach(t.Context(), keeper.AttachRequest{ID: "idle", Stdout: theirOut})
		_ = out.Close()
		if err := wait(t, done); err != nil {
			t.Error(err)
		}
	}
	n.closedAll(before)
	eventually(t, "the client has closed everything", func() bool { return descriptors(t, os.Getpid()) <= threads })
}

// A client that reads nothing is dropped after a while; the log and the other clients go on.
func TestClientThatDoesNotRead(t *testing.T) {
	n := newNode(t)
	c := n.start("much", `read go; i=0; while [ $i -lt 60000 ]; do i=$((i+1)); echo "line $i"; done`, settings{stdin: true})
	in, theirIn := pair(t, true)
	_, stuckEnd := pair(t, false)
	stuck := n.attach(t.Context(), keeper.AttachRequest{ID: "much", Stdout: stuckEnd})
	out, theirOut := pair(t, false)
	reads := n.attach(t.Context(), keeper.AttachRequest{ID: "much", Stdin: theirIn, Stdout: theirOut})
	time.Sleep(50 * time.Millisecond) // both are attached; if not, there is less to see
	_, _ = io.WriteString(in, "go\n")
	lines := 0
	for scanner := bufio.NewScanner(out); scanner.Scan(); {
		lines++
	}
	n.exit("much")
	if err := wait(t, reads); err != nil {
		t.Error(err)
	}
	if err := wait(t, stuck); err != nil {
		t.Error(err)
	}
	if lines != 60000 {
		t.Errorf("the client that reads got %d lines", lines)
	}
	if got := len(readLog(t, c.logPath)); got != 60000 {
		t.Errorf("log has %d lines", got)
	}
}

func openPTY(t testing.TB) (master, slave *os.File) {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skipf("no pseudo terminals: %v", err)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave = open(t, "/dev/pts/"+itoa(number), os.O_RDWR|syscall.O_NOCTTY)
	return os.NewFile(uintptr(fd), "ptmx"), slave
}

func TestTerminal(t *testing.T) {
	n := newNode(t)
	master, slave := openPTY(t)
	directory := t.TempDir()
	log := open(t, directory+"/log", os.O_CREATE|os.O_APPEND|os.O_WRONLY)
	program, script := self(t), scriptFile(t, `stty -echo; echo ready; read x; stty size; echo "got $x"; printf tail`)
	started, err := n.client.Start(t.Context(), keeper.StartRequest{
		ID: "tty", Program: program, Files: []*os.File{slave, slave, slave, nil, script}, IO: &keeper.IO{Terminal: master, Log: log},
	})
	closeAll(master, slave, log, program, script)
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(started.PIDFD)
	eventually(t, "the process is ready", func() bool { return len(readLog(t, directory+"/log")) > 0 })
	if err := n.client.Resize(t.Context(), "tty", 123, 45); err != nil {
		t.Fatal(err)
	}
	in, theirIn := pair(t, true)
	out, theirOut := pair(t, false)
	done := n.attach(t.Context(), keeper.AttachRequest{ID: "tty", Stdin: theirIn, Stdout: theirOut})
	eventually(t, "attached", func() bool { // input is queued by the terminal, output only shown from now on
		_, err := io.WriteString(in, "")
		return err == nil
	})
	time.Sleep(50 * time.Millisecond)
	_, _ = io.WriteString(in, "word\n")
	shown, _ := io.ReadAll(out)
	if err := wait(t, done); err != nil {
		t.Error(err)
	}
	if x := n.exit("tty"); x.Code != 0 {
		t.Errorf("exit is %+v", x)
	}
	want := "45 123\r\ngot word\r\ntail"
	if string(shown) != want {
		t.Errorf("client saw %q, want %q", shown, want)
	}
	if got := content(readLogLoose(t, directory+"/log"), "stdout"); got != "ready\r\n"+want {
		t.Errorf("log is %q", got)
	}
	if err := n.client.Resize(t.Context(), "nobody", 1, 1); !errdefs.IsNotFound(err) {
		t.Errorf("resizing nothing: %v", err)
	}
}

// readLogLoose is readLog for terminals, whose lines end in a carriage return.
func readLogLoose(t testing.TB, path string) []logLine {
	lines := readLog(t, path)
	data, _ := os.ReadFile(path)
	for i, line := range strings.Split(strings.TrimSuffix(string(data), "\n"), "\n") {
		if strings.HasSuffix(line, "\r") && !strings.HasSuffix(lines[i].text, "\r") {
			lines[i].text += "\r"
		}
	}
	return lines
}

// A full disk neither stops nor kills the container, and the log says how much it lacks.
func TestLogOnFullDisk(t *testing.T) {
	n := newNode(t)
	mount := t.TempDir()
	if err := unix.Mount("tmpfs", mount, "tmpfs", 0, "size=4m"); err != nil {
		t.Skipf("no tmpfs can be mounted: %v", err)
	}
	defer func() {
		if err := unix.Unmount(mount, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
	c := n.start("full", `read go; i=0; while [ $i -lt 5000 ]; do i=$((i+1)); echo "line $i of output"; done; : >`+mount+`/written; read go; echo last`, settings{stdin: true})
	log := open(t, mount+"/log", os.O_CREATE|os.O_APPEND|os.O_WRONLY)
	if err := n.client.SetLog(t.Context(), "full", log); err != nil {
		t.Fatal(err)
	}
	_ = log.Close()
	filler := open(t, mount+"/filler", os.O_CREATE|os.O_WRONLY)
	_, _ = filler.Write(make([]byte, 4<<20-32<<10)) // the log does not fit, and fits easily when this is gone
	_ = filler.Close()
	stdin := open(t, c.fifos+"/0", os.O_WRONLY)
	defer closeAll(stdin)
	_, _ = io.WriteString(stdin, "go\n")
	eventually(t, "the container has written all", func() bool {
		_, err := os.Stat(mount + "/written")
		return err == nil
	})
	_ = os.Remove(mount + "/filler")
	_, _ = io.WriteString(stdin, "go\n")
	n.exit("full")
	lines := readLog(t, mount+"/log") // each is whole
	var note bool
	for _, l := range lines {
		note = note || strings.HasPrefix(l.text, "shimd: ") && strings.Contains(l.text, "log lines were lost here")
	}
	if last := lines[len(lines)-1]; len(lines) > 5000 || !note || last.text != "last" {
		t.Errorf("note of the loss: %v; last line: %+v", note, last)
	}
}

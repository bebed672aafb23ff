package keeper_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/shimd/shimd/keeper"
)

// Many daemons at once end up with one keeper.
func TestOneKeeperForAll(t *testing.T) {
	n := newNode(t)
	directory := t.TempDir()
	var group sync.WaitGroup
	var mu sync.Mutex
	pids := map[int]int{}
	for range 6 {
		group.Go(func() {
			client, err := keeper.Connect(t.Context(), keeper.Options{StateDir: directory, KeeperBinary: keeperBinary("v1")})
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			pids[client.PID()]++
			mu.Unlock()
			if err := client.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if len(pids) != 1 {
		t.Errorf("keepers: %v", pids)
	}
	client, err := keeper.Connect(t.Context(), keeper.Options{StateDir: directory, KeeperBinary: keeperBinary("v1")})
	if err != nil {
		t.Fatal(err)
	}
	if client.PID() == n.client.PID() {
		t.Error("two state directories share a keeper")
	}
	if err := client.Shutdown(t.Context(), false); err != nil {
		t.Error(err)
	}
}

// A keeper is detached from whoever started it: session, working directory, standard streams.
func TestKeeperIsDetached(t *testing.T) {
	n := newNode(t)
	proc := fmt.Sprintf("/proc/%d/", n.client.PID())
	if sid, err := unix.Getsid(n.client.PID()); err != nil || sid != n.client.PID() {
		t.Errorf("session is %d, %v", sid, err)
	}
	for link, want := range map[string]string{"cwd": "/", "fd/0": os.DevNull, "fd/2": n.directory + "/keeper.log"} {
		if got, err := os.Readlink(proc + link); err != nil || got != want {
			t.Errorf("%s is %q, %v", link, got, err)
		}
	}
	if env, err := os.ReadFile(proc + "environ"); err != nil || len(env) > 0 {
		t.Errorf("environment is %q, %v", env, err)
	}
	if comm, err := os.ReadFile(proc + "comm"); err != nil || string(comm) != "shimd-keeper\n" {
		t.Errorf("name is %q, %v", comm, err)
	}
}

// CVE-2020-15257: the socket is a path in a directory that is root's; an abstract one would be reachable from pods in the host's network.
func TestCVE_2020_15257_NoAbstractSocket(t *testing.T) {
	n := newNode(t)
	info, err := os.Stat(filepath.Join(n.directory, "keeper.sock"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v", info, err)
	}
	sockets, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		t.Skipf("no list of sockets: %v", err)
	}
	for line := range strings.Lines(string(sockets)) {
		if f := strings.Fields(line); len(f) > 7 && strings.HasPrefix(f[7], "@") && strings.Contains(f[7], "keeper") {
			t.Errorf("abstract socket %s", f[7])
		}
	}
}

// Another user is turned away even where the permissions would let it in.
func TestOnlyRootMaySpeak(t *testing.T) {
	n := newNode(t)
	for _, path := range []string{n.directory, filepath.Dir(n.directory), n.directory + "/keeper.sock"} {
		if err := os.Chmod(path, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(fd) }()
	done := make(chan error)
	go func() { // the thread's user, and no other's; it ends with the goroutine, which stays locked to it
		runtime.LockOSThread()
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), 65534, ^uintptr(0)); errno != 0 {
			done <- errno
			return
		}
		done <- unix.Connect(fd, &unix.SockaddrUnix{Name: n.directory + "/keeper.sock"})
	}()
	if err := <-done; err != nil {
		t.Skipf("connecting as another user: %v", err)
	}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10}); err != nil {
		t.Fatal(err)
	}
	if got, err := unix.Read(fd, make([]byte, 16)); err == nil && got > 0 || err == unix.EAGAIN {
		t.Errorf("keeper answers another user: %d bytes, %v", got, err)
	}
	if _, err := n.client.List(t.Context()); err != nil {
		t.Error(err)
	}
}

// What a hostile or broken client sends ends its connection, and nothing else; no descriptor stays.
func TestHostileMessages(t *testing.T) {
	n := newNode(t)
	before := descriptors(t, n.client.PID())
	messages := []string{
		"", "x", strings.Repeat("\xff", 12), strings.Repeat("\x00", 4096),
		"\x01\x00\x01\x00\x01\x00\x00\x00\x00\x00\x00\x00",                           // a hello without a body
		"\x04\x00\x01\x00\x01\x00\x00\x00\x00\x00\x00\x00",                           // a start before the hello
		"\x04\x01\x01\x00\x01\x00\x00\x00\x01\x00\x00\x00x",                          // half a start
		"\x04\x00\x01\x00\x01\x00\x00\x00\xff\xff\xff\xffx",                          // a length that overflows
		"\x01\x00\x01\x00\x01\x00\x00\x00\x08\x00\x00\x00\x01\x00\x00\x00\xff\xff__", // a text longer than the message
	}
	for i, message := range messages {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Connect(fd, &unix.SockaddrUnix{Name: n.directory + "/keeper.sock"}); err != nil {
			t.Fatal(err)
		}
		if err := unix.Sendmsg(fd, []byte(message), unix.UnixRights(0), nil, 0); err != nil {
			t.Errorf("message %d: %v", i, err)
		}
		_ = unix.Shutdown(fd, unix.SHUT_WR)
		_ = unix.Close(fd)
	}
	n.closedAll(before)
	if _, err := n.client.List(t.Context()); err != nil {
		t.Error(err)
	}
}

// Starts, exits and output while keepers replace each other: each start either happened, with its exit and its log, or is an error.
func TestUpgradeUnderLoad(t *testing.T) {
	n := newNode(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var group sync.WaitGroup
	for worker := range 3 {
		group.Go(func() {
			for i := range 12 {
				id := fmt.Sprintf("%d-%d", worker, i)
				c, err := n.tryStart(id, "echo out "+id+"; exit 3", settings{})
				switch {
				case errdefs.IsUnavailable(err):
					continue
				case err != nil:
					t.Errorf("Start: %v", err)
					continue
				}
				if x := n.exit(id); x.Code != 3 {
					t.Errorf("exit of %s is %+v", id, x)
				}
				if got := content(readLog(t, c.logPath), "stdout"); got != "out "+id+"\n" {
					t.Errorf("log of %s is %q", id, got)
				}
			}
		})
	}
	for range 8 {
		if err := n.client.Upgrade(ctx); err != nil && !errdefs.IsUnavailable(err) {
			t.Errorf("Upgrade: %v", err)
		}
		time.Sleep(20 * time.Millisecond)
	}
	group.Wait()
}

// The fork's scratch descriptors must not reach the child, whatever numbers the request's have.
func TestChildGetsItsDescriptorsOnly(t *testing.T) {
	n := newNode(t)
	c := n.start("fds", `exec 4<&-; for f in /proc/self/fd/*; do echo ${f##*/} $(readlink $f); done`, settings{})
	n.exit("fds")
	for _, line := range strings.Split(strings.TrimSpace(content(readLog(t, c.logPath), "stdout")), "\n") {
		number, _, _ := strings.Cut(line, " ")
		if len(number) != 1 || number > "2" {
			t.Logf("shell sees %s", line)
		}
		if strings.Contains(line, "keeper") && !strings.Contains(line, "/tmp/") || strings.Contains(line, "socket:") || strings.Contains(line, "pidfd") {
			t.Errorf("descriptor of the keeper in a child: %s", line)
		}
	}
}

// Orphans that come to the keeper are not the keeper's affair, but must not stay as zombies for ever; that it is a subreaper is seen here.
func TestOrphansComeToTheKeeper(t *testing.T) {
	n := newNode(t)
	pidFile := filepath.Join(t.TempDir(), "pid")
	n.start("parent", `sh -c 'echo $$ >`+pidFile+`.new; mv `+pidFile+`.new `+pidFile+`; exec sleep 1000' & while [ ! -e `+pidFile+` ]; do sleep 0.02; done`, settings{})
	n.exit("parent")
	data, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	pid := 0
	_, _ = fmt.Sscan(string(data), &pid)
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if !strings.Contains(string(status), fmt.Sprintf("\nPPid:\t%d\n", n.client.PID())) {
		t.Errorf("orphan's parent is not the keeper (%d):\n%s", n.client.PID(), status)
	}
	// Adopted, its status is the keeper's to collect, as with the containers of external runtimes.
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	pidfd := os.NewFile(uintptr(fd), "pidfd")
	defer closeAll(pidfd)
	if err := n.client.Adopt(t.Context(), keeper.AdoptRequest{ID: "orphan", PIDFD: pidfd}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if x := n.exit("orphan"); x.Signal != 15 || x.Unknown {
		t.Errorf("exit is %+v", x)
	}
}

func TestConnectWithoutBinary(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if _, err := keeper.Connect(ctx, keeper.Options{StateDir: t.TempDir(), KeeperBinary: "/nonexistent"}); err == nil || !strings.Contains(err.Error(), "/nonexistent") {
		t.Errorf("Connect: %v", err)
	}
	if _, err := keeper.Connect(ctx, keeper.Options{StateDir: "relative", KeeperBinary: "/x"}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("Connect: %v", err)
	}
	if out, err := exec.Command(keeperBinary("v1"), "--state", "relative").CombinedOutput(); err == nil || !strings.Contains(string(out), "--state") {
		t.Errorf("shimd-keeper --state relative: %v, %s", err, out)
	}
	if out, err := exec.Command(keeperBinary("v2"), "--version").Output(); err != nil || string(out) != "two\n" {
		t.Errorf("shimd-keeper --version: %v, %s", err, out)
	}
}

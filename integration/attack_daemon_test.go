package integration

import (
	"bufio"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/integration/criclient"
	"github.com/shimd/shimd/integration/daemon"
)

// Also CVE-2024-25621. What a container writes belongs to root on the host: a set-user-ID program there must be out of reach of the host's other users, and so
// must a container's streams, into whose stdin anybody could type. Container IDs are no secret: /proc/PID/cgroup tells them.
func TestCVE_2021_41103_OthersReachNoFilesOfContainers(t *testing.T) {
	t.Parallel()
	d, client := start(t, daemon.Config{})
	image := pull(t, client)
	p := runPod(t, client, "shell")
	shell := criclient.Container("shell", image, "sh", "-c", "for f in /evil /etc/hosts /etc/hostname /etc/resolv.conf; do cat /bin/busybox > $f; chmod 4777 $f; done; chmod 777 /; sleep 1000")
	shell.Stdin = true
	p.start(t, client, shell)
	readonly := criclient.Container("readonly", hostileWithVolume(t, client), "sh", "-c", "cp /bin/busybox /data/evil; chmod 4777 /data/evil /data; sleep 1000")
	readonly.Linux.SecurityContext.ReadonlyRootfs = true
	p.start(t, client, readonly)
	for _, id := range runningContainers(t, client) {
		eventually(t, "the containers did their mischief", func() bool {
			_, code, err := client.Exec(t.Context(), id, "sh", "-c", "ls /evil /data/evil 2>/dev/null | grep evil")
			return err == nil && code == 0
		})
	}
	for _, top := range []string{d.Root(), d.State()} {
		reachable(t, top, func(path string, mode fs.FileMode) {
			switch {
			case mode.IsRegular() && mode&fs.ModeSetuid != 0:
				t.Errorf("any user can run %s (%v)", path, mode)
			case mode&fs.ModeNamedPipe != 0 && mode.Perm()&0o006 != 0:
				t.Errorf("any user can open %s (%v)", path, mode)
			case mode&fs.ModeSocket != 0 && mode.Perm()&0o002 != 0:
				t.Errorf("any user can connect to %s (%v)", path, mode)
			case mode.IsRegular() && mode.Perm()&0o002 != 0:
				t.Errorf("any user can write to %s (%v)", path, mode)
			}
		})
	}
}

// reachable calls found for what any user can get at below top who knows its name: the directories on the way let all through.
func reachable(t *testing.T, top string, found func(path string, mode fs.FileMode)) {
	t.Helper()
	err := filepath.WalkDir(top, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		if info.IsDir() && info.Mode().Perm()&0o001 == 0 {
			return fs.SkipDir
		}
		if path == top && info.Mode().Perm()&0o066 != 0 {
			t.Errorf("%s is %v", path, info.Mode())
		}
		found(path, info.Mode())
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Also CVE-2020-8558's kind: nothing listens beyond this machine.
func TestCVE_2020_15257_NoSocketForPodsOfTheHostsNetwork(t *testing.T) {
	t.Parallel()
	d, client := start(t, daemon.Config{})
	image := pull(t, client)
	p := runPod(t, client, "sockets")
	p.start(t, client, criclient.Container("main", image, "sleep", "1000"))
	keepers, err := d.Keepers()
	if err != nil || len(keepers) != 1 {
		t.Fatalf("%v, %v", keepers, err)
	}
	for _, pid := range append(keepers, d.PID()) {
		inodes := socketsOf(t, pid)
		for _, table := range []string{"unix", "tcp", "tcp6", "udp", "udp6", "raw"} {
			text, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, table))
			if err != nil {
				continue
			}
			for line := range strings.Lines(string(text)) {
				fields := strings.Fields(line)
				switch {
				case table == "unix" && len(fields) == 8 && inodes[fields[6]] && strings.HasPrefix(fields[7], "@"):
					t.Errorf("process %d has an abstract socket: %s", pid, line)
				case table != "unix" && len(fields) > 9 && inodes[fields[9]] && !strings.HasPrefix(fields[1], "0100007F:"):
					t.Errorf("process %d listens beyond loopback (%s): %s", pid, table, line)
				}
			}
		}
	}
	info, err := os.Stat(strings.TrimPrefix(d.Endpoint(), "unix://"))
	if err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("the socket is %v, %v", info.Mode(), err)
	}
}

func socketsOf(t *testing.T, pid int) map[string]bool {
	t.Helper()
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && strings.HasPrefix(target, "socket:[") {
			found[strings.Trim(target, "socket:[]")] = true
		}
	}
	return found
}

// Also CVE-2026-35469 and CVE-2025-64329: tokens work once, cannot be guessed, and garbage costs the daemon nothing that stays.
func TestCVE_2022_23471_StreamingServerUnderAttack(t *testing.T) {
	t.Parallel()
	d, client := start(t, daemon.Config{})
	image := pull(t, client)
	p := runPod(t, client, "streams")
	id := p.start(t, client, criclient.Container("main", image, "sleep", "1000"))
	answer, err := client.RuntimeServiceClient.Exec(t.Context(), &criv1.ExecRequest{ContainerId: id, Cmd: []string{"echo", secretWord}, Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	at, err := url.Parse(answer.Url)
	if err != nil {
		t.Fatal(err)
	}
	before := descriptors(t, d.PID())
	for _, path := range []string{"/", "/exec/", "/exec/..", "/attach/" + strings.TrimPrefix(at.Path, "/exec/"), "/exec/" + strings.Repeat("A", 43), "/exec/%00", "/metrics", "/debug/pprof/"} {
		if path == "/attach/"+strings.TrimPrefix(at.Path, "/exec/") {
			continue // it would redeem the token: below
		}
		response, err := http.Get("http://" + at.Host + path)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		response.Body.Close()
		if response.StatusCode != http.StatusNotFound && response.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %s", path, response.Status)
		}
	}
	// A token for one verb is none for another, and whoever tried has spent it.
	for i, path := range []string{"/attach/" + strings.TrimPrefix(at.Path, "/exec/"), at.Path} {
		response, err := http.Get("http://" + at.Host + path)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(response.Body)
		response.Body.Close()
		if response.StatusCode != http.StatusNotFound || strings.Contains(string(body), secretWord) {
			t.Errorf("try %d: %s %q", i, response.Status, body)
		}
	}
	garbage := []string{"", "\x16\x03\x01\x02\x00", "GET " + at.Path, strings.Repeat("A", 1<<16), "GET / HTTP/1.1\r\n" + strings.Repeat("X: "+strings.Repeat("y", 8000)+"\r\n", 400),
		"POST /exec/x HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"GET /exec/x HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n\x80\x03\x00\x01\xff\xff\xff\xff"}
	var open []net.Conn
	for i := range 200 {
		conn, err := net.Dial("tcp", at.Host)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
		_, _ = io.WriteString(conn, garbage[i%len(garbage)]) // the server may hang up amid it
		open = append(open, conn)
	}
	if out, code, err := client.Exec(t.Context(), id, "echo", "well"); err != nil || code != 0 || out != "well\n" {
		t.Errorf("exec under attack: %q, %d, %v", out, code, err)
	}
	for _, conn := range open {
		_ = conn.Close()
	}
	// More tokens than there may be: refused, and those of others work on.
	for range 1100 {
		if _, err = client.RuntimeServiceClient.Exec(t.Context(), &criv1.ExecRequest{ContainerId: id, Cmd: []string{"true"}, Stdout: true}); err != nil {
			break
		}
	}
	if err == nil {
		t.Error("there is no bound on tokens")
	}
	eventually(t, "all descriptors are closed", func() bool { return descriptors(t, d.PID()) <= before+2 })
}

func descriptors(t *testing.T, pid int) int {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// The CRI socket takes garbage, too.
func TestGarbageOnTheSocket(t *testing.T) {
	t.Parallel()
	d, client := start(t, daemon.Config{})
	socket := strings.TrimPrefix(d.Endpoint(), "unix://")
	for _, text := range []string{"", "GET / HTTP/1.1\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + strings.Repeat("\xff", 1<<16), strings.Repeat("\x00", 1<<16)} {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		_, _ = io.WriteString(conn, text)
		_, _ = bufio.NewReader(io.LimitReader(conn, 9)).ReadByte() // the server's settings, or its hanging up
		_ = conn.Close()
	}
	for _, keeper := range keeperSockets(t, d.State()) {
		conn, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: keeper, Net: "unixpacket"})
		if err != nil {
			continue // it listens only to one daemon
		}
		_, _ = conn.Write([]byte(strings.Repeat("\xff", 1000)))
		_ = conn.Close()
	}
	image := pull(t, client)
	p := runPod(t, client, "after")
	wantAlive(t, client, p, image)
}

func keeperSockets(t *testing.T, state string) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(state, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.Type()&fs.ModeSocket == 0 || strings.HasSuffix(path, "shimd.sock") {
			return nil
		}
		var st syscall.Stat_t
		if err := syscall.Stat(path, &st); err != nil {
			return err
		}
		if st.Mode&0o077 != 0 {
			t.Errorf("others than root may connect to %s (%o)", path, st.Mode)
		}
		found = append(found, path)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(found) == 0 {
		t.Error("the keeper has no socket")
	}
	return found
}

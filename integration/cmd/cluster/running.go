package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"github.com/shimd/shimd/integration/cluster"
	"github.com/shimd/shimd/integration/namespaces"
)

// running is a cluster that runs: its supervisor's process ID, as this program sees it, and what it said.
type running struct {
	pid   int
	state state
}

var errNotRunning = errors.New("no cluster runs")

// ask finds a cluster by its directory.
func ask(ctx context.Context, o options) (running, error) {
	socket := filepath.Join(o.dir, controlSocket)
	var r running
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
			if err != nil {
				return nil, err
			}
			// The kernel translates the ID from the supervisor's PID namespace to ours.
			r.pid, err = peer(conn)
			return conn, err
		},
	}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://cluster/", nil)
	if err != nil {
		return r, err
	}
	response, err := client.Do(request)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return r, fmt.Errorf("%w in %s: `make cluster` starts one", errNotRunning, o.dir)
	}
	if err != nil {
		return r, fmt.Errorf("asking the cluster's supervisor: %w", err)
	}
	defer response.Body.Close()
	if err := json.NewDecoder(response.Body).Decode(&r.state); err != nil {
		return r, fmt.Errorf("reading what the cluster's supervisor says: %w", err)
	}
	return r, nil
}

func peer(conn net.Conn) (int, error) {
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		return 0, errors.New("that is no unix socket")
	}
	raw, err := unixConn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var credentials *unix.Ucred
	var askErr error
	if err := raw.Control(func(fd uintptr) {
		credentials, askErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil || askErr != nil {
		return 0, errors.Join(err, askErr)
	}
	return int(credentials.Pid), nil
}

// showStatus prints programs with the process IDs that the caller sees, nodes and pods.
func showStatus(ctx context.Context, o options) error {
	r, err := ask(ctx, o)
	if err != nil {
		return err
	}
	pids, err := r.pids()
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "PROGRAM\tNODE\tPID\tSTATE\tLOG")
	fmt.Fprintf(w, "supervisor\t\t%d\truns\t%s\n", r.pid, filepath.Join(o.dir, supervisorLog))
	for _, p := range r.state.Components {
		how := "runs"
		switch {
		case p.Died != "":
			how = "DIED: " + p.Died
		case p.PID == 0:
			how = "stopped"
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\n", p.Name, p.Node, pids[p.PID], how, p.Log)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if !r.state.Ready {
		fmt.Println("\nThe cluster is still starting.")
		return nil
	}
	for _, what := range [][]string{{"get", "nodes", "-o", "wide"}, {"get", "pods", "-A", "-o", "wide"}} {
		fmt.Println()
		if _, err := kubectl(ctx, o, what); err != nil {
			return err
		}
	}
	fmt.Printf("\nexport KUBECONFIG=%s\n", filepath.Join(o.dir, kubeconfig))
	return nil
}

// pids translates process IDs from the supervisor's PID namespace to ours.
func (r running) pids() (map[int]int, error) {
	theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", r.pid))
	if err != nil {
		return nil, fmt.Errorf("looking at the supervisor: %w", err)
	}
	statuses, err := filepath.Glob("/proc/[0-9]*/status")
	if err != nil {
		return nil, err
	}
	found := map[int]int{}
	level := -1 // of the supervisor's namespace among those that a process is in, outermost first
	read := func(file string) []string {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil // ended meanwhile
		}
		_, after, _ := strings.Cut(string(text), "\nNSpid:")
		line, _, _ := strings.Cut(after, "\n")
		return strings.Fields(line)
	}
	if fields := read(fmt.Sprintf("/proc/%d/status", r.pid)); len(fields) > 0 {
		level = len(fields) - 1
	}
	for _, file := range statuses {
		fields := read(file)
		if level < 0 || len(fields) <= level {
			continue
		}
		if len(fields) == level+1 {
			if namespace, err := os.Readlink(filepath.Join(filepath.Dir(file), "ns/pid")); err != nil || namespace != theirs {
				continue
			}
		} else if !r.isOurs(filepath.Dir(file)) {
			continue
		}
		inner, err := strconv.Atoi(fields[level])
		outer, outerErr := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err == nil && outerErr == nil {
			found[inner] = outer
		}
	}
	return found, nil
}

// isOurs says whether a process in a deeper namespace descends from the supervisor's: by the namespaces' parents.
func (r running) isOurs(process string) bool {
	fd, err := unix.Open(filepath.Join(process, "ns/pid"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	wanted, err := os.Stat(fmt.Sprintf("/proc/%d/ns/pid", r.pid))
	if err != nil {
		return false
	}
	parent, err := unix.IoctlRetInt(fd, unix.NS_GET_PARENT)
	if err != nil {
		return false
	}
	file := os.NewFile(uintptr(parent), "parent namespace")
	defer file.Close()
	info, err := file.Stat()
	return err == nil && os.SameFile(info, wanted)
}

// kubectl runs kubectl as the administrator, from the machine's network.
func kubectl(ctx context.Context, o options, args []string) (int, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(o.dir, programs, "kubectl"), args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+filepath.Join(o.dir, kubeconfig))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err := cmd.Run()
	if exited := new(exec.ExitError); errors.As(err, &exited) {
		return exited.ExitCode(), nil
	}
	return 0, err
}

// execute runs a command in the rack, or on a node.
func execute(ctx context.Context, o options, args []string) (int, error) {
	if len(args) == 0 {
		return 0, errors.New("say which command to run")
	}
	r, err := ask(ctx, o)
	if err != nil {
		return 0, err
	}
	if o.node == "" {
		if err := os.Setenv("KUBECONFIG", filepath.Join(o.dir, "pki", "admin.kubeconfig")); err != nil {
			return 0, err
		}
		return namespaces.Run(ctx, r.pid, args...)
	}
	for _, n := range r.state.Nodes {
		if n.Name == o.node {
			if n.PID == 0 {
				return 0, fmt.Errorf("%s is off", n.Name)
			}
			// First into the rack, whose process IDs these are, and from there into the node.
			enter := []string{filepath.Join(o.dir, programs, "nodeinit"), "enter", strconv.Itoa(n.PID)}
			return namespaces.Run(ctx, r.pid, append(enter, args...)...)
		}
	}
	return 0, fmt.Errorf("there is no node %q", o.node)
}

// down ends the cluster and removes its directory. It also removes what a supervisor left that was killed.
func down(ctx context.Context, o options) error {
	r, err := ask(ctx, o)
	switch {
	case errors.Is(err, errNotRunning):
		if _, statErr := os.Stat(filepath.Join(o.dir, programs)); errors.Is(statErr, fs.ErrNotExist) {
			return err
		}
		fmt.Println("no cluster runs; removing what one has left")
	case err != nil:
		return err
	default:
		if err := end(ctx, r.pid); err != nil {
			return err
		}
	}
	if err := cluster.Remove(o.dir); err != nil {
		return err
	}
	fmt.Printf("removed the cluster of %s\n", o.dir)
	return nil
}

// end tells the supervisor to end, and waits.
func end(ctx context.Context, pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("opening the supervisor: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, unix.SIGTERM, nil, 0); err != nil {
		return fmt.Errorf("telling the supervisor to end: %w", err)
	}
	const patience = 2 * time.Minute
	deadline := time.Now().Add(patience)
	for ctx.Err() == nil {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 200)
		if n > 0 {
			return nil
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("waiting for the supervisor: %w", err)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the supervisor (process %d) has not ended in %v", pid, patience)
		}
	}
	return context.Cause(ctx)
}

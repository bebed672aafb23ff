// Package daemon runs a real shimd for tests: its own directories, configuration and socket; started, stopped, killed and cleaned up.
//
// It treats shimd as a black box: programs, flags, files and processes. Clients are package criclient's.
package daemon

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/shimd/shimd/integration/criclient"
)

// Config says what to run.
type Config struct {
	Programs     string // directory with shimd and shimd-keeper
	Dir          string // for root, state, configuration, log; made when missing. Root must not be on overlayfs.
	CertsDir     string // [image] config_path; "" for none
	Root         string // --root; "" for one in Dir
	State        string // --state; "" for one in Dir
	CgroupDriver string // [cgroup] driver; "" for auto
	CgroupParent string // [cgroup] parent; "" for the daemon's own choice
	LogLevel     string // "debug" by default
	More         string // further configuration, TOML
	Detach       bool   // its own session, so that it outlives this program and its terminal; the machine's own CNI configuration
}

// startTimeout is long for the sake of emulated machines; a start takes milliseconds.
const startTimeout = 60 * time.Second

// Daemon is one shimd. It is not for use by several goroutines.
type Daemon struct {
	config Config
	cmd    *exec.Cmd
	exited chan error
}

// New writes the configuration. Nothing runs yet.
func New(config Config) (*Daemon, error) {
	d := &Daemon{config: config}
	if err := os.MkdirAll(config.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("making the daemon's directory: %w", err)
	}
	return d, d.Configure(config.More)
}

// Configure writes the configuration with other further text than before, for the next start.
func (d *Daemon) Configure(more string) error {
	config := d.config
	config.More = more
	var text strings.Builder
	if config.CertsDir != "" {
		fmt.Fprintf(&text, "[image]\nconfig_path = %q\n", config.CertsDir)
	}
	if config.CgroupDriver != "" || config.CgroupParent != "" {
		fmt.Fprintf(&text, "[cgroup]\ndriver = %q\nparent = %q\n", cmp.Or(config.CgroupDriver, "auto"), config.CgroupParent)
	}
	// No CNI configuration of the machine's: the built-in network is what is tested unless the test says otherwise.
	if !strings.Contains(config.More, "[network]") && !config.Detach {
		fmt.Fprintf(&text, "[network]\ncni_conf_dir = %q\n", d.path("cni"))
	}
	text.WriteString(config.More)
	if err := os.WriteFile(d.path("shimd.toml"), []byte(text.String()), 0o644); err != nil {
		return fmt.Errorf("writing the daemon's configuration: %w", err)
	}
	return nil
}

func (d *Daemon) path(name string) string { return filepath.Join(d.config.Dir, name) }

// Root and State are the daemon's directories.
func (d *Daemon) Root() string { return cmp.Or(d.config.Root, d.path("root")) }

// State is the state directory.
func (d *Daemon) State() string { return cmp.Or(d.config.State, d.path("state")) }

// Endpoint is the CRI endpoint.
func (d *Daemon) Endpoint() string { return "unix://" + filepath.Join(d.State(), "shimd.sock") }

// LogFile holds what all runs of the daemon printed.
func (d *Daemon) LogFile() string { return d.path("shimd.log") }

// PID is the running daemon's process.
func (d *Daemon) PID() int { return d.cmd.Process.Pid }

// Command is shimd with the daemon's directories and more arguments.
func (d *Daemon) Command(ctx context.Context, args ...string) *exec.Cmd {
	args = append(args, "--config", d.path("shimd.toml"), "--root", d.Root(), "--state", d.State(), "--listen", d.Endpoint())
	return exec.CommandContext(ctx, filepath.Join(d.config.Programs, "shimd"), args...)
}

// Replace makes the next start run programs of another directory: an upgrade.
func (d *Daemon) Replace(programs string) { d.config.Programs = programs }

// Start runs shimd and returns when it has told systemd's way that it is ready, and answers.
func (d *Daemon) Start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	notify, err := listenNotify(d.path("notify.sock"))
	if err != nil {
		return err
	}
	defer notify.Close()
	log, err := os.OpenFile(d.LogFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("opening the daemon's log: %w", err)
	}
	defer log.Close()
	d.cmd = d.Command(context.Background(), "--log-level", cmp.Or(d.config.LogLevel, "debug")) // it outlives this call
	d.cmd.Stdout, d.cmd.Stderr = log, log
	d.cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+d.path("notify.sock"))
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: d.config.Detach}
	if err := d.cmd.Start(); err != nil {
		return fmt.Errorf("starting shimd: %w", err)
	}
	d.exited = make(chan error, 1)
	go func(cmd *exec.Cmd, exited chan<- error) { exited <- cmd.Wait() }(d.cmd, d.exited)
	ready := make(chan error, 1)
	go func() { ready <- waitReady(notify) }()
	select {
	case err := <-ready:
		return err
	case err := <-d.exited:
		d.exited <- err
		return fmt.Errorf("starting shimd: it ended: %w\n%s", errors.Join(err), d.LogTail())
	case <-ctx.Done():
		return fmt.Errorf("starting shimd: not ready: %w\n%s", ctx.Err(), d.LogTail())
	}
}

func listenNotify(path string) (*net.UnixConn, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("making the notify socket: %w", err)
	}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("making the notify socket: %w", err)
	}
	return conn, nil
}

// waitReady reads sd_notify messages until READY=1.
func waitReady(notify *net.UnixConn) error {
	message := make([]byte, 4096)
	for {
		n, err := notify.Read(message)
		if err != nil {
			return fmt.Errorf("waiting for READY=1: %w", err)
		}
		for line := range strings.Lines(string(message[:n])) {
			if strings.TrimSpace(line) == "READY=1" {
				return nil
			}
		}
	}
}

// Stop ends shimd by SIGTERM. Pods stay.
func (d *Daemon) Stop() error { return d.end(syscall.SIGTERM) }

// Kill ends shimd by SIGKILL. Pods stay.
func (d *Daemon) Kill() error { return d.end(syscall.SIGKILL) }

func (d *Daemon) end(signal syscall.Signal) error {
	if d.cmd == nil {
		return nil
	}
	if err := d.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signalling shimd: %w", err)
	}
	select {
	case err := <-d.exited:
		d.exited <- err
		if signal == syscall.SIGTERM && err != nil {
			return fmt.Errorf("shimd did not end well on SIGTERM: %w", err)
		}
		d.cmd = nil
		return nil
	case <-time.After(startTimeout):
		return fmt.Errorf("shimd did not end on %v", signal)
	}
}

// WaitKilled waits for shimd to be ended by SIGKILL: a failpoint's, or the kernel's.
func (d *Daemon) WaitKilled(ctx context.Context) error {
	select {
	case err := <-d.exited:
		d.cmd = nil
		if exit := new(exec.ExitError); errors.As(err, &exit) {
			if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signal() == syscall.SIGKILL {
				return nil
			}
		}
		return fmt.Errorf("shimd ended, but was not killed: %w", errors.Join(err))
	case <-ctx.Done():
		return fmt.Errorf("shimd was not killed: %w", ctx.Err())
	}
}

// LogTail is the end of the daemon's log, for messages of failed tests.
func (d *Daemon) LogTail() string {
	log, err := os.ReadFile(d.LogFile())
	if err != nil {
		return err.Error()
	}
	const keep = 8 << 10
	if len(log) > keep {
		log = log[len(log)-keep:]
	}
	return string(log)
}

// Keepers are the process IDs of this daemon's keeper: shimd-keeper processes that name the state directory.
func (d *Daemon) Keepers() ([]int, error) {
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil, err
	}
	var found []int
	for _, file := range files {
		line, err := os.ReadFile(file)
		if err != nil {
			continue // ended meanwhile
		}
		arguments := bytes.Split(line, []byte{0})
		if strings.HasSuffix(string(arguments[0]), "shimd-keeper") && bytes.Contains(line, []byte(d.State())) {
			var pid int
			if _, err := fmt.Sscanf(file, "/proc/%d/cmdline", &pid); err == nil {
				found = append(found, pid)
			}
		}
	}
	return found, nil
}

// Cleanup removes every pod, ends shimd and its keeper, and undoes what shimd set up on the machine. The directories stay for the caller to remove.
func (d *Daemon) Cleanup(ctx context.Context) error {
	err := d.Stop()
	if out, cleanErr := exec.CommandContext(ctx, filepath.Join(d.config.Programs, "shimd"), "cleanup",
		"--config", d.path("shimd.toml"), "--root", d.Root(), "--state", d.State()).CombinedOutput(); cleanErr != nil {
		err = errors.Join(err, fmt.Errorf("running shimd cleanup: %w\n%s", cleanErr, out))
	}
	left, keeperErr := d.awaitKeepers()
	for _, pid := range left {
		err = errors.Join(err, fmt.Errorf("the keeper (process %d) still runs after shimd cleanup", pid), syscall.Kill(pid, syscall.SIGKILL))
	}
	return errors.Join(err, keeperErr)
}

// awaitKeepers answers the keepers that stay. One that has been told to end has answered before it does.
func (d *Daemon) awaitKeepers() ([]int, error) {
	const patience = 10 * time.Second
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		left, err := d.Keepers()
		if err != nil || len(left) == 0 || time.Now().After(deadline) {
			return left, err
		}
	}
}

// Client opens a CRI client.
func (d *Daemon) Client() (*criclient.Client, error) { return criclient.Dial(d.Endpoint()) }

package runtime

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/shimd/shimd/keeper"
	"github.com/shimd/shimd/launch"
)

const (
	// runtimePatience is how long one command of an external runtime may take: one that boots a virtual machine needs seconds.
	runtimePatience = 2 * time.Minute
	// runtimeOutputLimit bounds what is read of an external runtime's answers, logs and pid files.
	runtimeOutputLimit = 1 << 20
	// runtimeSearchPath is the PATH of external runtimes: kata and others find their helpers by it.
	runtimeSearchPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// runtimeCommand is one call of an external OCI runtime, with a directory for the files that it writes.
type runtimeCommand struct {
	r       *Runtime
	handler string
	program string
	root    string
	dir     string
}

func (r *Runtime) newCommand(c *container) (*runtimeCommand, error) {
	handler := c.sandbox.snapshot().Config.RuntimeHandler
	configured, ok := r.OCIRuntimes[handler]
	if !ok {
		return nil, fmt.Errorf("runtime handler %q is no longer configured: %w", handler, errdefs.ErrFailedPrecondition)
	}
	root := r.runtimeRoot(c)
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, fmt.Errorf("making the directory of runtime %q: %w", handler, err)
	}
	dir, err := os.MkdirTemp(c.dir, "oci-")
	if err != nil {
		return nil, fmt.Errorf("making a directory for a command of runtime %q: %w", handler, err)
	}
	return &runtimeCommand{r: r, handler: handler, program: configured.Path, root: root, dir: dir}, nil
}

func (k *runtimeCommand) close() { _ = os.RemoveAll(k.dir) }

func (k *runtimeCommand) pidFile() string { return filepath.Join(k.dir, "pid") }
func (k *runtimeCommand) logFile() string { return filepath.Join(k.dir, "log") }

// argv is the same for all runtimes with runc's command line, which containerd and CRI-O use too.
func (k *runtimeCommand) argv(args []string) []string {
	return append([]string{k.program, "--root", k.root, "--log", k.logFile(), "--log-format", "json"}, args...)
}

// run runs a command that leaves no process behind, as the daemon's child, and answers what it prints.
func (k *runtimeCommand) run(ctx context.Context, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, runtimePatience)
	defer cancel()
	argv := k.argv(args)
	stdout, stderr := &boundedBuffer{limit: runtimeOutputLimit}, &boundedBuffer{limit: runtimeOutputLimit}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env, cmd.Dir = []string{runtimeSearchPath}, "/"
	cmd.Stdout, cmd.Stderr = stdout, stderr
	cmd.WaitDelay = time.Second // something that it has left behind may hold the pipes
	if err := cmd.Run(); err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		if ctx.Err() != nil {
			err = fmt.Errorf("given up after %s: %w", runtimePatience, ctx.Err())
		}
		return nil, k.failure(args[0], err, stderr.String())
	}
	return stdout.Bytes(), nil
}

// runBelowKeeper runs a command whose process stays, so that the keeper becomes that one's parent. A command that is given up is killed.
func (k *runtimeCommand) runBelowKeeper(ctx context.Context, stdio [3]*os.File, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, runtimePatience)
	defer cancel()
	prepared, err := launch.PrepareCommand(launch.CommandInput{
		Args: k.argv(args), Env: []string{runtimeSearchPath}, Stdio: stdio, TmpDir: k.dir,
	})
	if err != nil {
		return err
	}
	defer prepared.Close()
	id := "oci-" + newID()
	exits := k.r.expectExit(id)
	started, err := k.r.startProgram(ctx, id, prepared, nil, true)
	if err != nil {
		k.r.forgetExit(id)
		return err
	}
	started.PIDFD.Close()
	select {
	case exit := <-exits:
		if exit.Code != 0 || exit.Unknown {
			return k.failure(args[0], fmt.Errorf("exit status %d", exit.Code), "")
		}
		return nil
	case <-ctx.Done():
	}
	if err := k.r.keeper.Signal(context.WithoutCancel(ctx), id, int(unix.SIGKILL)); err != nil && !errdefs.IsNotFound(err) {
		return k.failure(args[0], fmt.Errorf("killing it: %w", err), "")
	}
	<-exits
	return k.failure(args[0], fmt.Errorf("given up: %w", ctx.Err()), "")
}

// process opens the process whose number the command has written.
func (k *runtimeCommand) process() (keeper.Started, error) {
	text, err := os.ReadFile(k.pidFile()) // written by the runtime, in a directory that nobody else gets at
	if err != nil {
		return keeper.Started{}, fmt.Errorf("runtime %s has not told its process: %w", k.program, err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid <= 1 {
		return keeper.Started{}, fmt.Errorf("runtime %s tells %q for its process: %w", k.program, text, errdefs.ErrInternal)
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return keeper.Started{}, fmt.Errorf("opening process %d of runtime %s: %w", pid, k.program, err)
	}
	return keeper.Started{PID: pid, PIDFD: os.NewFile(uintptr(fd), "pidfd"), StartedAt: time.Now()}, nil
}

// failure tells what the runtime says of it in its log, else on its standard error.
func (k *runtimeCommand) failure(verb string, err error, stderr string) error {
	message := lastError(k.logFile())
	if message == "" {
		message = strings.TrimSpace(stderr)
	}
	if message != "" {
		err = fmt.Errorf("%s (%w)", message, err)
	}
	kind := error(errdefs.ErrInternal)
	if strings.Contains(message, "executable file") { // what the request names is not in the image, or can't be executed
		kind = errdefs.ErrInvalidArgument
	}
	return fmt.Errorf("OCI runtime %s (handler %q): %s: %w: %w", k.program, k.handler, verb, err, kind)
}

// lastError finds the last error in a runtime's log, which is JSON line by line. What is of another form is passed over.
func lastError(name string) string {
	file, err := os.Open(name)
	if err != nil {
		return ""
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, runtimeOutputLimit))
	if err != nil {
		return ""
	}
	last := ""
	for line := range bytes.Lines(text) {
		var entry struct{ Level, Msg string }
		if json.Unmarshal(line, &entry) == nil && (entry.Level == "error" || entry.Level == "fatal") {
			last = entry.Msg
		}
	}
	return strings.TrimSpace(last)
}

// runtimeState asks the runtime how the container is: "created", "running", "stopped", ...
func (r *Runtime) runtimeState(ctx context.Context, c *container) (string, error) {
	command, err := r.newCommand(c)
	if err != nil {
		return "", err
	}
	defer command.close()
	answer, err := command.run(ctx, "state", string(c.id))
	if err != nil {
		return "", err
	}
	var state struct{ Status string }
	if err := json.Unmarshal(answer, &state); err != nil {
		return "", fmt.Errorf("state of container %s from runtime %s: %w", c.id, command.program, err)
	}
	return state.Status, nil
}

// deleteExternal lets the runtime forget the container, killing it if it runs, and detaches what its bundle has. It is idempotent.
func (r *Runtime) deleteExternal(ctx context.Context, c *container) error {
	if !r.isExternal(c) {
		return nil
	}
	return errors.Join(r.runtimeDelete(ctx, c), detachBundle(c.dir))
}

// runtimeDelete needs no runtime for what the runtime has never known or has forgotten, and none that was taken out of the
// configuration or uninstalled: the container's processes end with its cgroup, and what remains is a file.
func (r *Runtime) runtimeDelete(ctx context.Context, c *container) error {
	state := filepath.Join(r.runtimeRoot(c), string(c.id))
	if _, err := os.Lstat(state); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	command, err := r.newCommand(c)
	if err != nil {
		r.Logger.Warn("removing a container without its OCI runtime", "container", c.id, "error", err)
		return os.RemoveAll(state)
	}
	defer command.close()
	if _, err = command.run(ctx, "delete", "--force", string(c.id)); err == nil {
		return os.RemoveAll(state)
	}
	if _, stateErr := r.runtimeState(ctx, c); stateErr != nil && ctx.Err() == nil {
		// It does not know the container, or can't read its own state: it would never get any further.
		r.Logger.Warn("removing a container that its OCI runtime does not know", "container", c.id, "error", err)
		return os.RemoveAll(state)
	}
	return err
}

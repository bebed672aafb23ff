package cni

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
	"golang.org/x/sys/unix"
)

const (
	maxOutput = 1 << 20 // of a plugin's answer, bytes; more is an error
	maxStderr = 16 << 10
	waitDelay = time.Second // for children that keep a killed plugin's output open
)

// runner runs plugins. Unlike libcni's own it bounds what a plugin may say, and when the deadline comes it kills the plugin with all that it started.
type runner struct{ version.PluginDecoder }

var _ invoke.Exec = (*runner)(nil)

func (*runner) FindInPath(plugin string, paths []string) (string, error) {
	if !plainName(plugin) {
		return "", fmt.Errorf("plugin type %q is not a plain name", plugin)
	}
	return invoke.FindInPath(plugin, paths)
}

func (*runner) ExecPlugin(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	for try := 0; ; try++ {
		out, err := runPlugin(ctx, path, stdin, environ)
		// An installer may be writing the plugin, or another thread forked while we wrote it.
		if !errors.Is(err, unix.ETXTBSY) || try == 5 {
			return out, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func runPlugin(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	stdout, stderr := &bounded{max: maxOutput}, &bounded{max: maxStderr}
	cmd := exec.CommandContext(ctx, path)
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = environ, bytes.NewReader(stdin), stdout, stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = waitDelay
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	err := cmd.Run()
	switch {
	case ctx.Err() != nil:
		return nil, fmt.Errorf("plugin %s was killed since it did not end in time: %w%s", path, context.Cause(ctx), stderr.quoted())
	case stdout.lost:
		return nil, fmt.Errorf("plugin %s answered more than %d bytes", path, maxOutput)
	case err == nil, errors.Is(err, exec.ErrWaitDelay): // a child that it left behind holds its output; it ended well itself
		return stdout.Bytes(), nil
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return nil, fmt.Errorf("running plugin %s: %w", path, err)
	}
	said := &types.Error{}
	if json.Unmarshal(stdout.Bytes(), said) == nil && said.Msg != "" {
		return nil, said
	}
	return nil, fmt.Errorf("plugin %s: %w%s", path, err, stderr.quoted())
}

// bounded keeps the first max bytes.
type bounded struct {
	bytes.Buffer
	max  int
	lost bool
}

func (b *bounded) Write(p []byte) (int, error) {
	if room := b.max - b.Len(); len(p) > room {
		b.lost = true
		b.Buffer.Write(p[:room])
		return len(p), nil // the writer must not see a difference, or it would die of SIGPIPE before it tells its error
	}
	return b.Buffer.Write(p)
}

// ReadFrom hides that of bytes.Buffer, which knows no bound.
func (b *bounded) ReadFrom(r io.Reader) (int64, error) { return io.Copy(struct{ io.Writer }{b}, r) }

func (b *bounded) quoted() string {
	if s := strings.TrimSpace(b.String()); s != "" {
		return fmt.Sprintf(" (it said %q)", s)
	}
	return ""
}

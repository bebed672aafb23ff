package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// Down removes what Up started and made: pods, processes, directories. It is idempotent, and works after an Up that failed half-way.
func (d Demo) Down(ctx context.Context) error {
	if _, err := os.Stat(d.dir()); errors.Is(err, fs.ErrNotExist) {
		d.Progress("nothing to remove: %s is not there", d.dir())
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	// shimlet first, or it would start the pods again.
	d.Progress("stopping shimlet and shimd")
	err := errors.Join(d.end("shimlet"), d.end("shimd"))
	d.Progress("removing pods and what shimd set up")
	cleanup := exec.CommandContext(ctx, d.shimd(), "cleanup", "--config", d.path("shimd.toml"), "--root", d.Root, "--state", d.State)
	if out, cleanErr := cleanup.CombinedOutput(); cleanErr != nil && exists(d.State) {
		err = errors.Join(err, fmt.Errorf("running shimd cleanup: %w\n%s", cleanErr, out))
	}
	err = errors.Join(err, d.end("registry"))
	if err != nil {
		return err // the directories still tell what is left
	}
	for _, dir := range []string{d.Root, d.State, d.dir()} {
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("removing %s: %w", dir, err)
		}
	}
	d.Progress("all gone")
	return nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// end stops one of the demo's processes, if it still is the one that was started.
func (d Demo) end(name string) error {
	text, err := os.ReadFile(d.marker(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("stopping %s: %w", name, err)
	}
	pid, err := strconv.Atoi(string(text))
	if err != nil {
		return fmt.Errorf("stopping %s: reading %s: %w", name, d.marker(name), err)
	}
	// The number may be another process by now: a pid is only trusted while its command line names the demo.
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if errors.Is(err, fs.ErrNotExist) || (err == nil && !bytes.Contains(line, []byte(d.State))) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("stopping %s: %w", name, err)
	}
	process, err := os.FindProcess(pid)
	if err != nil {
		return fmt.Errorf("stopping %s: %w", name, err)
	}
	if err := process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stopping %s: %w", name, err)
	}
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		line, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline")) // gone counts as empty
		if len(line) == 0 {
			return nil // gone, or a zombie that its parent will reap
		}
	}
	if err := process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("killing %s: %w", name, err)
	}
	return nil
}

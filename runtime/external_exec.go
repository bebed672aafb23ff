package runtime

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/shimd/shimd/keeper"
	"github.com/shimd/shimd/runtime/ocispec"
)

// execExternal runs a command in the container by its OCI runtime, detached: the runtime ends once the command runs, which comes to
// the keeper then. So the exit status and signals are the command's own, not those of a runtime in between.
func (r *Runtime) execExternal(ctx context.Context, c *container, e *execSession, cmd []string) (err error) {
	spec, err := c.readSpec()
	if err != nil {
		return err
	}
	process, err := ocispec.ExecProcess(spec, cmd, e.tty)
	if err != nil {
		return err
	}
	command, err := r.newCommand(c)
	if err != nil {
		return err
	}
	defer command.close()
	text, err := json.Marshal(process)
	if err != nil {
		return fmt.Errorf("encoding the command: %w", err)
	}
	file := filepath.Join(command.dir, "process.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return fmt.Errorf("writing the command: %w", err)
	}
	args := []string{"exec", "--detach", "--process", file, "--pid-file", command.pidFile()}
	defer func() {
		if err != nil {
			command.killProcess() // that nobody knows of
		}
	}()
	if e.tty {
		err = r.execOnTerminal(ctx, c, command, e, args)
	} else {
		err = command.runBelowKeeper(ctx, e.child, append(args, string(c.id))...)
	}
	if err != nil {
		return err
	}
	started, err := command.process()
	if err != nil {
		return err
	}
	r.holdExec(e, started.PIDFD)
	if err := r.keeper.Adopt(ctx, keeper.AdoptRequest{ID: e.id, PIDFD: started.PIDFD}); err != nil {
		return fmt.Errorf("giving the command to the keeper: %w", err)
	}
	return nil
}

func (r *Runtime) execOnTerminal(ctx context.Context, c *container, command *runtimeCommand, e *execSession, args []string) error {
	console, err := r.newConsole()
	if err != nil {
		return err
	}
	defer console.close()
	stdio, err := nullStdio()
	if err != nil {
		return err
	}
	defer closeAll(stdio[:]...)
	if err := command.runBelowKeeper(ctx, stdio, append(args, "--console-socket", console.path, string(c.id))...); err != nil {
		return err
	}
	master, err := console.receive()
	if err != nil {
		return err
	}
	defer master.Close()
	e.terminal, err = duplicateTerminal(master)
	return err
}

// killProcess ends the process that the command has left, if there is one.
func (k *runtimeCommand) killProcess() {
	started, err := k.process()
	if err != nil {
		return
	}
	defer started.PIDFD.Close()
	_ = unix.PidfdSendSignal(int(started.PIDFD.Fd()), unix.SIGKILL, nil, 0)
}

package main

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/shimd/shimd/config"
)

// cleanup removes every pod, ends the keeper and undoes what shimd set up on the machine. Images stay: they are files below the root directory.
func cleanup(ctx context.Context, cfg config.Config) error {
	log := newLogger(cfg)
	if unix.Geteuid() != 0 {
		return errors.New("shimd cleanup must run as root: it removes mounts, cgroups and firewall rules")
	}
	unlock, err := lockState(cfg)
	if err != nil {
		return err
	}
	defer unlock()
	rooms, err := openRooms(ctx, cfg, log, &telemetry{})
	if err != nil {
		return err
	}
	sandboxes, err := rooms.runtime.Sandboxes(ctx)
	errs := []error{err}
	for _, sandbox := range sandboxes {
		if err := rooms.runtime.RemoveSandbox(ctx, sandbox.ID); err != nil {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("removing pods: %w", errors.Join(err, rooms.close()))
	}
	errs = append(errs, rooms.network.Uninstall(ctx), rooms.keeper.Shutdown(ctx, true), rooms.close())
	return errors.Join(errs...)
}

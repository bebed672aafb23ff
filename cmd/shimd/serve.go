package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"k8s.io/klog/v2"

	"github.com/shimd/shimd/config"
	"github.com/shimd/shimd/cri"
)

// stopPatience is how long requests under way may take when the daemon is told to end.
const stopPatience = 10 * time.Second

// serve runs the daemon until ctx ends.
func serve(ctx context.Context, cfg config.Config) (err error) {
	log := newLogger(cfg)
	klog.SetSlogLogger(log.With("from", "library"))
	if unix.Geteuid() != 0 {
		return errors.New("shimd must run as root: it makes namespaces, mounts and cgroups")
	}
	unlock, err := lockState(cfg)
	if err != nil {
		return err
	}
	defer unlock()

	observed, err := newTelemetry(ctx, cfg)
	if err != nil {
		return err
	}
	defer observed.close()
	// What can be refused is refused before a keeper is started: it would outlive this process.
	if err := observed.serve(cfg.Metrics.Address, log); err != nil {
		return err
	}
	if err := clearSocket(cfg.Listen); err != nil {
		return err
	}
	rooms, err := openRooms(ctx, cfg, log, observed)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rooms.close()) }()

	service, err := cri.New(cri.Options{
		Runtime: rooms.runtime, Images: rooms.images, Version: version, StreamingAddress: cfg.Stream.Address,
		Logger: log, Metrics: observed.registerer(), Tracer: observed.tracerProvider(),
	})
	if err != nil {
		return err
	}
	defer service.Close()
	server := grpc.NewServer(service.ServerOptions()...)
	service.Register(server)

	listener, err := listen(cfg.Listen)
	if err != nil {
		return err
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	log.Info("shimd serves CRI", "listen", cfg.Listen, "version", version, "root", cfg.Root, "state", cfg.State,
		"cgroup_version", rooms.cgroups.Version(), "cgroup_driver", rooms.cgroups.Driver())
	notify(log, daemon.SdNotifyReady)

	select {
	case err := <-failed:
		return fmt.Errorf("serving CRI: %w", err)
	case <-ctx.Done():
	}
	log.Info("shimd ends; pods run on")
	notify(log, daemon.SdNotifyStopping)
	stopGracefully(server)
	return nil
}

// stopGracefully lets requests end, but not for ever: streams of events have no end of their own.
func stopGracefully(server *grpc.Server) {
	timer := time.AfterFunc(stopPatience, server.Stop)
	defer timer.Stop()
	server.GracefulStop()
}

func notify(log *slog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("telling the service manager", "state", state, "error", err)
	}
}

func newLogger(cfg config.Config) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(cfg.LogLevel)) // checked with the configuration
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
}

// lockState makes the directories and takes the state directory for this process alone.
func lockState(cfg config.Config) (unlock func(), err error) {
	for _, dir := range []string{cfg.Root, cfg.State} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return nil, fmt.Errorf("making %s: %w", dir, err)
		}
		// Whatever it was before: nothing in it is anybody else's business (CVE-2021-41103, CVE-2024-25621).
		if err := os.Chmod(dir, 0o711); err != nil {
			return nil, fmt.Errorf("closing %s to others: %w", dir, err)
		}
	}
	name := filepath.Join(cfg.State, "shimd.lock")
	file, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking the state directory: %w", err)
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		holder, _ := os.ReadFile(name)
		file.Close()
		return nil, fmt.Errorf("another shimd (process %s) runs with the state directory %s: end it, or give this one --state, --root and --listen of its own",
			strings.TrimSpace(string(holder)), cfg.State)
	}
	if err := file.Truncate(0); err == nil {
		_, _ = file.WriteAt([]byte(fmt.Sprintln(os.Getpid())), 0)
	}
	return func() { file.Close() }, nil
}

// clearSocket makes place for the socket: what an earlier daemon has left there is removed, anything else refused.
func clearSocket(address string) error {
	path := strings.TrimPrefix(address, "unix://")
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("looking for the socket of an earlier daemon: %w", err)
	}
	if info.Mode().Type() != os.ModeSocket {
		return fmt.Errorf("listening at %s: it is there and not a socket: remove it, or choose another place by --listen", path)
	}
	if conn, err := net.Dial("unix", path); err == nil {
		conn.Close()
		return fmt.Errorf("listening at %s: another process serves it: end that, or choose another place by --listen", path)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("removing the socket of an earlier daemon: %w", err)
	}
	return nil
}

// listen makes the socket, for root and its group alone. Its place has been cleared.
func listen(address string) (net.Listener, error) {
	path := strings.TrimPrefix(address, "unix://")
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return nil, fmt.Errorf("making the socket's directory: %w", err)
	}
	// Made with its mode: between making and chmod nobody gets in.
	old := unix.Umask(0o117)
	listener, err := net.Listen("unix", path)
	unix.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("listening at %s: %w", path, err)
	}
	return listener, nil
}

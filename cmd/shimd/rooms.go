package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/shimd/shimd/cgroups"
	"github.com/shimd/shimd/cgroups/devicefilter"
	"github.com/shimd/shimd/config"
	"github.com/shimd/shimd/image"
	"github.com/shimd/shimd/keeper"
	"github.com/shimd/shimd/network"
	"github.com/shimd/shimd/runtime"
	"github.com/shimd/shimd/runtime/ocispec"
	"github.com/shimd/shimd/runtime/ocispec/cdi"
	"github.com/shimd/shimd/runtime/ocispec/hostprobe"
	"github.com/shimd/shimd/security"
)

// rooms are the daemon's parts, open and wired.
type rooms struct {
	images  *image.Store
	network network.Network
	cgroups cgroups.Manager
	keeper  *keeper.Client
	runtime *runtime.Runtime
}

// openRooms opens every part, and lets the runtime find what an earlier daemon has left.
func openRooms(ctx context.Context, cfg config.Config, log *slog.Logger, observed *telemetry) (_ *rooms, err error) {
	r := &rooms{}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.close())
		}
	}()
	if r.images, err = image.Open(ctx, image.Options{
		Root: filepath.Join(cfg.Root, "image"), StateDir: cfg.State, CertsDir: cfg.Image.ConfigPath,
		Pinned: cfg.Image.Pinned, MaxConcurrentLayers: cfg.Image.MaxConcurrentDownloads, Logger: log.With("room", "image"),
	}); err != nil {
		return nil, err
	}
	if r.network, err = network.Open(ctx, networkOptions(cfg, log)); err != nil {
		return nil, err
	}
	if r.cgroups, err = cgroups.New(ctx, cgroups.Options{
		Driver: cfg.Cgroup.Driver, Parent: cgroupParent(cfg), Devices: devicefilter.New(), Logger: log.With("room", "cgroups"),
	}); err != nil {
		return nil, err
	}
	options, err := runtimeOptions(ctx, cfg, log)
	if err != nil {
		return nil, err
	}
	options.Images, options.Network, options.Cgroups = r.images, r.network, r.cgroups
	options.Observe, options.Fault = observed.step, failpoints(cfg.Debug.Failpoints)
	if r.runtime, err = runtime.New(options); err != nil {
		return nil, err
	}
	binary, err := keeperBinary()
	if err != nil {
		return nil, err
	}
	if r.keeper, err = keeper.Connect(ctx, keeper.Options{
		StateDir: cfg.State, KeeperBinary: binary, Version: version,
		OnExit: r.runtime.OnExit, OnRestart: r.runtime.OnRestart, Logger: log.With("room", "keeper"),
	}); err != nil {
		return nil, err
	}
	r.runtime.UseKeeper(r.keeper)
	if err := r.runtime.Recover(ctx); err != nil {
		return nil, fmt.Errorf("finding what an earlier shimd has left: %w", err)
	}
	return r, nil
}

// close lets the parts go, the last opened first. Pods live on.
func (r *rooms) close() error {
	var errs []error
	if r.keeper != nil { // first: it tells the runtime of exits
		errs = append(errs, r.keeper.Close())
	}
	if r.runtime != nil {
		errs = append(errs, r.runtime.Close())
	}
	if r.cgroups != nil {
		errs = append(errs, r.cgroups.Close())
	}
	if r.network != nil {
		errs = append(errs, r.network.Close())
	}
	if r.images != nil {
		errs = append(errs, r.images.Close())
	}
	return errors.Join(errs...)
}

func networkOptions(cfg config.Config, log *slog.Logger) network.Options {
	return network.Options{
		StateDir: filepath.Join(cfg.State, "network"), CNIConfDir: cfg.Network.CNIConfDir, CNIBinDirs: cfg.Network.CNIBinDirs,
		PodCIDR: cfg.Network.PodCIDR, BridgeName: cfg.Network.Bridge, MTU: cfg.Network.MTU, NoIPMasq: !cfg.Network.Masquerade,
		Logger: log.With("room", "network"),
	}
}

func runtimeOptions(ctx context.Context, cfg config.Config, log *slog.Logger) (runtime.Options, error) {
	host, err := probeHost(ctx, log)
	if err != nil {
		return runtime.Options{}, err
	}
	external, err := ociRuntimes(cfg)
	if err != nil {
		return runtime.Options{}, err
	}
	options := runtime.Options{
		Root: cfg.Root, State: cfg.State, Host: host, Machine: hostprobe.Machine(), SeccompRoot: cfg.Security.SeccompRoot,
		OCIRuntimes: external, PidsLimit: cfg.Limits.Pids, MaxLogLine: cfg.Logs.MaxLineBytes,
		Logger: log.With("room", "runtime"),
	}
	if len(cfg.CDI.SpecDirs) > 0 {
		if options.CDI, err = cdi.NewRegistry(cfg.CDI.SpecDirs); err != nil {
			return options, fmt.Errorf("configuration: cdi.spec_dirs: %w", err)
		}
	}
	return options, nil
}

// ociRuntimes are the external runtimes that are configured; each must be there.
func ociRuntimes(cfg config.Config) (map[string]runtime.OCIRuntime, error) {
	runtimes := make(map[string]runtime.OCIRuntime, len(cfg.Runtimes))
	for name, external := range cfg.Runtimes {
		if _, err := os.Stat(external.Path); err != nil {
			return nil, fmt.Errorf("configuration: runtimes.%s.path: %w; install it, or name where it is", name, err)
		}
		runtimes[name] = runtime.OCIRuntime{Path: external.Path}
	}
	return runtimes, nil
}

// probeHost finds what this machine can do, once.
func probeHost(ctx context.Context, log *slog.Logger) (ocispec.Host, error) {
	host, err := hostprobe.Host()
	if err != nil {
		return host, fmt.Errorf("finding out what this machine can do: %w", err)
	}
	if host.AppArmor {
		switch err := security.LoadDefault(ctx); {
		case err == nil:
			host.AppArmorDefault = security.DefaultProfileName
		case errdefs.IsNotFound(err):
			log.Warn("AppArmor is on, but the default profile can't be loaded: install apparmor_parser", "error", err)
		default:
			log.Warn("loading the default AppArmor profile", "error", err)
		}
	}
	return host, nil
}

// defaultState is the state directory of the machine's only shimd, as it usually is.
const defaultState = "/run/shimd"

// cgroupParent is the group of the pods that are this daemon's own. Daemons that run side by side must not share one: each removes at its start what is in its
// own and in none of its records.
func cgroupParent(cfg config.Config) string {
	if cfg.Cgroup.Parent != "" || cfg.State == defaultState {
		return cfg.Cgroup.Parent
	}
	sum := sha256.Sum256([]byte(cfg.State))
	return "shimd_" + hex.EncodeToString(sum[:4])
}

// keeperBinary finds shimd-keeper beside this program.
func keeperBinary() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("finding shimd-keeper: %w", err)
	}
	path := filepath.Join(filepath.Dir(self), "shimd-keeper")
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("shimd-keeper must stand beside shimd: %w", err)
	}
	return path, nil
}

// failpoints makes the configured steps fail, or end the daemon as kill -9 would. nil without any.
func failpoints(configured []string) func(step string) error {
	if len(configured) == 0 {
		return nil
	}
	type action struct {
		exit bool
		left atomic.Int64 // how often it still fails
	}
	actions := make(map[string]*action, len(configured))
	for _, failpoint := range configured {
		step, what, _ := strings.Cut(failpoint, "=")
		a := &action{exit: what == "exit"}
		a.left.Store(math.MaxInt64)
		if _, times, ok := strings.Cut(what, ":"); ok {
			n, _ := strconv.ParseInt(times, 10, 64) // checked with the configuration
			a.left.Store(n)
		}
		actions[step] = a
	}
	return func(step string) error {
		a := actions[step]
		switch {
		case a == nil || a.left.Add(-1) < 0:
			return nil
		case a.exit:
			return errors.Join(unix.Kill(os.Getpid(), unix.SIGKILL), errdefs.ErrInternal)
		}
		return fmt.Errorf("failpoint %s: %w", step, errdefs.ErrInternal)
	}
}

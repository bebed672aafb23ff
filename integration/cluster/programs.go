package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/shimd/shimd/integration/enclosure"
	"github.com/shimd/shimd/integration/tools"
)

// PreparedVariable names a directory that Prepare has filled, for Start.
const PreparedVariable = "PREPARED_CLUSTER"

// Prepare puts every program that a cluster runs into a directory: shimd's own are built from the source tree at root, Kubernetes' are built where the cache
// does not have them. Unlike Start it may need a network, for modules.
func Prepare(ctx context.Context, root, dir string, progress func(format string, args ...any)) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("making the directory of the cluster's programs: %w", err)
	}
	// A temporary directory is closed to others, and the control plane's user is one of them.
	if err := os.Chmod(dir, 0o755); err != nil {
		return fmt.Errorf("opening the directory of the cluster's programs: %w", err)
	}
	built, err := tools.BuildPrograms(ctx, root, tools.ClusterPrograms(), progress)
	if err != nil {
		return err
	}
	for _, p := range built {
		if err := link(p.Path, filepath.Join(dir, p.Name)); err != nil {
			return err
		}
	}
	progress("building shimd and shimlet")
	if err := tools.BuildShimd(ctx, root, dir); err != nil {
		return err
	}
	return tools.Build{Dir: root, Package: "./integration/cluster/nodeinit", Out: filepath.Join(dir, "nodeinit")}.Run(ctx)
}

// Enter puts a test or a command that starts clusters into an enclosure, its programs built before, outside: call it first in main or TestMain. When
// reason is not empty there is none, and it says why. Programs that take minutes to build must be in the cache.
func Enter(ctx context.Context, opts enclosure.Options) (reason string, err error) {
	if os.Geteuid() != 0 {
		return "root is needed: namespaces, mounts and control groups", nil
	}
	if os.Getenv(PreparedVariable) != "" {
		enclosure.Enter(opts)
		return "", nil
	}
	root, err := tools.ModuleRoot()
	if err != nil {
		return "", err
	}
	missing, err := tools.MissingPrograms(ctx, root, tools.ClusterPrograms())
	if err != nil {
		return "", err
	}
	if len(missing) > 0 {
		return fmt.Sprintf("not in the cache: %s; `make kubernetes` builds them, which takes a quarter of an hour or so", strings.Join(missing, ", ")), nil
	}
	dir, err := os.MkdirTemp("/var/tmp", "shimd-cluster-programs-")
	if err != nil {
		return "", fmt.Errorf("making a directory for the cluster's programs: %w", err)
	}
	more := opts.AtExit
	opts.AtExit = func() error {
		err := os.RemoveAll(dir)
		if more != nil {
			err = errors.Join(more(), err)
		}
		return err
	}
	if err := Prepare(ctx, root, dir, func(string, ...any) {}); err != nil {
		return "", errors.Join(err, opts.AtExit())
	}
	if err := os.Setenv(PreparedVariable, dir); err != nil {
		return "", err
	}
	enclosure.Enter(opts)
	return "", nil
}

// findPrograms sees that there is a directory of programs.
func (c *Cluster) findPrograms(ctx context.Context) error {
	if c.config.Programs == "" {
		c.config.Programs = os.Getenv(PreparedVariable)
	}
	if c.config.Programs == "" {
		root, err := tools.ModuleRoot()
		if err != nil {
			return err
		}
		c.config.Programs = c.path("bin")
		return Prepare(ctx, root, c.config.Programs, c.progress)
	}
	dir, err := filepath.Abs(c.config.Programs)
	if err == nil {
		c.config.Programs = dir
		_, err = os.Stat(c.program("nodeinit"))
	}
	if err != nil {
		return fmt.Errorf("looking for the cluster's programs: %w", err)
	}
	return nil
}

// link makes a hard link where it can: the programs are large.
func link(from, to string) error {
	if err := os.Remove(to); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("replacing a program of the cluster: %w", err)
	}
	if err := os.Link(from, to); err == nil {
		return nil
	}
	body, err := os.ReadFile(from)
	if err != nil {
		return fmt.Errorf("copying a program of the cluster: %w", err)
	}
	if err := os.WriteFile(to, body, 0o755); err != nil {
		return fmt.Errorf("copying a program of the cluster: %w", err)
	}
	return nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/shimd/shimd/integration/conformance"
	"github.com/shimd/shimd/integration/controlgroup"
	"github.com/shimd/shimd/integration/daemon"
	"github.com/shimd/shimd/integration/enclosure"
	"github.com/shimd/shimd/integration/images"
	"github.com/shimd/shimd/integration/registry"
	"github.com/shimd/shimd/integration/tools"
)

// workVariable carries the working directory into the enclosure.
const workVariable = "SHIMD_CONFORMANCE_WORK"

// runNode runs e2e_node.test on a node made for it.
func runNode(ctx context.Context, o options, suite conformance.Suite) (err error) {
	root, err := tools.ModuleRoot()
	if err != nil {
		return err
	}
	programs, err := buildPrograms(ctx, root, "kubelet", "ginkgo", "e2e_node.test")
	if err != nil {
		return err
	}
	// Outside, where there is a network; inside they are found on the disk.
	set, err := images.NodeConformance(ctx, images.Options{Root: root})
	if err != nil {
		return err
	}
	work, err := enterNode(ctx, root)
	if err != nil {
		return err
	}
	if err := conformance.PrepareNode(work); err != nil {
		return err
	}
	d, stop, err := startDaemon(ctx, set, work, o.reports)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	results, err := conformance.NodeRun{
		Suite: suite, Ginkgo: programs["ginkgo"], Program: programs["e2e_node.test"], Agents: filepath.Dir(programs["kubelet"]),
		Endpoint: d.Endpoint(), Reports: o.reports, Work: work, Parallel: o.parallel, Again: o.again, Progress: os.Stdout,
	}.Do(ctx)
	return conclude(o, suite, results, err)
}

// enterNode answers inside of the node's enclosure and control group, with a working directory on a disk that has shimd's programs in bin. All of it goes
// when the program ends.
func enterNode(ctx context.Context, root string) (string, error) {
	if os.Geteuid() != 0 {
		return "", errors.New("root is needed: run this with sudo")
	}
	work := os.Getenv(workVariable)
	var remove func() error
	if work == "" {
		var err error
		// Not /tmp: it may be a tmpfs or small.
		if work, err = os.MkdirTemp("/var/tmp", "shimd-conformance-"); err != nil {
			return "", fmt.Errorf("making a working directory: %w", err)
		}
		if err := os.Mkdir(filepath.Join(work, "bin"), 0o755); err != nil {
			return "", fmt.Errorf("making a working directory: %w", err)
		}
		if err := tools.BuildShimd(ctx, root, filepath.Join(work, "bin")); err != nil {
			return "", errors.Join(err, os.RemoveAll(work))
		}
		if remove, err = conformance.MakeMountPoints(); err != nil {
			return "", errors.Join(err, os.RemoveAll(work))
		}
		if err := os.Setenv(workVariable, work); err != nil {
			return "", err
		}
	}
	group := "shimd-test-" + filepath.Base(work)
	enclosure.Enter(enclosure.Options{AtExit: func() error {
		return errors.Join(controlgroup.Remove(group), os.RemoveAll(work), remove())
	}})
	return work, conformance.EnterCgroup(group)
}

// startDaemon starts shimd and a registry with the suite's images. stop ends both and keeps shimd's log in reports.
func startDaemon(ctx context.Context, set images.Set, work, reports string) (d *daemon.Daemon, stop func() error, err error) {
	server, err := registry.Start(ctx, "127.0.0.1:0", set)
	if err != nil {
		return nil, nil, err
	}
	certs := filepath.Join(work, "certs.d")
	if err := server.WriteHosts(certs); err != nil {
		return nil, nil, errors.Join(err, server.Close())
	}
	d, err = daemon.New(daemon.Config{
		Programs: filepath.Join(work, "bin"), Dir: filepath.Join(work, "shimd"), CertsDir: certs, CgroupDriver: "cgroupfs", More: testHandler(),
	})
	if err == nil {
		err = d.Start(ctx)
	}
	if err != nil {
		return nil, nil, errors.Join(err, server.Close())
	}
	return d, func() error {
		deadline, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		return errors.Join(d.Cleanup(deadline), server.Close(), keepLog(d.LogFile(), filepath.Join(reports, "shimd.log")))
	}, nil
}

// testHandler configures the runtime handler that the suite takes for granted. Where there is no runc, its specs fail and name the handler.
func testHandler() string {
	runc, err := exec.LookPath("runc")
	if err != nil {
		return ""
	}
	return fmt.Sprintf("[runtimes.test-handler]\npath = %q\n", runc)
}

func keepLog(from, to string) error {
	text, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, text, 0o644)
	}
	if err != nil {
		return fmt.Errorf("keeping a log: %w", err)
	}
	return nil
}

// buildPrograms are the paths of a cluster's programs by name, built where the cache does not have them.
func buildPrograms(ctx context.Context, root string, names ...string) (map[string]string, error) {
	paths := map[string]string{}
	for _, name := range names {
		_, found, err := tools.FindProgram(ctx, root, name)
		if err != nil {
			return nil, err
		}
		if !found {
			fmt.Printf("building %s: up to ten minutes of two cores, once\n", name)
		}
		built, err := tools.BuildProgram(ctx, root, name)
		if err != nil {
			return nil, err
		}
		paths[name] = built.Path
	}
	return paths, nil
}

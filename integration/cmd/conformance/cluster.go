package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/shimd/shimd/integration/cluster"
	"github.com/shimd/shimd/integration/conformance"
	"github.com/shimd/shimd/integration/enclosure"
	"github.com/shimd/shimd/integration/images"
	"github.com/shimd/shimd/integration/tools"
)

// runCluster runs e2e.test on a cluster made for it.
func runCluster(ctx context.Context, o options, suite conformance.Suite) (err error) {
	root, err := tools.ModuleRoot()
	if err != nil {
		return err
	}
	programs, err := buildPrograms(ctx, root, "ginkgo", "e2e.test")
	if err != nil {
		return err
	}
	// Outside, where there is a network; inside they are found on the disk.
	set, err := images.Conformance(ctx, images.Options{Root: root})
	if err != nil {
		return err
	}
	dir, err := enterRack(ctx, root)
	if err != nil {
		return err
	}
	c, err := cluster.Start(ctx, cluster.Config{Nodes: o.nodes, Agent: o.agent, Dir: dir, Images: set, Log: os.Stdout, Programs: filepath.Join(dir, "bin")})
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, c.Close(), keepLogs(filepath.Join(dir, "log"), filepath.Join(o.reports, "log")))
	}()
	run := conformance.ClusterRun{
		Suite: suite, Ginkgo: programs["ginkgo"], Program: programs["e2e.test"], Kubectl: c.Program("kubectl"), Kubeconfig: c.Kubeconfig(),
		Nodes: o.nodes, Reports: o.reports, Work: dir, Parallel: o.parallel, Again: o.again, Progress: os.Stdout,
	}
	var results conformance.Results
	if o.chaos > 0 {
		results, err = runWithChaos(ctx, o, c, run.Do)
	} else {
		results, err = run.Do(ctx)
	}
	for _, death := range c.Deaths() {
		err = errors.Join(err, death)
	}
	return conclude(o, suite, results, err)
}

// enterRack answers inside of the cluster's enclosure, with the cluster's directory, whose bin has its programs. All of it goes when the program ends.
func enterRack(ctx context.Context, root string) (string, error) {
	if os.Geteuid() != 0 {
		return "", errors.New("root is needed: run this with sudo")
	}
	dir := os.Getenv(workVariable)
	if dir == "" {
		var err error
		// Not /tmp: it may be a tmpfs or small.
		if dir, err = os.MkdirTemp("/var/tmp", "shimd-conformance-"); err != nil {
			return "", fmt.Errorf("making a working directory: %w", err)
		}
		say := func(format string, args ...any) { fmt.Printf(format+"\n", args...) }
		if err := cluster.Prepare(ctx, root, filepath.Join(dir, "bin"), say); err != nil {
			return "", errors.Join(err, os.RemoveAll(dir))
		}
		if err := os.Setenv(workVariable, dir); err != nil {
			return "", err
		}
	}
	enclosure.Enter(enclosure.Options{AtExit: func() error { return cluster.Remove(dir) }})
	return dir, nil
}

// runWithChaos runs the suite while one node's shimd after the other is killed, and looks whether any container was restarted that should not have been.
func runWithChaos(ctx context.Context, o options, c *cluster.Cluster, suite func(context.Context) (conformance.Results, error)) (conformance.Results, error) {
	witness := conformance.Witness{Kubectl: c.Program("kubectl"), Kubeconfig: c.Kubeconfig(), Image: images.Agnhost, Pods: 3 * o.nodes}
	if err := witness.Start(ctx); err != nil {
		return nil, err
	}
	var kills []func(context.Context) error
	for _, node := range c.Nodes() {
		kills = append(kills, func(ctx context.Context) error {
			if err := node.KillShimd(); err != nil {
				return err
			}
			return node.StartShimd(ctx)
		})
	}
	chaos, stop := context.WithCancel(ctx)
	defer stop()
	type outcome struct {
		kills int
		err   error
	}
	ended := make(chan outcome, 1)
	go func() {
		n, err := conformance.Chaos(chaos, o.chaos, kills)
		ended <- outcome{n, err}
	}()
	results, err := suite(ctx)
	stop()
	killed := <-ended
	// A kill may have been cut short between its two steps.
	deadline, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Minute)
	defer cancel()
	for _, node := range c.Nodes() {
		err = errors.Join(err, node.StartShimd(deadline))
	}
	err = errors.Join(err, killed.err, witness.Check(deadline))
	fmt.Printf("shimd was killed %d times; %d containers were looked at before and after\n", killed.kills, 2*witness.Pods)
	return results, errors.Join(err, witness.Remove(deadline))
}

// keepLogs copies what the cluster's programs printed.
func keepLogs(from, to string) error {
	if err := errors.Join(os.RemoveAll(to), os.CopyFS(to, os.DirFS(from))); err != nil {
		return fmt.Errorf("keeping the cluster's logs: %w", err)
	}
	return nil
}

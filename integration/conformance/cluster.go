package conformance

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
)

// ClusterRun is a run of e2e.test on a cluster, from within the cluster's network.
type ClusterRun struct {
	Suite      Suite
	Ginkgo     string // program
	Program    string // e2e.test
	Kubectl    string // program
	Kubeconfig string // of somebody who may do everything
	Nodes      int    // that pods are scheduled to
	Reports    string // directory for reports and logs
	Work       string // directory for what the suite writes
	Parallel   int    // specs at the same time; serial ones are alone, and come last
	Again      int    // how often specs that failed are run again, one after the other
	Progress   io.Writer
}

// Do runs the suite, and what failed again.
func (c ClusterRun) Do(ctx context.Context) (Results, error) {
	work := filepath.Join(c.Work, "e2e")
	if err := os.MkdirAll(work, 0o755); err != nil {
		return nil, fmt.Errorf("making a directory for the suite: %w", err)
	}
	reports, err := filepath.Abs(c.Reports)
	if err != nil {
		return nil, fmt.Errorf("finding the directory for reports: %w", err)
	}
	run := Run{
		Name: c.Suite.Name, Ginkgo: c.Ginkgo, Suite: c.Program, Dir: reports, WorkDir: work,
		Labels: c.Suite.Labels, Focus: c.Suite.Focus, Skip: c.Suite.Skip, Parallel: c.Parallel, Progress: c.Progress,
	}
	return runAgain(ctx, run, c.Again, func(name string) []string { return c.arguments(filepath.Join(reports, name)) })
}

// arguments are e2e.test's: those of the conformance image (test/conformance/image/go-runner), which hydrophone and sonobuoy run.
func (c ClusterRun) arguments(reports string) []string {
	return []string{
		"--provider=skeleton", "--kubeconfig=" + c.Kubeconfig, "--kubectl-path=" + c.Kubectl, "--report-dir=" + reports,
		"--num-nodes=" + strconv.Itoa(c.Nodes), "--allowed-not-ready-nodes=0", "--dns-domain=cluster.local",
		"--disable-log-dump", "--dump-logs-on-failure=false",
	}
}

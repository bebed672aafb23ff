// Command conformance runs Kubernetes' own test suites on nodes that use shimd, and says what passed.
//
// It fails unless enough specs passed. Everything that the suites print, their reports and the table of results are in -reports.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/shimd/shimd/integration/conformance"
)

type options struct {
	suite, agent, focus, skip, reports string
	nodes, parallel, again             int
	chaos                              time.Duration
}

func main() {
	var o options
	flag.StringVar(&o.suite, "suite", "conformance-fast", "conformance, conformance-fast or node-conformance")
	flag.StringVar(&o.agent, "agent", "kubelet", "what runs pods on the nodes: kubelet or shimlet")
	flag.StringVar(&o.focus, "focus", "", "regular expression of specs to run; all of the suite's by default")
	flag.StringVar(&o.skip, "skip", "", "regular expression of specs to leave out")
	flag.StringVar(&o.reports, "reports", filepath.Join("bin", "conformance"), "directory for reports, logs and results")
	flag.IntVar(&o.nodes, "nodes", 3, "nodes of the cluster; node-conformance has one")
	flag.IntVar(&o.parallel, "parallel", 4, "specs at the same time")
	flag.IntVar(&o.again, "again", 1, "how often specs that failed are run again, alone")
	flag.DurationVar(&o.chaos, "chaos", 0, "kill the shimd of a node, one after the other, at such intervals; 0 for never")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	suite, known := conformance.Suites()[o.suite]
	if !known {
		return fmt.Errorf("there is no suite %q", o.suite)
	}
	suite, err := suite.Narrow(o.focus, o.skip)
	if err != nil {
		return err
	}
	if o.reports, err = filepath.Abs(o.reports); err != nil {
		return fmt.Errorf("finding the directory for reports: %w", err)
	}
	if suite.Node {
		return runNode(ctx, o, suite)
	}
	return runCluster(ctx, o, suite)
}

// conclude writes and prints the results, whatever else went wrong, and says whether they are good enough.
func conclude(o options, suite conformance.Suite, results conformance.Results, runErr error) error {
	if len(results) == 0 {
		return errors.Join(runErr, fmt.Errorf("%s: no specs were run", suite.Name))
	}
	if err := errors.Join(results.Save(o.reports, suite.Name), results.WriteTable(os.Stdout)); err != nil {
		return errors.Join(runErr, err)
	}
	if runErr != nil {
		return runErr
	}
	return suite.Check(results)
}

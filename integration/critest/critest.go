// Package critest runs the whole of critest, the CRI validation suite, against one endpoint and reads its summary.
//
// The program and the images come from a bundle; the runtime is started by the caller.
package critest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/shimd/shimd/integration/bundle"
)

// MinimumRun is how many of the suite's specs must run: the others look for AppArmor, SELinux or Windows.
const MinimumRun = 108

// Options of a run.
type Options struct {
	Bundle   bundle.Bundle
	Endpoint string
	Parallel int      // ginkgo's processes; up to 1 runs one after the other
	Focus    string   // regular expression of specs; "" for all
	LogFile  string   // where everything that critest prints goes
	Args     []string // more flags of critest's
}

// Result is the suite's summary.
type Result struct {
	Ran, Passed, Failed, Skipped int
	Failures                     []string // names of the specs
	Took                         time.Duration
}

// String is one line.
func (r Result) String() string {
	return fmt.Sprintf("ran %d specs in %.0fs: %d passed, %d failed, %d skipped", r.Ran, r.Took.Seconds(), r.Passed, r.Failed, r.Skipped)
}

// Check says whether the run was good enough: nothing failed, and minimum specs ran.
func (r Result) Check(minimum int) error {
	if r.Failed > 0 {
		return fmt.Errorf("%d specs failed:\n  %s", r.Failed, strings.Join(r.Failures, "\n  "))
	}
	if r.Ran < minimum {
		return fmt.Errorf("%d specs ran, at least %d were expected to", r.Ran, minimum)
	}
	return nil
}

// Run runs critest. An error means that there is no result; failed specs are in the result.
func Run(ctx context.Context, opts Options) (Result, error) {
	log, err := os.Create(opts.LogFile)
	if err != nil {
		return Result{}, fmt.Errorf("making critest's log: %w", err)
	}
	defer log.Close()
	args := []string{
		"--runtime-endpoint", opts.Endpoint, "--image-endpoint", opts.Endpoint, "--ginkgo.no-color", "--ginkgo.timeout=3h", "--test.timeout=3h",
		// A file that does not exist: a crictl configuration of the machine's must not change what is tested.
		"--config", filepath.Join(filepath.Dir(opts.LogFile), "no-crictl.yaml"),
	}
	if opts.Focus != "" {
		args = append(args, "--ginkgo.focus="+opts.Focus)
	}
	if opts.Parallel > 1 {
		args = append(args, "--parallel="+strconv.Itoa(opts.Parallel))
	}
	cmd := exec.CommandContext(ctx, opts.Bundle.Program("critest"), append(args, opts.Args...)...)
	cmd.Stdout, cmd.Stderr = log, log
	// critest --parallel looks for ginkgo there.
	cmd.Env = append(os.Environ(), "PATH="+opts.Bundle.Programs()+string(os.PathListSeparator)+os.Getenv("PATH"))
	begin := time.Now()
	runErr := cmd.Run()
	took := time.Since(begin)
	if exited := new(exec.ExitError); runErr != nil && !errors.As(runErr, &exited) {
		return Result{}, fmt.Errorf("running critest: %w", runErr)
	}
	output, err := os.ReadFile(opts.LogFile)
	if err != nil {
		return Result{}, fmt.Errorf("reading critest's log: %w", err)
	}
	result, err := parse(output)
	result.Took = took
	switch {
	case err != nil:
		return Result{}, fmt.Errorf("reading critest's output: %w\n%s", errors.Join(err, runErr), tail(output))
	case runErr != nil && result.Failed == 0:
		return Result{}, fmt.Errorf("critest failed outside of its specs: %w\n%s", runErr, tail(output))
	}
	return result, nil
}

var (
	ranLine     = regexp.MustCompile(`(?m)^Ran (\d+) of \d+ Specs in `)
	countLine   = regexp.MustCompile(`(?m)^(?:SUCCESS!|FAIL!).* -- (\d+) Passed \| (\d+) Failed \|.* (\d+) Skipped`)
	failureLine = regexp.MustCompile(`(?m)^\s*\[(?:FAIL|PANICKED!|TIMEDOUT|INTERRUPTED)\] (.*)$`)
)

// parse reads the summary that ginkgo prints at the end.
func parse(output []byte) (Result, error) {
	ran, counts := ranLine.FindSubmatch(output), countLine.FindSubmatch(output)
	if ran == nil || counts == nil {
		return Result{}, errors.New("critest printed no summary")
	}
	var r Result
	for field, text := range map[*int][]byte{&r.Ran: ran[1], &r.Passed: counts[1], &r.Failed: counts[2], &r.Skipped: counts[3]} {
		number, err := strconv.Atoi(string(text))
		if err != nil {
			return Result{}, fmt.Errorf("reading critest's summary: %w", err)
		}
		*field = number
	}
	if _, summary, found := bytes.Cut(output, []byte("Summarizing ")); found {
		for _, line := range failureLine.FindAllSubmatch(summary, -1) {
			r.Failures = append(r.Failures, string(line[1]))
		}
	}
	return r, nil
}

func tail(output []byte) []byte {
	const keep = 4 << 10
	return output[max(0, len(output)-keep):]
}

package conformance

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Run is one call of ginkgo. Its directory gets NAME.log with all that the suite prints, as it comes, and NAME.json with ginkgo's report at the end.
type Run struct {
	Name     string
	Ginkgo   string // program
	Suite    string // program: a compiled suite
	Dir      string // for reports; made when missing
	WorkDir  string // where the suite runs, with a link to its program; it writes files there
	Labels   string // ginkgo's label filter
	Focus    []string
	Skip     []string
	Parallel int      // processes; up to 1 runs one spec after the other
	Args     []string // the suite's own
	Env      []string // beside this process's
	Progress io.Writer
}

// Do runs the specs. An error means that there are no results, or not all: specs that failed are in the results. When the context ends, the suite is
// interrupted and says how far it came; when it is killed, its log does.
func (r Run) Do(ctx context.Context) (Results, error) {
	if err := os.MkdirAll(r.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("making the directory for reports: %w", err)
	}
	dir, err := filepath.Abs(r.Dir)
	if err != nil {
		return nil, fmt.Errorf("finding the directory for reports: %w", err)
	}
	log, err := os.Create(filepath.Join(dir, r.Name+".log"))
	if err != nil {
		return nil, fmt.Errorf("making the log of %s: %w", r.Name, err)
	}
	defer log.Close()
	report := filepath.Join(dir, r.Name+".json")
	if err := os.Remove(report); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("removing an earlier report: %w", err)
	}
	suite, err := r.linkSuite()
	if err != nil {
		return nil, err
	}
	progress := &progress{to: r.Progress, name: r.Name}
	cmd := exec.CommandContext(ctx, r.Ginkgo, r.arguments(suite, report)...)
	cmd.Env = append(os.Environ(), r.Env...)
	cmd.Stdout = io.MultiWriter(log, progress)
	cmd.Stderr = cmd.Stdout
	// It cleans up after the specs under way, and reports.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 45 * time.Second
	runErr := cmd.Run()
	progress.end()
	results, broken, err := readFile(report)
	switch {
	case err != nil:
		partial, logErr := readLogFile(log.Name())
		return partial, fmt.Errorf("running %s: %w; all that it printed: %s", r.Name, errors.Join(runErr, err, logErr), log.Name())
	case ctx.Err() != nil:
		return results, fmt.Errorf("running %s: interrupted: %w", r.Name, ctx.Err())
	case len(broken) > 0:
		return results, fmt.Errorf("running %s: %s; all that it printed: %s", r.Name, strings.Join(broken, "; "), log.Name())
	case runErr != nil && len(results.Of(Failed)) == 0:
		return results, fmt.Errorf("running %s: failed outside of its specs: %w; all that it printed: %s", r.Name, runErr, log.Name())
	}
	return results, nil
}

// linkSuite makes a link to the suite in its working directory: ginkgo runs a suite in the directory where it finds it.
func (r Run) linkSuite() (string, error) {
	link := filepath.Join(r.WorkDir, filepath.Base(r.Suite))
	if err := os.Remove(link); err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("linking the suite %s: %w", r.Suite, err)
	}
	if err := os.Symlink(r.Suite, link); err != nil {
		return "", fmt.Errorf("linking the suite %s: %w", r.Suite, err)
	}
	return link, nil
}

func (r Run) arguments(suite, report string) []string {
	args := []string{
		"run", "--no-color", "-v", "--timeout=24h", "--json-report=" + filepath.Base(report), "--output-dir=" + filepath.Dir(report),
		// One that hangs is said to, and does not stop the others.
		"--poll-progress-after=5m", "--poll-progress-interval=5m", "--keep-going",
	}
	if r.Parallel > 1 {
		args = append(args, "--procs="+strconv.Itoa(r.Parallel))
	}
	if r.Labels != "" {
		args = append(args, "--label-filter="+r.Labels)
	}
	for _, expression := range r.Focus {
		args = append(args, "--focus="+expression)
	}
	for _, expression := range r.Skip {
		args = append(args, "--skip="+expression)
	}
	return append(append(args, suite, "--"), r.Args...)
}

func readFile(name string) (Results, []string, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, nil, fmt.Errorf("reading ginkgo's report: %w", err)
	}
	defer file.Close()
	return Read(bufio.NewReader(file))
}

func readLogFile(name string) (Results, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("reading ginkgo's output: %w", err)
	}
	defer file.Close()
	return ReadLog(file)
}

// progress reads what ginkgo prints while it runs, and says what failed at once and how many have ended now and then.
type progress struct {
	to   io.Writer // nil for nobody
	name string

	mutex        sync.Mutex
	rest         []byte // of a line
	took         string // of the spec whose name is on the next line
	failing      bool
	ended, wrong int
}

// "• [2.123 seconds]", "• [FAILED] [2.123 seconds]", "S [SKIPPED] [0.001 seconds]"; the spec's name is on the next line.
var specEnd = regexp.MustCompile(`^(•|S) (?:\[([A-Z! ]+)\] )?\[(\d+\.\d+ seconds)\]$`)

const progressEvery = 20

// Write never fails: whoever watches must not stop the suite.
func (p *progress) Write(text []byte) (int, error) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	n := len(text)
	for {
		line, after, found := strings.Cut(string(text), "\n")
		if !found {
			p.rest = append(p.rest, line...)
			return n, nil
		}
		p.line(string(p.rest) + line)
		p.rest, text = p.rest[:0], []byte(after)
	}
}

func (p *progress) line(line string) {
	if match := specEnd.FindStringSubmatch(line); match != nil {
		p.took = match[3]
		p.failing = match[1] == "•" && match[2] != ""
		return
	}
	if p.took == "" {
		return
	}
	p.ended++
	if p.failing {
		p.wrong++
		p.say("FAILED after %s: %s", p.took, strings.TrimSpace(line))
	}
	p.took = ""
	if p.ended%progressEvery == 0 {
		p.say("%d specs have ended, %d of them failed", p.ended, p.wrong)
	}
}

func (p *progress) end() {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	p.say("%d specs have ended, %d of them failed", p.ended, p.wrong)
}

func (p *progress) say(format string, values ...any) {
	if p.to != nil {
		fmt.Fprintf(p.to, "%s %s: %s\n", time.Now().Format(time.TimeOnly), p.name, fmt.Sprintf(format, values...))
	}
}

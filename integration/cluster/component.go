package cluster

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/shimd/shimd/integration/namespaces"
)

// Component is one program of the cluster, for who wants to look.
type Component struct {
	Name string // kube-apiserver
	Node string // "" for those of the control plane
	PID  int    // in the rack's PID namespace; 0 when it does not run
	Log  string // file
	Died string // how it ended, if it was not told to
}

// component runs a program. Its log goes on from run to run.
type component struct {
	name string // unique in the cluster: node1/kubelet
	log  string
	node int // the first process of the node it runs on; 0 for the rack
	// The program is started by nodeinit, whose path is init, in a control group of its own: the kernel then weighs it with its node's others.
	init, group string
	user        int // ID; 0 is root

	path string
	args []string
	env  []string
	dir  string

	mutex  sync.Mutex
	cmd    *exec.Cmd
	ended  chan struct{} // closed when cmd has
	told   bool          // to end
	death  *DeathError   // how it ended untold
	report func(*DeathError)
}

// DeathError says that a program of the cluster ended that was not told to.
type DeathError struct {
	Component string
	State     string // how it ended
	LogFile   string
	LogTail   string
}

func (e *DeathError) Error() string {
	return fmt.Sprintf("%s has ended: %s; the end of %s:\n%s", e.Component, e.State, e.LogFile, e.LogTail)
}

// endTimeout is how long a program may take to end on SIGTERM; then it is killed.
const endTimeout = 10 * time.Second

func (c *component) start() error {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	log, err := os.OpenFile(c.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("opening the log of %s: %w", c.name, err)
	}
	defer log.Close()
	cmd := exec.Command(c.init, append([]string{"run", c.group, strconv.Itoa(c.user), c.path}, c.args...)...)
	cmd.Stdout, cmd.Stderr, cmd.Dir = log, log, cmp.Or(c.dir, "/")
	cmd.Env = append(os.Environ(), c.env...)
	if c.node != 0 {
		err = namespaces.Start(c.node, cmd)
	} else {
		err = cmd.Start()
	}
	if err != nil {
		return fmt.Errorf("starting %s: %w", c.name, err)
	}
	ended := make(chan struct{})
	c.cmd, c.ended, c.told, c.death = cmd, ended, false, nil
	go c.wait(cmd, ended)
	return nil
}

// wait is the only one that waits for the process.
func (c *component) wait(cmd *exec.Cmd, ended chan struct{}) {
	_ = cmd.Wait() // ProcessState tells
	c.mutex.Lock()
	var death *DeathError
	if !c.told {
		death = &DeathError{Component: c.name, State: cmd.ProcessState.String(), LogFile: c.log, LogTail: logTail(c.log)}
		c.death = death
	}
	c.mutex.Unlock()
	close(ended)
	if death != nil {
		c.report(death)
	}
}

// stop ends the program by a signal, and by SIGKILL when that does not do.
func (c *component) stop(signal syscall.Signal) error {
	c.mutex.Lock()
	cmd, ended := c.cmd, c.ended
	c.told = true
	c.mutex.Unlock()
	if cmd == nil {
		return nil
	}
	if err := cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signalling %s: %w", c.name, err)
	}
	select {
	case <-ended:
		return nil
	case <-time.After(endTimeout):
	}
	if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("killing %s: %w", c.name, err)
	}
	<-ended
	return nil
}

// forget makes the program's end an expected one: its node is about to be killed.
func (c *component) forget() {
	c.mutex.Lock()
	c.told = true
	c.mutex.Unlock()
}

// awaitEnd waits for a program that is being ended by something else.
func (c *component) awaitEnd() {
	c.mutex.Lock()
	ended := c.ended
	c.mutex.Unlock()
	if ended != nil {
		<-ended
	}
}

// pid is 0 when it does not run.
func (c *component) pid() int {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if c.cmd == nil {
		return 0
	}
	select {
	case <-c.ended:
		return 0
	default:
		return c.cmd.Process.Pid
	}
}

func (c *component) describe(node string) Component {
	described := Component{Name: filepath.Base(c.name), Node: node, PID: c.pid(), Log: c.log}
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if c.death != nil {
		described.Died = c.death.State
	}
	return described
}

// logTail is the end of a file, for messages.
func logTail(file string) string {
	const keep = 2 << 10
	f, err := os.Open(file)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() > keep {
		if _, err := f.Seek(-keep, io.SeekEnd); err != nil {
			return err.Error()
		}
	}
	text, err := io.ReadAll(f)
	if err != nil {
		return err.Error()
	}
	if _, whole, found := strings.Cut(string(text), "\n"); found && len(text) >= keep {
		return whole // without the line that was cut in two
	}
	return string(text)
}

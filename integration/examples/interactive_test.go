package examples_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The pod that is a Linux machine: from kubectl run to an answer, an interactive shell, and an installed package.
func TestUbuntu(t *testing.T) {
	t.Parallel()
	s := newSpace(t, "ubuntu")
	// As who types it: one command, a terminal. The image is there when it is asked for the second time.
	for _, name := range []string{"first", "second"} {
		began := time.Now()
		shell := s.terminal("run", name, "-it", "--rm", "--restart=Never", "--image=ubuntu", "--", "bash", "--norc")
		shell.says("echo I am $((6*7))", "I am 42")
		t.Logf("%s: from `kubectl run -it` to the shell's answer in %d ms", name, time.Since(began).Milliseconds())
		shell.says("tty", "/dev/pts/0")
		// The size arrives a little after the terminal.
		shell.says("until [ \"$(stty size)\" = '24 80' ]; do sleep 0.1; done; echo size $((1+1))", "size 2")
		shell.ends("exit")
	}
	s.apply("ubuntu/vm.yaml")
	s.wait("condition=Ready", "pod/vm")
	shell := s.terminal("exec", "-it", "vm", "--", "bash", "--norc")
	shell.says("cat /proc/sys/kernel/hostname", "vm")
	shell.says("apt-get update && apt-get install -y hello && echo installed $?", "installed 0")
	shell.says("hello", "Hello, world!")
	shell.says("echo asleep; sleep 1000", "asleep\r\n")
	shell.interrupts()
	shell.says("echo status $?", "status 130")
	shell.ends("exit")
	if said := s.kubectl("exec", "vm", "--", "hello"); !strings.Contains(said, "Hello, world!") {
		t.Errorf("what was installed says %q", said)
	}
}

func TestDebugging(t *testing.T) {
	t.Parallel()
	s := newSpace(t, "debugging")
	s.apply("debugging/web.yaml")
	s.wait("condition=Ready", "pod/web", "pod/echo")
	t.Run("logs -f", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		follow := s.start(ctx, "logs", "-f", "web", "-c", "ticker")
		for _, line := range []string{"tick 1\n", "tick 2\n", "tick 8\n"} { // the later ones come while it follows
			follow.awaits(t, line)
		}
		follow.interrupt(t)
	})
	t.Run("exec", func(t *testing.T) {
		if said := s.kubectl("exec", "web", "-c", "nginx", "--", "sh", "-c", "nginx -v 2>&1"); !strings.Contains(said, "nginx version") {
			t.Errorf("it says %q", said)
		}
		_, err := s.try("exec", "web", "-c", "nginx", "--", "sh", "-c", "exit 7")
		if err == nil || !strings.Contains(err.Error(), "exit status 7") {
			t.Errorf("a command that ends with 7: %v", err)
		}
		if said, err := s.tryInput("through standard input", "exec", "-i", "web", "-c", "ticker", "--", "cat"); err != nil || said != "through standard input" {
			t.Errorf("cat says %q, %v", said, err)
		}
	})
	t.Run("attach", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		attached := s.start(ctx, "attach", "-i", "echo")
		attached.types(t, "good morning\n")
		attached.awaits(t, "you said: good morning")
		attached.interrupt(t)
		if log := s.kubectl("logs", "echo"); !strings.Contains(log, "you said: good morning") {
			t.Errorf("its log is %q", log)
		}
	})
	t.Run("cp", func(t *testing.T) { s.copies(t) })
	t.Run("port-forward", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		forward := s.start(ctx, "port-forward", "pod/web", ":80")
		port := forward.matches(t, regexp.MustCompile(`Forwarding from 127\.0\.0\.1:(\d+) -> 80`))
		for range 3 {
			if page, err := fetch("http://127.0.0.1:" + port); err != nil || !strings.Contains(page, "nginx") {
				t.Errorf("%v: %q", err, page)
			}
		}
		forward.interrupt(t)
	})
	t.Run("top", func(t *testing.T) {
		metricsServer(t, s)
		s.eventually("figures of the pod", func() error {
			said, err := s.try("top", "pod", "web", "--containers")
			if err == nil && !(strings.Contains(said, "nginx") && strings.Contains(said, "ticker")) {
				err = errors.New(said)
			}
			return err
		})
	})
	t.Run("debug", func(t *testing.T) {
		shell := s.terminal("debug", "-it", "web", "--image=busybox", "--target=nginx", "--", "sh")
		shell.says("ps", "nginx: master process")
		shell.ends("exit")
		if kinds := s.field("pod/web", "{.spec.ephemeralContainers[0].image}"); kinds != "busybox" {
			t.Errorf("the ephemeral container is %q", kinds)
		}
	})
}

func (s *space) copies(t *testing.T) {
	dir := t.TempDir()
	there, back := filepath.Join(dir, "there"), filepath.Join(dir, "back")
	content := bytes.Repeat([]byte("a line of a file\n"), 100_000)
	if err := os.WriteFile(there, content, 0o644); err != nil {
		t.Fatal(err)
	}
	s.kubectl("cp", there, "web:/tmp/copied", "-c", "ticker")
	s.kubectl("cp", "web:/tmp/copied", back, "-c", "ticker")
	if read, err := os.ReadFile(back); err != nil || !bytes.Equal(read, content) {
		t.Errorf("the file came back with %d bytes of %d, %v", len(read), len(content), err)
	}
}

// conversation is a kubectl that runs.
type conversation struct {
	t     *testing.T
	cmd   *exec.Cmd
	input io.WriteCloser
	ended chan error

	mutex sync.Mutex
	said  bytes.Buffer
	mark  int // what was said before is not looked at again
}

func (c *conversation) Write(text []byte) (int, error) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	return c.said.Write(text)
}

func (c *conversation) heard() string {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	return c.said.String()
}

// start runs kubectl with pipes.
func (s *space) start(ctx context.Context, args ...string) *conversation {
	s.t.Helper()
	c := &conversation{t: s.t, cmd: shared.KubectlCommand(ctx, append([]string{"-n", s.name}, args...)...), ended: make(chan error, 1)}
	c.cmd.Stdout, c.cmd.Stderr = c, c
	input, err := c.cmd.StdinPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	c.input = input
	if err := c.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	go func() { c.ended <- c.cmd.Wait() }()
	return c
}

// matches waits for words and answers the first group.
func (c *conversation) matches(t *testing.T, words *regexp.Regexp) string {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		said := c.heard()
		if found := words.FindStringSubmatchIndex(said[c.mark:]); found != nil {
			group := said[c.mark:][found[len(found)-2]:found[len(found)-1]]
			c.mark += found[1]
			return group
		}
		select {
		case err := <-c.ended:
			c.ended <- err
			if c.heard() == said {
				t.Fatalf("%v ended (%v) without %q:\n%s", c.cmd.Args[1:], err, words, said)
			}
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("%v does not say %q:\n%s", c.cmd.Args[1:], words, said)
		}
	}
}

func (c *conversation) awaits(t *testing.T, words string) {
	t.Helper()
	c.matches(t, regexp.MustCompile("("+regexp.QuoteMeta(words)+")"))
}

func (c *conversation) types(t *testing.T, text string) {
	t.Helper()
	if _, err := io.WriteString(c.input, text); err != nil {
		t.Fatalf("typing %q: %v", text, err)
	}
}

// interrupt is Ctrl-C.
func (c *conversation) interrupt(t *testing.T) {
	t.Helper()
	if err := c.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Errorf("interrupting %v: %v", c.cmd.Args[1:], err)
	}
	c.awaitEnd(t)
}

func (c *conversation) awaitEnd(t *testing.T) {
	t.Helper()
	select {
	case <-c.ended: // how it ends after a Ctrl-C differs
	case <-time.After(patience):
		t.Fatalf("%v does not end:\n%s", c.cmd.Args[1:], c.heard())
	}
}

// terminal runs kubectl on a terminal of 80 by 24.
func (s *space) terminal(args ...string) *conversation {
	s.t.Helper()
	master, slave, err := openTerminal()
	if err != nil {
		s.t.Fatal(err)
	}
	c := &conversation{t: s.t, cmd: shared.KubectlCommand(s.t.Context(), append([]string{"-n", s.name}, args...)...), input: master, ended: make(chan error, 1)}
	c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr = slave, slave, slave
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	err = c.cmd.Start()
	slave.Close()
	if err != nil {
		master.Close()
		s.t.Fatal(err)
	}
	go func() {
		_, _ = io.Copy(c, master) // fails when the other end is closed
		c.ended <- c.cmd.Wait()
		master.Close()
	}()
	return c
}

// prompt waits for the shell's. One that was written before kubectl was attached is lost: then it presses enter, as kubectl advises.
func (c *conversation) prompt() {
	c.t.Helper()
	prompt := regexp.MustCompile(`([$#] )`)
	for deadline, enter := time.Now().Add(patience), time.Now().Add(5*time.Second); ; time.Sleep(50 * time.Millisecond) {
		if prompt.MatchString(c.heard()[c.mark:]) {
			c.matches(c.t, prompt)
			return
		}
		if time.Now().After(enter) {
			c.types(c.t, "\n")
			enter = time.Now().Add(5 * time.Second)
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("%v shows no prompt:\n%s", c.cmd.Args[1:], c.heard())
		}
	}
}

// says types a line when there is a prompt, and waits for the answer, which must differ from the line.
func (c *conversation) says(line, answer string) {
	c.t.Helper()
	c.prompt()
	c.types(c.t, line+"\n")
	c.awaits(c.t, answer)
}

// ends types the last line.
func (c *conversation) ends(line string) {
	c.t.Helper()
	c.prompt()
	c.types(c.t, line+"\n")
	c.awaitEnd(c.t)
}

// interrupts types Ctrl-C, for the process inside, until there is a prompt: one that comes before a shell has started the process is the shell's own.
func (c *conversation) interrupts() {
	c.t.Helper()
	for deadline := time.Now().Add(patience); !strings.Contains(c.heard()[c.mark:], "# "); time.Sleep(time.Second) {
		c.types(c.t, "\x03")
		if time.Now().After(deadline) {
			c.t.Fatalf("Ctrl-C ends nothing:\n%s", c.heard())
		}
	}
}

func openTerminal() (master, slave *os.File, err error) {
	master, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("opening a terminal: %w", err)
	}
	defer func() {
		if err != nil {
			master.Close()
		}
	}()
	if err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		return nil, nil, fmt.Errorf("unlocking a terminal: %w", err)
	}
	number, err := unix.IoctlGetUint32(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		return nil, nil, fmt.Errorf("asking for a terminal's number: %w", err)
	}
	if err = unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 80}); err != nil {
		return nil, nil, fmt.Errorf("setting a terminal's size: %w", err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("opening the terminal's other end: %w", err)
	}
	return master, slave, nil
}

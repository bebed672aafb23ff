package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/shimd/shimd/integration/daemon"
	"github.com/shimd/shimd/integration/images"
)

// crictl runs crictl against one daemon, as a person would.
type crictl struct {
	t *testing.T
	d *daemon.Daemon
}

func (c crictl) command(args ...string) *exec.Cmd {
	// A configuration of its own: the machine's must not change what is tested.
	config := filepath.Join(c.t.TempDir(), "crictl.yaml")
	if err := os.WriteFile(config, []byte("debug: false\n"), 0o600); err != nil {
		c.t.Fatal(err)
	}
	base := []string{"--config", config, "--runtime-endpoint", c.d.Endpoint(), "--image-endpoint", c.d.Endpoint(), "--timeout", "60s"}
	return exec.CommandContext(c.t.Context(), shared.bundle.Program("crictl"), append(base, args...)...)
}

// run runs it to its end and answers what it printed, without the space around.
func (c crictl) run(args ...string) string {
	c.t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := c.command(args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		c.t.Fatalf("crictl %s: %v\n%s%s", strings.Join(args, " "), err, &stdout, &stderr)
	}
	return strings.TrimSpace(stdout.String())
}

// file writes a configuration for crictl.
func (c crictl) file(config map[string]any) string {
	c.t.Helper()
	text, err := json.Marshal(config)
	if err != nil {
		c.t.Fatal(err)
	}
	name := filepath.Join(c.t.TempDir(), "config.json")
	if err := os.WriteFile(name, text, 0o644); err != nil {
		c.t.Fatal(err)
	}
	return name
}

// output collects what a running program prints.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) has(word string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return strings.Contains(o.text.String(), word)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// running is a crictl in the background, with what it prints and a way to type into it.
type running struct {
	cmd    *exec.Cmd
	output *output
	stdin  io.WriteCloser
}

// background starts crictl; with terminal it has a controlling terminal as a person's shell would give it.
func (c crictl) background(terminal bool, args ...string) running {
	c.t.Helper()
	r := running{cmd: c.command(args...), output: &output{}}
	r.cmd.Cancel = func() error { return r.cmd.Process.Signal(syscall.SIGTERM) }
	if terminal {
		master, slave := openTerminal(c.t)
		r.stdin = master
		r.cmd.Stdin, r.cmd.Stdout, r.cmd.Stderr = slave, slave, slave
		r.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
		go func() { _, _ = io.Copy(r.output, master) }() // ends with EIO when the program is gone
	} else {
		stdin, err := r.cmd.StdinPipe()
		if err != nil {
			c.t.Fatal(err)
		}
		r.stdin = stdin
		r.cmd.Stdout, r.cmd.Stderr = r.output, r.output
	}
	if err := r.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	return r
}

func openTerminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { slave.Close() })
	return master, slave
}

func (c crictl) pod(name string) (id, config, logs string) {
	c.t.Helper()
	logs = c.t.TempDir()
	config = c.file(map[string]any{
		"metadata": map[string]any{"name": name, "namespace": "default", "uid": name},
		"hostname": name, "log_directory": logs, "linux": map[string]any{},
	})
	return c.run("runp", config), config, logs
}

func (c crictl) container(pod, podConfig, name, image string, more map[string]any, command ...string) string {
	c.t.Helper()
	config := map[string]any{
		"metadata": map[string]any{"name": name}, "image": map[string]any{"image": image}, "command": command,
		"log_path": name + ".log", "linux": map[string]any{},
	}
	for key, value := range more {
		config[key] = value
	}
	id := c.run("create", pod, c.file(config), podConfig)
	c.run("start", id)
	return id
}

// By hand with crictl: what a person does on a node.
func TestCrictl(t *testing.T) {
	d, _ := start(t, daemon.Config{})
	c := crictl{t: t, d: d}
	c.run("pull", images.Busybox)
	c.run("pull", images.Web)
	if list := c.run("images"); !strings.Contains(list, "docker.io/library/busybox") || !strings.Contains(list, "registry.k8s.io/shimd/web") {
		t.Errorf("crictl images:\n%s", list)
	}
	pod, podConfig, _ := c.pod("pair")
	web := c.container(pod, podConfig, "web", images.Web, nil, "/web", "-listen", ":8080")
	shell := c.container(pod, podConfig, "shell", images.Busybox, map[string]any{"stdin": true}, "sh")

	t.Run("two containers talk over localhost", func(t *testing.T) {
		eventually(t, "the web container serves the other one", func() bool {
			out, err := c.command("exec", shell, "wget", "-q", "-O", "-", "http://127.0.0.1:8080/").Output()
			return err == nil && strings.Contains(string(out), "host name: pair")
		})
	})
	t.Run("exec -it has a terminal of its own", func(t *testing.T) {
		session := c.background(true, "exec", "-it", shell, "sh")
		// Sums, so that the echo of what is typed cannot be taken for the answer.
		if _, err := io.WriteString(session.stdin, "test -t 0 && echo terminal $((20+22))\n"); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the shell answers", func() bool { return session.output.has("terminal 42") })
		if _, err := io.WriteString(session.stdin, "exit 3\n"); err != nil {
			t.Fatal(err)
		}
		if err := session.cmd.Wait(); err == nil {
			t.Errorf("crictl exec ended well, the command did not:\n%s", session.output)
		}
	})
	t.Run("attach", func(t *testing.T) {
		session := c.background(false, "attach", "-i", shell)
		if _, err := io.WriteString(session.stdin, "echo attached $((20+22))\n"); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the container's shell answers", func() bool { return session.output.has("attached 42") })
		end(t, session)
	})
	t.Run("port-forward", func(t *testing.T) {
		session := c.background(false, "port-forward", pod, "18080:8080")
		eventually(t, "the page comes through the forwarded port", func() bool { return fetches("http://127.0.0.1:18080/", "host name: pair") })
		end(t, session)
	})
	t.Run("logs -f", func(t *testing.T) {
		session := c.background(false, "logs", "-f", web)
		eventually(t, "the first line", func() bool { return session.output.has("serving on :8080") })
		c.run("exec", shell, "wget", "-q", "-O", "/dev/null", "http://127.0.0.1:8080/followed")
		eventually(t, "a line that came later", func() bool { return session.output.has("GET /followed") })
		end(t, session)
	})
	t.Run("stats", func(t *testing.T) {
		if out := c.run("stats", "-o", "json"); !strings.Contains(out, web) || !strings.Contains(out, "workingSetBytes") {
			t.Errorf("crictl stats:\n%s", out)
		}
		if out := c.run("statsp", "-o", "json"); !strings.Contains(out, pod) {
			t.Errorf("crictl statsp:\n%s", out)
		}
	})
	c.run("stop", "--timeout", "1", web, shell)
	c.run("rm", web, shell)
	c.run("stopp", pod)
	c.run("rmp", pod)
	if left := c.run("pods", "-q") + c.run("ps", "-aq"); left != "" {
		t.Errorf("left after removal: %s", left)
	}
	c.run("rmi", images.Web)
	if list := c.run("images", "-q"); strings.Count(list, "\n") != 0 {
		t.Errorf("images after rmi:\n%s", list)
	}
}

func end(t *testing.T, r running) {
	t.Helper()
	r.stdin.Close()
	if err := r.cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = r.cmd.Wait() // killed
}

func fetches(url, word string) bool {
	request, err := http.NewRequestWithContext(context.Background(), http.MethodGet, url, http.NoBody)
	if err != nil {
		return false
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Do(request)
	if err != nil {
		return false
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	return err == nil && strings.Contains(string(body), word)
}

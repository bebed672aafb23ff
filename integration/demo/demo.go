// Package demo is `make up` and `make down`: shimd and shimlet with a pod file in a folder, its image pulled from a registry on loopback.
//
// It starts programs that outlive it and remembers them in one directory, from which Down removes everything. It changes nothing of the machine's
// configuration.
package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/integration/criclient"
	"github.com/shimd/shimd/integration/daemon"
	"github.com/shimd/shimd/integration/images"
	"github.com/shimd/shimd/integration/registry"
)

// Demo says what to run and where.
type Demo struct {
	Programs    string // directory with shimd, shimd-keeper and shimlet
	Root, State string // shimd's
	Source      string // the source tree, for building the image
	Progress    func(format string, args ...any)
}

const podFile = `# The demo pod. Change this file, remove it, or put another one beside it: shimlet acts on it at once.
apiVersion: v1
kind: Pod
metadata:
  name: web
spec:
  containers:
  - name: web
    image: ` + images.Web + `
    ports:
    - containerPort: 8080
`

const patience = 2 * time.Minute

// dir keeps the pod folder, logs and what is needed to undo it all. Beside the state directory, so that two demos do not mix.
func (d Demo) dir() string              { return d.State + "-up" }
func (d Demo) path(name string) string  { return filepath.Join(d.dir(), name) }
func (d Demo) shimd() string            { return filepath.Join(d.Programs, "shimd") }
func (d Demo) endpoint() string         { return "unix://" + filepath.Join(d.State, "shimd.sock") }
func (d Demo) program(n string) string  { return filepath.Join(d.Programs, n) }
func (d Demo) marker(pid string) string { return d.path(pid + ".pid") }

// Up starts everything, fetches a page from the pod, and says how to look around. What it started stays.
func (d Demo) Up(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := d.claim(); err != nil {
		return err
	}
	d.Progress("building the demo's image and starting a registry with it on loopback")
	if err := d.startRegistry(ctx); err != nil {
		return err
	}
	d.Progress("starting shimd")
	server, err := daemon.New(daemon.Config{
		Programs: d.Programs, Dir: d.dir(), Root: d.Root, State: d.State, CertsDir: d.path("certs.d"), LogLevel: "info", Detach: true,
	})
	if err != nil {
		return err
	}
	if err := server.Start(ctx); err != nil {
		return err
	}
	if err := d.remember("shimd", server.PID()); err != nil {
		return err
	}
	d.Progress("starting shimlet with a folder that holds one pod file")
	ended, err := d.startShimlet()
	if err != nil {
		return err
	}
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	go func() { giveUp(fmt.Errorf("shimlet has ended: %w", <-ended)) }()
	return d.show(ctx)
}

// claim makes the directories, and notes which of them were not there: those are Down's to remove.
func (d Demo) claim() error {
	if _, err := os.Stat(d.dir()); err == nil {
		return fmt.Errorf("starting the demo: %s exists: it runs already; `make down` first", d.dir())
	}
	for _, dir := range []string{d.Root, d.State} {
		if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
			return fmt.Errorf("starting the demo: %s is in use by another shimd; choose others: make up ROOT=/var/lib/shimd-demo STATE=/run/shimd-demo", dir)
		} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("starting the demo: %w", err)
		}
	}
	if err := os.MkdirAll(d.path("pods"), 0o755); err != nil {
		return fmt.Errorf("making the demo's directory: %w", err)
	}
	if err := os.WriteFile(d.path("pods/web.yaml"), []byte(podFile), 0o644); err != nil {
		return fmt.Errorf("writing the pod file: %w", err)
	}
	return nil
}

// startRegistry runs this very program once more, as the registry (Serve).
func (d Demo) startRegistry(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding this program: %w", err)
	}
	ready, theirs, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("making a pipe to the registry: %w", err)
	}
	defer ready.Close()
	cmd := exec.Command(self, "-serve", "-state", d.State)
	cmd.Dir, cmd.ExtraFiles = d.Source, []*os.File{theirs}
	err = d.start("registry", cmd)
	theirs.Close()
	if err != nil {
		return err
	}
	if deadline, ok := ctx.Deadline(); ok {
		if err := ready.SetReadDeadline(deadline); err != nil {
			return fmt.Errorf("waiting for the registry: %w", err)
		}
	}
	if said, err := io.ReadAll(ready); err != nil || string(said) != "ready" {
		log, logErr := os.ReadFile(d.path("registry.log"))
		return fmt.Errorf("starting the registry: it did not get ready (%w)\n%s", errors.Join(err, logErr), log)
	}
	return nil
}

// Serve is the registry's process: it builds the image, serves it, tells the parent, and stays until it is told to stop.
func (d Demo) Serve(ctx context.Context) error {
	set, err := images.Demo(ctx, images.Options{Root: d.Source})
	if err != nil {
		return err
	}
	server, err := registry.Start(ctx, "127.0.0.1:0", set)
	if err != nil {
		return err
	}
	if err := server.WriteHosts(d.path("certs.d")); err != nil {
		return errors.Join(err, server.Close())
	}
	ready := os.NewFile(3, "ready") // ExtraFiles of startRegistry
	if _, err := ready.WriteString("ready"); err != nil {
		return errors.Join(fmt.Errorf("telling that the registry is ready: %w", err), server.Close())
	}
	ready.Close()
	<-ctx.Done()
	return server.Close()
}

// startShimlet gives it directories of its own: another one may run on this machine. ended tells why it ended, if it does.
func (d Demo) startShimlet() (ended <-chan error, err error) {
	cmd := exec.Command(d.program("shimlet"), "--pod-manifest-path", d.path("pods"), "--container-runtime-endpoint", d.endpoint(),
		"--root-dir", d.path("shimlet"), "--log-dir", d.path("logs"), "--socket", d.path("shimlet.sock"), "--healthz-address", "")
	if err := d.start("shimlet", cmd); err != nil {
		return nil, err
	}
	why := make(chan error, 1)
	go func() { why <- cmd.Wait() }()
	return why, nil
}

// start runs a program in a session of its own, its output in a log of its own.
func (d Demo) start(name string, cmd *exec.Cmd) error {
	log, err := os.Create(d.path(name + ".log"))
	if err != nil {
		return fmt.Errorf("making the log of %s: %w", name, err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting %s: %w", name, err)
	}
	return d.remember(name, cmd.Process.Pid)
}

func (d Demo) remember(name string, pid int) error {
	if err := os.WriteFile(d.marker(name), []byte(strconv.Itoa(pid)), 0o644); err != nil {
		return fmt.Errorf("noting the process of %s: %w", name, err)
	}
	return nil
}

// show waits for the pod, fetches its page, prints its log, and says what to try next.
func (d Demo) show(ctx context.Context) error {
	client, err := criclient.Dial(d.endpoint())
	if err != nil {
		return err
	}
	defer client.Close()
	d.Progress("waiting for the pod")
	address, logFile, err := waitPod(ctx, client)
	if err != nil {
		shimlet, readErr := os.ReadFile(d.path("shimlet.log"))
		return errors.Join(fmt.Errorf("%w; shimlet said:\n%s", err, shimlet), readErr)
	}
	page := "http://" + address + ":8080/"
	d.Progress("fetching %s", page)
	body, err := fetch(ctx, page)
	if err != nil {
		return err
	}
	log, err := waitLog(ctx, logFile, "GET / from")
	if err != nil {
		return err
	}
	fmt.Printf("\n%s\nThe pod's log (%s):\n%s\n", indent(body), logFile, indent(string(log)))
	d.Progress("the pod serves")
	shimlet := d.program("shimlet")
	fmt.Printf(`
Look around:
  curl %[1]s
  %[2]s status --socket %[6]s
  crictl --runtime-endpoint %[3]s pods
  crictl --runtime-endpoint %[3]s ps
  crictl --runtime-endpoint %[3]s stats
Run another pod: put a file into %[4]s, for instance
  sed 's/name: web/name: second/' %[4]s/web.yaml > %[4]s/second.yaml
Logs of shimd and shimlet: %[5]s/shimd.log, %[5]s/shimlet.log
Remove it all: make down
`, page, shimlet, d.endpoint(), d.path("pods"), d.dir(), d.path("shimlet.sock"))
	return nil
}

// waitPod waits until the demo's container runs, and answers the pod's address and the container's log file.
func waitPod(ctx context.Context, client *criclient.Client) (address, logFile string, err error) {
	for {
		address, logFile, err = findPod(ctx, client)
		if err == nil && address != "" {
			return address, logFile, nil
		}
		select {
		case <-ctx.Done():
			return "", "", fmt.Errorf("waiting for the pod: %w", errors.Join(context.Cause(ctx), err))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// waitLog answers the log once it has that line: the keeper copies what a container wrote a moment later, so the page can be there before its line.
func waitLog(ctx context.Context, file, line string) ([]byte, error) {
	for {
		log, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("reading the pod's log: %w", err)
		}
		if bytes.Contains(log, []byte(line)) {
			return log, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for %q in the pod's log %s: %w; it has:\n%s", line, file, context.Cause(ctx), log)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func findPod(ctx context.Context, client *criclient.Client) (address, logFile string, err error) {
	running := &criv1.ContainerStateValue{State: criv1.ContainerState_CONTAINER_RUNNING}
	list, err := client.ListContainers(ctx, &criv1.ListContainersRequest{Filter: &criv1.ContainerFilter{State: running}})
	if err != nil || len(list.Containers) == 0 {
		return "", "", err
	}
	container := list.Containers[0]
	status, err := client.Status(ctx, container.Id)
	if err != nil {
		return "", "", err
	}
	pod, err := client.PodSandboxStatus(ctx, &criv1.PodSandboxStatusRequest{PodSandboxId: container.PodSandboxId})
	if err != nil {
		return "", "", err
	}
	return pod.Status.GetNetwork().GetIp(), status.LogPath, nil
}

// fetch gets a page; it tries again for a while, for the program in the pod has only just been started.
func fetch(ctx context.Context, url string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return "", fmt.Errorf("fetching %s: %w", url, err)
	}
	// Not through a proxy of the environment's: pod addresses are this machine's own.
	client := &http.Client{Transport: &http.Transport{Proxy: nil, DisableKeepAlives: true}}
	for {
		answer, err := client.Do(request)
		if err == nil {
			defer answer.Body.Close()
			body, err := io.ReadAll(io.LimitReader(answer.Body, 1<<20))
			if err != nil || answer.StatusCode != http.StatusOK {
				return "", fmt.Errorf("fetching %s: status %s (%w)", url, answer.Status, errors.Join(err, fs.ErrInvalid))
			}
			return string(body), nil
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("fetching %s: %w", url, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func indent(text string) string {
	return "  " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n  ") + "\n"
}

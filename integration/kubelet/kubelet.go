// Package kubelet runs a real, unmodified kubelet without a cluster for tests: its own directories, configuration, control group and port, pods
// from files in a folder, and a client of its HTTPS API.
//
// It treats the runtime as a CRI endpoint and imports nothing of shimd. Building the kubelet is package tools' business; what is asserted, the tests'.
package kubelet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"sigs.k8s.io/yaml"
)

// Config says what to run.
type Config struct {
	Program    string // the kubelet
	Dir        string // for everything that it writes; made when missing
	Endpoint   string // of the runtime
	NodeName   string
	NodeIP     string // an address of this machine that isn't loopback
	CgroupRoot string // a control group made by controlgroup.New: "/name"
	PodCIDR    string
	Gates      map[string]bool // feature gates
	More       map[string]any  // further configuration, which replaces what is set here
}

const (
	port = 10250
	// patience is long for the sake of loaded machines; a start takes seconds.
	patience = 90 * time.Second
)

// Kubelet is one kubelet. It is not for use by several goroutines.
type Kubelet struct {
	config Config
	cmd    *exec.Cmd
	exited chan error
}

// New writes the configuration. Nothing runs yet.
func New(config Config) (*Kubelet, error) {
	k := &Kubelet{config: config}
	for _, dir := range []string{config.Dir, k.PodFiles(), k.path("root"), k.path("logs")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, fmt.Errorf("making the kubelet's directories: %w", err)
		}
	}
	settings := k.settings()
	maps.Copy(settings, config.More)
	text, err := yaml.Marshal(settings)
	if err != nil {
		return nil, fmt.Errorf("writing the kubelet's configuration: %w", err)
	}
	if err := os.WriteFile(k.path("kubelet.yaml"), text, 0o644); err != nil {
		return nil, fmt.Errorf("writing the kubelet's configuration: %w", err)
	}
	return k, nil
}

func (k *Kubelet) settings() map[string]any {
	return map[string]any{
		"apiVersion":               "kubelet.config.k8s.io/v1beta1",
		"kind":                     "KubeletConfiguration",
		"containerRuntimeEndpoint": k.config.Endpoint,
		"staticPodPath":            k.PodFiles(),
		"fileCheckFrequency":       "1s",
		"podLogsDir":               k.path("logs"),
		"volumePluginDir":          k.path("plugins"),
		"podCIDR":                  k.config.PodCIDR, // what a cluster's controller would give
		"featureGates":             k.config.Gates,
		// On loopback in a network namespace of the test's own.
		"address":        "127.0.0.1",
		"port":           port,
		"authentication": map[string]any{"anonymous": map[string]any{"enabled": true}, "webhook": map[string]any{"enabled": false}},
		"authorization":  map[string]any{"mode": "AlwaysAllow"},
		"cgroupRoot":     k.config.CgroupRoot,
		"cgroupDriver":   "cgroupfs", // overruled by what the runtime says (KubeletCgroupDriverFromCRI)
		"failCgroupV1":   false,
		"failSwapOn":     false,
		// Whatever else fills this machine is not the test's business.
		"evictionHard":                map[string]string{"memory.available": "1Mi", "nodefs.available": "0%", "imagefs.available": "0%", "nodefs.inodesFree": "0%"},
		"imageGCHighThresholdPercent": 100,
		// Not to be touched on the test's machine: kernel settings, iptables, the rank among the processes to kill.
		"protectKernelDefaults":     true,
		"makeIPTablesUtilChains":    false,
		"oomScoreAdj":               0,
		"maxOpenFiles":              4096,
		"logging":                   map[string]any{"verbosity": 4},
		"runtimeRequestTimeout":     "2m",
		"serializeImagePulls":       false,
		"syncFrequency":             "10s",
		"enableSystemLogHandler":    false,
		"enableContentionProfiling": false,
	}
}

func (k *Kubelet) path(name string) string { return filepath.Join(k.config.Dir, name) }

// PodFiles is the folder of pod files.
func (k *Kubelet) PodFiles() string { return k.path("manifests") }

// Root is the kubelet's root directory, which holds pods' volumes.
func (k *Kubelet) Root() string { return k.path("root") }

// LogFile holds what all runs of the kubelet printed.
func (k *Kubelet) LogFile() string { return k.path("kubelet.log") }

// Start runs the kubelet and returns when it says that it is healthy.
func (k *Kubelet) Start(ctx context.Context) error {
	log, err := os.OpenFile(k.LogFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("opening the kubelet's log: %w", err)
	}
	defer log.Close()
	k.cmd = exec.Command(k.config.Program,
		"--config", k.path("kubelet.yaml"), "--root-dir", k.Root(), "--cert-dir", k.path("pki"),
		"--hostname-override", k.config.NodeName, "--node-ip", k.config.NodeIP)
	k.cmd.Stdout, k.cmd.Stderr = log, log
	k.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := k.cmd.Start(); err != nil {
		return fmt.Errorf("starting the kubelet: %w", err)
	}
	k.exited = make(chan error, 1)
	go func(cmd *exec.Cmd, exited chan<- error) { exited <- cmd.Wait() }(k.cmd, k.exited)
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var last error
	for {
		if _, last = k.Get(ctx, "/healthz"); last == nil {
			return nil
		}
		select {
		case err := <-k.exited:
			k.exited <- err
			return fmt.Errorf("starting the kubelet: it ended: %w\n%s", cmp.Or(err, errors.New("without an error")), k.LogTail())
		case <-ctx.Done():
			return fmt.Errorf("starting the kubelet: not healthy: %w\n%s", last, k.LogTail())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// Kill ends the kubelet by SIGKILL, as its crash would. Pods stay.
func (k *Kubelet) Kill() error {
	if k.cmd == nil {
		return nil
	}
	if err := k.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("killing the kubelet: %w", err)
	}
	select {
	case err := <-k.exited:
		k.cmd = nil
		if exited := new(exec.ExitError); err != nil && !errors.As(err, &exited) {
			return fmt.Errorf("waiting for the kubelet: %w", err)
		}
		return nil
	case <-time.After(patience):
		return errors.New("the kubelet did not end on SIGKILL")
	}
}

// Cleanup ends the kubelet and unmounts what it mounted below its root. Pods are the runtime's to remove.
func (k *Kubelet) Cleanup() error {
	err := k.Kill()
	info, readErr := os.ReadFile("/proc/self/mountinfo")
	if readErr != nil {
		return errors.Join(err, readErr)
	}
	var mounted []string
	for line := range strings.Lines(string(info)) {
		if fields := strings.Fields(line); len(fields) > 4 && strings.HasPrefix(fields[4], k.config.Dir+"/") {
			mounted = append(mounted, fields[4])
		}
	}
	slices.Reverse(mounted) // later ones may lie on earlier ones
	for _, path := range mounted {
		if unmountErr := syscall.Unmount(path, syscall.MNT_DETACH); unmountErr != nil {
			err = errors.Join(err, fmt.Errorf("unmounting %s: %w", path, unmountErr))
		}
	}
	return err
}

// LogTail is the end of the kubelet's log, for messages of failed tests.
func (k *Kubelet) LogTail() string {
	log, err := os.ReadFile(k.LogFile())
	if err != nil {
		return err.Error()
	}
	const keep = 8 << 10
	return string(log[max(0, len(log)-keep):])
}

// Complaints are the lines of the kubelet's log at warning and error level, without those that contain one of the given substrings.
func (k *Kubelet) Complaints(ignore ...string) ([]string, error) {
	log, err := os.ReadFile(k.LogFile())
	if err != nil {
		return nil, fmt.Errorf("reading the kubelet's log: %w", err)
	}
	var found []string
	for line := range strings.Lines(string(log)) {
		if len(line) < 5 || (line[0] != 'W' && line[0] != 'E' && line[0] != 'F') || line[1] < '0' || line[1] > '9' {
			continue
		}
		if !slices.ContainsFunc(ignore, func(word string) bool { return strings.Contains(line, word) }) {
			found = append(found, strings.TrimSpace(line))
		}
	}
	return found, nil
}
